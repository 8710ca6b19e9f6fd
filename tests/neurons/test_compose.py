"""Composition: peers' endpoints are a stranger's bytes; wrong flags end a neuron at once."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.world import hotkey_of
from template.commands.reading import bucket_opener
from template.errors import RecordError
from template.protocol.keys import bucket_name
from template.protocol.record import Access, AccessKind, Record, decode_record, encode_record
from template.protocol.ss58 import public_key
from template.store.endpoints import (
    check_peer_endpoint,
    is_loopback,
    parse_endpoint,
)
from template.store.s3 import S3Store
from tests.support.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]

ACCOUNT = "0123456789abcdef" * 2
R2 = (
    f"https://{ACCOUNT}.r2.cloudflarestorage.com",
    f"https://{ACCOUNT}.eu.r2.cloudflarestorage.com",
    f"https://{ACCOUNT}.fedramp.r2.cloudflarestorage.com",
)
LOOPBACK = ("http://127.0.0.1:9000", "https://localhost:1", "http://localhost")
ELSEWHERE = (
    "https://s3.example.com",
    "https://8.8.8.8:443",
    f"http://{ACCOUNT}.r2.cloudflarestorage.com",
    f"https://{ACCOUNT}.r2.cloudflarestorage.com:443",
    f"https://{ACCOUNT}.r2.cloudflarestorage.com.",
    f"https://{ACCOUNT}.r2.cloudflarestorage.com.example.com",
    f"https://{ACCOUNT}.r2.cloudflarestorage.com/path",
    f"https://{ACCOUNT}.r2.cloudflarestorage.com\n",
    f"https://{ACCOUNT}.us.r2.cloudflarestorage.com",
    f"https://{ACCOUNT[1:]}.r2.cloudflarestorage.com",
    f"https://{ACCOUNT}0.r2.cloudflarestorage.com",
    f"https://{ACCOUNT.upper()}.r2.cloudflarestorage.com",
    f"https://x@{ACCOUNT}.r2.cloudflarestorage.com",
    f"https://{ACCOUNT}xr2.cloudflarestorage.com",
    "https://10.0.0.1",
    "https://192.168.1.1:9000",
    "https://169.254.169.254",
    "https://0.0.0.0",
    "https://127.0.0.2",
    "https://127.1",
    "https://0x7f.1",
    "https://2130706433",
    "https://localhost.",
    "https://x.localhost",
    "https://router",
    "https://[::ffff:10.0.0.1]",
    "https://[fd00::1]",
    "https://[::1]",
    "",
    "ftp://127.0.0.1",
    "HTTP://127.0.0.1:9000",
    "http://LOCALHOST",
    "http://127.0.0.1:09000",
    f"HTTPS://{ACCOUNT}.r2.cloudflarestorage.com",
    "127.0.0.1:9000",
    "https://",
    "http://127.0.0.1:0",
    "http://127.0.0.1:70000",
    "http://127.0.0.1:port",
    "http://127.0.0.1:",
    "http://127.0.0.1:9000/path",
    "http://127.0.0.1:9000?x=1",
    "http://127.0.0.1:9000#x",
    "http://127.0.0.1:9000\n",
    "http://127.0.0.1@example.com",
    "http://example.com@127.0.0.1",
)


def _access(url: str, kind: AccessKind = AccessKind.S3) -> Access:
    return Access(kind=kind, account=url, access_key_id="id", secret_access_key="public")


@pytest.mark.parametrize("url", R2)
def test_on_a_real_network_buckets_are_on_r2(url: str) -> None:
    check_peer_endpoint(url, on_localnet=False)
    store = bucket_opener(on_localnet=False)(hotkey_of("m0"), _access(url))
    assert isinstance(store, S3Store)
    assert store.bucket.bucket == bucket_name(public_key(hotkey_of("m0")))
    assert "public" not in repr(store.bucket)
    with pytest.raises(RecordError, match="this machine"):
        check_peer_endpoint(url, on_localnet=True)


@pytest.mark.parametrize("url", LOOPBACK)
def test_this_machine_is_a_peer_on_a_localnet_only(url: str) -> None:
    assert is_loopback(url)
    check_peer_endpoint(url, on_localnet=True)
    with pytest.raises(RecordError, match="Cloudflare R2"):
        check_peer_endpoint(url, on_localnet=False)


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nothing_else_is_ever_asked(url: str) -> None:
    for on_localnet in (False, True):
        with pytest.raises(RecordError, match="endpoint"):
            bucket_opener(on_localnet=on_localnet)(hotkey_of("m0"), _access(url))


def test_random_endpoints_raise_nothing_but_record_errors() -> None:
    generator = random.Random(7)
    alphabet = ".:/[]@-0129afx?#%_ \\lh"
    passed = 0
    for _ in range(20_000):
        tail = "".join(generator.choices(alphabet, k=generator.randrange(4)))
        try:
            check_peer_endpoint("http://127.0.0.1" + tail, on_localnet=True)
        except RecordError:
            continue
        passed += 1
        assert tail == "" or 0 < int(tail.removeprefix(":")) < 100
        with pytest.raises(RecordError):
            check_peer_endpoint("http://127.0.0.1" + tail, on_localnet=False)
    assert passed > 0


ENDPOINT_PARTS = (
    *("http", "HTTP", "https", "ftp", "://", "127.0.0.1", "localhost", "LOCALHOST", "example.com"),
    *(":", "1", "9000", "65536", "/", "?", "@", "%2e", "#", "[::1]", " ", "..", "-"),
)
LIKELY = (
    "http://127.0.0.1",
    "http://127.0.0.1:9000",
    "HTTP://127.0.0.1:9000",
    "https://localhost:1",
)


def test_no_record_makes_the_opener_raise_anything_but_a_record_error() -> None:
    """Whatever decodes from chain: odd endpoints, and keys of any printable characters."""
    generator = random.Random(3)
    printable = [chr(code) for code in range(32, 127)]
    num_opened = num_refused = 0
    while num_opened < 50 or num_refused < 2_000:
        parts = generator.choices(ENDPOINT_PARTS, k=generator.randrange(1, 6))
        likely = generator.randrange(10) == 0 and num_opened < 50
        url = generator.choice(LIKELY) if likely else "".join(parts)
        key, secret = ("".join(generator.choices(printable, k=n)) for n in (1, 72))
        access = Access(
            kind=AccessKind.S3, account=url, access_key_id=key, secret_access_key=secret
        )
        record = decode_record(encode_record(Record(access=access)))
        assert record.access is not None
        try:
            store = bucket_opener(on_localnet=True)(hotkey_of("m0"), record.access)
        except RecordError:
            num_refused += 1
            continue
        num_opened += 1
        assert parse_endpoint(url).url == url
        store.close()


def test_r2_records_lead_to_cloudflare() -> None:
    store = bucket_opener(on_localnet=False)(hotkey_of("m0"), _access("ab" * 16, AccessKind.R2_EU))
    assert isinstance(store, S3Store)
    assert store.bucket.endpoint_url == f"https://{'ab' * 16}.eu.r2.cloudflarestorage.com"


def _script(name: str, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": "/nonexistent"}
    command = [sys.executable, str(ROOT / "neurons" / name), *argv]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=HANG_S)


@pytest.mark.slow
def test_the_miner_explains_itself_from_any_folder(tmp_path: Path) -> None:
    done = _script("miner.py", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--neuron.state_dir" in done.stdout
    assert "TESSERA_BUCKET_WRITE_SECRET" in done.stdout


@pytest.mark.slow
def test_a_flag_that_is_none_ends_a_neuron_with_its_name(tmp_path: Path) -> None:
    flags = ("--netuid", "1", "--neuron.epoch_length", "5")
    done = _script("validator.py", *flags, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--neuron.epoch_length: set by the run spec" in line
