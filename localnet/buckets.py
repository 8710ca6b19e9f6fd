"""The localnet's bucket server: one SeaweedFS process with real access control.

Owns the process from start to stop, the data directory and the log. The caller assigns
credentials and fills the buckets. `weed.py` configures the process.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from localnet.weed import (
    AccessKey,
    BucketIdentity,
    WeedPorts,
    choose_ports,
    find_weed,
    new_access_key,
    new_identity,
    weed_command,
    weed_environment,
    write_identities,
)
from template.errors import ConfigError, StoreError
from template.store.s3 import S3Bucket, S3Store
from template.store.transport import TransportLimits

__all__ = ["AccessKey", "BucketIdentity", "BucketServer", "new_identity"]

READY_LIMIT_S = 60.0
STOP_LIMIT_S = 10.0
_POLL_S = 0.1
_LOG_TAIL_BYTES = 2_000
_PROBE_BUCKET = "localnet-probe"
_PROBE_KEY = "probe"
_PROBE_LIMITS = TransportLimits(connect_s=1.0, silence_s=5.0, attempt_s=5.0)
_PR_SET_PDEATHSIG = 1


class BucketServer:
    """One `weed mini` over `directory`, for as long as the `with` block lasts.

    Loopback only. Every identity gets two credentials, limited to the identity's bucket. The
    objects outlive the server. On Linux the server is killed with the starting thread. Unsafe
    on a host shared with untrusted users: SeaweedFS's internal gRPC ports accept every client
    unless configured with certificates.
    """

    def __init__(
        self,
        directory: Path,
        identities: Sequence[BucketIdentity],
        ports: WeedPorts | None = None,
        *,
        public: Sequence[str] = (),
    ) -> None:
        """`public`: names of buckets that anybody reads, as by an operator's mistake."""
        self.identities = tuple(identities)
        self._public = tuple(public)
        self.admin = new_access_key()
        self.log_path = directory.resolve() / "weed.log"
        self._directory = directory.resolve()
        self._ports = ports or choose_ports()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """URL of the S3 API, fixed for the life of this object."""
        return f"http://127.0.0.1:{self._ports.http['s3']}"

    @property
    def pid(self) -> int:
        """The server's process id. ConfigError before `start`."""
        if self._process is None:
            raise ConfigError("the bucket server is not running: call start() first")
        return self._process.pid

    @property
    def name(self) -> str:
        """The server's name among a localnet's processes."""
        return "buckets"

    @property
    def exit(self) -> int | None:
        """The process's exit status, negative for a signal; None if running or never started."""
        return None if self._process is None else self._process.poll()

    def bucket(self, name: str, key: AccessKey) -> S3Bucket:
        """The bucket `name` on this server, accessed with `key`."""
        return S3Bucket(
            endpoint_url=self.endpoint_url,
            bucket=name,
            access_key_id=key.access_key_id,
            secret_access_key=key.secret_access_key,
        )

    def start(self) -> None:
        """Start, and return when the server has written and read an object.

        Raises ConfigError if the package is missing, the process ends, or READY_LIMIT_S passes;
        the message ends with the last lines of the log.
        """
        self._launch()
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _launch(self) -> None:
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        data.chmod(0o700)
        # Ports and sizes of an earlier run, which would override the command line.
        (data / "mini.options").unlink(missing_ok=True)
        identities = self._directory / "ids.json"
        write_identities(identities, self.admin, self.identities, self._public)
        command = weed_command(find_weed(), data, identities, self._ports)
        with open(self.log_path, "ab", opener=_private) as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                env=weed_environment(self._directory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
                preexec_fn=tied_to(os.getpid()),
            )

    def stop(self) -> None:
        """Send SIGTERM to the process group, and SIGKILL after STOP_LIMIT_S. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT_S)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        # A killed server leaves its Unix sockets behind; their place cannot be configured.
        for port in self._ports.all:
            for leftover in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                with suppress(OSError):
                    leftover.unlink()

    def restart(self) -> None:
        """Stop the process, running or dead, and start on the same ports and data."""
        self.stop()
        self.start()

    def start_again(self) -> None:
        """As `restart`, without waiting for readiness; poll `answers`."""
        self.stop()
        self._launch()

    def answers(self) -> bool:
        """Whether the server writes and reads an object now, in a single try."""
        bucket = self.bucket(_PROBE_BUCKET, self.admin)
        with closing(S3Store(bucket, deadline_s=0.0, limits=_PROBE_LIMITS)) as probe:
            return _answers(probe)

    def create_buckets(self) -> None:
        """Create the missing buckets of all identities."""
        for identity in self.identities:
            self._create(identity.bucket)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _create(self, bucket: str) -> None:
        with closing(S3Store(self.bucket(bucket, self.admin))) as store:
            store.create_bucket()

    def _wait_until_ready(self) -> None:
        end_s = time.monotonic() + READY_LIMIT_S
        while not self.answers():
            self._demand_progress(end_s)
            time.sleep(_POLL_S)

    def _demand_progress(self, end_s: float) -> None:
        if self._process is None or self._process.poll() is not None:
            trouble = "ended while starting"
        elif time.monotonic() > end_s:
            trouble = f"was not ready in {READY_LIMIT_S:.0f} s"
        else:
            return
        raise ConfigError(f"the bucket server {trouble}; its log ends with:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return self.log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")


def _answers(probe: S3Store) -> bool:
    """Whether the server writes and reads an object.

    An HTTP answer is too early: after a kill the S3 front answers seconds before SeaweedFS
    attaches the volumes, and every read fails until then.
    """
    try:
        probe.create_bucket()
        probe.put(_PROBE_KEY, b"ready")
        return probe.get(_PROBE_KEY, max_bytes=5) == b"ready"
    except StoreError:
        return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def tied_to(parent_pid: int) -> Callable[[], None] | None:
    """The child's code before exec to die with the parent thread; None outside Linux."""
    if sys.platform != "linux":
        return None
    # Loaded here: between fork and exec nothing may take a lock that another thread holds.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:
            os._exit(1)

    return tie
