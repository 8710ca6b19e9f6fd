"""Starts a localnet, watches the run and stops every process at the end.

Order: wallets, chain, registration and stake, buckets, the owner's blobs and run spec, then
the neurons, each in a separate process. The launcher takes no part in the run: after the start
the launcher only reads chain, buckets and logs.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from typing import Any

from localnet.buckets import BucketIdentity, BucketServer, new_identity
from localnet.commands import chain_command, log_path, neuron_command
from localnet.config import LocalnetConfig
from localnet.folder import endpoint_file
from localnet.keeper import NEURON_FINAL_STATUSES, Keeper, Service
from localnet.model import fetch_model
from localnet.onchain import (
    ENDOWMENT_TAO,
    NETUID,
    Registrar,
    alpha_stakes,
    create_wallets,
    paid_block,
    wait_for_permits,
    weights_on_chain,
)
from localnet.processes import Child, Children, Command, wait_for_line
from localnet.report import NodeInfo, Report, Sources, collect
from localnet.roster import Participant
from localnet.weed import choose_port
from template import __spec_version__
from template.base.preflight import load_codec
from template.chain.bittensor import BittensorChain, ChainOptions, ConnectionLost
from template.commands.plan import RunChoices, load_plan, prepare_run, upload, upload_spec
from template.data.corpus import load_corpus
from template.data.folder import open_folder
from template.errors import ConfigError, SubnetError, Unavailable
from template.protocol.keys import bucket_name
from template.protocol.record import Access, AccessKind, Record, encode_record
from template.protocol.spec import RunSpec
from template.protocol.ss58 import public_key
from template.retry import retry
from template.store.s3 import S3Store
from template.training.card import Facts

log = logging.getLogger(__name__)

CHAIN_READY_S = 60.0
STARTUP_S = 15.0
STARTUP_S_PER_NODE = 2.5
"""Time between the run spec and the run's first block. Measured on two cores: six processes
import torch in 9 s, theta_0 takes about 3 s. A slower node joins a window late."""
GRACE_S = 30.0
"""How long a neuron may run after the decision on the last window, or after a restart."""
REPORT_LIMIT_S = 90.0
_BUCKET_DEADLINE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Heights:
    """Block numbers of the last read: the best block and the last finalised block."""

    head: int = 0
    finalized: int = 0


class Localnet:
    """A running localnet; leaving `with Localnet(config, say, tell) as net` stops every process."""

    def __init__(
        self,
        config: LocalnetConfig,
        say: Callable[[str], None],
        tell: Callable[[str], None],
        *,
        dress: Callable[[Command], Command] = lambda command: command,
    ) -> None:
        """`say` gets each phase of the start, `tell` each later event of a process.

        `dress` may change a neuron's command; chain and bucket server already run at each call.
        """
        self.config = config
        self._dress = dress
        self._say = say
        self._tell = tell
        self._exit = ExitStack()
        self._started_s = time.monotonic()
        self._children = Children()
        self._keeper = Keeper(tell, config.out / "pids.json", max_restarts=config.restarts)
        self._neurons: dict[str, Child] = {}
        self._heights = Heights()
        self._model: Facts | None = None
        self._model_fault = ""

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

    @property
    def query(self) -> str:
        """The shell command to print the subnet's metagraph."""
        return f"btcli query metagraph --netuid {NETUID} -n {self.endpoint}"

    def _bring_up(self) -> None:
        config = self.config
        self._say("loading the codec")
        load_codec()  # Compiled once here: else every neuron of a new machine compiles the codec.
        self._say("creating wallets")
        self.wallets = create_wallets(config.roster, config.out / "wallets")
        self.hotkeys = {name: w.hotkey.ss58_address for name, w in self.wallets.items()}
        self._say("starting the chain")
        self.endpoint = self._start_chain()
        self._exit.enter_context(endpoint_file(config.out, self.endpoint))
        self._tell(f"the chain is up; to print the metagraph: {self.query}")
        self._say(f"registering {len(config.roster)} hotkeys")
        self._register()
        self.chain = self._exit.enter_context(closing(self._open_chain(None)))
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
        # Below the ports of outgoing connections, so that a restarted chain finds the port free.
        endowments = {w.coldkeypub.ss58_address: ENDOWMENT_TAO for w in self.wallets.values()}
        child = self._children.start(chain_command(self.config, choose_port(), endowments))
        endpoint = wait_for_line(child, "ready ", CHAIN_READY_S).split()[1]
        self._keeper.keep(child, final_statuses=NEURON_FINAL_STATUSES)
        return endpoint

    def _register(self) -> None:
        owner, *others = self.config.roster
        with Registrar(self.endpoint) as registrar:
            registrar.create_subnet(self.wallets[owner.name])
            for participant in others:
                wallet = self.wallets[participant.name]
                registrar.register(wallet)
                if participant.stake_tao:
                    registrar.stake(wallet, participant.stake_tao)

    def _open_chain(self, wallet: Any) -> BittensorChain:
        # No retries: this thread restarts a dead chain, so a waiting read would block the restart.
        return BittensorChain(
            endpoint=self.endpoint,
            netuid=NETUID,
            wallet=wallet,
            version_key=__spec_version__,
            options=ChainOptions(read_deadline_s=0.0),
        )

    def _start_buckets(self) -> None:
        self._identities: dict[str, BucketIdentity] = {
            name: new_identity(bucket_name(public_key(hotkey)))
            for name, hotkey in self.hotkeys.items()
        }
        self.server = BucketServer(self.config.out / "buckets", list(self._identities.values()))
        self._exit.enter_context(self.server)
        self.server.create_buckets()
        # SeaweedFS's exit statuses differ from a neuron's: any status but 0 is a crash.
        self._keeper.keep(self.server, final_statuses={0})

    def _publish_run(self) -> RunSpec:
        """Act as the owner; return once the owner's bucket holds every blob of the spec."""
        config = self.config
        plan = load_plan(config.plan)
        owner = config.roster[0].name
        data = load_corpus(config.text) if config.data is None else open_folder(config.data)
        choices = RunChoices(
            owner_hotkey=self.hotkeys[owner],
            start_block=self._first_block(),
            seed=config.seed,
            num_windows=config.num_windows,
        )
        run = prepare_run(plan, data, choices, self._say)
        bucket = S3Store(self.server.bucket(self._bucket(owner), self._identities[owner].rw))
        upload(run, bucket)
        # Training theta_0 alone may have taken longer than the neurons need to start.
        schedule = replace(run.spec.schedule, start_block=self._first_block())
        run = replace(run, spec=replace(run.spec, schedule=schedule))
        text = upload_spec(run.spec, bucket)
        record = Record(access=self._access(owner), offer=run.spec.run_id)
        with closing(self._open_chain(self.wallets[owner])) as chain:
            chain.publish(encode_record(record))
        (config.out / "run.toml").write_text(text, encoding="utf-8")
        return run.spec

    def _first_block(self) -> int:
        """A first block of window 0 that leaves the neurons time to start, as of now."""
        startup_s = STARTUP_S + STARTUP_S_PER_NODE * len(self.config.roster)
        return self.chain.head() + math.ceil(startup_s / self.config.block_time_s)

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
            command = neuron_command(
                self.config,
                participant,
                chain_url=self.endpoint,
                bucket_url=self.server.endpoint_url,
                identity=self._identities[participant.name],
            )
            child = self._children.start(self._dress(command))
            self._neurons[participant.name] = child
            self._keeper.keep(child, final_statuses=NEURON_FINAL_STATUSES)

    def service(self, name: str) -> Service:
        """The watched process of a neuron, of "chain" or of "buckets"."""
        return self._keeper.service(name)

    def revive(self, name: str) -> None:
        """Restart a process after an end on purpose. ValueError if running or due to restart."""
        self._keeper.revive(name)

    @property
    def restarts(self) -> dict[str, int]:
        """Process name -> number of restarts."""
        return self._keeper.restarts

    def watch(self, show: Callable[[Heights], None], poll_s: float = 0.25) -> None:
        """Watch until every neuron has ended, or GRACE_S have passed after the run.

        Restarts dead processes. SubnetError if chain or bucket server ended for good, or if
        every neuron ended with an error.
        """
        schedule = self.spec.schedule.schedule()
        # Validators vote once more after the last window.
        last_block = schedule.vote_block(self.spec.schedule.num_windows)
        decided_s = math.inf
        while self._tend() and time.monotonic() < self._grace_end_s(decided_s):
            self._look()
            show(self._heights)
            if self._heights.finalized >= last_block:
                decided_s = min(decided_s, time.monotonic())
            time.sleep(poll_s)
        show(self._heights)
        alive = [name for name in self._neurons if self._keeper.exit_of(name) is None]
        if alive:
            log.error("neurons still run %.0f s after the last window: %s", GRACE_S, alive)
        elif all(self._keeper.exit_of(name) for name in self._neurons):
            raise ConfigError(f"every neuron ended with an error: see {self.config.out}/logs")

    def settle(self, poll_s: float = 0.25) -> None:
        """After `watch`, wait until an epoch has paid for the last weights. Raises as `watch`."""
        end_block: float = math.inf
        while self._heights.finalized < end_block:
            self._tend()
            self._look()
            if end_block == math.inf:
                with suppress(ConnectionLost):
                    end_block = paid_block(self.chain)
            time.sleep(poll_s)

    def hold(self, poll_s: float = 0.25) -> None:
        """After `watch`, ask the neurons to end and keep chain and bucket server running.

        Returns only by KeyboardInterrupt, or by SubnetError as `watch`.
        """
        for neuron in self._neurons.values():
            neuron.signal(signal.SIGTERM)
        while True:
            self._tend()
            time.sleep(poll_s)

    def _tend(self) -> bool:
        """Restart dead processes; whether any neuron runs or is due to restart."""
        self._keeper.tick()
        for name in ("chain", "buckets"):
            status = self._keeper.exit_of(name)
            if status is not None:
                raise SubnetError(f"{name} ended with status {status}: the run cannot go on")
        return any(self._keeper.exit_of(name) is None for name in self._neurons)

    def _grace_end_s(self, decided_s: float) -> float:
        return max(decided_s, self._keeper.last_restart_s) + GRACE_S

    def _look(self) -> None:
        """Read the block numbers; a dead chain leaves the last numbers in place."""
        with suppress(ConnectionLost):
            self._heights = Heights(head=self.chain.head(), finalized=self.chain.finalized())

    def report(self) -> Report:
        """The report; waits up to REPORT_LIMIT_S for chain or bucket server to restart."""

        def attempt() -> Report:
            self._tend()
            if not self.server.answers():
                raise Unavailable("the bucket server does not answer")
            return collect(self._sources())

        return retry(attempt, on=(ConnectionLost, Unavailable), deadline_s=REPORT_LIMIT_S)

    def nodes(self) -> tuple[NodeInfo, ...]:
        """All participants, each with the present exit status."""
        return tuple(self._node(participant) for participant in self.config.roster)

    def _node(self, participant: Participant) -> NodeInfo:
        name = participant.name
        started = name in self._neurons
        return NodeInfo(
            name=name,
            role=participant.role,
            behaviour=participant.behaviour,
            hotkey=self.hotkeys[name],
            state_dir=self.config.out / "nodes" / name,
            log_path=log_path(self.config, name) if started else None,
            exit=self._keeper.exit_of(name) if started else None,
        )

    def fetch_model(self) -> None:
        """Write the run's newest checkpoint into out/model; the report says so, or why not."""
        try:
            self._model = fetch_model(self.spec, self.endpoint, self.config.out, self._tell)
        except SubnetError as error:
            self._model_fault = str(error)

    def _sources(self) -> Sources:
        return Sources(
            spec=self.spec,
            nodes=self.nodes(),
            chain=self.chain,
            initial_alpha_rao=self._initial_alpha,
            weights=weights_on_chain(self.endpoint),
            buckets=self._admin_views(),
            restarts=self._keeper.restarts,
            wall_s=time.monotonic() - self._started_s,
            model=self._model,
            model_fault=self._model_fault,
        )

    def _admin_views(self) -> Mapping[str, S3Store]:
        server = self.server
        return {
            self.hotkeys[name]: S3Store(
                server.bucket(identity.bucket, server.admin), deadline_s=_BUCKET_DEADLINE_S
            )
            for name, identity in self._identities.items()
        }
