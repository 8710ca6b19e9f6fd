"""Cost of scoring, power of the work test, and differences between losses of two machines."""
