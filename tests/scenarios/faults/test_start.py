"""Faults at a neuron's start: one row each, the real `main` against a real chain and bucket.

Each row plants one fault into a start in which everything else is right, and says with which
status the neuron ends and which words an operator reads: the field, and the remedy.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from localnet.weed import AccessKey, new_access_key
from simulation.faults import OperatorFault
from template.base.preflight import claimed
from template.protocol.keys import shard_key
from tests.support.faults.process import Ended, assert_discreet
from tests.support.faults.subnet import OWNER, NodeStart, Subnet

Plant = Callable[[Subnet, NodeStart], None]
Run = Callable[[NodeStart], Ended]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row. `words`: what the one message must have, in any order; `fault`: if it has a name."""

    name: str
    plant: Plant
    words: tuple[str, ...]
    status: int = 2
    role: str = "miner"
    who: str = "node"
    fault: OperatorFault | None = None


def flag(**values: str) -> Plant:
    """Another value of a flag; `wallet__name` is --wallet.name."""

    def plant(_subnet: Subnet, node: NodeStart) -> None:
        node.flags |= {f"--{name.replace('__', '.')}": value for name, value in values.items()}

    return plant


def variable(**values: str | None) -> Plant:
    """Another value of TESSERA_BUCKET_..., or none at all."""

    def plant(_subnet: Subnet, node: NodeStart) -> None:
        for name, value in values.items():
            node.env.pop(f"TESSERA_BUCKET_{name}", None)
            if value is not None:
                node.env[f"TESSERA_BUCKET_{name}"] = value

    return plant


def stranger_key(purpose: str, *, only: str = "") -> Plant:
    """A key that the server does not know, or only a wrong secret of one that it knows."""

    def plant(_subnet: Subnet, node: NodeStart) -> None:
        key = new_access_key()
        values = {"KEY_ID": key.access_key_id, "SECRET": key.secret_access_key.reveal()}
        node.secrets.add(values["SECRET"])
        node.env |= {
            f"TESSERA_BUCKET_{purpose}_{part}": value
            for part, value in values.items()
            if only in ("", part)
        }

    return plant


def key_of(purpose: str, name: str, kind: str) -> Plant:
    """Another key that the server knows: `kind` "rw" or "ro" of a name's bucket."""

    def plant(subnet: Subnet, node: NodeStart) -> None:
        set_key(node, purpose, getattr(subnet.keys[name], kind))

    return plant


def read_key_that_writes(subnet: Subnet, node: NodeStart) -> None:
    set_key(node, "READ", subnet.second_keys["node"].rw)


def set_key(node: NodeStart, purpose: str, key: AccessKey) -> None:
    node.env[f"TESSERA_BUCKET_{purpose}_KEY_ID"] = key.access_key_id
    node.env[f"TESSERA_BUCKET_{purpose}_SECRET"] = key.secret_access_key.reveal()
    node.secrets.add(key.secret_access_key.reveal())


def spec_text(pattern: str, replacement: str) -> Plant:
    """A run spec of other words."""

    def plant(_subnet: Subnet, node: NodeStart) -> None:
        text, count = re.subn(pattern, replacement, node.run_file.read_text(), flags=re.MULTILINE)
        assert count == 1
        path = node.state_dir.parent / "other.toml"
        path.write_text(text)
        node.flags["--run"] = str(path)

    return plant


def hotkey_file(content: bytes) -> Plant:
    """Another file in the hotkey's place."""

    def plant(_subnet: Subnet, node: NodeStart) -> None:
        path = node.state_dir.parent / "wallets" / "node" / "hotkeys"
        path.mkdir(parents=True)
        (path / "default").write_bytes(content)
        node.flags["--wallet.path"] = str(path.parents[1])

    return plant


def file_for_folder(name: str) -> Plant:
    def plant(_subnet: Subnet, node: NodeStart) -> None:
        blocked = node.state_dir.parent / "blocked"
        blocked.write_text("a file where a folder should be")
        node.flags[name] = str(blocked / "below")

    return plant


