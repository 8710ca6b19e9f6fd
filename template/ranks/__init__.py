"""One miner on many devices: equal processes (ranks) by torchrun, and rank 0 gives the orders."""
