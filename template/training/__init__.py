"""Building the model, the inner loop, the outer step, scoring forward passes, checkpoints.

Imports `template.protocol` and `compression`; knows nothing of chain or buckets.
"""
