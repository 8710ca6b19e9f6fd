"""How much of a window a miner trains: on a slow line and a slow disk, in lanes and in turn.

`python -m benchmarks.pace` measures the share of wall time in inner steps of two miners of one run:
one works in lanes (`template.base.lanes`), the other does one thing after another. The line and the
disk take the shares of a window that `tessera plan` says of 72 B on eight B200 at 110/500 Mb/s; the
model is small, and stands for one on a device: an inner step takes time and no core, and training
shares no memory with the rest.
"""
