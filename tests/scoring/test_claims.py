"""What a payload may claim: a page list once, the pages of its width, the part that is drawn."""

import dataclasses
import hashlib

import pytest
import torch

from template.errors import PayloadError
from template.protocol.payload import (
    PayloadFormat,
    PayloadHeader,
    encode_payload,
    payload_digest,
)
from template.protocol.ranges import WHOLE, BlockRange, drawn_range
from template.protocol.root import Member
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.scoring.admission import FrameChecker, SeenPayloads, admitted_payloads
from template.scoring.rules import admits_claim

WINDOW = 9
SHAPES: dict[str, tuple[int, ...]] = {
    "embed": (64, 64),
    "layers.0.a": (64, 128),
    "layers.1.a": (64, 128),
    "norm": (70,),
}


def list_seed(hotkey: str, window: int) -> bytes:
    return hashlib.sha256(f"{hotkey} {window}".encode()).digest()


def no_seed(hotkey: str, window: int) -> bytes:
    raise AssertionError("a payload of the whole model draws nothing")


@dataclasses.dataclass
class Admitter:
    """Windows admitted one after another with one memory, as by `WindowScorer`."""

    spec: RunSpec
    form: PayloadFormat

    def __post_init__(self) -> None:
        self.seen = SeenPayloads(lambda _: self.spec.outer.max_staleness)
        self.next = 0

    def frame(self, window: int, **header) -> tuple[Member, bytes]:
        """A frame of uid 1, with values of its own in every window."""
        fields = {
            "window": window,
            "base_window": window,
            "pages_consumed": self.spec.training.pages_per_window,
            "public_key": b"k" * 32,
            **header,
        }
        generator = torch.Generator().manual_seed(window)
        tensors = {n: torch.randn(s, generator=generator) for n, s in self.form.shapes.items()}
        data, _ = encode_payload(PayloadHeader(**fields), tensors, self.form)
        return Member(
            uid=1,
            hotkey="hotkey1",
            public_key=b"k" * 32,
            coldkey=bytes(32),
            digest=payload_digest(data),
        ), data

    def checker(self, seed=list_seed) -> FrameChecker:
        return FrameChecker(run=Run(self.spec), form_at=lambda _: self.form, list_seed=seed)

    def admit(self, window: int, seed=list_seed, **header) -> str | None:
        """The reason of the refusal."""
        member, data = self.frame(window, **header)
        self.pass_to(window)
        checker = self.checker(seed)
        found = checker.admit_frames(window, [member], {1: data}, self.seen)
        payload = admitted_payloads(found).get(1)
        if payload is not None:
            positions = [("hotkey1", checker.list_positions(payload))]
            self.seen.add_positions(window, positions, {"hotkey1": payload.header.base_window})
        else:
            self.seen.add_positions(window, [])
        refusal = found[1].refusal
        assert refusal is None or isinstance(refusal, PayloadError)
        return None if refusal is None else refusal.reason

    def pass_to(self, window: int) -> None:
        for between in range(self.next, window):
            self.seen.add_positions(between, [])
        self.next = window + 1


@pytest.fixture
def admitter(spec: RunSpec) -> Admitter:
    training = dataclasses.replace(spec.training, max_width=3, max_parts=2)
    wide = dataclasses.replace(spec, training=training)
    cut = PayloadFormat(run_id=bytes(16), shapes=SHAPES, top_k=64, max_width=3, max_parts=2)
    return Admitter(wide, cut)


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize(("change", "reason"), [(0, None), (1, "pages"), (-1, None)])
def test_as_many_pages_as_the_width_has(admitter, width, change, reason) -> None:
    pages = width * admitter.spec.training.pages_per_window + change
    assert admitter.admit(WINDOW, width=width, pages_consumed=pages) == reason


def test_the_bounds_of_a_claim(admitter) -> None:
    spec, most = admitter.spec, admitter.spec.training.pages_per_window
    fewest = spec.evaluation.claimed_pages

    def header(width: int, pages: int) -> PayloadHeader:
        return PayloadHeader(
            window=1, base_window=1, pages_consumed=pages, public_key=bytes(32), width=width
        )

    assert admits_claim(spec, header(1, fewest))
    assert not admits_claim(spec, header(1, fewest - 1))
    assert not admits_claim(spec, header(3, fewest - 1))
    assert admits_claim(spec, header(3, 3 * most))
    assert admits_claim(spec, header(3, 2 * most + 1))
    assert not admits_claim(spec, header(3, 2 * most)), "less would be expected for nothing"
    assert admits_claim(spec, header(2, 2 * most))
    assert not admits_claim(spec, header(2, most))
    assert not admits_claim(spec, header(0, fewest)), "from a log of a stranger"
    assert not admits_claim(spec, header(4, most))


@pytest.mark.parametrize("staleness", [0, 2])
def test_the_part_that_the_page_list_draws_is_admitted_alone(admitter, staleness) -> None:
    base = WINDOW - staleness
    drawn = drawn_range(list_seed("hotkey1", base), 2)
    other = BlockRange(part=1 - drawn.part, parts=2)
    assert admitter.admit(WINDOW, base_window=base, blocks=other) == "range"
    assert admitter.admit(WINDOW, base_window=base, blocks=drawn) is None


