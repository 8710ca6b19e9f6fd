"""What a window costs for each parameter of the model: time and memory of every phase."""
