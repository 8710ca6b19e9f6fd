"""Thin commands over the packages below: what an owner or an auditor runs by hand."""
