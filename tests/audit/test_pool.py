"""The header of a payload that no bucket has any more, by the rules of admission."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from evaluation.judge import Measured
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.verdict_log import WindowLog
from template.audit.findings import Findings
from template.audit.pool import admits_header, list_opened
from template.protocol.payload import PayloadHeader
from template.protocol.ranges import BlockRange, drawn_range
from template.protocol.root import Member
from template.protocol.spec import RunSpec, parse_spec
from tests.support.scoring import SPEC_FILE

WINDOW, HOTKEY, PARTS, STALENESS = 9, "hotkey1", 2, 2
MEMBER = Member(uid=1, hotkey=HOTKEY, public_key=bytes(32), coldkey=bytes(32), digest=bytes(32))


def list_seed(hotkey: str, window: int) -> bytes:
    return hashlib.sha256(f"{hotkey} {window}".encode()).digest()


def no_seed(hotkey: str, window: int) -> bytes:
    raise AssertionError("a payload of the whole model draws nothing")


@pytest.fixture
def cut() -> RunSpec:
    spec = parse_spec(SPEC_FILE.read_text(encoding="ascii"))
    return replace(
        spec,
        training=replace(spec.training, max_parts=PARTS),
        outer=replace(spec.outer, max_staleness=STALENESS),
    )


def header(spec: RunSpec, **fields: object) -> PayloadHeader:
    known: dict[str, object] = {
        "window": WINDOW,
        "base_window": WINDOW,
        "pages_consumed": spec.training.pages_per_window,
        "public_key": MEMBER.public_key,
    }
    return PayloadHeader(**{**known, **fields})  # type: ignore[arg-type]


def test_a_whole_model_and_the_bounds_of_staleness_need_no_draw(cut) -> None:
    for base in range(-1, WINDOW + 3):
        is_admitted = WINDOW - STALENESS <= base <= WINDOW
        assert admits_header(cut, header(cut, base_window=base), no_seed, HOTKEY) == is_admitted


@pytest.mark.parametrize("base", [WINDOW - 1, WINDOW])
def test_of_all_parts_the_drawn_one_is_admitted_alone(cut, base) -> None:
    drawn = drawn_range(list_seed(HOTKEY, base), PARTS)
    for part in range(PARTS):
        blocks = BlockRange(part=part, parts=PARTS)
        claim = header(cut, base_window=base, blocks=blocks)
        assert admits_header(cut, claim, list_seed, HOTKEY) == (blocks == drawn)


def test_more_parts_than_the_run_allows_are_not_admitted(cut) -> None:
    blocks = drawn_range(list_seed(HOTKEY, WINDOW), PARTS + 1)
    assert not admits_header(cut, header(cut, blocks=blocks), no_seed, HOTKEY)


@pytest.mark.parametrize("is_drawn", [True, False])
def test_a_log_that_opened_a_vanished_payload_of_another_part_is_named(cut, is_drawn) -> None:
    drawn = drawn_range(list_seed(HOTKEY, WINDOW), 2).part
    part = drawn if is_drawn else 1 - drawn
    found = Findings(window=WINDOW)
    opened = list_opened(log_of(cut, part), [MEMBER], {}, cut, list_seed, found)
    assert (MEMBER in opened.headers) == is_drawn
    assert opened.num_missing == is_drawn
    assert [line for line in found.wrong if "uid 1: a payload with these claims" in line] == (
        [] if is_drawn else found.wrong
    )
    assert len(found.wrong) == (not is_drawn)


def log_of(spec: RunSpec, part: int) -> WindowLog:
    """A log with one opened payload, of a part of two."""
    verdict = Verdict(
        window=WINDOW,
        uid=MEMBER.uid,
        hotkey=HOTKEY,
        digest=MEMBER.digest.hex(),
        status=NOT_SCORED,
        detail="",
        pages_consumed=spec.training.pages_per_window,
        base_window=WINDOW,
        part=part,
        parts=2,
        model_share=0.5,
    )
    none_S = np.empty(0)
    return WindowLog(
        window=WINDOW,
        seed="",
        ids_S=none_S.astype(np.int64),
        known=(),
        undelivered=(),
        measured=Measured(owners_S=none_S.astype(np.int64), before_SQ=none_S, after_KQ={}),
        verdicts=(verdict,),
        uids={},
        burn_uid=None,
        reputations={},
        shares={},
        exponent=0,
        pace=0,
    )
