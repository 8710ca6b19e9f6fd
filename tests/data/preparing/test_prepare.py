"""Whole preparations against a naive reference, and against interruptions at any moment."""

import hashlib
import itertools
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from template.data.folder import open_folder
from template.data.preparing.bpe import train_bpe
from template.data.preparing.documents import Document, Piece, pieces_of
from template.data.preparing.order import Order, Prepared
from template.data.preparing.prepare import WORK, prepare
from template.data.preparing.settings import Bounds, Choices
from template.data.preparing.vocabulary import TokenizerChoice
from template.data.tokenizer import ByteTokenizer, Tokenizer, open_tokenizer
from template.errors import ConfigError, StateError

PAGE_TOKENS, SEGMENT_PAGES = 16, 4
SEGMENT_TOKENS = PAGE_TOKENS * SEGMENT_PAGES
SMALL = Bounds(run_bytes=900, bucket_bytes=3_000, part_bytes=2_500, min_buckets=2)
"""Every phase has many jobs."""
WORDS = [f"{a}{b}" for a, b in itertools.product(("to", "be", "or", "not"), "aeiou")]


def texts_of(count: int = 150) -> list[str]:
    draw = random.Random(5)
    texts = [
        f"{number} {' '.join(draw.choices(WORDS, k=draw.randint(1, 30)))}\n"
        for number in range(count)
    ]
    return [*texts, *texts[:20]]  # some are there twice


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def order(source: Path, out: Path, **changes: Any) -> Order:
    choices = changes.pop("choices", Choices(held_out_ppm=200_000))
    settings = {
        "inputs": (str(source),),
        "out": out,
        "choices": choices,
        "tokenizer": TokenizerChoice(),
        "page_tokens": PAGE_TOKENS,
        "segment_pages": SEGMENT_PAGES,
        "shard_segments": 20,
        "bounds": SMALL,
        "workers": 0,
    }
    return Order(**(settings | changes))


def silent(_line: str) -> None:
    pass


def files_of(folder: Path) -> dict[str, str]:
    """Every file and its digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def tokens_of(out: Path) -> tuple[Tokenizer, dict[str, list[int]]]:
    """The tokens of both sides, read back and verified."""
    folder = open_folder(out)
    manifest = folder.manifest
    sides = {"train": manifest.shards, "held_out": (manifest.held_out,)}
    tokens = {
        side: np.frombuffer(
            b"".join(folder.shard_data(shard) for shard in shards), f"<u{manifest.token_bytes}"
        ).tolist()
        for side, shards in sides.items()
    }
    return open_tokenizer(manifest.tokenizer, folder.tokenizer_file), tokens


def naive(source: Path, choices: Choices, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """The same dataset, made in memory from the file's lines."""
    pieces: list[Piece] = []
    place = 0
    for line in source.read_bytes().splitlines(keepends=True):
        text = json.loads(line)["text"].encode()
        pieces += pieces_of(Document(source=0, place=place, text=text), choices)
        place += len(line)
    pieces.sort(key=lambda piece: (piece.key, piece.place))
    sides: dict[str, list[int]] = {"train": [], "held_out": []}
    seen = set()
    for piece in pieces:
        if piece.key not in seen:
            seen.add(piece.key)
            tokens = tokenizer.encode(piece.text).tolist()
            side = "held_out" if piece.is_held_out else "train"
            sides[side] += [*tokens, tokenizer.entry.end_of_document]
    return {
        side: tokens[: len(tokens) - len(tokens) % SEGMENT_TOKENS] for side, tokens in sides.items()
    }