def test_a_draw_differs_from_window_to_window_and_from_hotkey_to_hotkey() -> None:
    by_window = {drawn_range(list_seed("hotkey1", window), 2).part for window in range(20)}
    by_hotkey = {drawn_range(list_seed(f"hotkey{n}", 1), 2).part for n in range(20)}
    assert by_window == by_hotkey == {0, 1}


def test_a_refusal_of_a_part_says_what_was_drawn(admitter) -> None:
    drawn = drawn_range(list_seed("hotkey1", WINDOW), 2)
    other = BlockRange(part=1 - drawn.part, parts=2)
    member, data = admitter.frame(WINDOW, blocks=other)
    refusal = admitter.checker().open_frame(WINDOW, member, data).refusal
    assert str(drawn) in str(refusal)
    assert str(other) in str(refusal)


def test_whole_payloads_ask_for_no_draw_and_a_run_without_parts_needs_none(admitter) -> None:
    assert admitter.admit(WINDOW, no_seed, blocks=WHOLE) is None
    plain = Admitter(admitter.spec, dataclasses.replace(admitter.form, max_parts=1))
    member, data = admitter.frame(WINDOW, blocks=BlockRange(part=0, parts=2))
    found = plain.checker().open_frame(WINDOW, member, data)
    assert isinstance(found.refusal, PayloadError)
    assert found.refusal.reason == "range"


def test_a_list_is_claimed_once_and_a_newer_one_is_admitted(admitter) -> None:
    assert admitter.admit(WINDOW, base_window=WINDOW - 1) is None
    assert admitter.admit(WINDOW, base_window=WINDOW - 1) is None, "scored again after a restart"
    assert admitter.admit(WINDOW + 1, base_window=WINDOW - 1) == "claimed"
    assert admitter.admit(WINDOW + 1, base_window=WINDOW) is None
    assert admitter.admit(WINDOW + 2, base_window=WINDOW) == "claimed"
    assert admitter.admit(WINDOW + 3, base_window=WINDOW + 1) is None, "a refusal claims nothing"


def test_an_older_list_than_the_last_is_claimed_too(admitter) -> None:
    assert admitter.admit(WINDOW, base_window=WINDOW) is None
    assert admitter.admit(WINDOW + 1, base_window=WINDOW - 1) == "claimed"


def test_another_part_of_the_same_list_is_the_same_list(admitter) -> None:
    drawn = drawn_range(list_seed("hotkey1", WINDOW), 2)
    assert admitter.admit(WINDOW, base_window=WINDOW, blocks=drawn) is None
    pages = 2 * admitter.spec.training.pages_per_window
    wide = admitter.admit(WINDOW + 1, base_window=WINDOW, width=2, pages_consumed=pages)
    assert wide == "claimed"


def test_the_detail_names_both_windows(admitter) -> None:
    admitter.admit(WINDOW, base_window=WINDOW - 1)
    member, data = admitter.frame(WINDOW + 1, base_window=WINDOW - 1)
    admitter.pass_to(WINDOW + 1)
    found = admitter.checker().admit_frames(WINDOW + 1, [member], {1: data}, admitter.seen)
    words = f"the pages of window {WINDOW - 1}, as a payload of window {WINDOW} did"
    assert words in str(found[1].refusal)


def test_lists_of_others_are_their_own(admitter) -> None:
    seen = admitter.seen
    seen.add_positions(WINDOW, [], {"hotkey2": WINDOW})
    admitter.next = WINDOW + 1
    assert seen.claimed_since("hotkey2", WINDOW, WINDOW + 1) == WINDOW
    assert seen.claimed_since("hotkey2", WINDOW + 1, WINDOW + 1) is None
    assert admitter.admit(WINDOW + 1, base_window=WINDOW) is None


def test_claims_are_forgotten_once_they_are_stale(admitter) -> None:
    seen, reach = admitter.seen, admitter.spec.outer.max_staleness + 2
    for window in range(40):
        seen.add_positions(window, [], {f"hotkey{window}": window, "busy": window})
        assert len(seen._bases) <= reach + 2
        assert len(seen._bases["busy"]) <= reach + 1
    assert seen.claimed_since(f"hotkey{39 - reach}", 0, 40) == 39 - reach
    assert seen.claimed_since(f"hotkey{38 - reach}", 0, 40) is None
    seen.add_positions(20, [])
    assert seen.claimed_since("busy", 0, 40) is None, "a window scored anew replaces all later ones"


def test_a_payload_read_late_has_claimed_its_list(admitter) -> None:
    """Nobody read it in its window; its miner claims the list again, in a payload of new values."""
    owner, frame = admitter.frame(WINDOW, base_window=WINDOW)
    admitter.pass_to(WINDOW)
    admitter.seen.add_positions(WINDOW, [])
    admitter.seen.add_unread(WINDOW, [owner])
    again, data = admitter.frame(WINDOW + 1, base_window=WINDOW)
    checker = admitter.checker()
    before = checker.admit_frames(WINDOW + 1, [again], {1: data}, admitter.seen)
    assert before[1].refusal is None, "as far as is known"
    wanted = admitter.seen.unread_before(WINDOW + 1)
    assert checker.read_more(wanted, admitter.seen, lambda w: [(each, frame) for each in w])
    after = checker.admit_frames(WINDOW + 1, [again], {1: data}, admitter.seen)
    assert isinstance(after[1].refusal, PayloadError)
    assert after[1].refusal.reason == "claimed"
