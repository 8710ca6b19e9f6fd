"""`python -m localnet.bucket_server`: buckets on this machine, for operators without R2.

Owns the command: hotkeys, credentials and port, kept across crashes in `credentials.json` of
the data directory. `localnet.buckets` runs the server. Prints `ready URL` on standard output
at the server's first answer.
"""

import argparse
import fcntl
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localnet.buckets import AccessKey, BucketIdentity, BucketServer, new_identity
from localnet.weed import WeedPorts, choose_ports
from template.cli.environment import (
    ENV_READ_KEY_ID,
    ENV_READ_SECRET,
    ENV_WRITE_KEY_ID,
    ENV_WRITE_SECRET,
)
from template.cli.process_state import restored_process_state
from template.cli.signals import unwind_on_signals
from template.errors import EXIT_OPERATOR, EXIT_TRY_AGAIN, ConfigError
from template.protocol.keys import bucket_name
from template.protocol.ss58 import public_key
from template.secret import Secret
from template.settings import ENV_ENDPOINT

DEFAULT_PORT = 8333
STATE_FILE = "credentials.json"
PORT_LIMIT_S = 5.0
"""How long a killed server's port may take to be free again."""
MAX_DEATHS = 5
DEATHS_WITHIN_S = 60.0
"""A server with MAX_DEATHS ends in this time is not restarted."""
_POLL_S = 0.2

DESCRIPTION = """An S3 server on this machine with one bucket and two credentials per hotkey, for a
rehearsal on a local chain. Loopback only: peers on other machines cannot read these buckets."""

