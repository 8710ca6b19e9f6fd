"""Tessera: a Bittensor subnet on which strangers pre-train one language model together.

The subnet template conventionally names this package `template`. The package holds the protocol,
the adapters and the life cycle of the neurons; `compression` holds the tensor maths, `evaluation`
the scoring.
"""

__version__ = "0.1.0"


def version_key(version: str) -> int:
    """The chain's version key (u64) of a version MAJOR.MINOR.PATCH: 0.1.0 gives 1,000.

    A newer version has a greater key, and two versions never share a key. Raises ValueError unless
    the version is three plain decimal numbers, with minor and patch below 1,000.
    """
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"version {version!r} must be MAJOR.MINOR.PATCH, three decimal numbers")
    major, minor, patch = (int(part) for part in parts)
    if minor >= 1_000 or patch >= 1_000:
        raise ValueError(f"version {version!r}: minor and patch must be below 1,000")
    return 1_000_000 * major + 1_000 * minor + patch


def version_words(key: int) -> str:
    """The version of a version key, as MAJOR.MINOR.PATCH."""
    return f"{key // 1_000_000}.{key // 1_000 % 1_000}.{key % 1_000}"


__spec_version__ = version_key(__version__)
"""The version key sent with every vote of weights.

The chain refuses weights with a key below the subnet's hyperparameter `weights_version`. To shut
out validators on older code, the subnet's owner sets the hyperparameter to the key of the oldest
version allowed: `btcli hparams set --netuid NETUID --name weights_version --value KEY`.
"""
