"""The owner's and the bucket's commands against a real chain and a real bucket server."""

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from localnet.onchain import NETUID
from localnet.weed import AccessKey, new_access_key
from template import __version__
from template.chain.ballots import read_records_of_any_run
from template.chain.bittensor import verify_signature
from template.cli.flags import CHECKOUT as ROOT
from template.cli.flags import DEFAULT_TEXT
from template.commands.reading import bucket_opener
from template.data.manifest import parse_manifest
from template.peers.notice import read_notice
from template.protocol.keys import blob_key, bucket_name, notice_key, shard_key
from template.protocol.notice import VersionNotice, encode_notice
from template.protocol.record import Access, Record, encode_record
from template.protocol.spec import load_spec
from template.protocol.ss58 import public_key
from template.store import Store
from tests.support.commands import Run
from tests.support.faults.subnet import OWNER, VARIABLES, Subnet
from tests.support.relay import free_port
from tests.support.waiting import wait_until

FAR_BLOCKS = 1_000_000
PLAN_TEXT = (
    (ROOT / "runs" / "testnet.toml")
    .read_text(encoding="utf-8")
    .replace('network = "public"', 'network = "local"')
    .replace("warm_start_steps = 240", "warm_start_steps = 8")
)
"""The testnet's plan, for a chain and buckets of this machine; no test looks at theta_0's loss."""
NUM_OBJECTS = 25
"""Eleven shards with digest lists, the manifest, and theta_0: an index and one part."""

pytestmark = [
    pytest.mark.skipif(not DEFAULT_TEXT.exists(), reason="no text: run `make text`"),
]


def env_of(subnet: Subnet, name: str) -> dict[str, str]:
    return dict(subnet.node("miner", name, Path()).env)


def chain_flags(subnet: Subnet) -> list[str]:
    return ["--netuid", str(NETUID), "--subtensor.network", subnet.url]


def wallet_flags(subnet: Subnet, name: str) -> list[str]:
    return ["--wallet.name", name, "--wallet.path", str(subnet.folder / "wallets")]


def publish_flags(subnet: Subnet, out: Path, name: str = OWNER) -> dict[str, str]:
    words = [*chain_flags(subnet), *wallet_flags(subnet, name)]
    plan = subnet.folder / "plan.toml"
    plan.write_text(PLAN_TEXT)
    flags = dict(zip(words[::2], words[1::2], strict=True))
    return flags | {"--plan": str(plan), "--start-in": str(FAR_BLOCKS), "--out": str(out)}


def published_keys(bucket: Store) -> list[str]:
    return [key for prefix in ("blob/", "shard/") for key in bucket.list(prefix)]


def publish(flags: dict[str, str], *switches: str) -> list[str]:
    return ["publish", *(word for pair in flags.items() for word in pair), *switches]


def check(subnet: Subnet, run_file: Path) -> list[str]:
    return ["check", "--run", str(run_file), *chain_flags(subnet)]


def secrets_of(subnet: Subnet) -> set[str]:
    nodes = [subnet.node("miner", name, Path()) for name in subnet.names]
    return {secret for node in nodes for secret in node.secrets}


