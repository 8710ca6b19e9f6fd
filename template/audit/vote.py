"""A validator's vote on chain, compared with the verdict log and the parameters of the run."""

from evaluation.conclusion import choose_accepted
from evaluation.verdict_log import WindowLog
from template.audit.findings import Findings
from template.context import ReadContext
from template.protocol.record import ROOT_BYTES, Vote, log_digest
from template.protocol.root import sample_digest
from template.training.outer import OuterState


def compare_vote(
    log: WindowLog,
    vote: Vote | None,
    state: OuterState | None,
    context: ReadContext,
    found: Findings,
) -> None:
    """Root and parameter sample of the run's `state`, if any; uids named and missing by the log.

    A vote may leave out a uid named by the log: its upload was not done in time, by this
    validator's word. A vote names no other uid.
    """
    if vote is None:
        found.add_unknown("vote: this validator had no vote on chain when votes were counted")
        return
    named = choose_accepted(
        log.verdicts, log.reputations, context.run.at(log.window).outer.peers_per_step
    )
    missing = [verdict.uid for verdict in log.verdicts if verdict.missing]
    pairs: list[tuple[str, object, object]] = [
        ("uids not named by the log", [], sorted(vote.uids - named)),
        ("uids missing by the log", sorted(missing), sorted(vote.missing)),
        ("pace of alpha by the log", log.pace, vote.pace),
    ]
    if state is not None:
        sample = sample_digest(
            state.params, context.chain.block_hash(context.schedule.stake_block(log.window))
        )
        pairs += [
            ("root", state.root[:ROOT_BYTES].hex(), vote.root.hex()),
            ("digest of the parameters", sample.hex(), vote.sample_digest.hex()),
        ]
    if late := sorted(named - vote.uids):
        found.add_unknown(
            f"vote: uids {late} are named by the log and not by the vote: the uploads were late, "
            "by this validator's word"
        )
    found.wrong += [
        f"{found.window_label}, vote: {subject} {actual}, the vote says {voted}"
        for subject, actual, voted in pairs
        if actual != voted
    ]


def different_digest(window: int, data: bytes, digest: bytes) -> list[str]:
    """One line if the bytes of a verdict log do not have the digest in the vote."""
    actual = log_digest(data)
    if actual == digest:
        return []
    return [
        f"window {window}: the log's digest is {actual.hex()}, the validator published "
        f"{digest.hex()}: these are not the bytes that it voted with"
    ]