def behaviour(name: str) -> Plant:
    def plant(_subnet: Subnet, node: NodeStart) -> None:
        node.flags = {"--behaviour": name, **node.flags}

    return plant


def broken_state(_subnet: Subnet, node: NodeStart) -> None:
    node.state_dir.mkdir()
    (node.state_dir / "node.safetensors").write_bytes(b"not a state")


def state_folder_in_use(_subnet: Subnet, node: NodeStart) -> None:
    node.state_dir.mkdir()
    holder = claimed(node.state_dir)
    holder.__enter__()
    node.undo.append(lambda: holder.__exit__(None, None, None))


def spoiled_shard(subnet: Subnet, node: NodeStart) -> None:
    """The only mirror has other bytes as the held-out shard."""
    shard = subnet.run.dataset.manifest.held_out
    key = shard_key(bytes.fromhex(shard.sha256))
    data, bucket = subnet.run.dataset.shard_data(shard), subnet.writer(OWNER)
    bucket.put(key, data[::-1])
    node.undo.append(lambda: bucket.put(key, data))


def folder_for_file(name: str) -> Plant:
    """A folder in place of a file of the state folder, as a missing mount leaves one."""

    def plant(_subnet: Subnet, node: NodeStart) -> None:
        (node.state_dir / name).mkdir(parents=True)

    return plant


def two_faults(first: Plant, second: Plant) -> Plant:
    def plant(subnet: Subnet, node: NodeStart) -> None:
        first(subnet, node)
        second(subnet, node)

    return plant


def nothing(_subnet: Subnet, _node: NodeStart) -> None:
    """The fault is who the node is."""


