"""A subnet with nobody in it yet: a real chain and a real bucket server, each a process, wallets
on disk, and a run whose blobs lie in the owner's bucket. Tests start neurons against it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bittensor as bt

from localnet.buckets import BucketIdentity, BucketServer, new_identity
from localnet.onchain import NETUID, create_wallets
from localnet.roster import Participant
from simulation.swarm import small_plan, synthetic_corpus
from template import __spec_version__
from template.chain.bittensor import BittensorChain
from template.commands.plan import PreparedRun, RunChoices, prepare_run, upload
from template.data.folder import open_folder
from template.protocol.keys import bucket_name
from template.protocol.record import Access, AccessKind, Record, encode_record
from template.protocol.spec import RunSpec, spec_to_toml
from template.protocol.ss58 import public_key
from template.store.s3 import S3Store
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
OWNER = "owner"
VARIABLES = (
    "TESSERA_BUCKET_ENDPOINT",
    "TESSERA_BUCKET_WRITE_KEY_ID",
    "TESSERA_BUCKET_WRITE_SECRET",
    "TESSERA_BUCKET_READ_KEY_ID",
    "TESSERA_BUCKET_READ_SECRET",
)


@dataclass
class NodeStart:
    """How a neuron is started; a fault is planted by changing it."""

    role: str
    flags: dict[str, str]
    env: dict[str, str]
    secrets: set[str] = field(default_factory=set)
    undo: list[Callable[[], object]] = field(default_factory=list)

    @property
    def argv(self) -> list[str]:
        return [word for flag, value in self.flags.items() for word in (flag, value)] + [
            "--wandb.off"
        ]

    @property
    def state_dir(self) -> Path:
        return Path(self.flags["--neuron.state_dir"])

    @property
    def run_file(self) -> Path:
        return Path(self.flags["--run"])

    def command(self) -> list[str]:
        return [sys.executable, str(ROOT / "neurons" / f"{self.role}.py"), *self.argv]

    def environment(self) -> dict[str, str]:
        """The whole environment of a process of its own."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        threads = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        return {**kept, **threads, **self.env}


