"""Preparing a dataset: from files of any size to a folder of shards, in bounded memory.

Four phases, each in parallel jobs whose results are files: read (documents into sorted runs),
encode (a range of keys of all runs into tokens), look for leaks, write shards. What a phase leaves
depends on the documents and the settings alone, never on the number of workers or on interruptions.
"""
