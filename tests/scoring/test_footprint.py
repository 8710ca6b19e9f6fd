"""The places that the overlap rule compares: of the whole model, or drawn over all of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from compression import CodecError, chunk_places, encode, make_plan, tensor_layout
from compression.chunking import CHUNK_ELEMENTS
from template.errors import PayloadError, StateError
from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
    payload_digest,
)
from template.protocol.ranges import WHOLE, BlockRange
from template.protocol.root import Member
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.scoring import footprint, rules
from template.scoring.admission import Admission, FrameChecker, SeenPayloads
from template.scoring.footprint import (
    HeldBody,
    Shelf,
    footprint_of,
    is_sampled,
    places_in,
    sampled_chunks,
)

SHAPES = {"a.embed": (642, 130), "b.norm": (70,), "c.layer": (1282, 130), "d.last": (9000,)}
FORM = PayloadFormat(run_id=bytes(16), shapes=SHAPES, top_k=64)
WINDOW = 9


def draw(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def frame_of(
    tensors: dict[str, torch.Tensor], spec: RunSpec, uid: int, window: int = WINDOW
) -> tuple[Member, bytes]:
    key = bytes([uid]) * 32
    header = PayloadHeader(
        window=window,
        base_window=window,
        pages_consumed=spec.training.pages_per_window,
        public_key=key,
    )
    data, _ = encode_payload(header, tensors, FORM)
    member = Member(
        uid=uid, hotkey=f"hotkey{uid}", public_key=key, coldkey=key, digest=payload_digest(data)
    )
    return member, data


def opened(tensors: dict[str, torch.Tensor], spec: RunSpec) -> Payload:
    return decode_payload(frame_of(tensors, spec, 1)[1], FORM)


def seed_of(window: int) -> bytes:
    return bytes([window]) * 32


def chunk_of(name: str, flat: int) -> tuple[int, int]:
    """The number of a chunk in the plan, and the index in the chunk: by the drawn layout."""
    number = 0
    for other in sorted(SHAPES):
        for group in tensor_layout(SHAPES[other], 64).groups:
            for chunk, base in enumerate(group.bases().tolist()):
                if other == name:
                    row, col = divmod(flat - base, group.stride) if flat >= base else (-1, -1)
                    if 0 <= row < group.height and 0 <= col < group.width:
                        return number + chunk, row * group.width + col
            number += group.num_chunks
    raise AssertionError("in no chunk")


def test_places_are_those_of_the_kept_values(spec: RunSpec) -> None:
    payload = opened(draw(1), spec)
    expected = []
    for name, sparse in payload.tensors.items():
        for flat in sparse.indices.tolist():
            number, index = chunk_of(name, flat)
            expected.append(number * CHUNK_ELEMENTS + index)
    found = footprint_of(payload, FORM)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int32
    assert found.tolist() == sorted(expected)
    assert len(set(expected)) == FORM.plan.num_kept
    some = np.array([0, 3, 17, FORM.plan.num_chunks - 1])
    parts = [np.array(expected)[np.array(expected) // CHUNK_ELEMENTS == chunk] for chunk in some]
    ranked = [
        np.sort(part) % CHUNK_ELEMENTS + rank * CHUNK_ELEMENTS for rank, part in enumerate(parts)
    ]
    assert chunk_places(payload.body, FORM.plan, some).tolist() == np.concatenate(ranked).tolist()
    assert chunk_places(payload.body, FORM.plan, some[:0]).size == 0


def test_a_damaged_chunk_is_refused_where_it_is_read() -> None:
    plan = make_plan({"m": (64, 192)})
    body = bytearray(encode({"m": torch.ones(64, 192)}, plan, 1))
    run = plan.runs[0]
    body[run.places.uppers + run.places.upper_bytes] ^= 0xFF
    chunk_places(bytes(body), plan, np.array([0, 2]))
    with pytest.raises(CodecError, match="m: an upper map"):
        chunk_places(bytes(body), plan, np.array([0, 1]))
    with pytest.raises(CodecError, match="bytes"):
        chunk_places(bytes(body[:-1]), plan, np.array([0]))


def test_the_chunks_are_drawn_over_the_whole_model(monkeypatch) -> None:
    """At the size of the limit, and at 100 M and 72 B parameters."""
    for num_chunks in (footprint.MAX_CHUNKS + 1, 24_500, 17_600_000):
        drawn = sampled_chunks(seed_of(1), 5, num_chunks)
        assert (np.diff(drawn) > 0).all()
        assert 0 <= drawn[0] < drawn[-1] < num_chunks
        assert 0.6 * footprint.MAX_CHUNKS < drawn.size <= footprint.MAX_CHUNKS
        shares = np.histogram(drawn, bins=10, range=(0, num_chunks))[0] / drawn.size
        assert shares.min() > 0.07
    assert (
        sampled_chunks(seed_of(1), 5, 10**6).tolist()
        != sampled_chunks(seed_of(2), 5, 10**6).tolist()
    )
    assert (
        sampled_chunks(seed_of(1), 5, 10**6).tolist()
        != sampled_chunks(seed_of(1), 6, 10**6).tolist()
    )
    monkeypatch.setattr(footprint, "MAX_CHUNKS", 8)
    # Golden: all validators must look at the same places.
    assert sampled_chunks(bytes(range(32)), 3, 1000).tolist() == GOLDEN


GOLDEN = [86, 293, 443, 464, 606, 796, 872, 928]


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of half of the model's chunks: what 2^25 elements are to 70 M parameters."""
    monkeypatch.setattr(footprint, "MAX_CHUNKS", FORM.plan.num_chunks // 2)


def two_thirds_copied(own: int, copied: int) -> dict[str, torch.Tensor]:
    """The first third is the thief's own work: there the rule looked before, and nowhere else."""
    made, stolen = draw(own), draw(copied)
    return {name: made[name] if name == "a.embed" else stolen[name] for name in SHAPES}


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("later", [0, 1])
def test_a_copy_of_two_thirds_is_found_wherever_it_lies(spec: RunSpec, tmp_path, later) -> None:
    """In the window and a window later; with the front of the model alone it passed."""
    assert is_sampled(FORM)
    checker = FrameChecker(run=Run(spec), form_at=lambda _: FORM, sample_seed=seed_of)
    seen = SeenPayloads(lambda _: spec.outer.max_staleness, Shelf(tmp_path / "seen").keep)
    for window in range(WINDOW):
        seen.add_positions(window, [])
    honest, honest_frame = frame_of(draw(1), spec, 1)
    other, other_frame = frame_of(draw(3), spec, 3, WINDOW + later)
    thief, stolen = frame_of(two_thirds_copied(2, 1), spec, 2, WINDOW + later)
    if later:
        found = checker.admit_frames(WINDOW, [honest], {1: honest_frame}, seen)
        seen.add_positions(WINDOW, [(honest.hotkey, checker.list_positions(_payload(found[1])))])
        both = {2: stolen, 3: other_frame}
        found = checker.admit_frames(WINDOW + 1, [thief, other], both, seen)
        assert found[2].refusal is not None
        assert "with hotkey1 in window 9" in str(found[2].refusal)
    else:
        frames = {1: honest_frame, 2: stolen, 3: other_frame}
        found = checker.admit_frames(WINDOW, [honest, thief, other], frames, seen)
        assert (found[1].alike, found[2].alike) == ((2,), (1,))
    assert found[3].refusal is None
    assert found[3].alike == ()


@pytest.mark.usefixtures("small_limit")
def test_the_front_of_the_model_alone_does_not_show_it(spec: RunSpec) -> None:
    """The rule before: the first elements, in the order of the tensors' names."""
    bodies = [opened(t, spec).body for t in (draw(1), two_thirds_copied(2, 1))]
    front = np.arange(tensor_layout(SHAPES["a.embed"], 64).num_chunks)
    for chunks, is_seen in (
        (front, False),
        (sampled_chunks(seed_of(WINDOW), WINDOW, FORM.plan.num_chunks), True),
    ):
        one, other = (chunk_places(body, FORM.plan, chunks) for body in bodies)
        share = np.intersect1d(one, other).size / one.size
        assert (share > spec.evaluation.max_overlap) == is_seen


CUT_SHAPES = {
    "embed": (642, 130),
    "layers.0.a": (1282, 130),
    "layers.1.a": (642, 130),
    "norm": (9000,),
}
CUT = PayloadFormat(run_id=bytes(16), shapes=CUT_SHAPES, top_k=64, max_parts=2)


def part_frame(
    spec: RunSpec, uid: int, seed: int, blocks: BlockRange, window: int = WINDOW
) -> tuple[Member, bytes]:
    """A frame of values drawn by `seed` for the whole model, of a part of them."""
    key = bytes([uid]) * 32
    header = PayloadHeader(
        window=window,
        base_window=window,
        pages_consumed=spec.training.pages_per_window,
        public_key=key,
        blocks=blocks,
    )
    generator = torch.Generator().manual_seed(seed)
    dense = {n: torch.randn(shape, generator=generator) for n, shape in CUT_SHAPES.items()}
    data, _ = encode_payload(header, dense, CUT)
    return Member(
        uid=uid, hotkey=f"hotkey{uid}", public_key=key, coldkey=key, digest=payload_digest(data)
    ), data


def part_checker(spec: RunSpec, part: int, monkeypatch: pytest.MonkeyPatch) -> FrameChecker:
    """The checker of a run in which every miner draws this half."""
    monkeypatch.setattr(
        rules, "drawn_range", lambda seed, parts: BlockRange(part=part, parts=parts)
    )
    return FrameChecker(
        run=Run(spec),
        form_at=lambda _: CUT,
        sample_seed=seed_of,
        list_seed=lambda h, w: b"seed",
    )


@pytest.mark.parametrize("limit", [None, 2], ids=["all places", "sampled"])
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("later", [0, 1])
def test_a_part_copied_of_a_whole_payload_is_found(
    spec: RunSpec, tmp_path, monkeypatch, limit, part, later
) -> None:
    """By the share of the smaller one: all that the thief sends is another's."""
    if limit:
        monkeypatch.setattr(footprint, "MAX_CHUNKS", CUT.plan.num_chunks // limit)
    assert is_sampled(CUT) == bool(limit)
    half = BlockRange(part=part, parts=2)
    checker = part_checker(spec, part, monkeypatch)
    seen = SeenPayloads(lambda _: spec.outer.max_staleness, Shelf(tmp_path / "seen").keep)
    for window in range(WINDOW):
        seen.add_positions(window, [])
    honest = part_frame(spec, 1, 1, WHOLE)
    thief = part_frame(spec, 2, 1, half, WINDOW + later)
    other = part_frame(spec, 3, 3, half, WINDOW + later)
    made = [thief, other] if later else [honest, thief, other]
    if later:
        found = checker.admit_frames(WINDOW, [honest[0]], {1: honest[1]}, seen)
        kept = checker.list_positions(_payload(found[1]))
        seen.add_positions(WINDOW, [(honest[0].hotkey, kept)])
    frames = {member.uid: data for member, data in made}
    found = checker.admit_frames(WINDOW + later, [m for m, _ in made], frames, seen)
    if later:
        assert isinstance(found[2].refusal, PayloadError)
        assert found[2].refusal.reason == "overlap"
        assert "with hotkey1 in window 9" in str(found[2].refusal)
    else:
        assert (found[1].alike, found[2].alike) == ((2,), (1,))
    assert found[3].refusal is None
    assert found[3].alike == ()


@pytest.mark.parametrize("limit", [None, 2], ids=["all places", "sampled"])
def test_other_parts_of_a_model_have_nothing_in_common(spec: RunSpec, monkeypatch, limit) -> None:
    """The tensors that a payload lacks are no places of it, though they are zeros in its body."""
    if limit:
        monkeypatch.setattr(footprint, "MAX_CHUNKS", CUT.plan.num_chunks // limit)
    bodies = [
        decode_payload(part_frame(spec, 1, 1, BlockRange(part=part, parts=2))[1], CUT)
        for part in (0, 1)
    ]
    whole = decode_payload(part_frame(spec, 1, 1, WHOLE)[1], CUT)
    low, high, all_places = (
        places_in(footprint_of(payload, CUT), CUT, WINDOW, seed_of) for payload in (*bodies, whole)
    )
    assert np.intersect1d(low, high).size == 0
    assert low.size > 0 < high.size
    assert sorted([*low.tolist(), *high.tolist()]) == all_places.tolist()


def _payload(found: Admission) -> Payload:
    assert found.payload is not None
    return found.payload


@pytest.mark.usefixtures("small_limit")
def test_each_window_looks_elsewhere(spec: RunSpec) -> None:
    held = footprint_of(opened(draw(1), spec), FORM)
    assert isinstance(held, HeldBody)
    looks = [places_in(held, FORM, window, seed_of).tolist() for window in (4, 4, 5)]
    assert looks[0] == looks[1] != looks[2]
    assert max(looks[0]) < footprint.MAX_CHUNKS * CHUNK_ELEMENTS


@pytest.mark.usefixtures("small_limit")
def test_a_checker_without_a_draw_says_so(spec: RunSpec) -> None:
    member, frame = frame_of(draw(1), spec, 1)
    checker = FrameChecker(run=Run(spec), form_at=lambda _: FORM)
    with pytest.raises(ValueError, match="drawn sample"):
        checker.admit_frames(WINDOW, [member], {1: frame}, SeenPayloads(lambda _: 2))


def test_bodies_on_the_shelf_have_no_names_and_go_with_their_readers(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "seen")
    held = shelf.keep(HeldBody(body=b"body", names=frozenset("ab")))
    assert isinstance(held, HeldBody)
    assert bytes(held.body) == b"body"
    assert held.names == {"a", "b"}
    assert list((tmp_path / "seen").iterdir()) == []
    places = np.arange(3, dtype=np.int32)
    assert shelf.keep(places) is places
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file"):
        Shelf(tmp_path / "file").keep(HeldBody(body=b"body", names=frozenset()))
