"""Which rule learns best: R simulated miners in one process on the localnet's real text."""
