"""Checks before a neuron says anything on chain, each on its own; whole starts: tests/faults."""

import errno
import fcntl
import logging
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from simulation.swarm import build_world
from simulation.world import hotkey_of
from template.base.log_publisher import LOG_FILE
from template.base.miner import Miner
from template.base.preflight import (
    LOCK_FILE,
    STATE_FILES,
    STATE_FOLDERS,
    ClockWatch,
    check_own_bucket,
    check_published_endpoint,
    check_room,
    check_state_dir,
    claimed,
    clock_words,
    least_state_bytes,
    owned_by_other,
    warn_of_clock,
)
from template.base.validator import Validator
from template.errors import (
    EXIT_TRY_AGAIN,
    ConfigError,
    Denied,
    StateError,
    Unavailable,
    exit_status,
)
from template.protocol.record import Access, AccessKind, Record
from template.protocol.spec import parse_spec
from template.store import Store
from template.store.memory import MemoryStore
from tests.support.scoring import SPEC_FILE

WHERE = "TESSERA_BUCKET_ENDPOINT https://s3.example.com, bucket tessera-x"


class Refusing(MemoryStore):
    """A bucket that answers every write with the same error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def put(self, key: str, data: bytes) -> None:
        raise self.error


class Elsewhere(MemoryStore):
    """Another bucket, seen with a read key of one bucket."""

    def size(self, key: str) -> int:
        raise Denied("403")


@dataclass(frozen=True, kw_only=True)
class KeyedBucket:
    writer: Store
    reader: Store
    elsewhere: Store
    where: str = WHERE
    endpoint_variable: str = "TESSERA_BUCKET_ENDPOINT"


def seen(bucket: MemoryStore) -> KeyedBucket:
    return KeyedBucket(writer=bucket, reader=bucket.reader(), elsewhere=Elsewhere())


def test_a_bucket_in_order_passes_and_is_left_as_it_was() -> None:
    bucket = MemoryStore()
    check_own_bucket(seen(bucket), clock_ahead_s=0.0)
    assert bucket.list("") == []


@pytest.mark.parametrize(
    ("answer", "ahead_s"),
    [
        ("403 RequestTimeTooSkewed", 3600.0),
        ("403 RequestTimeTooSkewed", 0.0),
        ("403 SignatureDoesNotMatch", -3600.0),
    ],
)
def test_a_refusal_that_is_about_the_clock_says_so(answer: str, ahead_s: float) -> None:
    bucket = Refusing(Denied(answer))
    with pytest.raises(ConfigError, match="refuses this machine's clock") as caught:
        check_own_bucket(seen(bucket), clock_ahead_s=ahead_s)
    assert answer in str(caught.value)
    assert clock_words(ahead_s) in str(caught.value)


def test_any_other_refusal_is_about_the_keys() -> None:
    bucket = Refusing(Denied("403 SignatureDoesNotMatch"))
    with pytest.raises(ConfigError, match="TESSERA_BUCKET_WRITE_SECRET") as caught:
        check_own_bucket(seen(bucket), clock_ahead_s=20.0)
    assert "refuses this machine's clock" not in str(caught.value)


def test_no_answer_may_pass() -> None:
    bucket = Refusing(Unavailable("no answer"))
    with pytest.raises(Unavailable, match=r"TESSERA_BUCKET_ENDPOINT.*start again"):
        check_own_bucket(seen(bucket), clock_ahead_s=0.0)


def test_an_outage_names_the_bucket_once_and_no_variable_that_is_not_set() -> None:
    error = Unavailable("tessera-x/probe/ab: the server answered 503", reason="it answered 503")
    with pytest.raises(Unavailable, match="it answered 503") as caught:
        check_own_bucket(seen(Refusing(error)), clock_ahead_s=0.0)
    assert str(caught.value).count("tessera-x") == 1
    assert "TESSERA_R2_ACCOUNT_ID" not in str(caught.value)


def records_of(**keys: str) -> dict[str, Record]:
    """hotkey -> a record with this read key."""
    return {
        hotkey: Record(
            access=Access(
                kind=AccessKind.S3,
                account="http://127.0.0.1:1",
                access_key_id=key,
                secret_access_key="s",
            )
        )
        for hotkey, key in keys.items()
    }


def test_variables_of_another_hotkey_are_called_so() -> None:
    records = records_of(mine="old", theirs="key", others="another") | {"bare": Record()}
    access = records["theirs"].access
    assert access is not None
    said = str(owned_by_other(ConfigError("refused"), access, "mine", records))
    assert said.startswith("refused. These are another hotkey's variables: theirs ")
    assert "set those of mine" in said


def test_variables_of_nobody_or_of_this_hotkey_are_not() -> None:
    """Without a fault nobody looks: a stranger may copy a record."""
    error = ConfigError("refused")
    access = records_of(mine="key")["mine"].access
    assert access is not None
    assert owned_by_other(error, access, "mine", {}) is error
    assert owned_by_other(error, access, "mine", records_of(mine="key", theirs="other")) is error


def test_an_endpoint_that_all_others_would_refuse_is_not_published() -> None:
    check = partial(check_published_endpoint, variable="TESSERA_BUCKET_ENDPOINT")
    check(f"https://{'0' * 32}.r2.cloudflarestorage.com", on_localnet=False)
    check("http://127.0.0.1:9000", on_localnet=True)
    for url in ("http://127.0.0.1:9000", "https://s3.example.com"):
        with pytest.raises(ConfigError, match="^TESSERA_BUCKET_ENDPOINT: every other"):
            check(url, on_localnet=False)


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [
        (0.0, None),
        (299.0, None),
        (-299.0, None),
        (301.0, "5 minutes ahead"),
        (-3600.0, "60 minutes behind"),
    ],
)
def test_a_clock_that_is_off_is_a_warning(ahead_s: float, words: str | None, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_clock(ahead_s)
    assert [words is not None and words in text for text in caplog.messages] == [True] * bool(words)


def test_a_clock_that_goes_wrong_in_mid_run_is_told_once_and_its_mending_too(caplog) -> None:
    clock = ClockWatch()
    with caplog.at_level(logging.WARNING):
        for ahead_s in (0.0, -12.0, 900.0, 901.0, 902.0, 3.0, 2.0, -600.0):
            clock.note(ahead_s)
    told = ["15 minutes ahead", "agree again", "10 minutes behind"]
    assert [word in line for word, line in zip(told, caplog.messages, strict=True)] == [True] * 3


def test_the_state_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_state_dir(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_disk_without_room_is_not_the_operators_flag(tmp_path: Path) -> None:
    """Planted as a limit on the size of files, which the kernel refuses like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StateError, match=r"--neuron\.state_dir.*free the disk"):
            check_state_dir(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from template.base.preflight import claimed

with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_state_folder_has_one_process_at_a_time_whose_pid_is_told(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    flag = rf"--neuron\.state_dir {tmp_path}: in use by another process \(pid {holder.pid}\)"
    with pytest.raises(ConfigError, match=flag), claimed(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with claimed(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    with claimed(tmp_path):
        pass


@pytest.mark.parametrize("name", STATE_FILES)
def test_a_folder_in_place_of_a_state_file_is_named(name: str, tmp_path: Path) -> None:
    """As a container's engine makes one for a mount that is missing."""
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=rf"{tmp_path}/{name} is a folder.*remove the folder"):
        check_state_dir(tmp_path)


@pytest.mark.parametrize("name", STATE_FOLDERS)
def test_a_file_in_place_of_a_state_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=rf"{tmp_path}/{name} is a file.*move it away"):
        check_state_dir(tmp_path)


def test_every_folder_that_a_node_makes_is_checked(tmp_path: Path) -> None:
    """Found in the state folders of a run; a node must not end over one after its first write."""
    world = build_world({"owner": 0, "val-a": 1000, "m1": 0})
    found = set()
    for name, kind in (("val-a", Validator), ("m1", Miner)):
        context = world.context(hotkey_of(name), tmp_path / name)
        kind(context)
        found |= {path.name for path in context.state_dir.iterdir() if path.is_dir()}
    assert found
    assert found <= {*STATE_FOLDERS}


@pytest.mark.parametrize("at", ["state", "state/a/b"])
def test_a_file_on_the_way_to_the_state_folder_is_named(at: str, tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(ConfigError, match=rf"{tmp_path}/state is a file.*move it away") as caught:
        check_state_dir(tmp_path / at)
    assert "permissions" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, r"belongs to uid \d+ with mode \d+, and this process has uid"),
        (errno.EROFS, "read-only: mount it for writing"),
    ],
)
def test_a_folder_of_another_user_or_on_a_read_only_disk_has_its_own_remedy(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _data: bytes) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(ConfigError, match=words):
        check_state_dir(tmp_path)


