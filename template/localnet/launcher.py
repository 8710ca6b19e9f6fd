"""Bringing a localnet up, watching it, and taking it down.

Order: chain, wallets, registration and stake, buckets, the owner's blobs and run spec, then
the neurons, each a process of its own. Nothing here takes part in the run: the launcher
only reads what chain, buckets and neurons say.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from template import __spec_version__
from template.chain.bittensor import BittensorChain
from template.data.corpus import load_corpus
from template.errors import ConfigError
from template.localnet.buckets import BucketIdentity, BucketServer, new_identity
from template.localnet.onchain import (
    ENDOWMENT_TAO,
    NETUID,
    Registrar,
    alpha_stakes,
    create_wallets,
    wait_for_permits,
)
from template.localnet.processes import Child, Children, wait_for_line
from template.localnet.report import NodeInfo, Sources
from template.localnet.roster import HONEST, Participant
from template.protocol.keys import bucket_name
from template.protocol.record import Access, AccessKind, Record, encode_record
from template.protocol.spec import RunSpec, spec_to_toml
from template.protocol.ss58 import public_key
from template.store.s3 import S3Store
from template.tools.owner import RunChoices, load_plan, prepare_run, upload

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
CHAIN_READY_S = 60.0
STARTUP_S = 12.0
STARTUP_S_PER_NODE = 2.5
"""Between the run spec and its first block: importing torch in many processes on two cores
took 9 s for six (measured); a node that needs longer joins a window late."""
GRACE_S = 30.0
"""How long a neuron may live after the last window was decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalnetConfig:
    """What the command line asks for. `text`: the sdist with the corpus."""

    roster: tuple[Participant, ...]
    num_windows: int
    out: Path
    plan: Path
    text: Path
    block_time_s: float
    seed: int
    debug: bool


