"""Starts a localnet, watches the run and stops every process at the end.

Order: wallets, a measurement of the machine, theta_0, chain, registration and stake, buckets, the
owner's blobs and run spec, then the neurons, each in a separate process; window 0 begins once all
of them are ready. The launcher takes no part in the run: after the start the launcher reads chain,
buckets and logs, and paces the chain.
"""

import logging
import math
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from localnet.commands import chain_command, log_path, neuron_command
from localnet.config import LocalnetConfig
from localnet.events import JsonlTail
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
from localnet.pacer import Pacer
from localnet.page import RunPage
from localnet.places import Places
from localnet.processes import Child, Children, Command, wait_for_line
from localnet.proposing import Proposer, checked, put_datasets
from localnet.publishing import draft, prepare, upload_from
from localnet.readiness import await_ready
from localnet.report import NodeInfo, Report, Sources, collect
from localnet.roster import HONEST, Participant
from localnet.weed import choose_port
from template import __spec_version__
from template.base.log_publisher import LOG_FILE
from template.base.preflight import load_codec
from template.chain.bittensor import BittensorChain, ChainOptions, ConnectionLost
from template.commands.plan import PreparedRun, upload_spec
from template.errors import ConfigError, SubnetError, Unavailable
from template.metrics import EVENTS_FILE
from template.protocol.record import Record, encode_record
from template.protocol.spec import RunSpec
from template.retry import retry
from template.training.card import Facts

log = logging.getLogger(__name__)

CHAIN_READY_S = 60.0
GRACE_S = 30.0
"""How long a neuron may run after the decision on the last window, or after a restart."""
REPORT_LIMIT_S = 90.0
_POLL_S = 0.1


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
        config, owner = self.config, self.config.roster[0].name
        self._say("loading the codec")
        load_codec()  # Compiled once here: else every neuron of a new machine compiles the codec.
        self._say("creating wallets")
        self.wallets = create_wallets(config.roster, config.out / "wallets")
        self.hotkeys = {name: w.hotkey.ss58_address for name, w in self.wallets.items()}
        self._say("measuring what a neuron's work costs on this machine")
        self._pacer = Pacer(config, checked(draft(config, self.hotkeys[owner]), config), self._tell)
        self._pacer.measure(self._children, self.hotkeys[owner])
        self._say("preparing the run: dataset, theta_0")
        run = prepare(config, self.hotkeys[owner], self._say)
        self._say("starting the chain")
        self.endpoint = self._start_chain()
        self._exit.enter_context(endpoint_file(config.out, self.endpoint))
        self._tell(f"the chain is up; to print the metagraph: {self.query}")
        self._say(f"registering {len(config.roster)} hotkeys")
        self._register()
        self.chain = self._exit.enter_context(closing(self._open_chain(None)))
        self._await_permits(run.spec.schedule.tempo_blocks)
        self._say("starting the bucket server")
        self._start_buckets()
        self._say("publishing the run")
        self.spec = self._publish(run)
        self._say("starting the neurons")
        self._start_neurons()
        self.page = RunPage(config, self._children, self.endpoint, self._tell)
        self._exit.enter_context(self.page)
        self._await_neurons()
        self._initial_alpha = alpha_stakes(self.chain)

    def _start_chain(self) -> str:
        # Below the ports of outgoing connections, so that a restarted chain finds the port free.
        endowments = {w.coldkeypub.ss58_address: ENDOWMENT_TAO for w in self.wallets.values()}
        self._pacer.pass_to(0)
        command = chain_command(self.config, choose_port(), endowments, self._pacer.block_s)
        child = self._children.start(command)
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

    def _await_permits(self, tempo_blocks: int) -> None:
        """Let an epoch pass, which gives the validators their permits."""
        self._pacer.pass_to(self.chain.head() + tempo_blocks + 1)
        validators = [p for p in self.config.roster if p.role == "validator"]
        wait_for_permits(self.chain, [self.hotkeys[p.name] for p in validators])

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
        self._places = Places(self.config.out / "buckets", self.hotkeys)
        self.server = self._places.server
        self._exit.enter_context(self.server)
        self.server.create_buckets()
        # SeaweedFS's exit statuses differ from a neuron's: any status but 0 is a crash.
        self._keeper.keep(self.server, final_statuses={0})

    def _publish(self, run: PreparedRun) -> RunSpec:
        """Act as the owner; return once the owner's bucket holds every blob of the spec."""
        owner = self.config.roster[0].name
        bucket = self._places.writable(owner)
        run = upload_from(run, bucket, self._pacer.await_neurons(self.chain.head()))
        put_datasets(self.config.changes, bucket)
        text = upload_spec(run.spec, bucket)
        record = Record(access=self._places.access(owner), offer=run.spec.run_id)
        with closing(self._open_chain(self.wallets[owner])) as chain:
            chain.publish(encode_record(record))
        (self.config.out / "run.toml").write_text(text, encoding="utf-8")
        return run.spec

    def _start_neurons(self) -> None:
        for participant in self.config.roster[1:]:
            command = neuron_command(
                self.config,
                participant,
                chain_url=self.endpoint,
                bucket_url=self.server.endpoint_url,
                identity=self._places.identity(participant.name),
            )
            child = self._children.start(self._dress(command))
            self._neurons[participant.name] = child
            self._keeper.keep(child, final_statuses=NEURON_FINAL_STATUSES)

    def _await_neurons(self) -> None:
        """Return shortly before window 0, with every neuron that has not ended for good ready."""
        started_s = time.monotonic()
        logs = {name: log_path(self.config, name) for name in self._neurons}
        limit_s = self._pacer.starting_limit_s
        await_ready(logs, self._keeper.exit_of, self._tend, self._say, limit_s)
        self._pacer.note_start(started_s, list(self._neurons.values()))
        block = self._pacer.begin(self.spec.schedule.start_block)
        self._say(f"all neurons are ready: passing to block {block}, shortly before window 0")
        while self._heights.finalized < block - self.spec.schedule.finality_lag_blocks:
            self._tend()
            self._look()
            time.sleep(_POLL_S)

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
        witness = self._witness().state_dir
        decisions, verdicts = JsonlTail(witness / EVENTS_FILE), JsonlTail(witness / LOG_FILE)
        proposer = Proposer(self.spec, self.config, self.endpoint, self._tell)
        honest = {self.hotkeys[p.name] for p in self.config.roster if p.is_honest_miner}
        while self._tend() and time.monotonic() < self._grace_end_s(decided_s):
            self._look()
            self._pacer.note_verdicts(verdicts.read_new(), honest)
            rows = decisions.read_new()
            proposer.note(rows)
            self._pacer.note_decisions(
                rows, self._heights.head, schedule.window_of(self._heights.head)
            )
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
                    end_block = paid_block(self.chain, self.config.reveal_epochs)
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

    def _witness(self) -> NodeInfo:
        """The honest validator whose log tells what was decided."""
        return next(n for n in self.nodes() if (n.role, n.behaviour) == ("validator", HONEST))

    def _node(self, participant: Participant) -> NodeInfo:
        name = participant.name
        started = name in self._neurons
        return NodeInfo(
            name=name,
            role=participant.role,
            behaviour=participant.behaviour,
            speed=participant.speed,
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
            reveal_epochs=self.config.reveal_epochs,
            weights=weights_on_chain(self.endpoint),
            buckets=self._places.admin_views(),
            restarts=self._keeper.restarts,
            pace=self._pacer.report(),
            wall_s=time.monotonic() - self._started_s,
            model=self._model,
            model_fault=self._model_fault,
        )
