"""What one GPU does with the codec, training, scoring and ranks: see `benchmarks.gpu.__main__`."""
