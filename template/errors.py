"""Every error that this project raises on purpose, and the exit status that it becomes.

A message names the field or the object and the remedy; it never carries a secret.
"""

from pathlib import Path
from typing import Final

EXIT_ENDED: Final = 0
EXIT_TRY_AGAIN: Final = 1
EXIT_OPERATOR: Final = 2
EXIT_INTERRUPTED: Final = 130

EXIT_STATUSES: Final = {
    EXIT_ENDED: "the run has ended",
    EXIT_TRY_AGAIN: "it could not go on; a restart may help (chain or bucket away, disk full)",
    EXIT_OPERATOR: "an operator has to change something first; a restart does not help",
    EXIT_INTERRUPTED: "it was interrupted (Ctrl-C or SIGTERM)",
}
"""What the exit status of every command of this project says, for --help."""


class SubnetError(Exception):
    """Base of all errors below: catch this at the edge, nothing wider."""


class ConfigError(SubnetError):
    """A flag, an environment variable, a run spec or a file of ours is wrong."""


class PayloadError(SubnetError):
    """Bytes from a peer are not a valid payload; `reason` is a short, stable word for it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class ObjectError(SubnetError):
    """An object that somebody else wrote to a bucket is not what its place promises.

    The object's author is at fault, never this node's operator: the object is refused, another
    copy is asked for, and the node goes on.
    """


class RecordError(SubnetError):
    """A chain commitment is no valid record, or does not lead to a usable bucket."""


class ConsensusError(SubnetError):
    """This node disagrees with the stake majority, or cannot know what it accepted."""


class StateError(SubnetError):
    """The disk did not take what must be kept; the state that was saved before is whole."""


class ChainError(SubnetError):
    """The chain refused a call or could not be reached.

    `code` is the SDK's word for the kind of failure, `name` the runtime's own word if it gave
    one. `is_final`: the same call will not succeed in this process, however often.
    """

    def __init__(
        self, message: str, code: str = "unknown", *, name: str = "", is_final: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.name = name
        self.is_final = is_final


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


def disk_trouble(path: Path, error: Exception) -> StateError:
    """What to say when a file of the state directory cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return StateError(
        f"--neuron.state_dir: {path} cannot be written ({reason}); free the disk and start again: "
        "what was saved before is whole, and the node goes on from it"
    )


def exit_status(error: SubnetError) -> int:
    """The exit status of a process that ends with this error."""
    is_operators = isinstance(error, ConfigError | ConsensusError)
    return EXIT_OPERATOR if is_operators else EXIT_TRY_AGAIN
