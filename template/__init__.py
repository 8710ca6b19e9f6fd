"""Tessera, a Bittensor subnet on which strangers pre-train one language model together.

`template` is the subnet template's conventional name for this package. It owns the
protocol, the adapters and the life cycle of the neurons; the tensor maths lives in
`compression`, the scoring in `evaluation`.
"""

__version__ = "0.1.0"
_MAJOR, _MINOR, _PATCH = (int(part) for part in __version__.split("."))
__spec_version__ = 1000 * _MAJOR + 10 * _MINOR + _PATCH
"""The version key sent with weights: the chain refuses weights of an older one than the owner's."""
