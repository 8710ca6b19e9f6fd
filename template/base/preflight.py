"""Checks before a neuron's first write to the chain.

Each check asks the chain, the disk or the bucket; a failure names the flag or the variable and the
remedy. Opens no adapter and reads no clock: both are handed in.
"""

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol, TextIO

from compression import KernelCacheError, load_kernels
from template.base.log_publisher import LOG_FILE, OLDER_LOG_FILE
from template.base.standing import registered
from template.bucket.named_folder import NAMED_FOLDER
from template.chain import Chain, Neuron
from template.chain.commands import Commands
from template.errors import (
    ChainError,
    ConfigError,
    Denied,
    RecordError,
    StateError,
    StoreError,
    Unavailable,
    disk_trouble,
)
from template.files import FULL, errno_of, reason, remedy
from template.metrics import EVENTS_FILE
from template.protocol.parts import FLOAT_BYTES
from template.protocol.record import Access, Record
from template.protocol.spec import RunSpec
from template.protocol.spec.model import count_parameters
from template.store import Store
from template.store.endpoints import check_peer_endpoint
from template.store.probe import check_bucket
from template.sync.anchors import MIN_ANCHORS
from template.sync.dataset import CACHE_FOLDER
from template.sync.own_checkpoint import LOCAL_FILE, PIECES_FOLDER

log = logging.getLogger(__name__)

MAX_CLOCK_OFF_S: Final = 300.0
"""S3 servers refuse requests whose clock is 15 minutes off; blocks are seconds old."""
_PROBE_BYTES: Final = 4096
LOCK_FILE: Final = "lock"
PROBE_FILE: Final = ".preflight"
STATE_FILES: Final = (LOCK_FILE, LOCAL_FILE, EVENTS_FILE, LOG_FILE, OLDER_LOG_FILE)
STATE_FOLDERS: Final = (
    PIECES_FOLDER, "past", "joining", "serving", NAMED_FOLDER, "seen", CACHE_FOLDER, "wandb",
)  # fmt: skip
"""Everything at the top of a state folder; each is checked before the first write to the chain."""
_PID_CHARS: Final = 16


def load_codec() -> None:
    """Load the codec; ConfigError if the folder of compiled kernels is damaged, full or shared."""
    try:
        is_kept = load_kernels()
    except KernelCacheError as error:
        raise ConfigError(str(error)) from error
    if not is_kept:
        log.warning(
            "the compiled codec cannot be kept: no folder of this user's own can be written, so "
            "each start compiles it anew (10 to 30 s of CPU); set NUMBA_CACHE_DIR to a folder "
            "that only this user can write (`mkdir -m 700`)"
        )


def ask_for_place(chain: Chain, hotkey: str, commands: Commands) -> Neuron:
    """This hotkey's row; ConfigError without the subnet, or without the hotkey in the subnet."""
    block = chain.finalized()
    try:
        graph = chain.metagraph(block)
    except ChainError as error:
        if error.code != "subnet_not_exists":
            raise
        raise ConfigError(
            f"--netuid {commands.netuid}: there is no such subnet at block {block} of the chain at "
            f"{commands.network} (--subtensor.network); check both, `btcli subnets list -n "
            f"{commands.network}` shows those there are"
        ) from error
    return registered(graph, hotkey, commands)


def check_state_dir(path: Path) -> None:
    """Create the folder and try a write. ConfigError, or StateError if the disk is full."""
    probe = path / PROBE_FILE
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            with suppress(OSError):
                probe.unlink()
        for name in STATE_FILES:
            _demand_file(path / name)
        for name in STATE_FOLDERS:
            _demand_folder(path / name)
    except OSError as error:
        if errno_of(error) in FULL:
            raise disk_trouble(path, error) from error
        raise ConfigError(
            f"--neuron.state_dir {path}: cannot be written ({reason(error)}); "
            f"{remedy(path, error)}. Or name another folder"
        ) from error


MINER_COPIES: Final = 4
"""Parameters, error feedback and AdamW's two moments."""


def check_room(path: Path, spec: RunSpec, *, trains: bool) -> None:
    """Demand room for the run's state; the folder exists. `trains`: the state is a miner's.

    ConfigError if the whole file system is too small, StateError if other files take the room.
    """
    needed = least_state_bytes(spec, trains=trains)
    disk = shutil.disk_usage(path)
    own = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    figures = (
        f"this run's state takes {needed / 1e6:,.1f} MB at least, and the file system of {path} "
    )
    if disk.total < needed:
        raise ConfigError(
            f"--neuron.state_dir: {figures}has {disk.total / 1e6:,.1f} MB in all: name a folder "
            "on a larger one"
        )
    if disk.free + own < needed:
        raise StateError(
            f"--neuron.state_dir: {figures}has {disk.free / 1e6:,.1f} MB free; free the disk and "
            "start again"
        )


def least_state_bytes(spec: RunSpec, *, trains: bool) -> int:
    """The checkpoint, the next one written beside it, and the anchors, all of them in float32.

    Tensors like the parameters alone: a miner's checkpoint has error feedback and moments too.
    """
    copies = MINER_COPIES if trains else 1
    return (2 * copies + MIN_ANCHORS) * FLOAT_BYTES * count_parameters(spec.model)


