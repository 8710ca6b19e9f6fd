"""One neuron on many devices: equal processes (ranks) by torchrun; rank 0 gives the orders."""
