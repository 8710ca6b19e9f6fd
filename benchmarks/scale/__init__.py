"""What a miner of many ranks costs, by the number of ranks: see `benchmarks.scale.__main__`."""