def _demand_file(path: Path) -> None:
    """OSError if something else than a file of this user's lies there."""
    if not os.path.lexists(path):
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    _demand_access(path, os.R_OK | os.W_OK)


def _demand_folder(path: Path) -> None:
    """OSError if something else than a folder of this user's lies there."""
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    _demand_access(path, os.R_OK | os.W_OK | os.X_OK)


def _demand_access(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextmanager
def claimed(state_dir: Path) -> Iterator[None]:
    """Lock the folder until the `with` block ends; ConfigError if another process holds the lock.

    Two processes with the same hotkey would commit against each other and mix states. The lock
    ends with the process, even after a kill.
    """
    with _open_lock(state_dir / LOCK_FILE) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ConfigError(
                f"--neuron.state_dir {state_dir}: in use by another process (pid "
                f"{lock.read(_PID_CHARS).strip() or 'unknown'}): end that one, or give this "
                "neuron another hotkey and folder"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"--neuron.state_dir {state_dir}: its file system has no locks "
                f"({reason(error)}); name a folder on a local disk"
            ) from error
        try:
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
        except OSError as error:
            raise disk_trouble(state_dir / LOCK_FILE, error) from error
        yield


def _open_lock(path: Path) -> TextIO:
    try:
        return path.open("a+", encoding="ascii", errors="replace")
    except OSError as error:
        raise disk_trouble(path, error) from error


class TestedBucket(Protocol):
    """A bucket seen with each key, as `template.bucket.own.OwnBucket`."""

    @property
    def writer(self) -> Store: ...
    @property
    def reader(self) -> Store: ...
    @property
    def elsewhere(self) -> Store: ...
    @property
    def where(self) -> str: ...
    @property
    def endpoint_variable(self) -> str: ...


def check_own_bucket(
    bucket: TestedBucket,
    *,
    clock_ahead_s: float | None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Try both keys on the bucket: each can do its work and no more.

    `say` gets each passed check. ConfigError names the
    variables, or this machine's clock if the bucket refused the clock; Unavailable without an
    answer.
    """
    try:
        check_bucket(bucket.writer, bucket.reader, bucket.elsewhere, where=bucket.where, say=say)
    except ConfigError as error:
        if not _is_refusal_of_clock(error, clock_ahead_s):
            raise
        raise ConfigError(
            f"{bucket.where}: it refuses this machine's clock ({_reason(error)}): the clock is "
            f"{clock_words(clock_ahead_s)}; set it (`timedatectl set-ntp true`) and start again"
        ) from error
    except StoreError as error:
        raise Unavailable(
            f"{bucket.where}: no usable answer ({error.reason}); check the variable, and start "
            "again when the server is up"
        ) from error


def owned_by_other(
    error: ConfigError, access: Access, hotkey: str, records: Mapping[str, Record]
) -> ConfigError:
    """The error of a bucket's test, with the hotkey whose record has the same read key.

    Never an error in itself: a stranger may copy this node's record.
    """
    others = sorted(
        other for other, record in records.items() if record.access == access and other != hotkey
    )
    if not others:
        return error
    return ConfigError(
        f"{error}. These are another hotkey's variables: {others[0]} has this read key in its "
        f"record on chain; set those of {hotkey}"
    )


def check_published_endpoint(url: str, *, on_localnet: bool, variable: str) -> None:
    """ConfigError if peers would refuse the published endpoint."""
    try:
        check_peer_endpoint(url, on_localnet=on_localnet)
    except RecordError as error:
        raise ConfigError(f"{variable}: every other node would refuse it ({error})") from error


def warn_of_clock(clock_ahead_s: float | None) -> None:
    if clock_ahead_s is not None and abs(clock_ahead_s) > MAX_CLOCK_OFF_S:
        log.warning(
            "this machine's clock is %s; buckets refuse requests from 15 minutes on: set it "
            "(`timedatectl set-ntp true`). If it is right, the chain's node at "
            "--subtensor.network is behind",
            clock_words(clock_ahead_s),
        )


class ClockWatch:
    """Warns once when the clock goes wrong, and says once that the clock is right again."""

    def __init__(self) -> None:
        self._is_off = False

    def note(self, ahead_s: float) -> None:
        """Take a measurement: seconds by which the clock is ahead of the chain's last block."""
        was_off, self._is_off = self._is_off, abs(ahead_s) > MAX_CLOCK_OFF_S
        if self._is_off and not was_off:
            warn_of_clock(ahead_s)
        elif was_off and not self._is_off:
            log.warning("this machine's clock and the chain's last block agree again")


def clock_words(clock_ahead_s: float | None) -> str:
    if clock_ahead_s is None:
        return "not that of the bucket's server"
    side = "ahead of" if clock_ahead_s > 0 else "behind"
    return f"{abs(clock_ahead_s) / 60:.0f} minutes {side} the chain's last block"


def _reason(error: ConfigError) -> str:
    cause = error.__cause__
    return cause.reason if isinstance(cause, StoreError) else str(cause)


def _is_refusal_of_clock(error: ConfigError, clock_ahead_s: float | None) -> bool:
    cause = error.__cause__
    if not isinstance(cause, Denied):
        return False
    off = clock_ahead_s is not None and abs(clock_ahead_s) > MAX_CLOCK_OFF_S
    return off or "TooSkewed" in str(cause)
