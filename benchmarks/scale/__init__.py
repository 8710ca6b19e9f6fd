"""What a neuron of many ranks costs, by their number: see `benchmarks.scale.__main__`."""
