"""A validator's window in seconds: from the upload deadline to the vote, and from there to the next
deadline.

The order is that of `Validator.step` (`template.base.validator`): fetch, open and measure on the
held-out pages as they come, score in float32, write the named payloads that others put to disk,
upload those of this node's share, vote; once the votes are counted follow, save, measure the loss
curve. A share of the checkpoint goes up beside all this while no named payload does, and each
payload on disk is read once from its miner. `FETCH_SHARE` of the scoring budget is for fetching,
and uploads have a reserve, as `NamedPayloads.reserve` keeps.
"""

import math
from dataclasses import dataclass
from typing import Final

from template.base.holding import MAX_RESERVE, MIN_RESERVE, SAFETY_FACTOR
from template.base.pace import VOTE_MARGIN_BLOCKS
from template.planning.case import Case
from template.planning.costs import NUM_PAYLOADS
from template.planning.phases import Phase
from template.protocol.holders import HOLDERS
from template.scoring.rules import shown_pages
from template.scoring.window import FETCH_SHARE
from template.training.flops import flops_per_token

ROLE: Final = "validator"
FETCH: Final = "fetch drawn payloads"
OPEN: Final = "open payloads"
OVERLAP: Final = "overlap places"
LOAD: Final = "load"
SCORE: Final = "score"
KEEP: Final = "keep named payloads"
UPLOAD: Final = "upload named payloads"
LOOK: Final = "read kept payloads"
VOTE: Final = "vote"
STEP: Final = "outer step"
DIGEST: Final = "digest"
SAVE: Final = "save"
ANCHOR: Final = "anchor"
PUBLISH: Final = "upload checkpoint"
CURVE: Final = "loss curve"
FOLLOW: Final = (STEP, DIGEST, ANCHOR, SAVE)
FORWARD_SHARE: Final = 1 / 3
"""Of a forward and a backward pass."""
SAMPLED_PARAMETERS: Final = 10**8
"""Larger models are compared in a sample of chunks, as the largest of the record is already."""
LOADS: Final = 3
"""theta goes to the device thrice: half-way states need two, the scores one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidatorWindow:
    """A window. `budget_s`: from the upload deadline to the vote; `after_s`: from the count of the
    votes to the next upload deadline. `num_scored` and `num_named`: payloads that are fetched and
    scored, and held before the vote. `checkpoint_s`: for this node's share of a checkpoint,
    whose upload has `checkpoint_room_s`.
    """

    phases: tuple[Phase, ...]
    budget_s: float
    after_s: float
    num_scored: int
    num_named: int
    checkpoint_s: float
    checkpoint_room_s: float

    @property
    def is_published(self) -> bool:
        """Whether a checkpoint is out before the next."""
        return self.checkpoint_s <= self.checkpoint_room_s

    @property
    def follow_s(self) -> float:
        """Seconds from the count of the votes until the step is taken and saved."""
        return sum(phase.blocking_s for phase in self.phases if phase.name in FOLLOW)

    @property
    def follows_in_time(self) -> bool:
        """Whether the node is ready for the next window's payloads."""
        return self.follow_s <= self.after_s


def pool_pages(case: Case) -> int:
    """Pages at theta: held-out pages, and the claims of every payload drawn."""
    evaluation = case.spec.evaluation
    return evaluation.held_out_pages + case.drawn * evaluation.claimed_pages


def forward_s(case: Case, pages: int) -> float:
    """Seconds of a forward pass over so many pages."""
    flops = FORWARD_SHARE * flops_per_token(case.spec) * case.spec.data.page_tokens * pages
    return flops / case.machine.score_flops


def validator_window(case: Case) -> ValidatorWindow:
    """A window of the steady state, with every payload good."""
    schedule = case.spec.schedule
    between = schedule.blocks_per_window - schedule.upload_blocks - schedule.vote_margin_blocks
    budget_s = case.blocks_s(between - VOTE_MARGIN_BLOCKS)
    after_s = case.blocks_s(schedule.vote_margin_blocks + schedule.upload_blocks)
    scoring_s = budget_s * (1.0 - _reserve(case, budget_s))
    before, num_scored = _score(case, scoring_s)
    spent_s = sum(phase.blocking_s for phase in before)
    vote_s = case.blocks_s(1)
    num_named = _num_named(case, min(num_scored, case.accepted), budget_s - spent_s - vote_s)
    num_put = _num_put(case, num_named)
    kept_bytes = (num_named - num_put) * case.payload_bytes
    keep = Phase(
        name=KEEP,
        seconds=kept_bytes / case.machine.disk_bytes_per_s,
        why=f"{num_named - num_put} payloads on disk, before the vote",
    )
    upload = Phase(
        name=UPLOAD,
        seconds=case.line.up_s(num_put * case.payload_bytes),
        up_bytes=num_put * case.payload_bytes,
        why=f"before the vote; {min(HOLDERS, case.validators)} of {case.validators} hold one",
    )
    look_s = case.line.down_s(kept_bytes)
    look = Phase(
        name=LOOK,
        seconds=look_s,
        hidden_s=look_s,
        down_bytes=kept_bytes,
        why="each once from its miner, beside the loop",
    )
    vote = Phase(name=VOTE, seconds=vote_s, why="a block")
    after = _follow(case)
    curve_s = forward_s(case, case.spec.evaluation.curve_pages) + case.device_copy_s
    curve = Phase(name=CURVE, seconds=curve_s, why="left out if the next vote would be late")
    every = case.spec.checkpoint.every_windows
    checkpoint_s = case.line.up_s(_share_bytes(case)) + case.host_s(ROLE, "publish")
    # Named payloads, the vote and the logs go first; the line has all the rest of the window.
    room_s = max(0.0, case.window_s - upload.seconds - vote_s)
    publish_s = min(checkpoint_s / every, room_s)
    publish = Phase(
        name=PUBLISH,
        seconds=publish_s,
        hidden_s=publish_s,
        up_bytes=_share_bytes(case) / every,
        why=f"{HOLDERS} of {case.validators} hold a file; one in {every} windows",
    )
    return ValidatorWindow(
        phases=(*before, keep, upload, vote, *after, look, publish, curve),
        budget_s=budget_s,
        after_s=after_s,
        num_scored=num_scored,
        num_named=num_named,
        checkpoint_s=checkpoint_s,
        checkpoint_room_s=every * room_s,
    )


