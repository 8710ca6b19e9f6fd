"""A subnet in a single process: the real neurons on a chain, a clock and buckets in memory."""
