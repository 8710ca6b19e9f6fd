"""The doctor's questions to wallet and chain, and to the mirrors of the run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from template import __spec_version__, __version__
from template.base.preflight import ask_for_place
from template.chain import Metagraph, Neuron
from template.chain.bittensor import BittensorChain, ChainOptions, Wallet, open_wallet
from template.chain.commands import Commands, wallet_flags
from template.chain.health import redact_endpoint
from template.cli.doctor_flags import DoctorConfig, given
from template.commands.newcomer import BURN_UID, existing_subnet, look
from template.commands.offered import describe_offer
from template.commands.reading import bucket_opener
from template.doctor import checks, judge
from template.doctor.findings import Finding, bad, doubtful, good
from template.errors import ChainError, ConfigError
from template.settings import ChainConfig

OPTIONS: Final = ChainOptions(read_timeout_s=10.0, read_deadline_s=12.0)
"""A person waits for the answer."""
MAX_WATCH_S: Final = 36.0
"""Longest wait for a new block: three blocks of a public network."""
WATCH_BLOCKS: Final = 6.0
_POLL_S: Final = 0.2


@dataclass
class Known:
    """Results of earlier checks, for the checks that need them."""

    wallet: Wallet | None = None
    chain: BittensorChain | None = None
    graph: Metagraph | None = None
    me: Neuron | None = None
    block_s: float = 12.0
    clock_ahead_s: float | None = None


class ChainChecks:
    """Checks that ask the wallet's files, the chain and the run's mirrors."""

    def __init__(self, config: DoctorConfig, known: Known) -> None:
        self._config, self._known = config, known

    def run_spec(self) -> Finding:
        spec = given(self._config.spec)
        return good(
            checks.RUN_SPEC,
            f"{spec.name}, run {spec.run_id.hex()}, {spec.schedule.length}, on a "
            f"{spec.schedule.network} network",
            run_id=spec.run_id.hex(),
        )

    def wallet(self) -> Finding:
        asked = self._config.wallet
        self._known.wallet = open_wallet(asked.name, asked.hotkey, str(asked.path))
        hotkey = self._known.wallet.hotkey.ss58_address
        return good(checks.WALLET, f"hotkey {hotkey} opens without a password", hotkey=hotkey)

    def chain(self) -> Finding:
        config = self._chain_config
        chain = BittensorChain(
            endpoint=config.network,
            fallbacks=config.fallbacks,
            netuid=config.netuid,
            wallet=None,
            version_key=__spec_version__,
            options=OPTIONS,
        )
        self._known.chain = chain
        chain.head()  # opens the connection, and reads the runtime once
        begun_s = time.monotonic()
        head, final = chain.head(), chain.finalized()
        read_s = (time.monotonic() - begun_s) / 2
        self._known.block_s = chain.block_time_s()
        self._known.clock_ahead_s = time.time() - chain.head_time_s()
        chain.check_fallbacks()
        watched_s, rose = self._watch(chain, head)
        seen = judge.ChainSeen(
            where=redact_endpoint(config.network),
            head=head,
            final_lag=max(0, head - final),
            read_s=read_s,
            block_s=self._known.block_s,
            rose=rose,
            watched_s=watched_s,
        )
        return judge.judge_chain(seen)

    def _watch(self, chain: BittensorChain, head: int) -> tuple[float, bool]:
        """Wait for a new block; seconds waited, and whether it came."""
        begun_s = time.monotonic()
        limit_s = min(MAX_WATCH_S, max(WATCH_BLOCKS * self._known.block_s, 3.0))
        while True:
            if chain.head() > head:
                return time.monotonic() - begun_s, True
            if time.monotonic() - begun_s > limit_s:
                return time.monotonic() - begun_s, False
            time.sleep(_POLL_S)

    def clock(self) -> Finding:
        if self._known.clock_ahead_s is None:
            raise ConfigError("the chain has not told its time")
        limit_s = max(judge.STALE_S, judge.STALE_BLOCKS * self._known.block_s)
        return judge.judge_clock(self._known.clock_ahead_s, age_limit_s=limit_s)

    def subnet(self) -> Finding:
        self._known.graph = graph = existing_subnet(self._chain)
        num_permits = sum(neuron.validator_permit for neuron in graph.neurons)
        return good(
            checks.SUBNET,
            f"--netuid {graph.netuid}: {len(graph.neurons)} hotkeys, {num_permits} of them with a "
            "validator permit",
            hotkeys=len(graph.neurons),
            permits=num_permits,
        )

    def registration(self) -> Finding:
        graph = self._graph
        if self._config.role == "owner":
            return self._ownership(graph)
        self._known.me = me = ask_for_place(self._chain, self._hotkey, self._commands)
        said = f"uid {me.uid} of --netuid {graph.netuid}"
        figures = {"uid": me.uid, "stake_tao": me.total_stake_rao / judge.RAO_PER_TAO}
        if self._config.role == "validator" and not me.validator_permit:
            return doubtful(
                checks.REGISTRATION,
                f"{said}, without a validator permit: votes and weights do not count; permits go "
                f"to those with the most stake, and this one has {figures['stake_tao']:,.3f} TAO: "
                f"add some with {self._commands.stake}",
                **figures,
            )
        permit = ", with a validator permit" * me.validator_permit
        return good(checks.REGISTRATION, f"{said}{permit}", **figures)

    def _ownership(self, graph: Metagraph) -> Finding:
        if graph.owner_hotkey != self._hotkey:
            return bad(
                checks.REGISTRATION,
                f"--wallet.hotkey: {self._hotkey} is not the hotkey of the owner of --netuid "
                f"{graph.netuid}, which is {graph.owner_hotkey}: newcomers find a run by the "
                "owner's record alone; name the owner's wallet",
            )
        if graph.owner_uid is None:
            return bad(
                checks.REGISTRATION,
                f"the owner's hotkey has no uid, so no uid can take what nobody earned: register "
                f"it with {self._commands.register}",
            )
        return good(
            checks.REGISTRATION,
            f"the owner of --netuid {graph.netuid}, on uid {graph.owner_uid}",
            uid=graph.owner_uid,
        )

    def balance(self) -> Finding:
        coldkey = self._coldkey()
        if coldkey is None:
            return doubtful(
                checks.BALANCE,
                "the wallet has no coldkeypub.txt, so the balance is unknown: copy the file (it is "
                "public) beside the hotkeys folder",
            )
        return judge.judge_balance(
            self._chain.balance_rao(coldkey),
            self._chain.registration_cost_rao(),
            is_registered=self._graph.by_hotkey(self._hotkey) is not None,
            coldkey=coldkey,
        )

    def _coldkey(self) -> str | None:
        if self._known.me is not None:
            return self._known.me.coldkey
        config = self._config.wallet
        if not (config.path.expanduser() / config.name / "coldkeypub.txt").is_file():
            return None
        return str(self._wallet.coldkeypub.ss58_address)

    def version(self) -> Finding:
        return judge.judge_version(
            __spec_version__,
            self._chain.least_version_key(),
            role=self._config.role,
            version=__version__,
        )

    def weights(self) -> Finding:
        graph = self._graph
        try:
            times = self._chain.weight_times(self._chain.finalized())
        except ChainError as error:
            return doubtful(checks.WEIGHTS, f"the chain does not say when weights count: {error}")
        return judge.describe_weights(times, graph.tempo_blocks, self._known.block_s)

    def offer(self) -> Finding:
        spec = given(self._config.spec)
        said = describe_offer(spec, self._chain)
        if "offers another run" in said:
            return bad(
                checks.OFFER,
                f"--run: {said.removeprefix('note: ')}, and this file is run {spec.run_id.hex()}: "
                "fetch the offered one (`tessera newcomer --netuid N --out run.toml --force`)",
                run_id=spec.run_id.hex(),
            )
        if said.startswith("note: "):
            return doubtful(
                checks.OFFER,
                f"{said.removeprefix('note: ')}, and nobody confirms that this run is the subnet's "
                "own: ask the owner to run `tessera owner publish`",
            )
        return good(checks.OFFER, said, run_id=spec.run_id.hex())

    def run_objects(self) -> Finding:
        spec = given(self._config.spec)
        report = look(spec, self._chain, bucket_opener(on_localnet=spec.schedule.is_local))
        # The burn uid is no object: the owner's registration is a check of its own.
        missing = [f for f in report.findings if not f.mirrors and f.what != BURN_UID]
        figures = {"objects": len(report.findings), "missing": len(missing)}
        if not missing:
            return good(
                checks.OBJECTS,
                f"all {len(report.findings)} objects that the run spec names are given by mirrors",
                **figures,
            )
        faults = "; ".join(f"{each.what}: {'; '.join(each.faults)}" for each in missing[:4])
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        return bad(
            checks.OBJECTS,
            f"--run: no mirror gives {', '.join(each.what for each in missing[:4])}{more} as the "
            f"run spec says ({faults}): take the run spec that the owner offers, or ask the "
            "subnet's owner",
            **figures,
        )

    @property
    def _chain_config(self) -> ChainConfig:
        return given(self._config.chain)

    @property
    def _chain(self) -> BittensorChain:
        if self._known.chain is None:
            raise ConfigError("the chain was not opened")
        return self._known.chain

    @property
    def _graph(self) -> Metagraph:
        if self._known.graph is None:
            raise ConfigError("the subnet was not looked at")
        return self._known.graph

    @property
    def _wallet(self) -> Wallet:
        if self._known.wallet is None:
            raise ConfigError("the wallet was not opened")
        return self._known.wallet

    @property
    def _hotkey(self) -> str:
        return str(self._wallet.hotkey.ss58_address)

    @property
    def _commands(self) -> Commands:
        wallet = self._config.wallet
        return Commands(
            netuid=self._chain_config.netuid,
            network=redact_endpoint(self._chain_config.network),
            wallet=wallet_flags(wallet.name, wallet.hotkey, wallet.path),
        )

    def makers(self) -> dict[str, Callable[[], Finding]]:
        """Name -> check."""
        return {
            checks.RUN_SPEC: self.run_spec,
            checks.WALLET: self.wallet,
            checks.CHAIN: self.chain,
            checks.CLOCK: self.clock,
            checks.SUBNET: self.subnet,
            checks.REGISTRATION: self.registration,
            checks.BALANCE: self.balance,
            checks.VERSION: self.version,
            checks.WEIGHTS: self.weights,
            checks.OFFER: self.offer,
            checks.OBJECTS: self.run_objects,
        }
