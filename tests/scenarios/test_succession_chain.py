"""Proposals, reorganised blocks and supporters that disappear: all nodes stand under one spec."""

import random
from pathlib import Path

import pytest

from simulation.swarm import TINY, build_world, digests, run, to_the_end
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.base.supporting import SUPPORT_FILE
from template.base.validator import Validator
from template.chain.ballots import read_standing_votes
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from tests.support.successions import proposed, supporting

VALIDATORS = ("val-a", "val-b", "val-c", "val-d")
MINERS = ("m0", "m1")
SWITCH, WINDOWS = 8, 10
BALLOT = SWITCH - LEAD_WINDOWS


class Troubles:
    """Drawn from a seed: stakes, who supports which of two specs, what happens around the ballot.

    Whoever supports nothing, leaves or withdraws is drawn too; every chain is cut a few times.
    """

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.stakes = {name: rng.choice((1, 10, rng.randint(2, 1000))) for name in VALIDATORS}
        self.choices = {name: rng.choice((0, 0, 0, 1, None)) for name in VALIDATORS}
        self.withdrawn = [name for name in VALIDATORS if rng.random() < 0.2]
        self.leaves = rng.choice((None, None, *VALIDATORS))
        """Ends in the window of the ballot's vote block."""
        self.withdraws_after = rng.randint(-8, 4)
        """Blocks from the ballot's vote block."""
        self.cuts = [(rng.randint(-10, 6), rng.random() < 0.5) for _ in range(3)]
        """The same, where blocks are replaced, and whether their records come again."""


def play(world: World, troubles: Troubles, folder: Path):
    """A drive that replaces blocks and withdraws support at the drawn blocks."""
    vote_block = world.spec.schedule.schedule().vote_block(BALLOT)
    events: list[tuple[int, bool | None]] = [(vote_block + at, keep) for at, keep in troubles.cuts]
    events = sorted([*events, (vote_block + troubles.withdraws_after, None)], key=lambda e: e[0])

    def drive(world: World, context) -> None:
        for block, keep in events:
            context.waiter.until_head(block)
            if keep is None:
                for name in troubles.withdrawn:
                    (folder / name / SUPPORT_FILE).unlink(missing_ok=True)
            else:
                world.ledger.reorganise(world.ledger.finality_lag, keep=keep)

    return drive


def leaving(world: World, context) -> Validator:
    """A validator that is gone for good once the ballot's window is over."""
    node = Validator(context)
    while node.follower.next_window < BALLOT + 1:
        node.step()
    return node


def naive_winners(world: World, specs: list[RunSpec], context) -> set[bytes]:
    """Specs that more than half of the stake that voted supported, by the final vote block."""
    voters = read_standing_votes(context.chain, Run(world.spec), BALLOT)
    of_window = [voter for voter in voters if voter.vote.window == BALLOT]
    total = sum(voter.stake_rao for voter in of_window)
    found = set()
    for spec in specs:
        supported = sum(
            voter.stake_rao
            for voter in of_window
            if voter.support is not None and voter.support.spec == spec.spec_id
        )
        if 2 * supported > total:
            found.add(spec.spec_id)
    return found


def check(seed: int, folder: Path) -> int | None:
    """Play the troubles of a seed; which proposal all nodes ended under, None for neither."""
    troubles = Troubles(seed)
    names = {"owner": 0, **troubles.stakes, **dict.fromkeys(MINERS, 0)}
    world = build_world(names, **{**TINY, "schedule__num_windows": WINDOWS})
    rate = world.spec.outer.outer_lr
    specs = [
        proposed(world, folder, SWITCH, training__inner_steps=3),
        proposed(world, folder, SWITCH, outer__outer_lr=rate / 2, compression__top_k=32),
    ]
    for name, choice in troubles.choices.items():
        if choice is not None:
            supporting(folder, (name,), specs[choice])
    drives = {name: to_the_end(Validator) for name in VALIDATORS}
    if troubles.leaves is not None:
        drives[troubles.leaves] = leaving
    drives |= {name: to_the_end(Miner) for name in MINERS} | {
        "owner": play(world, troubles, folder)
    }
    nodes = {n: node for n, node in run(world, drives, folder).items() if node is not None}
    nodes = {name: node for name, node in nodes.items() if name != troubles.leaves}
    chains = {tuple(spec.spec_id for spec in node.context.run) for node in nodes.values()}
    assert len(chains) == 1, "nodes stand under different specs"
    assert len(digests(nodes)) == 1
    (chain,) = chains
    context = world.context(hotkey_of("m0"), folder / "reader")
    winners = naive_winners(world, specs, context)
    assert set(chain[1:]) <= winners, "a spec without more than half of the stake was adopted"
    return next((i for i, spec in enumerate(specs) if spec.spec_id == chain[-1]), None)


@pytest.mark.parametrize("seed", range(3))
def test_all_nodes_stand_under_one_spec(seed: int, tmp_path) -> None:
    check(seed, tmp_path)


@pytest.mark.slow
def test_all_nodes_stand_under_one_spec_whatever_is_drawn(tmp_path) -> None:
    """Among these draws are both: chains that go on as they were, and chains that change."""
    ended = {check(seed, tmp_path / str(seed)) for seed in range(3, 27)}
    assert ended >= {None, 0}
