"""A member of an accepted set. Loads no tensor library: the run spec's rules of voting need it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An accepted payload of a window: author and digest.

    `coldkey`: public key of the hotkey's owner at the window's stake block. The energy cap of the
    outer step depends on coldkeys, so the root covers every coldkey: a replay needs no
    old chain state.
    """

    uid: int
    hotkey: str
    public_key: bytes
    coldkey: bytes
    digest: bytes
