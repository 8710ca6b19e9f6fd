"""The node's own bucket: opening, publishing, retention and storage needs."""
