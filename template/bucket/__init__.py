"""The node's own bucket: opening, publishing, retention and the bytes that it holds."""
