"""No secret of a whole localnet is anywhere but where it belongs: every file and every output.

Slow: a localnet at debug level with Weights & Biases, neurons that fail on purpose, and kills.
"""

import base64
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.localnet.running import LIMIT_S, ROOT, TEXT, RunningLocalnet
from tests.wandb_server import WandbServer, serve_wandb

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LIMIT_S + 60),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]

WANDB_KEY = "5eca7e" * 6 + "5eca"

ALLOWED: Mapping[str, tuple[str, ...]] = {
    "wallets/*/coldkey": ("coldkey",),
    "wallets/*/hotkeys/default": ("hotkey",),
    "buckets/ids.json": ("write", "read", "admin"),
    "chain.journal": ("chain", "read"),
}
"""File -> kinds of secrets that it may hold, all of them readable by their owner only.

A wallet's file is the key itself. SeaweedFS reads who may do what from ids.json. The journal's
first line is the seed of the chain's hashes, and what follows are its blocks: read credentials
are published there on purpose, and nowhere else.
"""


def encodings(text: str, raw: bytes | None = None) -> set[bytes]:
    """What a secret may look like: as it is, and as a log or a dump may show it."""
    forms = {text.encode()}
    for data in (text.encode(), *([] if raw is None else [raw])):
        forms |= {data, data.hex().encode(), data.hex().upper().encode(), repr(data)[2:-1].encode()}
        # From the second character on: the last ones depend on what follows.
        forms.add(base64.b64encode(data)[: len(data) * 4 // 3].rstrip(b"="))
    return forms


def wallet_secrets(path: Path) -> set[bytes]:
    """A key file's secrets: private key, seed, mnemonic."""
    content = json.loads(path.read_text())
    found = encodings(content["secretPhrase"])
    for name in ("privateKey", "secretSeed"):
        text = content[name].removeprefix("0x")
        found |= encodings(text, bytes.fromhex(text))
    return found


def secrets_in_use(out: Path) -> dict[str, set[bytes]]:
    """Kind -> every form of every secret of that kind."""
    found: dict[str, set[bytes]] = {"wandb": encodings(WANDB_KEY) | encodings(f"api:{WANDB_KEY}")}
    found["hotkey"] = set.union(*map(wallet_secrets, out.glob("wallets/*/hotkeys/default")))
    found["coldkey"] = set.union(*map(wallet_secrets, out.glob("wallets/*/coldkey")))
    for entry in json.loads((out / "buckets" / "ids.json").read_text())["identities"]:
        kind = {"ro": "read", "rw": "write"}.get(entry["name"].rpartition("-")[2], "admin")
        text = entry["credentials"][0]["secretKey"]
        found.setdefault(kind, set()).update(encodings(text, bytes.fromhex(text)))
    with (out / "chain.journal").open() as journal:
        seed = json.loads(journal.readline())["secret"]
    found["chain"] = encodings(seed, bytes.fromhex(seed))
    return found


def kinds_in(data: bytes, secrets: Mapping[str, set[bytes]]) -> set[str]:
    return {kind for kind, forms in secrets.items() if any(form in data for form in forms)}


def allowed_in(name: Path) -> tuple[str, ...]:
    return next((kinds for pattern, kinds in ALLOWED.items() if name.match(pattern)), ())


class Neurons:
    """Neurons beside the launcher's own: the owner's hotkey, which has no process of its own."""

    def __init__(self, net: RunningLocalnet) -> None:
        self.net = net
        environment = Path(f"/proc/{net.pids['miner-0']}/environ").read_text().split("\0")
        base = dict(line.split("=", 1) for line in environment if line)
        self._env = {k: v for k, v in base.items() if not k.startswith(("TESSERA_", "WANDB_"))}
        self._url = base["TESSERA_BUCKET_ENDPOINT"]
        identities = json.loads((net.out / "buckets" / "ids.json").read_text())["identities"]
        self._keys = {i["name"]: i["credentials"][0] for i in identities}
        # The owner's bucket is the first: roster and identities are in the same order.
        self._bucket = next(n for n in self._keys if n.endswith("-rw")).removesuffix("-rw")

    def start(self, name: str, *flags: str, **changes: str) -> subprocess.Popen[bytes]:
        """A miner with the owner's hotkey; its output goes to `name`.output beside `out`."""
        out = self.net.out
        read, write = self._keys[f"{self._bucket}-ro"], self._keys[f"{self._bucket}-rw"]
        env = {
            **self._env,
            "TESSERA_BUCKET_ENDPOINT": self._url,
            "TESSERA_BUCKET_WRITE_KEY_ID": write["accessKey"],
            "TESSERA_BUCKET_WRITE_SECRET": write["secretKey"],
            "TESSERA_BUCKET_READ_KEY_ID": read["accessKey"],
            "TESSERA_BUCKET_READ_SECRET": read["secretKey"],
            **changes,
        }
        argv = [sys.executable, str(ROOT / "neurons" / "miner.py"), "--netuid", "1"]
        argv += ["--subtensor.network", self.net.chain_url, "--run", str(out / "run.toml")]
        argv += ["--wallet.name", "owner", "--wallet.hotkey", "default"]
        argv += ["--wallet.path", str(out / "wallets"), "--neuron.device", "cpu"]
        argv += ["--neuron.state_dir", str(out / "nodes" / name), *flags]
        with self.output_path(name).open("wb") as output:
            return subprocess.Popen(argv, env=env, stdout=output, stderr=subprocess.STDOUT)

    def output_path(self, name: str) -> Path:
        return self.net.out.with_name(f"{name}.output")

    def output(self, name: str) -> str:
        return self.output_path(name).read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def wandb_server() -> Iterator[WandbServer]:
    pytest.importorskip("wandb")
    with serve_wandb() as server:
        yield server


@pytest.fixture
def net(tmp_path: Path, wandb_server: WandbServer) -> Iterator[RunningLocalnet]:
    flags = ["--miners", "2", "--validators", "1", "--windows", "7", "--block-time", "0.35"]
    env = {"WANDB_API_KEY": WANDB_KEY, "WANDB_BASE_URL": wandb_server.url}
    running = RunningLocalnet(tmp_path / "out", *flags, "--debug", "--wandb", "online", env=env)
    yield running
    running.kill_leftovers()


def command_lines(pids: Mapping[str, int]) -> bytes:
    """What any user of the machine sees of the processes."""
    return b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids.values())


def fail_on_purpose(neurons: Neurons) -> None:
    """Wrong credentials, one kind after the other."""
    wrong = "0" * 63 + "1"
    for name, variable in (("no-write", "WRITE"), ("no-read", "READ")):
        process = neurons.start(
            name, "--logging.debug", "--wandb.off", **{f"TESSERA_BUCKET_{variable}_SECRET": wrong}
        )
        try:
            assert process.wait(100) not in (0, None), neurons.output(name)
        finally:
            process.kill()


def test_no_secret_leaves_its_place(net: RunningLocalnet, wandb_server: WandbServer) -> None:
    net.wait_until(lambda: "miner-0" in net.pids)
    neurons = Neurons(net)
    seen = command_lines(net.pids)
    assert b"TESSERA" not in seen
    fail_on_purpose(neurons)

    logs = str(net.out / "traced")
    traced = neurons.start(
        "traced", "--logging.trace", "--logging.logging_dir", logs, "--wandb.offline"
    )
    net.wait_until(lambda: net.num_with("traced", "committed") >= 1)
    traced.terminate()
    assert traced.wait(30) == 130, neurons.output("traced")
    os.kill(net.pids["miner-1"], signal.SIGKILL)
    keyless = neurons.start("keyless", "--wandb.online")
    net.wait_until(lambda: net.num_with("keyless", "dissenting_uids") >= 1)
    keyless.terminate()
    assert keyless.wait(30) == 130, neurons.output("keyless")
    status = net.end()
    assert {n["exit"] for n in net.report["neurons"]} == {0, None}, (status, net.output)

    check_wandb(net, neurons, wandb_server)
    secrets = secrets_in_use(net.out)
    assert all(secrets.values())
    assert len(secrets) == 7
    assert kinds_in(seen, secrets) == set()
    check_places(net.out, secrets)


def check_wandb(net: RunningLocalnet, neurons: Neurons, server: WandbServer) -> None:
    """Online with a key: all arrives. Without one: a line, once. Offline: nothing is lost."""
    names = {run["displayName"].partition("-")[0] for run in server.runs if run["displayName"]}
    assert names == {"miner", "validator"}
    losses = {row["held_out_loss"] for row in server.history if "held_out_loss" in row}
    assert losses >= {row["held_out_loss"] for row in net.rows("val-0") if "held_out_loss" in row}
    lines = [line for line in neurons.output("keyless").splitlines() if "wandb:" in line]
    assert len(lines) == 1
    assert "No API key" in lines[0]
    assert "--wandb.off" in lines[0]
    (folder,) = (net.out / "nodes" / "traced" / "wandb").glob("offline-run-*")
    assert any(b"committed" in path.read_bytes() for path in folder.glob("*.wandb"))


def check_places(out: Path, secrets: Mapping[str, set[bytes]]) -> None:
    """Every file below `out`, and every output beside it."""
    found: dict[str, set[str]] = {}
    files = [path for path in out.parent.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        kinds = kinds_in(path.read_bytes(), secrets)
        name = path.relative_to(out) if path.is_relative_to(out) else Path(path.name)
        if kinds & set(allowed_in(name)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        if kinds - set(allowed_in(name)):
            found[str(name)] = kinds - set(allowed_in(name))
    assert found == {}
    assert len([path for path in files if path.suffix == ".output"]) == 5
    with (out / "chain.journal").open("rb") as journal:
        assert kinds_in(journal.readline(), secrets) == {"chain"}
        assert kinds_in(journal.read(), secrets) == {"read"}
    held = {kind for path in files for kind in kinds_in(path.read_bytes(), secrets)}
    assert held == {"hotkey", "coldkey", "write", "read", "admin", "chain"}
