"""What a run needs of machines, lines and buckets, calculated from the run spec.

Pure, but for a file of this package: values in, values out. Sizes come from the functions that make the objects, seconds of the
host's work from a record of `benchmarks.size`. Not to be confused with a *plan*, the owner's file
that becomes a run spec.
"""
