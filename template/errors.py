"""Every error raised on purpose, and the exit status of a process ended by the error.

A message names the field or the object and the remedy, and never carries a secret.
"""

from pathlib import Path
from typing import Final

from template.files import is_lasting, reason, remedy

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
"""Exit status -> meaning, the same for every command, for --help."""


class SubnetError(Exception):
    """Base of all errors below: the widest class to catch at the edge."""

    is_given_up = False
    """Whether what raised the error was tried for long enough: nobody tries again."""


class ConfigError(SubnetError):
    """The operator's own flag, environment variable, run spec or file is wrong."""


class PayloadError(SubnetError):
    """Bytes from a peer are no valid payload; `reason` is a short, stable word for the defect."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class ObjectError(SubnetError):
    """A stranger's object does not have the content promised by its key or digest.

    The object's author is at fault, never this node's operator: the node refuses the object,
    asks for another copy and continues.
    """


class RecordError(SubnetError):
    """A chain commitment is no valid record, or names no usable bucket."""


class ConsensusError(SubnetError):
    """A replay ends at other parameters than the stake majority votes: a finding, and no fault."""


class StateError(SubnetError):
    """A file of the state directory cannot be written or read; the state saved earlier is whole.

    `is_lasting`: an operator has to change a file or a folder first; a restart does not help.
    """

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting


class RankLost(SubnetError):
    """Another rank of this miner has ended or hangs: the miner ends, and a restart goes on."""


class SpecChanged(SubnetError):
    """The run's spec has changed, and this node follows by a restart, from what it has saved."""


class ChainError(SubnetError):
    """The chain refused a call or could not be reached.

    `code` is the SDK's word for the kind of failure, `name` the runtime's error name or "".
    `is_final`: no repetition of the call in this process can succeed.
    """

    def __init__(
        self, message: str, code: str = "unknown", *, name: str = "", is_final: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.name = name
        self.is_final = is_final


class StoreError(SubnetError):
    """A bucket did not carry out a request; `reason` leaves out the object's name.

    A caller that has named the bucket says the reason alone.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = message if reason is None else reason


class NotFound(StoreError):
    """The bucket answered: no such object, or no such bucket."""


class TooLarge(StoreError):
    """The object is larger than the caller allows, and was not returned."""


class Denied(StoreError):
    """The bucket refused these credentials."""


class Unavailable(StoreError):
    """No usable answer before the deadline; the same call may succeed later."""


class NodeTrouble(Unavailable):
    """This node could not ask: no descriptor, memory, thread or network is left on this machine.

    No bucket and no hotkey is at fault, so the failure is never counted against one.
    """


class AskedTooLate(NodeTrouble):
    """This node began too late in a window, as after a restart, for buckets to answer in time."""


def disk_trouble(path: Path, error: Exception) -> StateError:
    """The error for a failed write of a file in the state directory."""
    return StateError(
        f"--neuron.state_dir: {path} cannot be written ({reason(error)}); {remedy(path, error)}: "
        "the state saved earlier is whole, and the node resumes from there",
        is_lasting=is_lasting(error),
    )


def unreadable(path: Path, error: Exception) -> StateError:
    """The error for a failed read of a file in the state directory."""
    return StateError(
        f"--neuron.state_dir: {path} cannot be read ({reason(error)}); {remedy(path, error)}",
        is_lasting=is_lasting(error),
    )


def exit_status(error: SubnetError) -> int:
    """The exit status of a process ended by this error."""
    lasts = isinstance(error, StateError) and error.is_lasting
    return EXIT_OPERATOR if isinstance(error, ConfigError) or lasts else EXIT_TRY_AGAIN
