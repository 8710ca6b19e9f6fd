"""Auditing validators: verdict logs and votes compared with the public objects of the run."""
