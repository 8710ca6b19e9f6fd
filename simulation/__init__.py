"""One subnet in one process: the real neurons on a chain, a clock and buckets in memory."""