EPILOG = f"""
Writes into --data: env/SS58.sh for each hotkey (source it in the shell that starts its
neuron), {STATE_FILE} (keep it: hotkeys, keys and port survive a restart), weed.log and the
objects. Hotkeys of earlier starts need not be named again.

Exit status: 0 after Ctrl-C or SIGTERM; 1 if the server ended; 2 for a flag or file of yours.

Example:
  python -m localnet.bucket_server --data ~/tessera-buckets --hotkey 5F... --hotkey 5G...
  source ~/tessera-buckets/env/5F....sh
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """State kept across restarts. `identities`: by hotkey, in order of arrival."""

    port: int
    identities: Mapping[str, BucketIdentity]


@restored_process_state()
def main(argv: Sequence[str]) -> int:
    """Serve until a signal; --help lists the exit statuses."""
    arguments = _parser().parse_args(argv)
    unwind_on_signals()
    try:
        with _only_one(arguments.data):
            kept = _merge(_load(arguments.data), arguments.hotkey, arguments.port)
            return _serve(arguments.data, kept)
    except ConfigError as error:
        sys.stderr.write(f"bucket_server: {error}\n")
        return EXIT_OPERATOR
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m localnet.bucket_server",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="objects and credentials")
    add("--hotkey", type=_hotkey, action="append", default=[], metavar="SS58")
    text = f"on 127.0.0.1; 0 picks a free one (default: that of the last start, or {DEFAULT_PORT})"
    add("--port", type=int, choices=range(65_536), metavar="P", help=text)
    return parser


def _hotkey(text: str) -> str:
    try:
        public_key(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


@contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Make the directory and hold the directory's lock."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / ".lock").open("a", encoding="ascii")
    except OSError as error:
        raise ConfigError(f"--data {data}: {error.strerror}; name a folder you can write") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"--data {data}: another bucket server runs there") from None
        yield


def _load(data: Path) -> Kept | None:
    path = data / STATE_FILE
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"--data: {path} cannot be read: {error.strerror}") from None
    try:
        state = json.loads(text)
        identities = {hotkey: _identity(hotkey, keys) for hotkey, keys in state["hotkeys"].items()}
        return Kept(port=int(state["port"]), identities=identities)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Never print the text: it holds secrets.
        raise ConfigError(f"--data: {path} is damaged; restore it or name another folder") from None


def _identity(hotkey: str, keys: Mapping[str, Any]) -> BucketIdentity:
    rw, ro = (
        AccessKey(access_key_id=str(key_id), secret_access_key=Secret(str(secret)))
        for key_id, secret in (keys["rw"], keys["ro"])
    )
    return BucketIdentity(bucket=bucket_name(public_key(hotkey)), rw=rw, ro=ro)


def _merge(kept: Kept | None, hotkeys: Sequence[str], port: int | None) -> Kept:
    """The kept state plus new hotkeys. ConfigError without any hotkey."""
    identities = dict(kept.identities) if kept is not None else {}
    for hotkey in hotkeys:
        if hotkey not in identities:
            identities[hotkey] = new_identity(bucket_name(public_key(hotkey)))
    if not identities:
        raise ConfigError("--hotkey: name at least one; `btcli wallet list` shows yours")
    if not port and kept is not None:
        port = kept.port
    return Kept(port=DEFAULT_PORT if port is None else port, identities=identities)


def _serve(data: Path, kept: Kept) -> int:
    ports = _choose_ports(kept.port)
    kept = Kept(port=ports.http["s3"], identities=kept.identities)
    # Saved before the first start: a crash must not lose credentials already in use.
    _save(data, kept)
    with BucketServer(data, list(kept.identities.values()), ports) as server:
        server.create_buckets()
        for hotkey, identity in kept.identities.items():
            path = _write_environment(data, hotkey, identity, server.endpoint_url)
            _say(f"hotkey {hotkey} bucket {identity.bucket} variables {path}")
        _say(f"ready {server.endpoint_url}")
        return _watch(server)


def _choose_ports(port: int) -> WeedPorts:
    """As `choose_ports`, but waits up to PORT_LIMIT_S for the port of a killed server."""
    end_s = time.monotonic() + PORT_LIMIT_S
    while True:
        try:
            return choose_ports(port or None)
        except ConfigError as error:
            if time.monotonic() > end_s:
                raise ConfigError(f"--port: {error}, or give another --port") from None
        time.sleep(_POLL_S)


def _watch(server: BucketServer) -> int:
    """Restart the server at every end; return 1 after MAX_DEATHS within DEATHS_WITHIN_S."""
    deaths_s: deque[float] = deque(maxlen=MAX_DEATHS)
    while True:
        time.sleep(_POLL_S)
        if server.exit is None:
            continue
        deaths_s.append(time.monotonic())
        if len(deaths_s) == MAX_DEATHS and deaths_s[-1] - deaths_s[0] < DEATHS_WITHIN_S:
            sys.stderr.write(
                f"bucket_server: the server ended {MAX_DEATHS} times within "
                f"{DEATHS_WITHIN_S:.0f} s; see {server.log_path}\n"
            )
            return EXIT_TRY_AGAIN
        sys.stderr.write("bucket_server: the server ended; restarting the server\n")
        server.restart()


def _save(data: Path, kept: Kept) -> None:
    hotkeys = {
        hotkey: {"rw": _pair(identity.rw), "ro": _pair(identity.ro)}
        for hotkey, identity in kept.identities.items()
    }
    text = json.dumps({"port": kept.port, "hotkeys": hotkeys}, indent=1)
    _write_private(data / STATE_FILE, text + "\n")


def _pair(key: AccessKey) -> list[str]:
    return [key.access_key_id, key.secret_access_key.reveal()]


def _write_environment(
    data: Path, hotkey: str, identity: BucketIdentity, endpoint_url: str
) -> Path:
    variables = {
        ENV_ENDPOINT: endpoint_url,
        ENV_WRITE_KEY_ID: identity.rw.access_key_id,
        ENV_WRITE_SECRET: identity.rw.secret_access_key.reveal(),
        ENV_READ_KEY_ID: identity.ro.access_key_id,
        ENV_READ_SECRET: identity.ro.secret_access_key.reveal(),
    }
    path = data / "env" / f"{hotkey}.sh"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    lines = [f"export {name}={value}\n" for name, value in variables.items()]
    _write_private(path, f"# The bucket of hotkey {hotkey}: keep it secret.\n" + "".join(lines))
    return path


def _write_private(path: Path, text: str) -> None:
    """Write a file atomically, readable by this user alone from the first byte on."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