def _that_fit(wanted: int, each_s: float, limit_s: float) -> int:
    return max(0, min(wanted, int(limit_s / each_s)))


def _num_put(case: Case, num_named: int) -> int:
    """Payloads that this node puts, of `num_named`: the share of a holder, rounded up."""
    return math.ceil(num_named * case.holder_share)


def _num_named(case: Case, wanted: int, limit_s: float) -> int:
    """Payloads that can be named: those of this node's share must be up in time."""
    keep_s = case.payload_bytes / case.machine.disk_bytes_per_s
    up_s = case.line.up_s(case.payload_bytes)
    for named in range(wanted, 0, -1):
        put = _num_put(case, named)
        if put * up_s + (named - put) * keep_s <= limit_s:
            return named
    return 0


def _share_bytes(case: Case) -> float:
    """Bytes of a checkpoint that this node puts."""
    return case.checkpoint_bytes * case.holder_share


def _reserve(case: Case, budget_s: float) -> float:
    """As `NamedPayloads.reserve`, at this line's rate."""
    named = min(case.peers, case.spec.outer.peers_per_step)
    num_bytes = _num_put(case, named) * case.payload_bytes
    share = SAFETY_FACTOR * case.line.up_s(num_bytes) / budget_s
    return min(max(share, MIN_RESERVE), MAX_RESERVE)


def _score(case: Case, scoring_s: float) -> tuple[list[Phase], int]:
    """The phases up to the scores, and how many payloads get one."""
    one_s = case.line.down_s(case.payload_bytes)
    fetched = _that_fit(case.drawn, one_s, FETCH_SHARE * scoring_s)
    late = min(case.peers - case.drawn, case.spec.evaluation.max_payloads)
    rest_s = max(0.0, FETCH_SHARE * scoring_s - fetched * one_s)
    beside = _that_fit(late, one_s, rest_s)
    num_bytes = (fetched + beside) * case.payload_bytes
    opening_s = case.host_s(ROLE, "open payloads") * fetched / NUM_PAYLOADS
    compared = min(case.parameters, SAMPLED_PARAMETERS)
    overlap = case.costs.seconds(ROLE, "overlap places", compared, case.machine.cores)
    load_s = LOADS * case.device_copy_s
    pages = shown_pages(case.spec.evaluation)
    held_out_s = forward_s(case, case.spec.evaluation.held_out_pages)
    base_s = forward_s(case, pool_pages(case)) + held_out_s
    fetching_s = case.line.down_s(num_bytes)
    spent_s = fetching_s + overlap * fetched / NUM_PAYLOADS + load_s + base_s
    each_s = forward_s(case, pages)
    # A payload's passes depend on no other payload: all but those of the last one to come.
    ahead_s = min(fetching_s, base_s + max(0, fetched - 1) * each_s)
    scored = _that_fit(fetched, each_s, scoring_s - spent_s + ahead_s)
    phases = [
        Phase(
            name=FETCH,
            seconds=case.line.down_s(num_bytes),
            down_bytes=num_bytes,
            why=f"{fetched} payloads, and {beside} of the last window",
        ),
        Phase(name=OPEN, seconds=opening_s, hidden_s=opening_s, why="as the next ones come"),
        Phase(name=OVERLAP, seconds=overlap * fetched / NUM_PAYLOADS),
        Phase(name=LOAD, seconds=load_s, why="theta to the devices, thrice"),
        Phase(
            name=SCORE,
            seconds=base_s + scored * each_s,
            hidden_s=min(ahead_s, base_s + scored * each_s),
            why=f"{scored} payloads on {pages} pages each, float32; as they come",
        ),
    ]
    return phases, scored


def _follow(case: Case) -> list[Phase]:
    checkpoint = case.spec.checkpoint
    save_s = case.write_s(ROLE, case.params_bytes)
    digest_s = case.host_s(ROLE, "digest") / checkpoint.digest_every_windows
    return [
        Phase(name=STEP, seconds=case.host_s(ROLE, "outer step")),
        Phase(name=DIGEST, seconds=digest_s),
        Phase(name=ANCHOR, seconds=save_s / checkpoint.every_windows),
        # The save after the vote writes no tensor again.
        Phase(name=SAVE, seconds=save_s, why="theta, after the step"),
    ]
