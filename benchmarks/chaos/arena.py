"""One localnet with a proxy and a clock for every neuron, the plan carried out in it.

Owns the processes' surroundings, and when faults begin and end by the chain's head. Does not
own the faults themselves (`faults`), what is read meanwhile (`watch`), nor what follows
(`measure`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from benchmarks.chaos.faults import plant
from benchmarks.chaos.ground import Planted, Post
from benchmarks.chaos.measure import Happened, Run, judged_windows
from benchmarks.chaos.plan import Crew, Fault
from benchmarks.chaos.shim import Clock, build, environment
from benchmarks.chaos.watch import Watcher
from localnet.adversaries.validators import plan_lies
from localnet.commands import log_path
from localnet.config import LocalnetConfig
from localnet.events import read_jsonl, verdict_files
from localnet.keeper import Service
from localnet.launcher import Heights, Localnet
from localnet.processes import Command
from localnet.proxy import HttpProxy, WireProxy
from localnet.roster import HONEST
from template.chain.bittensor import ConnectionLost
from template.protocol.keys import bucket_name
from template.protocol.record import Vote
from template.protocol.ss58 import public_key


@dataclass(kw_only=True)
class _Active:
    fault: Fault
    planted: Planted
    began_block: int
    end_block: int


class Arena:
    """A localnet under faults; a context manager, as `Localnet` is. It is the faults' ground."""

    def __init__(
        self, config: LocalnetConfig, plan: Sequence[Fault], tell: Callable[[str], None]
    ) -> None:
        self._tell = tell
        self._exit = ExitStack()
        self._config = config
        self._todo = list(plan)
        self._active: list[_Active] = []
        self._posts: dict[str, Post] = {}
        self._library = build(config.out)
        self._liars = [p.name for p in config.roster if p.behaviour != HONEST]
        self.happened: list[Happened] = []
        self.net = Localnet(config, tell, tell, dress=self._dress)

    def __enter__(self) -> "Arena":
        try:
            self._exit.enter_context(self.net)
            self.watcher = Watcher(self.net, tuple(self._posts))
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._exit.close()

    @property
    def posts(self) -> Mapping[str, Post]:
        return self._posts

    def service(self, name: str) -> Service:
        return self.net.service(name)

    def revive(self, name: str) -> None:
        self.net.revive(name)

    def votes(self, window: int) -> Mapping[str, Vote]:
        try:
            return self.watcher.votes(window)
        except ConnectionLost:
            return {}

    def play(self) -> Run:
        """The whole run, and what was seen of it."""
        self.net.watch(self.tick)
        self._end_all(self.watcher.head)
        self.watcher.search()
        return Run(
            schedule=self.net.spec.schedule.schedule(),
            num_windows=self._config.num_windows,
            nodes=tuple(self._posts),
            validators=crew_of(self._config).validators,
            sights=tuple(self.watcher.sights),
            faults=tuple(self.happened),
            produced=self.watcher.produced(),
            voters=self.watcher.voters,
            ends=tuple(self.watcher.ends),
            judged=judged_windows(
                [
                    row
                    for path in verdict_files(self._posts[name].state_dir)
                    for row in read_jsonl(path)
                ]
                for name in crew_of(self._config).validators
            ),
        )

    def tick(self, heights: Heights) -> None:
        """Begin, look at and end faults by the head; read what the nodes wrote."""
        self.watcher.read(heights)
        for active in self._active:
            active.planted.look()
        for active in [a for a in self._active if heights.head >= a.end_block]:
            self._end(active, heights.head)
        while self._todo and heights.head >= self._block(self._todo[0].window, self._todo[0].at):
            self._begin(self._todo.pop(0), heights.head)

    def _begin(self, fault: Fault, head: int) -> None:
        self._tell(f"window {fault.window}: {fault.kind}: {', '.join(fault.targets)}")
        planted = plant(fault, self)
        planted.begin()
        end = self._block(fault.window + fault.lasts_windows, fault.at)
        active = _Active(fault=fault, planted=planted, began_block=head, end_block=end)
        self._active.append(active)
        if fault.lasts_windows == 0:
            self._end(active, head)

    def _end(self, active: _Active, head: int) -> None:
        self._active.remove(active)
        planted, fault = active.planted, active.fault
        planted.end()
        self._tell(f"over: {fault.kind}: {planted.evidence}")
        self.happened.append(
            Happened(
                name=str(fault.kind),
                targets=fault.targets,
                window=fault.window,
                began_block=active.began_block,
                ended_block=head,
                took_effect=planted.took_effect,
                evidence=planted.evidence,
            )
        )
        self.happened.sort(key=lambda fault: fault.window)

    def _end_all(self, head: int) -> None:
        for active in list(self._active):
            self._end(active, head)

    def _block(self, window: int, at: float) -> int:
        schedule = self.net.spec.schedule
        first = schedule.schedule().first_block(window)
        return first + int(at * schedule.blocks_per_window)

    def _dress(self, command: Command) -> Command:
        """The same with the library loaded, and everything through proxies of its own."""
        chain_port = _port(self.net.endpoint)
        bucket_port = _port(self.net.server.endpoint_url)
        clock = Clock(self._config.out / f"{command.name}.clock")
        hotkey = self.net.hotkeys[command.name]
        post = Post(
            chain=self._exit.enter_context(WireProxy(chain_port)),
            buckets=self._exit.enter_context(HttpProxy(bucket_port)),
            clock=clock,
            state_dir=self._config.out / "nodes" / command.name,
            log_path=log_path(self._config, command.name),
            bucket_path=f"/{bucket_name(public_key(hotkey))}/",
        )
        self._posts[command.name] = post
        if command.name in self._liars:
            plan_lies(post.state_dir, {})
        ports = {chain_port: post.chain.port, bucket_port: post.buckets.port}
        return replace(command, env={**command.env, **environment(self._library, clock, ports)})


def crew_of(config: LocalnetConfig) -> Crew:
    """Whom faults may hit; validators in the order of their stakes."""
    by_stake = sorted(config.roster, key=lambda p: -p.stake_tao)
    return Crew(
        miners=tuple(p.name for p in config.roster if p.role == "miner"),
        validators=tuple(p.name for p in by_stake if p.role == "validator"),
    )


def _port(url: str) -> int:
    port = urlsplit(url).port
    if port is None:
        raise ValueError(f"{url} has no port")
    return port
