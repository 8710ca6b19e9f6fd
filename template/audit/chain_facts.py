"""Facts on chain about a window, compared with a verdict log: seed, uids and commitments."""

from collections.abc import Mapping
from dataclasses import dataclass

from evaluation.conclusion import Registered
from evaluation.verdict_log import WindowLog
from evaluation.verify import compare_uids
from template.audit.findings import Findings
from template.chain.ballots import read_candidates, read_records
from template.context import ReadContext
from template.protocol.record import Vote
from template.protocol.root import Member


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainFacts:
    """Members by uid with a payload committed for the window; votes on the window by hotkey."""

    members: Mapping[int, Member]
    votes: Mapping[str, Vote]

    def voters_naming(self, uid: int) -> list[str]:
        """Hotkeys whose vote names a uid."""
        return [hotkey for hotkey, vote in self.votes.items() if uid in vote.uids]


def read_chain_facts(context: ReadContext, window: int) -> ChainFacts:
    """Raises ChainError if the chain has pruned the state of the window's blocks."""
    vote_block = context.schedule.vote_block(window)
    records = read_records(context.chain, vote_block, context.run.run_id)
    return ChainFacts(
        members=read_candidates(context.chain, context.run, window),
        votes={
            hotkey: record.vote
            for hotkey, record in records.items()
            if record.vote is not None and record.vote.window == window
        },
    )


def compare_seed(log: WindowLog, seed: bytes, found: Findings) -> None:
    """The seed of the pool, in hexadecimal."""
    if log.seed != seed.hex():
        found.add_difference("seed", seed.hex(), log.seed)


def compare_registered_uids(log: WindowLog, context: ReadContext, found: Findings) -> None:
    """The burn uid, and the uids of hotkeys with a reputation, as registered at the stake block."""
    graph = context.chain.metagraph(context.schedule.stake_block(log.window))
    registered = {neuron.hotkey: neuron.uid for neuron in graph.neurons}
    found.wrong += compare_uids(log, Registered(uids=registered, burn_uid=graph.owner_uid))


def compare_committed(log: WindowLog, members: Mapping[int, Member], found: Findings) -> None:
    """Exactly one verdict on each committed payload, with the committed hotkey and digest."""
    verdicts = {verdict.uid: verdict for verdict in log.verdicts}
    for uid in sorted(members.keys() | verdicts.keys()):
        member, verdict = members.get(uid), verdicts.get(uid)
        committed = None if member is None else (member.hotkey, member.digest.hex())
        judged = None if verdict is None else (verdict.hotkey, verdict.digest)
        if committed != judged:
            found.add_difference(f"uid {uid}: payload committed", committed, judged)
