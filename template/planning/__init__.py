"""What a run needs of machines, lines and buckets, calculated from the run spec.

Values in, values out; the one file read is this package's `costs.json`. Sizes come from the
functions that make the objects, seconds of the host's work from a record of `benchmarks.size`. Not
to be confused with a *plan*, the owner's file that becomes a run spec.
"""