class Subnet:
    """Chain, wallets and buckets of some names; the first is the owner, on uid 0."""

    def __init__(
        self, folder: Path, names: Sequence[str], *chain_flags: str, has_buckets: bool = True
    ) -> None:
        self.folder = folder
        self.names = (OWNER, *names)
        roster = [Participant(name=name, role="miner") for name in self.names]
        self.wallets = create_wallets(roster, folder / "wallets")
        self.hotkeys = {name: w.hotkey.ss58_address for name, w in self.wallets.items()}
        self.keys: dict[str, BucketIdentity] = {
            name: new_identity(bucket_name(public_key(hotkey)))
            for name, hotkey in self.hotkeys.items()
        }
        self.second_keys = {name: new_identity(key.bucket) for name, key in self.keys.items()}
        self._chain_flags = chain_flags
        self._has_buckets = has_buckets
        self._exit = ExitStack()

    def __enter__(self) -> "Subnet":
        try:
            self.url = self._exit.enter_context(self._chain_process())
            self.sdk = self._exit.enter_context(
                bt.Subtensor(self.url, fallback_endpoints=[], archive_endpoints=[])
            )
            calls = bt.calls.SubtensorModule
            self.sign(calls.register_network(hotkey=self.hotkeys[OWNER]), OWNER)
            self.sign(calls.start_call(netuid=NETUID), OWNER)
            self.chain = self.open_chain()
            if self._has_buckets:
                identities = [*self.keys.values(), *self.second_keys.values()]
                self.server = BucketServer(self.folder / "buckets", identities)
                self._exit.enter_context(self.server)
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._exit.close()

    @contextmanager
    def _chain_process(self) -> Iterator[str]:
        command = [sys.executable, "-m", "localnet.chain", "--port", "0"]
        for wallet in self.wallets.values():
            command += ["--endow", f"{wallet.coldkeypub.ss58_address}=100000"]
        process = subprocess.Popen(
            [*command, *self._chain_flags],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        with process, closing(process.stdout):
            ready = process.stdout.readline().split()
            assert ready[:1] == ["ready"], f"the chain did not start: {ready}"
            yield ready[1]
            process.terminate()

    def sign(self, call: Any, name: str, signer: str = "coldkey") -> None:
        """Submit a call of the SDK, signed by a name's key; the SDK's error if it fails."""
        result = self.sdk.submit_call(
            call, self.wallets[name], signer=signer, wait_for_finalization=False
        )
        result.raise_for_failure()

    def register(self, *names: str) -> None:
        """Commands and neurons read finalised blocks: there the names are registered too."""
        for name in names:
            call = bt.calls.SubtensorModule.burned_register(
                netuid=NETUID, hotkey=self.hotkeys[name]
            )
            self.sign(call, name)
        block = self.chain.head()
        wait_until(lambda: self.chain.finalized() >= block)

    def stake(self, name: str, tao: int) -> None:
        call = bt.calls.SubtensorModule.add_stake(
            hotkey=self.hotkeys[name], netuid=NETUID, amount_staked=tao * 10**9
        )
        self.sign(call, name)

    def create_buckets(self, *names: str) -> None:
        for name in names:
            bucket = self.server.bucket(self.keys[name].bucket, self.server.admin)
            with closing(S3Store(bucket)) as store:
                store.create_bucket()

    def open_chain(self, name: str | None = None) -> BittensorChain:
        """A reader, or a writer in a name; closed with the subnet."""
        chain = BittensorChain(
            endpoint=self.url,
            netuid=NETUID,
            wallet=None if name is None else self.wallets[name],
            version_key=__spec_version__,
        )
        self._exit.callback(chain.close)
        return chain

    def writer(self, name: str) -> S3Store:
        return S3Store(self.server.bucket(self.keys[name].bucket, self.keys[name].rw))

    def access(self, name: str) -> Access:
        key = self.keys[name].ro
        return Access(
            kind=AccessKind.S3,
            account=self.server.endpoint_url,
            access_key_id=key.access_key_id,
            secret_access_key=key.secret_access_key.reveal(),
        )

    def publish_run(
        self, *, in_blocks: int, data: Path | None = None, **overrides: object
    ) -> RunSpec:
        """The owner's part, as the launcher's: blobs, access record, run.toml.

        `data`: a prepared dataset, instead of words at random.
        """
        plan = small_plan(**overrides)
        text = synthetic_corpus() if data is None else open_folder(data)
        choices = RunChoices(
            owner_hotkey=self.hotkeys[OWNER], start_block=self.chain.head() + in_blocks
        )
        self.run: PreparedRun = prepare_run(plan, text, choices)
        with closing(self.writer(OWNER)) as bucket:
            upload(self.run, bucket)
        self.open_chain(OWNER).publish(encode_record(Record(access=self.access(OWNER))))
        self.write_run(self.run.spec, self.folder / "run.toml")
        return self.run.spec

    def write_run(self, spec: RunSpec, path: Path) -> Path:
        path.write_text(spec_to_toml(spec), encoding="utf-8")
        return path

    def node(self, role: str, name: str, folder: Path) -> NodeStart:
        """A neuron with everything right."""
        node = self.node_without_bucket(role, name, folder)
        key = self.keys[name]
        values = (
            self.server.endpoint_url,
            key.rw.access_key_id,
            key.rw.secret_access_key.reveal(),
            key.ro.access_key_id,
            key.ro.secret_access_key.reveal(),
        )
        node.env = dict(zip(VARIABLES, values, strict=True))
        node.secrets = self._secrets(name)
        return node

    def node_without_bucket(self, role: str, name: str, folder: Path) -> NodeStart:
        """The flags of a neuron alone, without a variable."""
        flags = {
            "--run": str(self.folder / "run.toml"),
            "--netuid": str(NETUID),
            "--subtensor.network": self.url,
            "--wallet.name": name,
            "--wallet.hotkey": "default",
            "--wallet.path": str(self.folder / "wallets"),
            "--neuron.device": "cpu",
            "--neuron.state_dir": str(folder / "state"),
        }
        return NodeStart(role=role, flags=flags, env={})

    def _secrets(self, name: str) -> set[str]:
        """What no message may hold: bucket secrets, and all that opens the wallet."""
        key = self.keys[name]
        found = {k.secret_access_key.reveal() for k in (key.rw, key.ro, self.server.admin)}
        for file in ("coldkey", "hotkeys/default"):
            content = json.loads((self.folder / "wallets" / name / file).read_text())
            found |= {content[k] for k in ("secretPhrase", "secretSeed", "privateKey")}
        return found

    def is_on_chain(self, name: str) -> bool:
        """Whether a name has committed anything."""
        return self.hotkeys[name] in self.chain.commitments(self.chain.head())