@pytest.mark.slow
def test_a_run_is_published_checked_broken_and_mended(
    subnet: Subnet, run: Run, tmp_path: Path
) -> None:
    published = tmp_path / "run.toml"
    with closing(subnet.writer(OWNER)) as bucket:
        # Another test may have published the same text: its objects would be there already.
        for key in published_keys(bucket):
            bucket.delete(key)
    env, flags = env_of(subnet, OWNER), publish_flags(subnet, published)
    first = run("owner", publish(flags, "--seed", "5", "--windows", "7"), env)
    assert first.status == 0, first.err
    spec = load_spec(published)
    assert spec.schedule.num_windows == 7
    assert spec.data.mirrors == (subnet.hotkeys[OWNER],)
    assert spec.schedule.start_block > FAR_BLOCKS
    for word in (spec.run_id.hex(), hashlib.sha256(published.read_bytes()).hexdigest()):
        assert word in first.out
    assert f"block {spec.schedule.start_block:,}" in first.out
    assert first.out.count(", sent") == NUM_OBJECTS
    records = read_records_of_any_run(subnet.chain, subnet.chain.finalized())
    record = records[subnet.hotkeys[OWNER]]
    assert (record.access, record.offer) == (subnet.access(OWNER), spec.run_id)
    assert "goes to uid 0, the subnet owner's hotkey" in first.out
    assert "bears 39 hotkeys with payloads of training.max_width (8)" in first.out

    found = tmp_path / "found.toml"
    by_netuid = run("owner", ["check", "--local", "--out", str(found), *chain_flags(subnet)])
    assert by_netuid.status == 0, by_netuid.out + by_netuid.err
    assert found.read_bytes() == published.read_bytes()
    assert hashlib.sha256(found.read_bytes()).hexdigest() in by_netuid.out
    as_public = run("owner", ["check", *chain_flags(subnet)])
    assert (as_public.status, as_public.err.count("\n")) == (2, 1)
    assert "not to be had" in as_public.err, "no public run is in a bucket of this machine"

    theta0 = blob_key(bytes.fromhex(spec.checkpoint.theta0_digest))
    with closing(subnet.writer(OWNER)) as bucket:
        bucket.put(theta0, bytes(bucket.size(theta0)))
        manifest = bucket.get(blob_key(bytes.fromhex(spec.data.manifest_digest)), max_bytes=2**20)
        bucket.delete(shard_key(bytes.fromhex(parse_manifest(manifest).shards[9].sha256)))
    broken = run("owner", check(subnet, published))
    assert broken.status == 2
    assert "not to be had: theta_0, shard 9" in broken.out

    again = run("owner", publish(flags, "--seed", "5", "--windows", "7", "--force"), env)
    assert again.status == 0, again.err
    assert again.out.count(", sent") == 2
    assert again.out.count("there already") == NUM_OBJECTS - 2
    assert "record: final at block" in again.out, "another start makes another run"
    old = run("owner", check(subnet, found))
    assert f"offers another run, {load_spec(published).run_id.hex()}" in old.out
    seen = run("owner", check(subnet, published))
    assert seen.status == 0, seen.out
    assert "all is there" in seen.out
    assert "newcomers find it by --netuid 1 alone" in seen.out
    assert seen.out.count(subnet.hotkeys[OWNER][:8]) == 1 + 15, "in the offer, and in each row"
    said = "".join(e.out + e.err for e in (first, by_netuid, as_public, broken, again, seen))
    assert not [secret for secret in secrets_of(subnet) if secret in said]


def other_plan(pattern: str, replacement: str) -> Callable[[Subnet, dict[str, str], Path], None]:
    def plant(_subnet: Subnet, flags: dict[str, str], folder: Path) -> None:
        text, count = re.subn(pattern, replacement, PLAN_TEXT, flags=re.MULTILINE)
        assert count == 1
        path = folder / "plan.toml"
        path.write_text(text)
        flags["--plan"] = str(path)

    return plant


def other_flag(name: str, value: str) -> Callable[[Subnet, dict[str, str], Path], None]:
    def plant(_subnet: Subnet, flags: dict[str, str], _folder: Path) -> None:
        flags[f"--{name}"] = value

    return plant


def out_exists(_subnet: Subnet, flags: dict[str, str], _folder: Path) -> None:
    Path(flags["--out"]).write_text("precious")


