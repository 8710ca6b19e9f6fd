"""Fuzz targets; `make fuzz`."""
