"""Tables of the run spec about scoring and pay: evaluation and chain weights."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from template.protocol.record import MAX_UIDS
from template.protocol.spec.constraints import Range, Table

# As in `training`, the upper limits lie far beyond every run.
MAX_HELD_OUT_PAGES = 65_536
MAX_CLAIMED_PAGES = 4096
MAX_PAY_WINDOWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSpec(Table):
    """How validators measure payloads and decide on their votes.

    A payload's gain is the drop of the mean loss on held-out pages when the payload is applied.
    Its relative gain is the gain over the root mean square of the window's positive gains.
    """

    TABLE: ClassVar[str] = "evaluation"

    held_out_pages: Annotated[int, Range(ge=2, le=MAX_HELD_OUT_PAGES)]
    """Held-out pages in a window's common pool. More pages measure gains more exactly; scoring
    time grows in proportion.
    """
    curve_pages: Annotated[int, Range(ge=1, le=1_048_576)]
    """Pages of the fixed sample that draws the loss curve, at most as many as the dataset holds
    out.
    """
    assignment_windows: Annotated[int, Range(ge=1, le=MAX_PAY_WINDOWS)]
    """Recent windows whose assigned pages are excluded from the held-out pages, of the hotkeys with
    a payload then or later. In a crowd the oldest windows are given up first: half of the dataset
    stays open to the draw.
    """
    step_share: Annotated[float, Range(gt=0, le=1)]
    """eta, the share of a payload's full step for scoring, about the payload's share in an update
    of many. Scored at a full step, honest payloads overshoot.
    """
    naming_gain: Annotated[float, Range(gt=0, le=1)]
    """Smallest gain of honest work that the gain test assumes, relative to the scale: the median
    gain of the payloads named lately. Miners with less than half of this gain are refused after
    some windows.
    """
    naming_error: Annotated[float, Range(gt=0, lt=0.5)]
    """Error probability of the gain test, both ways. A smaller value asks newcomers for more
    windows of evidence, and a miner that stops working is refused later.
    """
    naming_z: Annotated[float, Range(ge=0, le=1000)]
    """Standard errors over sequences added to a payload's gain before the floor refuses the payload
    in its window, whatever earlier windows say. A low value refuses honest payloads by bad luck.
    """
    min_relative_gain: Annotated[float, Range(ge=0, lt=1)]
    """The floor: threshold on the relative gain, for a vote and for pay. Random directions gain a
    few percent by luck, so 0 would let noise in.
    """
    confidence_z: Annotated[float, Range(ge=0, le=1000)]
    """Standard errors over windows subtracted from a hotkey's mean relative gain before pay. A
    high value leaves honest miners with few windows unpaid.
    """
    claimed_pages: Annotated[int, Range(ge=0, le=MAX_CLAIMED_PAGES)]
    """Sample of the pages claimed by a payload as trained on, for the work test and for pay. 0
    turns the work test off: every claim is then paid, trained or not. A payload that claims fewer
    pages is refused. A payload is measured on the held-out pages and on this sample. At a greater
    width the sample grows by the root of the width.
    """
    work_effect: Annotated[
        float, Range(gt=0, le=4, because="a sequence counts 4 deviations at most")
    ]
    """Effect of honest training that the work test expects on claimed pages at width 1, in standard
    deviations of a sequence; at a greater width this over the root of the width. Miners with less
    than half of the effect fail.
    """
    work_error: Annotated[float, Range(gt=0, lt=0.5)]
    """Error probability of the work test, both ways. Smaller values need more windows for a
    decision.
    """
    work_windows: Annotated[int, Range(ge=1, le=MAX_PAY_WINDOWS)]
    """Recent windows in the work test, and behind the share of a claim that was trained. Also the
    maximum of windows for pay, when only a sample of the payloads is scored.
    """
    max_overlap: Annotated[float, Range(gt=0, lt=1)]
    """Maximum share of a payload's kept positions in common with another recent payload. Honest
    payloads share up to a quarter; above the limit both come from one training, and one counts: the
    one committed first, or in the same window the one with more evidence of work.
    """
    max_payloads: Annotated[int, Range(ge=1, le=MAX_UIDS)]
    """Maximum of payloads scored in one window. In a fuller window all validators score the same
    random sample, so fit the number to the slowest validator.
    """
    loss_tolerance: Annotated[float, Range(gt=0, lt=1)]
    """Nats per token by which the loss of one sequence may differ between two machines. Audits
    report larger differences; too small a value accuses honest validators.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsSpec(Table):
    """How verified work becomes chain weights, and so pay.

    A miner's share is proportional to its claimed pages, times the share of them that was trained,
    times the share of the model.
    """

    TABLE: ClassVar[str] = "weights"

    history_windows: Annotated[int, Range(ge=1, le=MAX_PAY_WINDOWS)]
    """Recent windows for pay. A long history is fair to unlucky miners, and slow to notice a miner
    without work.
    """
    min_windows: Annotated[int, Range(ge=2, le=MAX_PAY_WINDOWS)]
    """Scored windows that a miner needs before its first pay."""
    max_share: Annotated[float, Range(gt=0, le=1)]
    """Maximum weight of one miner. The rest is burned: given to the uid of the subnet owner's
    hotkey, as the chain names it.
    """
    duel_share: Annotated[float, Range(ge=0, lt=1)]
    """Part of the smaller share of two miners that a duel moves to the miner whose payloads gained
    more on a drawn half of the held-out pages. A validator that does not score cannot know the
    winners, and loses dividends. Verdict logs are then published up to two pay periods late, and
    no audit can follow them live. Higher values make an epoch's pay vary more; 0 for no duels, as
    in all shipped plans.
    """
