"""A finished localnet run made by hand: logs on disk, records on a chain, objects in buckets.

Three windows; m0 and m1 work, garbage-0 commits noise, idle-0 nothing. State windows are 1 to 4.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from localnet.pacer import PaceReport
from localnet.report import NodeInfo, Sources
from simulation.swarm import RAO, neuron
from simulation.world import World, hotkey_of
from template.metrics import JsonlMetrics
from template.protocol.record import PayloadCommitment, Record, encode_record
from template.protocol.spec import RunSpec
from template.training.card import Facts

NUM_WINDOWS = 3
STAKES_TAO = {
    "owner": 0,
    "val-a": 3000,
    "val-b": 1000,
    "m0": 0,
    "m1": 0,
    "garbage-0": 0,
    "idle-0": 0,
}
BEHAVIOURS = {"garbage-0": "garbage", "idle-0": "idle"}
EMISSIONS_RAO = {"owner": 7, "val-a": 9 * RAO, "val-b": 3 * RAO, "m0": 6 * RAO, "m1": 2 * RAO}
LOSSES = (5.5, 4.0, 3.0, 2.5)
UNIGRAM = 3.0
ACCEPTED = ("3", "3,4", "")
WEIGHTS = {1: {3: 0.75, 4: 0.25}, 2: {3: 0.25, 4: 0.25, 0: 0.5}}


@dataclass
class SyntheticRun:
    """The tree and its sources; tests change it before `sources()` is read."""

    world: World
    root: Path
    exits: dict[str, int | None]
    restarts: dict[str, int]
    behaviours: dict[str, str]
    speeds: dict[str, float] = field(default_factory=dict)
    pace: PaceReport | None = None
    model: Facts | None = None
    model_fault: str = ""

    @property
    def spec(self) -> RunSpec:
        return self.world.spec

    def state_dir(self, name: str) -> Path:
        return self.root / "nodes" / name

    def nodes(self) -> tuple[NodeInfo, ...]:
        return tuple(self._node(name) for name in STAKES_TAO)

    def _node(self, name: str) -> NodeInfo:
        role = "owner" if name == "owner" else "validator" if name.startswith("val") else "miner"
        return NodeInfo(
            name=name,
            role=role,
            behaviour=self.behaviours.get(name, "honest"),
            hotkey=hotkey_of(name),
            state_dir=self.state_dir(name),
            log_path=None,
            exit=self.exits[name],
            speed=self.speeds.get(name, 1.0),
        )

    def sources(self, weights: Mapping[int, Mapping[int, float]] | None = None) -> Sources:
        stakes_rao = {hotkey_of(name): tao * RAO for name, tao in STAKES_TAO.items()}
        return Sources(
            spec=self.spec,
            nodes=self.nodes(),
            chain=self.world.chain(hotkey_of("owner")),
            initial_alpha_rao=stakes_rao,
            weights=WEIGHTS if weights is None else weights,
            buckets={h: bucket.reader() for h, bucket in self.world.buckets.items()},
            restarts=self.restarts,
            wall_s=12.5,
            pace=self.pace,
            model=self.model,
            model_fault=self.model_fault,
        )

    def pay(self, emissions_rao: Mapping[str, int]) -> None:
        """Set what each hotkey has gained since the start."""
        self.world.ledger.neurons = tuple(
            replace(
                neuron(uid, name, stake_tao=tao),
                alpha_stake_rao=tao * RAO + emissions_rao.get(name, 0),
                incentive=0.5 if name == "m0" else 0.0,
            )
            for uid, (name, tao) in enumerate(STAKES_TAO.items())
        )

    def commit(self, name: str, window: int) -> None:
        """Put a payload record where it counts for `window`: one block before the window ends."""
        record = Record.of(
            self.spec.run_id,
            payload=PayloadCommitment(window=window, digest=bytes([window]) * 32),
        )
        blocks, values = self.world.ledger.commitments.setdefault(hotkey_of(name), ([], []))
        blocks.append(self.spec.schedule.schedule().commit_block(window))
        values.append(encode_record(record))

    def log_node(self, name: str, *, last_state: int = NUM_WINDOWS + 1, digest: str = "") -> None:
        """A follower's metrics up to a state window; `digest` replaces the usual ones."""
        path = self.state_dir(name) / "metrics.jsonl"
        path.unlink(missing_ok=True)
        metrics = JsonlMetrics(path)
        for state in range(2, last_state + 1):
            window = state - 2
            metrics.log(window, {"dissenting_uids": "", "differs_from_majority": 0})
            values: dict[str, float | int | str] = {
                "state_window": state,
                "state_root": f"{state:02x}" * 32,
                "accepted_uids": ACCEPTED[window],
                "params_digest": digest or digest_at(state),
            }
            metrics.log(window, values)
        metrics.close()

    def log_losses(self, name: str, losses: tuple[float, ...] = LOSSES) -> None:
        metrics = JsonlMetrics(self.state_dir(name) / "metrics.jsonl")
        metrics.log(0, {"unigram_entropy": UNIGRAM})
        for state, loss in enumerate(losses, start=1):
            metrics.log(state, {"held_out_loss": loss})
        metrics.close()

    def fetch(self, window: int, loss_nats: float | None) -> None:
        """A reader has fetched theta_window at the end."""
        self.model = Facts(
            run=self.spec.name,
            run_id=self.spec.run_id.hex(),
            network="local",
            netuid=1,
            window=window,
            lineage_root=f"{window:02x}" * 32,
            checkpoint_digest="cd" * 32,
            parameters=1234,
            page_tokens=self.spec.data.page_tokens,
            tokenizer=self.spec.data.tokenizer,
            end_of_document=0,
            num_payloads=None,
            max_tokens=None,
            loss_nats=loss_nats,
            loss_pages=0 if loss_nats is None else 4,
        )

    def log_utilisations(self, name: str, shares: tuple[float, ...]) -> None:
        """How busy a miner was in each window."""
        metrics = JsonlMetrics(self.state_dir(name) / "metrics.jsonl")
        for window, share in enumerate(shares):
            metrics.log(window, {"inner_steps": 30, "utilisation": share})
        metrics.close()

    def judge(
        self, validator: str, name: str, window: int, status: str, pages_consumed: int | None = None
    ) -> None:
        row = {
            "kind": "verdict",
            "window": window,
            "hotkey": hotkey_of(name),
            "status": status,
            "pages_consumed": pages_consumed,
        }
        with (self.state_dir(validator) / "verdicts.jsonl").open("a", encoding="ascii") as file:
            file.write(json.dumps(row) + "\n")


def digest_at(state_window: int) -> str:
    return f"d{state_window}" * 32


def make_run(world: World, root: Path) -> SyntheticRun:
    """A good run, all of it."""
    exits = dict.fromkeys(STAKES_TAO, 0) | {"owner": None}
    run = SyntheticRun(
        world=world,
        root=root,
        exits=exits,
        restarts=dict.fromkeys(STAKES_TAO, 0),
        behaviours=dict(BEHAVIOURS),
    )
    run.pay(EMISSIONS_RAO)
    world.time.block = world.spec.schedule.schedule().apply_block(NUM_WINDOWS) + 4
    for name in ("val-a", "val-b", "m0", "m1", "garbage-0"):
        run.log_node(name)
    for window in range(NUM_WINDOWS):
        for name in ("m0", "m1", "garbage-0"):
            run.commit(name, window)
    for validator in ("val-a", "val-b"):
        run.log_losses(validator)
        for window in range(NUM_WINDOWS):
            run.judge(validator, "m0", window, "named")
            run.judge(validator, "garbage-0", window, "not_useful")
    return run
