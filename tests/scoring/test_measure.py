"""A pool of which a shard is lost: the rest is measured, whole shards at a time."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.work import HELD_OUT
from template.data.corpus import Corpus, Document
from template.data.pages import CacheLimits, PageReader
from template.data.shards import Dataset, build_dataset
from template.data.source import LocalSource
from template.data.tokenizer import load_tokenizer
from template.errors import Unavailable
from template.protocol.run import Run
from template.scoring.measure import Measurer, Measurers
from template.scoring.pool import Pool
from template.training.scorer import Scorer
from tests.support.successions import successor

PAGES_PER_SHARD, SEGMENT_PAGES = 10, 5


@pytest.fixture
def dataset(spec) -> Dataset:
    page_tokens = spec.data.page_tokens
    text = bytes(np.random.default_rng(3).integers(97, 123, 4 * PAGES_PER_SHARD * page_tokens))
    held_out = bytes(range(97, 123)) * 64 * page_tokens
    corpus = Corpus(
        train=(Document(name="a", work="a", text=text),),
        held_out=(Document(name="b", work="b", text=held_out),),
    )
    return build_dataset(
        corpus,
        load_tokenizer("byte"),
        page_tokens=page_tokens,
        segment_pages=SEGMENT_PAGES,
        shard_tokens=PAGES_PER_SHARD * page_tokens,
    )


@pytest.fixture
def shards_and_reader(dataset: Dataset):
    """The shards served, by SHA-256; a reader without memory."""
    reader = PageReader(
        dataset.manifest, LocalSource(dataset), None, CacheLimits(memory_bytes=1, disk_bytes=1)
    )
    return dataset.shards, dataset.manifest, reader


def test_pages_of_a_lost_shard_are_left_out_with_their_owners(spec, shards_and_reader) -> None:
    shards, manifest, reader = shards_and_reader
    measurer = Measurer(spec, Scorer(spec, "cpu"), reader)
    ids_S = np.array([0, 11, 22, 33, 5, 15, 25])
    owners_S = np.array([HELD_OUT, HELD_OUT, HELD_OUT, HELD_OUT, 7, 7, 9])
    pool = Pool(ids_S=ids_S, owners_S=owners_S)
    assert measurer.leave_out_missing(pool) is pool
    del shards[manifest.shards[1].sha256]
    kept = measurer.leave_out_missing(pool)
    assert kept.ids_S.tolist() == [0, 22, 33, 5, 25]
    assert kept.owners_S.tolist() == [HELD_OUT, HELD_OUT, HELD_OUT, 7, 9]


@pytest.mark.parametrize(("num_lost", "is_enough"), [(2, True), (3, False)])
def test_with_fewer_than_two_held_out_pages_nothing_is_measured(
    num_lost: int, is_enough: bool, spec, shards_and_reader
) -> None:
    shards, manifest, reader = shards_and_reader
    measurer = Measurer(spec, Scorer(spec, "cpu"), reader)
    for shard in manifest.shards[:num_lost]:
        del shards[shard.sha256]
    pool = Pool(ids_S=np.array([0, 11, 22, 33]), owners_S=np.full(4, HELD_OUT))
    if is_enough:
        assert measurer.leave_out_missing(pool).ids_S.tolist() == [22, 33]
    else:
        with pytest.raises(Unavailable, match="no bucket has shards"):
            measurer.leave_out_missing(pool)


def test_a_succession_that_changes_the_curve_alone_is_followed(spec, shards_and_reader) -> None:
    """And a curve of more pages than are held out ends no node: it has all of them."""
    _, manifest, reader = shards_and_reader
    run = Run(replace(spec, evaluation=replace(spec.evaluation, curve_pages=2)))
    for window, pages in ((3, 5), (6, 10**6)):
        run.extend(successor(run.newest, window, evaluation__curve_pages=pages))

    class Opened:
        def at(self, _window: int) -> PageReader:
            return reader

    measurers = Measurers(run, Scorer(spec, "cpu"), Opened())
    lengths = [len(measurers.at(window).curve) for window in (0, 2, 3, 6)]
    assert lengths == [2, 2, 5, manifest.num_held_out_pages]