FAULTS = [
    Fault(
        name="spec: unknown key",
        fault=OperatorFault.SPEC_UNKNOWN_KEY,
        plant=spec_text(r"^top_k", "topk = 1\ntop_k"),
        words=("--run", "other.toml", "compression.topk", "unknown key", "top_k"),
    ),
    Fault(
        name="spec: wrong type",
        fault=OperatorFault.SPEC_WRONG_TYPE,
        plant=spec_text(r"^inner_steps = .*", 'inner_steps = "many"'),
        words=("--run", "other.toml", "training.inner_steps", "must be an integer"),
    ),
    Fault(
        name="spec: blocks that do not fit",
        plant=spec_text(r"^upload_blocks = .*", "upload_blocks = 14"),
        words=("--run", "schedule.blocks_per_window", "must fit", "upload_blocks"),
    ),
    Fault(
        name="spec: theta_0 that no mirror has",
        fault=OperatorFault.SPEC_OTHER_DIGEST,
        plant=spec_text(r"^theta0_digest = .*", f'theta0_digest = "{"ab" * 32}"'),
        words=("--run", "checkpoint.theta0_digest", "data.mirrors", "ab" * 32, "owner", "--netuid"),
    ),
    Fault(
        name="spec: manifest that no mirror has",
        fault=OperatorFault.SPEC_OTHER_DIGEST,
        plant=spec_text(r"^manifest_digest = .*", f'manifest_digest = "{"cd" * 32}"'),
        words=("--run", "data.manifest_digest", "data.mirrors", "cd" * 32, "owner"),
    ),
    Fault(
        name="spec is read before the wallet",
        plant=two_faults(spec_text(r"^top_k", "topk = 1\ntop_k"), flag(wallet__name="nobody")),
        words=("--run", "compression.topk"),
    ),
    Fault(
        name="a flag that is none",
        plant=flag(neuron__epoch_length="5"),
        words=("neurons/miner.py: --neuron.epoch_length: set by the run spec",),
    ),
    Fault(
        name="missing wallet",
        fault=OperatorFault.MISSING_WALLET,
        plant=flag(wallet__name="nobody"),
        words=(
            "--wallet.name nobody",
            "--wallet.hotkey default",
            "--wallet.path",
            "does not exist",
            "`btcli wallet create -w nobody -H default --wallet-path",
        ),
    ),
    Fault(
        name="locked hotkey",
        fault=OperatorFault.LOCKED_WALLET,
        # As the SDK writes it; a real one takes seconds to make: tests/chain/test_wallet.py.
        plant=hotkey_file(b"$NACL" + bytes(200)),
        words=("--wallet.hotkey default", "is encrypted", "`btcli wallet regen-hotkey -w node"),
    ),
    Fault(
        name="broken hotkey file",
        plant=hotkey_file(b"not a key"),
        words=("--wallet.hotkey default", "not a usable key", "`btcli wallet regen-hotkey"),
    ),
    Fault(
        name="a GPU that is not there",
        plant=flag(neuron__device="cuda:63"),
        words=("--neuron.device cuda:63", "CUDA devices", "cpu"),
    ),
    Fault(
        name="log folder that cannot be",
        plant=file_for_folder("--logging.logging_dir"),
        words=("--logging.logging_dir", "cannot be written", "name a folder"),
    ),
    Fault(
        name="unknown network",
        plant=flag(subtensor__network="finey"),
        words=("--subtensor.network", "ws://", "finney"),
    ),
    Fault(
        name="wrong netuid",
        plant=flag(netuid="77"),
        words=("--netuid 77", "no such subnet", "--subtensor.network", "ws://127.0.0.1", "btcli"),
    ),
    Fault(
        name="unregistered hotkey",
        fault=OperatorFault.UNREGISTERED,
        plant=nothing,
        who="stranger",
        words=(
            "--wallet.hotkey",
            "is not registered",
            "--netuid 1",
            "`btcli subnets register --netuid 1 -n ws://127.0.0.1:",
            "-w stranger -H default",
        ),
    ),
    Fault(
        name="unregistered hotkey of a validator",
        fault=OperatorFault.UNREGISTERED,
        plant=nothing,
        role="validator",
        who="stranger",
        words=("--wallet.hotkey", "is not registered", "`btcli subnets register --netuid 1"),
    ),
    Fault(
        name="unregistered hotkey of a misbehaving miner",
        plant=behaviour("garbage"),
        role="misbehaving",
        who="stranger",
        words=("--wallet.hotkey", "is not registered", "`btcli subnets register --netuid 1"),
    ),
    Fault(
        name="unregistered hotkey of a misbehaving validator",
        plant=behaviour("liar"),
        role="misbehaving",
        who="stranger",
        words=("--wallet.hotkey", "is not registered", "`btcli subnets register --netuid 1"),
    ),
    Fault(
        name="misbehaviour that is none",
        plant=behaviour("lazy"),
        role="misbehaving",
        words=("misbehaving: start with --behaviour", "garbage"),
    ),
    Fault(
        name="state folder that cannot be",
        plant=file_for_folder("--neuron.state_dir"),
        words=("--neuron.state_dir", "cannot be written", "name another folder"),
    ),
    Fault(
        name="state folder that is a mount's missing file",
        plant=folder_for_file("node.safetensors"),
        words=("--neuron.state_dir", "node.safetensors is a folder", "remove the folder"),
    ),
    Fault(
        name="lock that is a folder",
        plant=folder_for_file("lock"),
        words=("--neuron.state_dir", "lock is a folder", "remove the folder"),
    ),
    Fault(
        name="verdict log that is a folder",
        role="validator",
        plant=folder_for_file("verdicts.jsonl"),
        words=("--neuron.state_dir", "verdicts.jsonl is a folder", "remove the folder"),
    ),
    Fault(
        name="run spec that is a folder",
        plant=flag(run="/"),
        words=("--run", "/ is a folder", "name the file in it"),
    ),
    Fault(
        name="state file that is none",
        plant=broken_state,
        words=("--neuron.state_dir", "node.safetensors cannot be read", "remove it to join anew"),
    ),
    Fault(
        name="state folder of a neuron that runs",
        plant=state_folder_in_use,
        words=("--neuron.state_dir", "in use by another process (pid ", "end that one"),
    ),
    Fault(
        name="variable missing",
        plant=variable(READ_SECRET=None),
        words=("TESSERA_BUCKET_READ_SECRET is not set", "--help"),
    ),
    Fault(
        name="endpoint too long for a record",
        fault=OperatorFault.COMMITMENT_TOO_LONG,
        plant=variable(ENDPOINT=f"https://{'h' * 65}.example"),
        words=("TESSERA_BUCKET_ENDPOINT", "longer than 72 characters"),
    ),
    Fault(
        name="credential too long for a record",
        fault=OperatorFault.COMMITMENT_TOO_LONG,
        plant=variable(READ_SECRET="s" * 73),
        words=("TESSERA_BUCKET_READ_SECRET", "1 to 72"),
    ),
    Fault(
        name="one key for both purposes",
        plant=key_of("READ", "node", "rw"),
        words=("TESSERA_BUCKET_READ_KEY_ID", "published", "create a second key"),
    ),
    Fault(
        name="wrong write key",
        fault=OperatorFault.WRONG_WRITE_CREDENTIALS,
        plant=stranger_key("WRITE"),
        words=("TESSERA_BUCKET_WRITE_KEY_ID", "TESSERA_BUCKET_WRITE_SECRET", "InvalidAccessKeyId"),
    ),
    Fault(
        name="wrong write secret",
        fault=OperatorFault.WRONG_WRITE_CREDENTIALS,
        plant=stranger_key("WRITE", only="SECRET"),
        words=("TESSERA_BUCKET_WRITE_SECRET", "SignatureDoesNotMatch", "must be a key that"),
    ),
    Fault(
        name="bucket not writable with the write key",
        fault=OperatorFault.BUCKET_NOT_WRITABLE,
        plant=key_of("WRITE", OWNER, "rw"),
        words=("TESSERA_BUCKET_WRITE_KEY_ID", "AccessDenied", "reads and writes this bucket"),
    ),
    Fault(
        name="wrong read key",
        fault=OperatorFault.WRONG_READ_CREDENTIALS,
        plant=stranger_key("READ"),
        words=("TESSERA_BUCKET_READ_KEY_ID", "TESSERA_BUCKET_READ_SECRET", "InvalidAccessKeyId"),
    ),
    Fault(
        name="read key of another bucket",
        fault=OperatorFault.WRONG_READ_CREDENTIALS,
        plant=key_of("READ", OWNER, "ro"),
        words=("TESSERA_BUCKET_READ_KEY_ID", "AccessDenied", "reads this bucket"),
    ),
    Fault(
        name="read key that can write",
        plant=read_key_that_writes,
        words=("TESSERA_BUCKET_READ_KEY_ID", "can WRITE", "published on chain", "only reads"),
    ),
    Fault(
        name="bucket missing",
        fault=OperatorFault.BUCKET_MISSING,
        plant=nothing,
        who="homeless",
        words=("TESSERA_BUCKET_ENDPOINT http://127.0.0.1:", "bucket tessera-", "no such bucket"),
    ),
    Fault(
        name="dataset shard that no mirror has right",
        fault=OperatorFault.WRONG_SHARD,
        plant=spoiled_shard,
        role="validator",
        status=1,
        words=("dataset shard", "data.mirrors", "other bytes under this digest", "at http://127"),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_at_the_start_has_one_clear_answer(
    fault: Fault, subnet: Subnet, run_main: Run, tmp_path: Path
) -> None:
    node = subnet.node(fault.role, fault.who, tmp_path)
    fault.plant(subnet, node)
    ended = run_main(node)
    for undo in node.undo:
        undo()
    assert ended.status == fault.status, ended.output
    said = [line for line in ended.output.splitlines() if all(w in line for w in fault.words)]
    assert len(said) == 1, ended.output
    assert_discreet(ended.output, node)
    assert not subnet.is_on_chain(fault.who)
