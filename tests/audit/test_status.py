"""Shares of the model in a log, against the run's own cut."""

import pytest

from evaluation.verdict import Verdict
from template.audit.findings import Findings
from template.audit.status import compare_share
from template.protocol.payload import PayloadFormat

FORM = PayloadFormat(
    run_id=bytes(16),
    shapes={"embed": (4, 4), "layers.0.a": (4, 4), "layers.1.a": (4, 8), "norm": (4,)},
    top_k=64,
    max_width=2,
    max_parts=2,
)
SHARES = {0: 32 / 68, 1: 36 / 68}


def verdict_of(part: int = 0, parts: int = 1, model_share: float = 1.0) -> Verdict:
    return Verdict(
        window=3,
        uid=7,
        hotkey="hk7",
        digest="00" * 32,
        status="accepted",
        detail="",
        part=part,
        parts=parts,
        model_share=model_share,
    )


def wrong(verdict: Verdict) -> list[str]:
    found = Findings(window=3)
    compare_share(verdict, FORM, found)
    return list(found.wrong)


@pytest.mark.parametrize("part", [0, 1])
def test_the_share_of_a_part_is_that_of_its_parameters(part: int) -> None:
    assert wrong(verdict_of()) == []
    assert wrong(verdict_of(part=part, parts=2, model_share=SHARES[part])) == []
    (line,) = wrong(verdict_of(part=part, parts=2, model_share=SHARES[1 - part]))
    assert f"uid 7: model_share is {SHARES[part]}" in line
    assert len(wrong(verdict_of(part=part, parts=2))) == 1


@pytest.mark.parametrize("parts", [3, 2**16 - 1])
def test_a_cut_that_the_run_does_not_make_is_named(parts: int) -> None:
    (line,) = wrong(verdict_of(part=0, parts=parts, model_share=0.5))
    assert f"this run allows 2, the log says part 0 of {parts}" in line
