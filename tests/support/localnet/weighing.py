"""A validator's weights alone, on a real chain: the real adapter and `WeightSetter`, no run.

As a program it does so in a process of its own, whose clock may be off.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import bittensor as bt

from localnet.onchain import NETUID
from simulation.swarm import small_plan
from simulation.world import World
from template.base.memory import ValidatorMemory
from template.base.policy import ValidatorPolicy
from template.base.weight_setter import WeightSetter
from template.chain import Metagraph, Neuron
from template.chain.bittensor import BittensorChain
from template.chain.waiter import Waiter
from template.context import NodeContext
from template.protocol.spec.plan import RunChoices, draft_spec
from template.scoring.rules import pay_rules

AHEAD_BLOCKS = 5
OTHERS = (2, 3)
"""The uids that are weighed."""


class Rising(ValidatorPolicy):
    """Weighs the first of the others one part more in each window, and the second one part."""

    def may_set_weights(self, memory: ValidatorMemory, window: int) -> bool:
        return True

    def weights(self, graph: Metagraph, memory: ValidatorMemory, window: int) -> dict[int, float]:
        first, second = OTHERS
        return {first: float(window + 1), second: 1.0}


def row_of(window: int) -> dict[int, float]:
    """What the chain shows of `Rising`'s row for a window."""
    first, second = OTHERS
    return {first: (window + 1) / (window + 2), second: 1 / (window + 2)}


class Weighing:
    """`blocks_per_window`: of a run that begins `AHEAD_BLOCKS` after the head; each window pays."""

    def __init__(self, chain: BittensorChain, me: Neuron, blocks_per_window: int, folder: Path):
        schedule = {
            "schedule__blocks_per_window": blocks_per_window,
            "schedule__tempo_blocks": 1,
            "schedule__finality_lag_blocks": 2,
            "schedule__num_windows": 100,
        }
        choices = RunChoices(owner_hotkey=me.hotkey, start_block=chain.head() + AHEAD_BLOCKS)
        spec = draft_spec(small_plan(**schedule), choices)
        self._context: NodeContext = replace(
            World(spec, (me,)).context(me.hotkey, folder), chain=chain, waiter=Waiter(chain)
        )
        self._memory = ValidatorMemory(rules=pay_rules(spec))
        self._setter = WeightSetter(self._context, Rising())

    def run(self, windows: int, *, looks: bool = True) -> None:
        """Set the weights of so many windows, each as soon as a validator may know them.

        Without `looks` the waits in between are the waiter's own.
        """
        schedule, waiter = self._context.schedule, self._context.waiter
        for window in range(windows):
            block = schedule.held_out_block(window)
            if looks:
                self._setter.until_finalized(block, "a window", window - 1, self._memory)
            else:
                waiter.until_finalized(block)
            self._memory = self._memory.voted_on(window)
            self._setter.set_if_due(window, self._memory)


def own_neuron(chain: BittensorChain, hotkey: str) -> Neuron:
    me = chain.metagraph(chain.head()).by_hotkey(hotkey)
    assert me is not None
    return me


def weigh(
    url: str, wallet: Any, hotkey: str, blocks_per_window: int, folder: Path
) -> Callable[..., None]:
    """`Weighing.run` over a connection of its own, closed with the call."""

    def run(windows: int, *, looks: bool = True) -> None:
        chain = BittensorChain(endpoint=url, netuid=NETUID, wallet=wallet, version_key=0)
        with closing(chain):
            me = own_neuron(chain, hotkey)
            Weighing(chain, me, blocks_per_window, folder).run(windows, looks=looks)

    return run


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--wallets", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--blocks-per-window", type=int, required=True)
    parser.add_argument("--windows", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args(argv)
    wallet = bt.Wallet(args.name, "default", args.wallets)
    hotkey = wallet.hotkey.ss58_address
    weigh(args.url, wallet, hotkey, args.blocks_per_window, args.folder)(args.windows)
    sys.stdout.write(json.dumps({"windows": args.windows}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