FAULTS = [
    ("unknown key", other_plan("^top_k", "topk"), ("--plan", "compression.topk", "unknown key")),
    ("wrong type", other_plan("^top_k = 64", 'top_k = "x"'), ("compression.top_k", "an int")),
    ("derived key", other_plan(r"^\[data\]", "[data]\nmirrors = []"), ("data.mirrors", "leave it")),
    ("quota", other_plan("^tempo_blocks = 360", "tempo_blocks = 900"), ("tempo_blocks", "3100")),
    ("out exists", out_exists, ("--out", "exists", "--force")),
    ("no folder", other_flag("out", "/nonexistent/run.toml"), ("--out", "/nonexistent")),
    ("no text", other_flag("text", "/nonexistent"), ("--text", "make text")),
    ("no plan", other_flag("plan", "/nonexistent"), ("--plan /nonexistent", "cannot be read")),
    ("too soon at once", other_flag("start-in", "20"), ("--start-in 20", "vote_margin_blocks")),
    ("no wallet", other_flag("wallet.name", "nobody"), ("--wallet.name nobody", "btcli wallet")),
    ("no subnet", other_flag("netuid", "9"), ("--netuid 9", "no such subnet")),
    ("unregistered", other_flag("wallet.name", "stranger"), ("not registered", "btcli subnets")),
    ("no bucket", other_flag("wallet.name", "homeless"), ("no such bucket", "neurons/bucket.py")),
    (
        "another tempo",
        other_plan("^tempo_blocks = 360", "tempo_blocks = 300"),
        ("--plan", "schedule.tempo_blocks is 300", "360"),
    ),
]


SLOW_FAULTS = [
    ("too soon in the end", other_flag("start-in", "21"), ("--start-in 21", "too soon")),
    (
        "text too small for 256 hotkeys",
        other_plan("^inner_steps = 30", "inner_steps = 40"),
        ("training.inner_steps", "256 hotkeys", "153280 pages", "take a larger text"),
    ),
]
ROWS = [pytest.param(*fault[1:], id=fault[0]) for fault in FAULTS] + [
    pytest.param(*fault[1:], id=fault[0], marks=pytest.mark.slow) for fault in SLOW_FAULTS
]


@pytest.mark.parametrize(("plant", "words"), ROWS)
def test_a_fault_of_the_owner_is_named(
    plant: Callable[[Subnet, dict[str, str], Path], None],
    words: tuple[str, ...],
    subnet: Subnet,
    run: Run,
    tmp_path: Path,
) -> None:
    flags = publish_flags(subnet, tmp_path / "run.toml")
    plant(subnet, flags, tmp_path)
    name = flags["--wallet.name"] if flags["--wallet.name"] in subnet.names else OWNER
    ended = run("owner", publish(flags), env_of(subnet, name))
    assert ended.status == 2, ended.out + ended.err
    assert ended.err.count("\n") == 1
    assert [word for word in words if word not in ended.err] == [], ended.err
    left = [path.name for path in tmp_path.iterdir() if path.name != "plan.toml"]
    assert left == (["run.toml"] if plant is out_exists else [])
    assert not left or (tmp_path / "run.toml").read_text() == "precious"
    assert not [secret for secret in secrets_of(subnet) if secret in ended.out + ended.err]


def test_who_publishes_with_another_hotkey_than_the_owners_is_told(
    subnet: Subnet, run: Run, tmp_path: Path
) -> None:
    flags = publish_flags(subnet, tmp_path / "run.toml", "homeless")
    ended = run("owner", publish(flags), env_of(subnet, "homeless"))
    assert f"the subnet owner's hotkey is {subnet.hotkeys[OWNER]}" in ended.out
    assert "is not found by the netuid alone" in ended.out


@pytest.mark.slow
def test_a_chain_that_is_away_may_come_back(run: Run, subnet: Subnet, tmp_path: Path) -> None:
    flags = publish_flags(subnet, tmp_path / "run.toml")
    flags["--subtensor.network"] = f"ws://127.0.0.1:{free_port()}"
    ended = run("owner", publish(flags), env_of(subnet, OWNER))
    assert ended.status == 1
    assert "--subtensor.network" in ended.err
    assert "Traceback" not in ended.err


def test_the_name_of_a_bucket(run: Run, subnet: Subnet) -> None:
    expected = bucket_name(public_key(subnet.hotkeys["stranger"]))
    by_wallet = run("bucket", ["name", *wallet_flags(subnet, "stranger")])
    by_hotkey = run("bucket", ["name", "--hotkey", subnet.hotkeys["stranger"]])
    assert (by_wallet.status, by_wallet.out) == (0, expected + "\n")
    assert (by_hotkey.status, by_hotkey.out) == (0, expected + "\n")
    wrong = run("bucket", ["name", "--hotkey", "5F"])
    assert (wrong.status, wrong.out) == (2, "")
    assert "--hotkey" in wrong.err


