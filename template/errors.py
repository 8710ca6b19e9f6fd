"""Every error that this project raises on purpose.

A message names the field or the object and the remedy; it never carries a secret.
"""


class SubnetError(Exception):
    """Base of all errors below: catch this at the edge, nothing wider."""


class ConfigError(SubnetError):
    """A flag, an environment variable, a run spec or a file of ours is wrong."""


class PayloadError(SubnetError):
    """Bytes from a peer are not a valid payload; `reason` is a short, stable word for it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class RecordError(SubnetError):
    """A chain commitment is not a valid record."""


class ConsensusError(SubnetError):
    """This node disagrees with the stake majority, or cannot know what it accepted."""


class ChainError(SubnetError):
    """The chain refused a call or could not be reached; `code` is the SDK's word for it."""

    def __init__(self, message: str, code: str = "unknown") -> None:
        super().__init__(message)
        self.code = code


class StoreError(SubnetError):
    """A bucket did not do what it was asked to."""


class NotFound(StoreError):
    """The bucket answered: no such object, or no such bucket."""


class TooLarge(StoreError):
    """The object is larger than the caller allows; nothing was read."""


class Denied(StoreError):
    """The bucket refused these credentials."""


class Unavailable(StoreError):
    """No usable answer before the deadline; the same call may succeed later."""
