"""Remarks: bytes that the chain keeps in a block and nowhere else."""

from hashlib import blake2b

from localnet.chain.metadata import bytes_of
from localnet.chain.state import State


def remark(state: State, origin: str, *, remark: str) -> None:
    """System.remark: changes nothing."""
    del state, origin, remark


def remark_with_event(state: State, origin: str, *, remark: str) -> None:
    """System.remark_with_event: an event with the sender and the remark's blake2-256."""
    digest = blake2b(bytes_of(remark), digest_size=32).hexdigest()
    state.emit("System", "Remarked", {"sender": origin, "hash": "0x" + digest})