def test_a_good_bucket_is_ready_and_left_as_it_was(run: Run, subnet: Subnet) -> None:
    ended = run("bucket", ["check", *wallet_flags(subnet, "stranger")], env_of(subnet, "stranger"))
    assert (ended.status, ended.err) == (0, "")
    assert subnet.server.endpoint_url in ended.out
    assert ended.out.endswith("the bucket is ready\n")
    with closing(subnet.writer("stranger")) as bucket:
        assert bucket.list("probe/") == []


def keys(purpose: str, key: AccessKey) -> dict[str, str]:
    return {
        f"TESSERA_BUCKET_{purpose}_KEY_ID": key.access_key_id,
        f"TESSERA_BUCKET_{purpose}_SECRET": key.secret_access_key.reveal(),
    }


@pytest.mark.parametrize(
    ("who", "purpose", "pick", "words"),
    [
        ("homeless", "", None, ("no such bucket", "create it")),
        (
            "stranger",
            "WRITE",
            lambda _: new_access_key(),
            ("write key was refused", "WRITE_SECRET"),
        ),
        ("stranger", "WRITE", lambda s: s.keys[OWNER].rw, ("write key was refused", "reads and")),
        ("stranger", "READ", lambda _: new_access_key(), ("read key was refused", "READ_SECRET")),
        ("stranger", "READ", lambda s: s.second_keys["stranger"].rw, ("can WRITE", "READ_KEY_ID")),
    ],
    ids=["no bucket", "strange write key", "other's write key", "strange read key", "read writes"],
)
def test_what_is_wrong_with_a_bucket(
    who: str,
    purpose: str,
    pick: Callable[[Subnet], AccessKey] | None,
    words: tuple[str, ...],
    run: Run,
    subnet: Subnet,
) -> None:
    env = env_of(subnet, who)
    planted = None if pick is None else pick(subnet)
    if planted is not None:
        env |= keys(purpose, planted)
    ended = run("bucket", ["check", *wallet_flags(subnet, who)], env)
    assert ended.status == 2, ended.err
    assert [word for word in words if word not in ended.err] == [], ended.err
    secrets = secrets_of(subnet) | {env[name] for name in VARIABLES if name.endswith("SECRET")}
    assert not [secret for secret in secrets if secret in ended.out + ended.err]


@pytest.mark.slow
def test_an_interrupted_upload_goes_on(subnet: Subnet, tmp_path: Path) -> None:
    """Killed, and asked to stop, in the middle of the objects; then to its end."""
    flags = publish_flags(subnet, tmp_path / "run.toml")
    argv = [sys.executable, "neurons/owner.py", *publish(flags)]
    with closing(subnet.writer(OWNER)) as bucket:
        for key in published_keys(bucket):
            bucket.delete(key)
        for number, sign in ((3, signal.SIGKILL), (6, signal.SIGTERM)):
            assert until_object(argv, subnet, number, sign) == {9: -9, 15: 130}[sign]
            assert not (tmp_path / "run.toml").exists()
            assert len(published_keys(bucket)) in range(number, NUM_OBJECTS)
        done = subprocess.run(argv, env=environment(subnet), cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode()
    assert said.count("there already") in range(6, NUM_OBJECTS)
    assert said.count("there already") + said.count(", sent") == NUM_OBJECTS
    assert load_spec(tmp_path / "run.toml").schedule.num_windows == 504


def environment(subnet: Subnet) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(subnet.folder), **env_of(subnet, OWNER)}


def until_object(argv: list[str], subnet: Subnet, number: int, sign: signal.Signals) -> int:
    """Start the command and send it a signal when it has dealt with so many objects."""
    with subprocess.Popen(
        argv, env=environment(subnet), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"object {number} "):
                process.send_signal(sign)
                break
        return process.wait()


