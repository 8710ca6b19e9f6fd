"""Peers' buckets: opening buckets, fetching payloads and blobs."""
