"""Scoring a window: admission of payloads, the pool of pages, losses and verdicts."""