def notice(subnet: Subnet, name: str, *flags: str) -> list[str]:
    words = ["notice", "--version", "9.8.7", "--tag-sha256", "ab" * 32, *flags]
    return [*words, *chain_flags(subnet), *wallet_flags(subnet, name)]


def put_record(subnet: Subnet, access: Access) -> None:
    subnet.open_chain(OWNER).publish(encode_record(Record(access=access)))
    block = subnet.chain.head()
    wait_until(lambda: subnet.chain.finalized() >= block)


def test_a_notice_of_the_owner_is_read_by_neurons_and_nobody_elses_is(
    subnet: Subnet, run: Run
) -> None:
    opener = bucket_opener(on_localnet=True)
    put_record(subnet, subnet.access(OWNER))
    ended = run("owner", notice(subnet, OWNER, "--local"), env_of(subnet, OWNER))
    assert (ended.status, ended.err) == (0, "")
    assert f"version 9.8.7, tag with SHA-256 {'ab' * 32}" in ended.out
    found = read_notice(subnet.chain, opener, verify_signature)
    assert found == VersionNotice(version="9.8.7", kind="tag", digest=b"\xab" * 32)
    strangers = run("owner", notice(subnet, "stranger", "--local"), env_of(subnet, "stranger"))
    assert (strangers.status, strangers.err.count("\n")) == (2, 1)
    assert f"is not the hotkey of the owner of subnet {NETUID}" in strangers.err
    as_public = run("owner", notice(subnet, OWNER), env_of(subnet, OWNER))
    assert as_public.status == 2
    assert "TESSERA_BUCKET_ENDPOINT: every other node would refuse it" in as_public.err
    with closing(subnet.writer(OWNER)) as bucket:
        bucket.put(notice_key(), b"x" * 2**20)
    assert read_notice(subnet.chain, opener, verify_signature) is None
    said = "".join(e.out + e.err for e in (ended, strangers, as_public))
    assert not [secret for secret in secrets_of(subnet) if secret in said]


def test_a_notice_that_the_record_does_not_lead_to_is_an_error(subnet: Subnet, run: Run) -> None:
    unknown = new_access_key()
    secret = unknown.secret_access_key.reveal()
    put_record(
        subnet,
        replace(
            subnet.access(OWNER),
            access_key_id=unknown.access_key_id,
            secret_access_key=secret,
        ),
    )
    ended = run("owner", notice(subnet, OWNER, "--local"), env_of(subnet, OWNER))
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "let TESSERA_BUCKET_* name the bucket of that record" in ended.err
    assert secret not in ended.out + ended.err


@pytest.mark.slow
def test_a_running_miner_says_the_notice_in_its_log_and_its_metrics(
    subnet: Subnet, tmp_path: Path
) -> None:
    subnet.publish_run(in_blocks=400, schedule__num_windows=500)
    with closing(subnet.writer(OWNER)) as bucket:
        told = VersionNotice(version="9.8.7", kind="wheel", digest=b"\xcd" * 32)
        key = subnet.wallets[OWNER].hotkey
        bucket.put(notice_key(), encode_notice(told, NETUID, key.sign))
    node = subnet.node("miner", OWNER, tmp_path)
    log, metrics = tmp_path / "log", node.state_dir / "metrics.jsonl"
    words = f"names version 9.8.7, and this is {__version__}: wheel with SHA-256 {'cd' * 32}"

    def is_told() -> bool:
        assert process.poll() is None, log.read_text()
        written = metrics.read_text() if metrics.exists() else ""
        return words in log.read_text() and '"newest_version_key": 9008007' in written

    with (
        log.open("wb") as out,
        subprocess.Popen(
            node.command(), env=node.environment(), cwd=ROOT, stdout=out, stderr=out
        ) as process,
    ):
        try:
            wait_until(is_told, describe=lambda: log.read_text()[-2000:])
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 130
    assert log.read_text().count("signed notice names") == 1
