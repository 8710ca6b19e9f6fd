"""What anybody can read of a run, in words and figures: chain, buckets and verdict logs, no key."""
