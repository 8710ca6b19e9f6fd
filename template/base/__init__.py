"""The life cycle of the neurons: fetch, call pure code, store, wait.

Written against the `Chain` and `Store` protocols; `neurons/` hands in the adapters.
"""