def test_another_users_state_file_is_found_before_the_chain_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LOG_FILE).touch()
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path / LOG_FILE)
    with pytest.raises(ConfigError, match=rf"{LOG_FILE} belongs to uid"):
        check_state_dir(tmp_path)


def test_a_lock_that_cannot_be_opened_or_locked_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(ConfigError, match="has no locks") as caught, claimed(tmp_path):
            pass
        assert "another process" not in str(caught.value)
    (tmp_path / LOCK_FILE).unlink()
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(StateError, match="lock is a folder"), claimed(tmp_path):
        pass


@pytest.mark.parametrize("trains", [False, True])
def test_a_disk_too_small_for_the_run_is_no_disk_that_is_full(
    trains: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse_spec(SPEC_FILE.read_text(encoding="ascii"))
    needed = least_state_bytes(spec, trains=trains)
    total = free = needed

    def usage(_path: Path) -> tuple[int, int, int]:
        return shutil._ntuple_diskusage(total, total - free, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    check_room(tmp_path, spec, trains=trains)
    free = needed - 1
    with pytest.raises(StateError, match=r"--neuron\.state_dir.*free the disk") as caught:
        check_room(tmp_path, spec, trains=trains)
    assert exit_status(caught.value) == EXIT_TRY_AGAIN
    (tmp_path / "node.safetensors").write_bytes(b"x")
    check_room(tmp_path, spec, trains=trains)
    total = needed - 1
    with pytest.raises(ConfigError, match="in all: name a folder on a larger one"):
        check_room(tmp_path, spec, trains=trains)
