"""Cutting and keying documents, against what a reader of the text sees."""

from hypothesis import given
from hypothesis import strategies as st

from template.data.preparing.documents import Document, pieces_of, slices
from template.data.preparing.settings import Choices

TEXTS = st.text(st.sampled_from("ab\n\u00e9\u20ac\U0001f600"), max_size=60)


def document(text: bytes, source: int = 0, place: int = 0) -> Document:
    return Document(source=source, place=place, text=text)


@given(TEXTS, st.integers(4, 20))
def test_slices_are_the_text_in_whole_letters(text: str, limit: int) -> None:
    found = list(slices(text.encode(), limit))
    assert b"".join(found) == text.encode()
    assert all(len(each) <= limit for each in found)
    assert "".join(each.decode() for each in found) == text  # no letter is cut
    assert all(found) or not text


@given(TEXTS, st.integers(4, 20))
def test_a_slice_ends_at_the_last_line_end_that_fits(text: str, limit: int) -> None:
    data = text.encode()
    *before_last, _last = slices(data, limit)
    start = 0
    for each in before_last:
        window = data[start : start + limit]
        assert each == window[: window.rfind(b"\n") + 1] if b"\n" in window else b"\n" not in each
        start += len(each)


def test_equal_texts_share_keys_with_dedup_alone() -> None:
    for dedup in (True, False):
        choices = Choices(dedup=dedup)
        keys = {
            next(pieces_of(document(b"same", source, place), choices)).key
            for source, place in ((0, 0), (0, 9), (1, 0))
        }
        assert len(keys) == (1 if dedup else 3)


def test_every_piece_of_a_document_has_its_own_key_and_the_same_side() -> None:
    choices = Choices(cut_bytes=256, held_out_ppm=500_000)
    sides = set()
    for number in range(20):
        text = (f"{number} line\n" * 100).encode()
        pieces = list(pieces_of(document(text), choices))
        assert b"".join(piece.text for piece in pieces) == text
        assert len({piece.key for piece in pieces}) == len(pieces) > 1
        assert len({piece.is_held_out for piece in pieces}) == 1
        sides.add(pieces[0].is_held_out)
    assert sides == {True, False}


def test_the_share_of_held_out_documents_is_as_asked() -> None:
    """Of 20,000 documents 10 % are 2,000, and 5 standard deviations are 212."""
    count = sum(
        next(pieces_of(document(b"%d" % number), Choices(held_out_ppm=100_000))).is_held_out
        for number in range(20_000)
    )
    assert 1_788 < count < 2_212


def test_another_seed_gives_another_order_and_other_held_out_documents() -> None:
    texts = [b"%d" % number for number in range(200)]
    orders, sides = [], []
    for seed in (0, 1):
        choices = Choices(seed=seed, held_out_ppm=500_000)
        pieces = [next(pieces_of(document(text), choices)) for text in texts]
        orders.append([piece.text for piece in sorted(pieces, key=lambda piece: piece.key)])
        sides.append([piece.is_held_out for piece in pieces])
    assert orders[0] != orders[1] != texts
    assert sides[0] != sides[1]


def test_a_reader_may_say_the_side() -> None:
    for is_held_out in (True, False):
        given_side = Document(source=0, place=0, text=b"x", is_held_out=is_held_out)
        assert next(pieces_of(given_side, Choices())).is_held_out is is_held_out
