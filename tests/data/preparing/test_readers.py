"""Readers against a naive reading of whole files, and against files that are wrong."""

import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.data.preparing.documents import BadDocument, Document
from template.data.preparing.readers import Reading, read_part
from template.data.preparing.sources import cut_sources, find_sources
from template.errors import ConfigError


def read(
    inputs: Sequence[object], part_bytes: int = 2**20, field: str = "text", limit: int = 2**20
) -> list[Document | BadDocument]:
    sources, _left_out = find_sources([str(each) for each in inputs])
    told = [0]

    def tell(num_bytes: int) -> None:
        told[0] += num_bytes

    reading = Reading(
        sources=dict(enumerate(sources)), field=field, max_document_bytes=limit, read_bytes=tell
    )
    parts = list(cut_sources(sources, part_bytes))
    found = [document for part in parts for document in read_part(reading, part)]
    if not any(isinstance(document, BadDocument) for document in found):
        assert told[0] == sum(part.num_bytes for part in parts)
    assert sum(part.num_bytes for part in parts) == sum(source.num_bytes for source in sources)
    return found


def texts(found: list[Document | BadDocument]) -> list[str]:
    assert not [each for each in found if isinstance(each, BadDocument)]
    return [each.text.decode() for each in found if isinstance(each, Document)]


def one_bad(found: list[Document | BadDocument]) -> str:
    bad = [str(each) for each in found if isinstance(each, BadDocument)]
    assert len(bad) == 1
    return bad[0]


def lines(values: Sequence[str]) -> bytes:
    return b"".join(json.dumps({"text": value}).encode() + b"\n" for value in values)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=9), max_size=12), st.integers(1, 60), st.booleans())
def test_json_lines_in_parts_are_the_lines_of_the_file(values, part_bytes, ends) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        data = b"".join(
            json.dumps({"text": value}, ensure_ascii=False).encode("utf-8", "surrogatepass")
            + b"\r\n\n"[: 1 + len(value) % 3]
            for value in values
        )
        # The last byte of a line feed may be missing, and blank lines are no documents.
        data = b"".join(line + b"\n" for line in data.replace(b"\r", b"\n").split(b"\n"))
        path.write_bytes(data if ends else data.rstrip(b"\n"))
        found = read([path], part_bytes)
        assert texts(found) == values
        places = [each.place for each in found if isinstance(each, Document)]
        assert places == sorted(set(places))
        assert found == read([path])


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson.gz", ".json.zst"])
def test_packed_lines_are_the_same_documents(tmp_path: Path, suffix: str) -> None:
    values = [f"{number} " * 50 for number in range(500)]
    halves = [lines(values[:200]), lines(values[200:])]
    path = tmp_path / f"a{suffix}"
    if suffix.endswith("gz"):
        path.write_bytes(b"".join(map(gzip.compress, halves)))
    elif suffix.endswith("zst"):
        zstandard = pytest.importorskip("zstandard")
        path.write_bytes(b"".join(map(zstandard.compress, halves)))
    else:
        path.write_bytes(b"".join(halves))
    assert texts(read([path])) == values


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_that_ends_early_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    pack = gzip.compress if suffix == ".gz" else pytest.importorskip("zstandard").compress
    path = tmp_path / f"a.jsonl{suffix}"
    whole = pack(lines([f"{number}" * 99 for number in range(99)]))
    for damaged in (whole[:-9], whole[: len(whole) // 2], b"no such format"):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"a\.jsonl.*damaged.*fetch it again"):
            read([path])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"text": "a"', "is not JSON"),
        (b"[1, 2]", "is no JSON object"),
        (b'{"body": "a"}', "has no field text (its fields: body); name the text's field"),
        (b'{"text": 7}', "field text holds no text"),
        (b'{"text": null}', "field text holds no text"),
        (b'{"text": "\xff"}', "is not UTF-8"),
        (b'{"text": "\\ud800"}', "holds half a letter"),
        (b"[" * 7_000, "is not JSON"),
        (b'{"n": ' + b"9" * 5_000 + b"}", "is not JSON"),
        (b'{"text": "' + b"a" * 1_001 + b'"}', "is longer than 1,000 bytes"),
        (b'{"text": "' + b"a" * 9_000 + b'"}', "is longer than 1,000 bytes"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path: Path, line: bytes, why: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["one", "two"]) + line + b"\n" + lines(["three"]))
    for part_bytes in (2**20, 40, 7):
        found = read([path], part_bytes, limit=1_000)
        assert one_bad(found).startswith(f"{path}, line 3: ")
        assert why in one_bad(found)
        kept = [each.text for each in found if isinstance(each, Document)]
        assert kept == [b"one", b"two", b"three"]


def test_a_file_of_text_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfsecond\n")
    (tmp_path / "a.md").write_bytes("f\u00eerst\r\n".encode())
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.txt").write_bytes(b"")
    (tmp_path / ".hidden.txt").write_bytes(b"not read")
    (tmp_path / "picture.png").write_bytes(b"not read")
    for part_bytes in (1, 2**20):
        assert texts(read([tmp_path], part_bytes)) == ["f\u00eerst\r\n", "second\n", ""]
    sources, left_out = find_sources([str(tmp_path)])
    assert left_out == [str(tmp_path / "picture.png")]
    assert [source.name for source in sources] == [
        f"{tmp_path.name}/{name}" for name in ("a.md", "b.txt", "inner/c.txt")
    ]


def test_a_text_that_is_not_utf_8_or_too_long_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo \xff\n")
    assert one_bad(read([path])).startswith(f"{path}, line 2: is not UTF-8")
    path.write_bytes(b"a" * 101)
    assert "is longer than 100 bytes" in one_bad(read([path], limit=100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: [folder / "absent.jsonl"], "does not exist"),
        (lambda folder: [folder / "a.docx"], "its name ends in none of"),
        (lambda folder: [folder / "a.tar.gz"], "its name ends in none of"),
        (lambda folder: [folder / "only_docx"], "no file in it ends in"),
        (lambda folder: [folder / "a.txt", folder / "." / "a.txt"], "given twice"),
    ],
)
def test_wrong_inputs_are_refused_with_the_remedy(tmp_path: Path, make, message: str) -> None:
    (tmp_path / "only_docx").mkdir()
    for name in ("a.docx", "a.tar.gz", "a.txt", "only_docx/a.docx"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=message):
        read(make(tmp_path))


def test_parquet_in_row_groups_is_the_column(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    values = [f"row {number} \u20ac" for number in range(1_000)]
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": values, "n": range(1_000)})
    parquet.write_table(table, path, row_group_size=70)
    for part_bytes in (1, 5_000, 2**20):
        found = read([path], part_bytes)
        assert texts(found) == values
        assert [each.place for each in found if isinstance(each, Document)] == list(range(1_000))
    with pytest.raises(ConfigError, match="has no field body .its fields: n, text.; name"):
        read([path], field="body")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="is no whole Parquet file"):
        read([path])


def test_a_row_without_text_is_named(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None, "b"]}), path)
    assert one_bad(read([path])) == f"{path}, row 2: field text holds no text"


def test_a_folder_of_datasets_is_its_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    values = [f"row {number}" for number in range(50)]
    rows = datasets.Dataset.from_dict({"body": values})
    rows.select([number for number in range(50) if number != 7]).save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "split")
    assert texts(read([tmp_path / "plain"], field="body")) == [v for v in values if v != "row 7"]
    assert texts(read([tmp_path / "split"], field="body")) == values
    with pytest.raises(ConfigError, match="has no field text .its fields: body.; name"):
        read([tmp_path / "plain"])
