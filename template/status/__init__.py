"""A neuron at a glance: what its own metrics say of the last windows, and where the chain stands.

Plain values here; `template.commands.status` reads the state folder and the chain.
"""
