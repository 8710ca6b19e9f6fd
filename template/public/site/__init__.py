"""A run as static pages: facts in, files out. No script, no server, nothing from elsewhere."""