@pytest.mark.parametrize(
    "choices",
    [
        Choices(held_out_ppm=200_000),
        Choices(held_out_ppm=200_000, seed=9),
        Choices(held_out_ppm=200_000, dedup=True, cut_bytes=256),
    ],
)
@pytest.mark.parametrize("vocab_size", [0, 300])
def test_a_dataset_is_what_a_naive_reading_makes(
    tmp_path: Path, choices: Choices, vocab_size: int
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    choice = TokenizerChoice(train_vocab_size=vocab_size)
    made = prepare(order(source, tmp_path / "out", choices=choices, tokenizer=choice), silent)
    tokenizer, tokens = tokens_of(tmp_path / "out")
    assert tokens == naive(source, choices, tokenizer)
    counts = made.card["counts"]
    assert counts["repeats"] == (20 if choices.dedup else 0)
    for side, name in (("train", "train"), ("held_out", "held_out")):
        assert counts[side]["tokens_in_shards"] == len(tokens[name])
        assert 0 <= counts[side]["tokens"] - len(tokens[name]) < SEGMENT_TOKENS
    assert not (tmp_path / "out" / WORK).exists()


def test_bounds_and_the_files_that_hold_the_lines_decide_no_byte(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    found = []
    for number, bounds in enumerate((SMALL, Bounds(), Bounds(part_bytes=1_500, run_bytes=1))):
        out = tmp_path / str(number)
        prepare(order(source, out, bounds=bounds), silent)
        found.append(files_of(out))
    assert found[0] == found[1] == found[2]


class _Stop(Exception):
    """A fault of a test in the middle of a preparation."""


def stopping_after(count: int) -> Callable[[str], None]:
    left = [count]

    def say(_line: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise _Stop

    return say


def test_a_preparation_goes_on_where_it_stopped_and_ends_in_the_same_bytes(
    tmp_path: Path,
) -> None:
    """Stopped before every line that it says, and after half of the files of every phase."""
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    whole = order(source, tmp_path / "whole", tokenizer=TokenizerChoice(train_vocab_size=300))
    lines: list[str] = []
    prepare(whole, lines.append)
    broken = replace(whole, out=tmp_path / "broken")
    for count in range(len(lines)):
        with pytest.raises(_Stop):
            prepare(broken, stopping_after(count))
        # A kill in the middle of a phase: some jobs have ended, one has left half a file.
        for folder in (tmp_path / "broken" / WORK).iterdir():
            done = sorted(folder.glob("*.json")) if folder.is_dir() else []
            for path in done[len(done) // 2 :]:
                path.unlink()
                path.with_suffix(".text").write_bytes(b"half a te")
                path.with_suffix(".train").write_bytes(b"h")
    prepare(broken, silent)
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    whole = order(source, tmp_path / "out")
    with pytest.raises(_Stop):
        prepare(whole, stopping_after(6))
    work = tmp_path / "out" / WORK
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.json")}
    assert len([path for path in before if path.parent.name == "parts"]) > 3
    with pytest.raises(_Stop):
        prepare(whole, stopping_after(8))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_unfinished_preparation_is_not_mixed_with_another(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    first = order(source, tmp_path / "out")
    with pytest.raises(_Stop):
        prepare(first, stopping_after(4))
    with pytest.raises(ConfigError, match=r"another seed: 0, not 1; give the flags of before"):
        prepare(replace(first, choices=replace(first.choices, seed=1)), silent)
    with pytest.raises(ConfigError, match=r"another tokenizer: .*remove the folder"):
        prepare(replace(first, tokenizer=TokenizerChoice(train_vocab_size=300)), silent)
    write_jsonl(source, texts_of(151))
    with pytest.raises(ConfigError, match=r"a\.jsonl: changed since this preparation began"):
        prepare(first, silent)
    shutil.rmtree(tmp_path / "out" / WORK)
    prepare(first, silent)
    with pytest.raises(ConfigError, match="holds a prepared dataset already"):
        prepare(first, silent)


def test_two_commands_do_not_prepare_one_folder(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    first = order(source, tmp_path / "out")

    def try_again(_line: str) -> None:
        with pytest.raises(ConfigError, match="another command prepares it"):
            prepare(first, silent)

    prepare(first, try_again)


def test_bad_documents_end_the_command_or_are_counted(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    clean = prepare(order(source, tmp_path / "clean"), silent)
    with source.open("ab") as file:
        file.write(b'{"text": ""}\n{"tex": "x"}\n{"text": 1}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl, line 172: has no field text.*--skip-bad"):
        prepare(order(source, tmp_path / "out"), silent)
    choices = Choices(held_out_ppm=200_000, skip_bad=True)
    lines: list[str] = []
    made = prepare(order(source, tmp_path / "skipped", choices=choices), lines.append)
    counts = made.card["counts"]
    assert (counts["empty"], counts["bad"]) == (1, 2)
    assert made.manifest == clean.manifest
    assert [line for line in lines if "line 173: field text holds no text" in line]


def test_a_leak_is_measured(tmp_path: Path) -> None:
    """Documents that are there twice and cut apart: half of the held-out text leaks."""
    draw = random.Random(3)
    texts = ["".join(draw.choices("abcdefgh", k=100)) for _ in range(200)]
    clean = prepare(order(write_jsonl(tmp_path / "a.jsonl", texts), tmp_path / "clean"), silent)
    assert clean.card["leak"]["num_found"] == 0
    # Each text again behind a word of its own: another hash, so perhaps on the other side.
    twice = [*texts, *(f"{number} {text}" for number, text in enumerate(texts))]
    leaky = prepare(order(write_jsonl(tmp_path / "b.jsonl", twice), tmp_path / "leaky"), silent)
    leak = leaky.card["leak"]
    # A held-out text's twin is in the training text in 80 % of the cases.
    assert 0.65 < leak["num_found"] / leak["num_grams"] < 0.92


def test_documents_too_short_for_a_leak_are_told_in_a_sentence(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [f"text number {number}" for number in range(400)])
    lines: list[str] = []
    prepare(order(source, tmp_path / "out"), lines.append)
    words = "no document of the held-out text is so long that it has 40-grams of tokens to look for"
    assert f"leak: {words}" in lines
    assert f"Leak: {words}." in (tmp_path / "out" / "CARD.md").read_text()


def test_a_document_that_spells_the_separator_ends_no_document(tmp_path: Path) -> None:
    texts = [f"{text} <|endoftext|> more" for text in texts_of()]
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    choice = TokenizerChoice(train_vocab_size=300)
    made = prepare(order(source, tmp_path / "out", tokenizer=choice), silent)
    tokenizer, tokens = tokens_of(tmp_path / "out")
    end = tokenizer.entry.end_of_document
    for side in ("train", "held_out"):
        count = tokens[side].count(end)
        assert 0 <= made.card["counts"][side]["documents"] - count <= SEGMENT_TOKENS


def tokenizer_file(folder: Path, end: str = "<|endoftext|>") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "tokenizer.json"
    data = train_bpe([text.encode() for text in texts_of()], 300)
    path.write_bytes(data.replace(b"<|endoftext|>", end.encode()))
    return path


def test_a_tokenizer_of_a_file_is_taken_with_its_separator(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    for end, given in (("</s>", None), ("<of mine>", "<of mine>")):
        path = tokenizer_file(tmp_path / "mine", end)
        out = tmp_path / end.strip("</>")
        choice = TokenizerChoice(path=path, end_of_document=given)
        made = prepare(order(source, out, tokenizer=choice), silent)
        assert (out / "tokenizer.json").read_bytes() == path.read_bytes()
        assert made.manifest.tokenizer.name == "mine"
        tokenizer, tokens = tokens_of(out)
        assert tokens == naive(source, Choices(held_out_ppm=200_000), tokenizer)


def test_a_wrong_tokenizer_is_refused_before_the_input_is_read(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    strange = tokenizer_file(tmp_path / "strange", "<nobody knows>")
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"{}")
    for choice, message in (
        (TokenizerChoice(path=strange), "name one with --end-of-document .<nobody knows>"),
        (TokenizerChoice(path=strange, end_of_document="</s>"), "not in the vocabulary"),
        (TokenizerChoice(path=broken), "its model is none of"),
        (TokenizerChoice(path=tmp_path / "absent"), "cannot be read"),
    ):
        lines: list[str] = []
        with pytest.raises(ConfigError, match=message):
            prepare(order(source, tmp_path / "out", tokenizer=choice), lines.append)
        assert lines == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": Choices(held_out_ppm=1)}, "the held-out text has 0 tokens.*--held-out"),
        ({"segment_pages": 5_000}, "less than a segment .5000 pages of 16.: .*--segment-pages"),
        ({"page_tokens": 2**26}, "segment_pages"),
    ],
)
def test_sizes_that_do_not_fit_the_text_are_refused(tmp_path: Path, changes, message) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    with pytest.raises(ConfigError, match=message):
        prepare(order(source, tmp_path / "out", shard_segments=0, **changes), silent)


def test_an_input_without_a_text_is_refused(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["", ""])
    with pytest.raises(ConfigError, match="no document with a text"):
        prepare(order(source, tmp_path / "out"), silent)


def test_a_disk_that_refuses_is_told_with_the_remedy(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    (tmp_path / "out").write_bytes(b"a file where the folder belongs")
    with pytest.raises(StateError, match="is a file, and a folder belongs there"):
        prepare(order(source, tmp_path / "out"), silent)


def test_memory_is_bounded_by_the_bounds(tmp_path: Path) -> None:
    """The most text that any worker gathered, for an input of eight times the size."""
    for count in (100, 800):
        source = write_jsonl(tmp_path / "a.jsonl", texts_of(count))
        out = tmp_path / str(count)
        whole = order(source, out, bounds=replace(SMALL, part_bytes=2**30))
        with pytest.raises(_Stop):
            prepare(whole, stopping_after(6))
        (done,) = (out / WORK / "parts").glob("*.json")
        longest = max(len(text) for text in texts_of(count))
        assert json.loads(done.read_bytes())["peak_bytes"] <= SMALL.run_bytes + longest


def test_the_card_says_what_went_in(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    source = write_jsonl(folder / "a|b.jsonl", texts_of())
    made: Prepared = prepare(order(folder, tmp_path / "out", licence="CC0"), silent)
    card = json.loads((tmp_path / "out" / "card.json").read_bytes())
    assert card == made.card
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert card["sources"] == [
        {
            "name": "corpus/a|b.jsonl",
            "kind": "jsonl",
            "bytes": source.stat().st_size,
            "sha256": digest,
        }
    ]
    assert card["licence"] == "CC0"
    data = (tmp_path / "out" / "manifest.json").read_bytes()
    assert card["manifest_sha256"] == hashlib.sha256(data).hexdigest()
    text = (tmp_path / "out" / "CARD.md").read_text()
    assert f"| corpus/a\\|b.jsonl | jsonl | {source.stat().st_size:,} | {digest} |" in text
    assert str(tmp_path) not in text
    assert "Licence: CC0" in text


def test_bytes_need_no_file(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", texts_of())
    prepare(order(source, tmp_path / "out"), silent)
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    tokenizer, tokens = tokens_of(tmp_path / "out")
    assert isinstance(tokenizer, ByteTokenizer)
    every = {text.encode() for text in texts_of()}
    joined = bytes(tokens["train"])
    found = {text for text in every if text + b"\n" in joined}
    assert len(found) > len(every) / 2
