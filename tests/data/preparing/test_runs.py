"""The external shuffle against a sort in memory."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from template.data.preparing.documents import Document, Piece, pieces_of
from template.data.preparing.runs import RunFile, RunWriter, bucket_bounds, read_bucket
from template.data.preparing.settings import Choices

TEXTS = st.lists(st.binary(min_size=1, max_size=12), max_size=40)


def write(folder: Path, parts: list[list[Piece]], run_bytes: int) -> tuple[RunFile, ...]:
    files = []
    for number, pieces in enumerate(parts):
        text, rows = folder / f"{number}.text", folder / f"{number}.rows"
        writer = RunWriter(text, rows, run_bytes)
        for piece in pieces:
            writer.add(piece)
        writer.close()
        longest = max((len(piece.text) for piece in pieces), default=0)
        assert writer.peak_bytes <= run_bytes + longest
        files.append(RunFile(text=text, rows=rows, run_rows=tuple(writer.run_rows)))
    return tuple(files)


def naive(pieces: list[Piece], dedup: bool) -> list[tuple[bytes, bool]]:
    found, seen = [], set()
    for piece in sorted(pieces, key=lambda piece: (piece.key, piece.source, piece.place)):
        if not dedup or piece.key not in seen:
            found.append((piece.text, piece.is_held_out))
        seen.add(piece.key)
    return found


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.integers(1, 5), st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_buckets_joined_are_the_sorted_documents(
    texts: list[bytes], num_parts: int, run_bytes: int, num_buckets: int, dedup: bool
) -> None:
    choices = Choices(dedup=dedup, held_out_ppm=300_000)
    pieces = [
        piece
        for place, text in enumerate(texts)
        for piece in pieces_of(Document(source=place % 3, place=place, text=text), choices)
    ]
    with tempfile.TemporaryDirectory() as folder:
        parts = [pieces[number::num_parts] for number in range(num_parts)]
        files = write(Path(folder), parts, run_bytes)
        buckets = [
            read_bucket(files, *bucket_bounds(number, num_buckets), dedup=dedup)
            for number in range(num_buckets)
        ]
    found = [(text.text, text.is_held_out) for bucket in buckets for text in bucket.texts]
    assert found == naive(pieces, dedup)
    expected = len(texts) - len(set(texts)) if dedup else 0
    assert sum(bucket.repeats for bucket in buckets) == expected
    kept = sum(len(text) for text, _side in found)
    left_out = sum(bucket.repeated_bytes for bucket in buckets)
    assert kept + left_out == sum(map(len, texts))


def test_of_equal_documents_the_first_in_the_input_stays(tmp_path: Path) -> None:
    """The side may be the reader's, so it matters which one stays, whatever part came first."""
    choices = Choices(dedup=True)
    late = Document(source=1, place=0, text=b"same", is_held_out=True)
    early = Document(source=0, place=7, text=b"same", is_held_out=False)
    for number, order in enumerate(([late, early], [early, late])):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = write(folder, [list(pieces_of(each, choices)) for each in order], 100)
        bucket = read_bucket(files, *bucket_bounds(0, 1), dedup=True)
        assert [text.is_held_out for text in bucket.texts] == [False]


def test_memory_is_bounded_by_the_run_whatever_the_input(tmp_path: Path) -> None:
    peaks = []
    for number, count in enumerate((100, 10_000)):
        writer = RunWriter(tmp_path / f"{number}.text", tmp_path / f"{number}.rows", 1_000)
        for place in range(count):
            document = Document(source=0, place=place, text=b"0123456789" * (1 + place % 3))
            for piece in pieces_of(document, Choices()):
                writer.add(piece)
        writer.close()
        peaks.append(writer.peak_bytes)
        assert len(writer.run_rows) == -(-sum(writer.run_rows) // writer.run_rows[0])
    assert max(peaks) <= 1_030


def test_buckets_part_the_keys_evenly(tmp_path: Path) -> None:
    """Of 16 buckets of 4,000 documents none has twice its share: 250, and 16 is a deviation."""
    pieces = [
        piece
        for place in range(4_000)
        for piece in pieces_of(Document(source=0, place=place, text=b"same"), Choices())
    ]
    files = write(tmp_path, [pieces], 1_000)
    sizes = [
        len(read_bucket(files, *bucket_bounds(number, 16), dedup=False).texts)
        for number in range(16)
    ]
    assert sum(sizes) == 4_000
    assert max(sizes) < 400
