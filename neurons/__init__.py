"""Composition roots: parse the configuration, build the adapters, run a neuron."""
