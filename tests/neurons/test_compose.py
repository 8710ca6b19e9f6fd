"""Composition: peers' endpoints are a stranger's bytes; wrong flags end a neuron at once."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from template.errors import ConfigError
from template.protocol.keys import bucket_name
from template.protocol.record import Access, AccessKind
from template.protocol.ss58 import public_key
from template.store.endpoints import check_peer_endpoint, is_local_chain, is_loopback
from template.tools.reading import bucket_opener
from tests.fakes import hotkey_of

ROOT = Path(__file__).resolve().parents[2]

PUBLIC = (
    "https://s3.example.com",
    "https://S3.Example.com:9000",
    "https://8.8.8.8:443",
    "https://abc.eu.r2.cloudflarestorage.com",
)
LOOPBACK = ("http://127.0.0.1:9000", "https://localhost:1", "http://localhost", "http://LOCALHOST")
INSIDE = (
    "https://10.0.0.1",
    "https://192.168.1.1:9000",
    "https://172.16.0.1",
    "https://169.254.169.254",
    "https://100.64.0.1",
    "https://0.0.0.0",
    "https://127.0.0.2",
    "https://127.1",
    "https://0x7f.1",
    "https://2130706433",
    "https://169.254.43518",
    "https://localhost.",
    "https://x.localhost",
    "https://router",
    "https://[::ffff:10.0.0.1]",
    "https://[fd00::1]",
    "https://[::1]",
)
NOT_A_BUCKET = (
    "",
    "http://s3.example.com",
    "ftp://s3.example.com",
    "s3.example.com",
    "https://",
    "https://[x",
    "https://a.b:99999",
    "https://a.b:0",
    "https://a.b:port",
    "https://a.b:",
    "https://a..b",
    "https://-a.b",
    "https://a_b.c",
    "https://a.b c",
    "https://a.b/path",
    "https://a.b?x=1",
    "https://a.b#x",
    "https://a.b\\c",
    "https://%31.b",
    "https://10.0.0.1@a.b",
    "https://a.b\n",
)


def _access(url: str, kind: AccessKind = AccessKind.S3) -> Access:
    return Access(kind=kind, account=url, access_key_id="id", secret_access_key="public")


@pytest.mark.parametrize("url", PUBLIC)
def test_https_to_a_public_host_is_fine_everywhere(url: str) -> None:
    for allow in (False, True):
        check_peer_endpoint(url, allow_loopback=allow)
    store = bucket_opener(allow_loopback=False)(hotkey_of("m0"), _access(url))
    assert store.bucket.bucket == bucket_name(public_key(hotkey_of("m0")))
    assert "public" not in repr(store.bucket)


@pytest.mark.parametrize("url", LOOPBACK)
def test_this_machine_is_a_peer_on_a_localnet_only(url: str) -> None:
    assert is_loopback(url)
    check_peer_endpoint(url, allow_loopback=True)
    with pytest.raises(ConfigError, match="cannot be on this machine"):
        check_peer_endpoint(url, allow_loopback=False)


def test_the_network_local_is_on_this_machine() -> None:
    here = ("local", "ws://127.0.0.1:9944", "ws://localhost:1", "wss://[::1]:1")
    assert [is_local_chain(network) for network in here] == [True] * 4
    there = ("finney", "test", "ws://local:1", "wss://127.0.0.1.example.com", "")
    assert [is_local_chain(network) for network in there] == [False] * 5


@pytest.mark.parametrize("url", INSIDE)
def test_nothing_inside_our_network_is_asked(url: str) -> None:
    for allow in (False, True):
        with pytest.raises(ConfigError, match="endpoint https"):
            check_peer_endpoint(url, allow_loopback=allow)


@pytest.mark.parametrize("url", NOT_A_BUCKET)
def test_what_is_no_endpoint_is_a_config_error_and_no_other(url: str) -> None:
    for allow in (False, True):
        with pytest.raises(ConfigError, match="endpoint"):
            bucket_opener(allow_loopback=allow)(hotkey_of("m0"), _access(url))


def test_random_endpoints_raise_nothing_but_config_errors() -> None:
    generator = random.Random(7)
    alphabet = ".:/[]@-0129afx?#%_ \\lh"
    passed = 0
    for _ in range(20_000):
        tail = "".join(generator.choices(alphabet, k=generator.randrange(1, 12)))
        try:
            check_peer_endpoint("https://" + tail, allow_loopback=False)
        except ConfigError:
            continue
        passed += 1
        if passed <= 5:
            bucket_opener(allow_loopback=False)(hotkey_of("m0"), _access("https://" + tail))
    assert passed > 0


def test_r2_records_lead_to_cloudflare() -> None:
    store = bucket_opener(allow_loopback=False)(
        hotkey_of("m0"), _access("ab" * 16, AccessKind.R2_EU)
    )
    assert store.bucket.endpoint_url == f"https://{'ab' * 16}.eu.r2.cloudflarestorage.com"


def _script(name: str, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": "/nonexistent"}
    command = [sys.executable, str(ROOT / "neurons" / name), *argv]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=50)


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