class Localnet:
    """A running localnet; `with Localnet(config) as net` takes everything down at the end."""

    def __init__(self, config: LocalnetConfig, say: Callable[[str], None]) -> None:
        self.config = config
        self._say = say
        self._exit = ExitStack()
        self._started_s = time.monotonic()
        self._children = Children()
        self._neurons: dict[str, Child] = {}

    def __enter__(self) -> "Localnet":
        try:
            self._exit.enter_context(self._children)
            self._bring_up()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._exit.close()

    def _bring_up(self) -> None:
        config = self.config
        self._say("creating wallets")
        self.wallets = create_wallets(config.roster, config.out / "wallets")
        self.hotkeys = {name: w.hotkey.ss58_address for name, w in self.wallets.items()}
        self._say("starting the chain")
        self.endpoint = self._start_chain()
        self._say(f"registering {len(config.roster)} hotkeys")
        self._registrar = self._exit.enter_context(Registrar(self.endpoint))
        self._register()
        self.chain = self._exit.enter_context(self._open_chain(None))
        self._say("starting the bucket server")
        self._start_buckets()
        self._say("preparing the run: dataset, theta_0, run spec")
        self.spec = self._publish_run()
        self._say("starting the neurons")
        self._start_neurons()
        validators = [self.hotkeys[p.name] for p in config.roster if p.role == "validator"]
        wait_for_permits(self.chain, validators)
        self._initial_alpha = alpha_stakes(self.chain)

    def _start_chain(self) -> str:
        config = self.config
        schedule = load_plan(config.plan)["schedule"]
        argv = [sys.executable, "-m", "template.localnet.chain", "--port", "0"]
        argv += ["--state", str(config.out / "chain.journal")]
        argv += ["--block-time", str(config.block_time_s)]
        argv += ["--finality-lag", str(schedule["finality_lag_blocks"])]
        argv += ["--tempo", str(schedule["tempo_blocks"])]
        argv += ["--weights-rate-limit", str(schedule["blocks_per_window"])]
        for wallet in self.wallets.values():
            argv += ["--endow", f"{wallet.coldkeypub.ss58_address}={ENDOWMENT_TAO}"]
        child = self._children.start("chain", argv, self._environment(), self._log("chain"))
        return wait_for_line(child, "ready ", CHAIN_READY_S).split()[1]

    def _register(self) -> None:
        owner, *others = self.config.roster
        self._registrar.create_subnet(self.wallets[owner.name])
        for participant in others:
            wallet = self.wallets[participant.name]
            self._registrar.register(wallet)
            if participant.stake_tao:
                self._registrar.stake(wallet, participant.stake_tao)

    def _open_chain(self, wallet: Any) -> "_ClosingChain":
        return _ClosingChain(
            endpoint=self.endpoint, netuid=NETUID, wallet=wallet, version_key=__spec_version__
        )

    def _start_buckets(self) -> None:
        self._identities: dict[str, BucketIdentity] = {
            name: new_identity(bucket_name(public_key(hotkey)))
            for name, hotkey in self.hotkeys.items()
        }
        self.server = BucketServer(self.config.out / "buckets", list(self._identities.values()))
        self._exit.enter_context(self.server)
        self.server.create_buckets()

    def _publish_run(self) -> RunSpec:
        """The owner's part; returns once its bucket holds all that the spec names."""
        config = self.config
        plan = load_plan(config.plan)
        owner = config.roster[0].name
        startup_s = STARTUP_S + STARTUP_S_PER_NODE * len(config.roster)
        corpus = load_corpus(config.text)
        choices = RunChoices(
            owner_hotkey=self.hotkeys[owner],
            start_block=self.chain.head() + math.ceil(startup_s / config.block_time_s),
            seed=config.seed,
            num_windows=config.num_windows,
        )
        run = prepare_run(plan, corpus, choices)
        upload(run, S3Store(self.server.bucket(self._bucket(owner), self._identities[owner].rw)))
        with self._open_chain(self.wallets[owner]) as chain:
            chain.publish(encode_record(Record(access=self._access(owner))))
        (config.out / "run.toml").write_text(spec_to_toml(run.spec), encoding="utf-8")
        return run.spec

    def _bucket(self, name: str) -> str:
        return self._identities[name].bucket

    def _access(self, name: str) -> Access:
        key = self._identities[name].ro
        return Access(
            kind=AccessKind.S3,
            account=self.server.endpoint_url,
            access_key_id=key.access_key_id,
            secret_access_key=key.secret_access_key.reveal(),
        )

    def _start_neurons(self) -> None:
        for participant in self.config.roster[1:]:
            name = participant.name
            self._neurons[name] = self._children.start(
                name, self._command(participant), self._neuron_environment(name), self._log(name)
            )
        pids = {name: child.process.pid for name, child in self._neurons.items()}
        (self.config.out / "pids.json").write_text(json.dumps(pids), encoding="utf-8")

    def _command(self, participant: Participant) -> list[str]:
        out, name = self.config.out, participant.name
        script = f"{participant.role}.py" if participant.behaviour == HONEST else "misbehaving.py"
        argv = [sys.executable, str(ROOT / "neurons" / script)]
        if participant.behaviour != HONEST:
            argv += ["--behaviour", participant.behaviour]
        argv += ["--netuid", str(NETUID), "--subtensor.network", self.endpoint]
        argv += ["--wallet.name", name, "--wallet.hotkey", "default"]
        argv += ["--wallet.path", str(out / "wallets"), "--run", str(out / "run.toml")]
        argv += ["--neuron.device", "cpu", "--neuron.state_dir", str(out / "nodes" / name)]
        argv += ["--wandb.off"]
        return [*argv, "--logging.debug"] if self.config.debug else argv

    def _environment(self) -> dict[str, str]:
        """Little of the launcher's own: no operator's credentials, one thread per process."""
        home = self.config.out / "home"
        home.mkdir(exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def _neuron_environment(self, name: str) -> dict[str, str]:
        identity = self._identities[name]
        return {
            **self._environment(),
            "TESSERA_BUCKET_ENDPOINT": self.server.endpoint_url,
            "TESSERA_BUCKET_WRITE_KEY_ID": identity.rw.access_key_id,
            "TESSERA_BUCKET_WRITE_SECRET": identity.rw.secret_access_key.reveal(),
            "TESSERA_BUCKET_READ_KEY_ID": identity.ro.access_key_id,
            "TESSERA_BUCKET_READ_SECRET": identity.ro.secret_access_key.reveal(),
        }

    def _log(self, name: str) -> Path:
        return self.config.out / "logs" / f"{name}.log"

    def watch(self, show: Callable[[], None], poll_s: float = 0.25) -> None:
        """Until every neuron has ended, or the run and a time of grace are over."""
        schedule = self.spec.schedule.schedule()
        last_block = schedule.vote_block(self.spec.schedule.num_windows - 1)
        end_s = math.inf
        while any(child.exit is None for child in self._neurons.values()):
            show()
            if math.isinf(end_s) and self.chain.finalized() >= last_block:
                end_s = time.monotonic() + GRACE_S
            if time.monotonic() > end_s:
                alive = [name for name, child in self._neurons.items() if child.exit is None]
                log.error("still alive %.0f s after the last window: %s", GRACE_S, alive)
                return
            time.sleep(poll_s)
        show()
        if all(child.exit for child in self._neurons.values()):
            raise ConfigError(f"every neuron ended with an error: see {self.config.out}/logs")

    def nodes(self) -> tuple[NodeInfo, ...]:
        """All participants as they are now."""
        return tuple(self._node(participant) for participant in self.config.roster)

    def _node(self, participant: Participant) -> NodeInfo:
        name = participant.name
        child = self._neurons.get(name)
        return NodeInfo(
            name=name,
            role=participant.role,
            behaviour=participant.behaviour,
            hotkey=self.hotkeys[name],
            state_dir=self.config.out / "nodes" / name,
            log_path=self._log(name) if child is not None else None,
            exit=None if child is None else child.exit,
        )

    def sources(self) -> Sources:
        """Where the report reads from."""
        return Sources(
            spec=self.spec,
            nodes=self.nodes(),
            chain=self.chain,
            initial_alpha_rao=self._initial_alpha,
            weights=self._registrar.weights(),
            buckets=self._admin_views(),
            wall_s=time.monotonic() - self._started_s,
        )

    def _admin_views(self) -> Mapping[str, S3Store]:
        return {
            self.hotkeys[name]: S3Store(self.server.bucket(identity.bucket, self.server.admin))
            for name, identity in self._identities.items()
        }


class _ClosingChain(BittensorChain):
    """A chain that closes at the end of a `with` block."""

    def __enter__(self) -> "_ClosingChain":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
