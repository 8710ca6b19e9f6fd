"""Measurements, each a command; nothing here is imported by the project."""
