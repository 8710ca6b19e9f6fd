"""Other participants' buckets: opening them, and fetching payloads and blobs from them."""
