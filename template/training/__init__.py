"""Building the model, the inner loop, the outer step, scoring forward passes, checkpoints.

Imports `template.protocol` and `compression`; has no access to chain or buckets.
"""
