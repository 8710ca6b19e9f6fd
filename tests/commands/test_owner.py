"""Preparing a run: the spec names exactly the blobs that are uploaded, the same every time."""

import hashlib
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from simulation.swarm import small_plan, synthetic_corpus
from simulation.world import hotkey_of
from template.commands.plan import (
    PreparedRun,
    RunChoices,
    check_plan,
    load_plan,
    prepare_run,
    upload,
    upload_missing,
    wide_hotkeys,
)
from template.data.folder import (
    LISTS,
    MANIFEST_NAME,
    SHARDS,
    DatasetFolder,
    list_path,
    open_folder,
    shard_path,
)
from template.data.manifest import manifest_bytes, parse_manifest
from template.data.pages import PageReader
from template.data.source import Files, LocalSource
from template.errors import ConfigError, Unavailable
from template.protocol.keys import blob_key, shard_key
from template.protocol.spec import parse_spec, spec_to_toml
from template.store.memory import MemoryStore
from template.store.types import Take
from template.sync.dataset import MAX_PADDING, check_manifest
from template.training.scorer import Scorer
from template.training.theta0 import load_theta0, parse_index

ROOT = Path(__file__).resolve().parents[2]
PLANS = [ROOT / "runs" / f"{name}.toml" for name in ("localnet", "testnet")]
"""The plans on bytes, whose model a test can build; test_plans.py has the others."""
PUBLIC_STATE_BLOCKS = 256


def _prepare(seed: int = 0, num_windows: int | None = None, **overrides: object) -> PreparedRun:
    choices = RunChoices(
        owner_hotkey=hotkey_of("owner"), start_block=99, seed=seed, num_windows=num_windows
    )
    return prepare_run(small_plan(**overrides), synthetic_corpus(20_000), choices)


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("data", f'manifest_digest = "{"00" * 32}"'),
        ("data", 'mirrors = ["5F"]'),
        ("schedule", "start_block = 7"),
        ("checkpoint", f'theta0_digest = "{"00" * 32}"'),
    ],
)
def test_a_plan_that_says_what_is_derived_is_refused(section, line, tmp_path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(f"[{section}]\n{line}\n")
    key = line.split(" ")[0]
    with pytest.raises(ConfigError, match=rf"{section}\.{key} is derived; leave it out"):
        load_plan(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"name = "])
def test_a_plan_that_cannot_be_read_is_refused_by_its_path(content, tmp_path) -> None:
    path = tmp_path / "plan.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"plan .*plan\.toml: (cannot be read|not valid TOML)"):
        load_plan(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_shipped_plan_makes_a_spec(path: Path) -> None:
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=40)
    plan = load_plan(path)
    run = prepare_run(plan, synthetic_corpus(1_000_000), choices)
    assert parse_spec(spec_to_toml(run.spec)) == run.spec
    assert check_plan(path, plan, choices).schedule == run.spec.schedule


def test_the_public_plan_keeps_to_what_a_public_node_remembers() -> None:
    path = ROOT / "runs" / "testnet.toml"
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=40)
    spec = check_plan(path, load_plan(path), choices)
    local = check_plan(path, load_plan(ROOT / "runs" / "localnet.toml"), choices)
    assert spec.schedule.network == "public"
    assert spec.model == local.model
    assert spec.weights == local.weights
    # A joiner reads the votes since the newest checkpoint, and the window before that.
    window_blocks = spec.schedule.blocks_per_window
    assert (spec.checkpoint.every_windows + 1) * window_blocks <= PUBLIC_STATE_BLOCKS


def test_a_plan_is_judged_before_anything_is_built() -> None:
    path, choices = Path("p.toml"), RunChoices(owner_hotkey=hotkey_of("owner"), start_block=99)
    with pytest.raises(ConfigError, match=r"--plan p\.toml: training\.inner_stepz: unknown key"):
        check_plan(path, small_plan(training__inner_stepz=3), choices)
    with pytest.raises(ConfigError, match=r"--plan p\.toml: .*outer\.peers_per_step"):
        check_plan(path, small_plan(outer__peers_per_step=0), choices)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model__vocab_size", 255),
        ("model__vocab_size", 256 + MAX_PADDING),
        ("evaluation__curve_pages", 10_000),
    ],
)
def test_a_run_that_nobody_could_join_is_refused(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=key.replace("__", r"\.")):
        _prepare(**{key: value})


def test_a_vocabulary_may_be_padded_within_bounds() -> None:
    """Token ids are still those of the tokenizer."""
    run = _prepare(model__vocab_size=256 + MAX_PADDING - 1)
    params = load_theta0(lambda digest, _: run.blobs[digest], run.spec)
    assert params["model.embed_tokens.weight"].shape[0] == 256 + MAX_PADDING - 1
    assert run.dataset.manifest.tokenizer.vocab_size == 256
    message = "run spec: model.vocab_size is 255, the dataset's is 256"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        _prepare(model__vocab_size=255)
    with pytest.raises(ConfigError, match="padding takes fewer than 1024 words"):
        _prepare(model__vocab_size=256 + MAX_PADDING)


def _blob(run: PreparedRun, digest: bytes, _num_bytes: int) -> bytes:
    return run.blobs[digest]


def test_every_blob_lies_under_its_hash_and_the_spec_names_them_all() -> None:
    run, bucket = _prepare(), MemoryStore()
    upload(run, bucket)
    manifest_digest, theta0_digest = (
        bytes.fromhex(d) for d in (run.spec.data.manifest_digest, run.spec.checkpoint.theta0_digest)
    )
    manifest = parse_manifest(bucket.get(blob_key(manifest_digest), max_bytes=2**20))
    shards = {bytes.fromhex(s.sha256) for s in (*manifest.shards, manifest.held_out)}
    parts = {digest for digest, _ in parse_index(run.blobs[theta0_digest], run.spec)}
    assert parts
    assert set(run.blobs) == {manifest_digest, theta0_digest} | parts
    blobs = [*run.blobs, *shards]
    assert bucket.list("") == sorted([*map(blob_key, blobs), *map(shard_key, shards)])
    sizes = [bucket.size(key) for key in bucket.list("")]
    assert run.num_bytes == sum(sizes)
    for digest in blobs:
        data = bucket.get(blob_key(digest), max_bytes=2**24)
        assert hashlib.sha256(data).digest() == digest
    params = load_theta0(lambda digest, _: run.blobs[digest], run.spec)
    assert any(tensor.std() > 0 for tensor in params.values())


def test_the_choices_are_in_the_spec() -> None:
    spec = _prepare(num_windows=3).spec
    assert spec.schedule.start_block == 99
    assert spec.schedule.num_windows == 3
    assert spec.data.mirrors == (hotkey_of("owner"),)
    assert _prepare().spec.schedule.num_windows == small_plan()["schedule"]["num_windows"]


def test_the_same_inputs_make_the_same_run_and_another_seed_another() -> None:
    one, again, other = _prepare(), _prepare(), _prepare(seed=1)
    assert one == again
    assert one.spec.run_id == again.spec.run_id != other.spec.run_id
    assert one.spec.data == other.spec.data
    assert one.spec.checkpoint.theta0_digest != other.spec.checkpoint.theta0_digest


def test_the_plan_is_left_as_it_was() -> None:
    plan = small_plan()
    prepare_run(
        plan, synthetic_corpus(20_000), RunChoices(owner_hotkey=hotkey_of("o"), start_block=9)
    )
    assert plan == small_plan()


def test_a_wrong_key_is_named() -> None:
    with pytest.raises(ConfigError, match="training"):
        _prepare(training__inner_stepz=3)
    with pytest.raises(ConfigError, match=r"outer\.peers_per_step"):
        _prepare(outer__peers_per_step=0)


def test_the_text_bears_as_many_hotkeys_as_leave_half_of_it() -> None:
    plan, corpus = small_plan(), synthetic_corpus(20_000)
    num_pages = parse_manifest(_manifest_of(_prepare())).num_pages
    size = plan["data"]["segment_pages"]
    pages = plan["training"]["inner_steps"] * plan["training"]["batch_pages"]
    bears = num_pages // size // 2 // -(-pages // size)
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=99)
    assert prepare_run(plan, corpus, replace(choices, max_hotkeys=bears)).spec
    named = rf"training\.inner_steps.*{bears + 1} hotkeys.*{num_pages} pages.*larger text"
    with pytest.raises(ConfigError, match=named):
        prepare_run(plan, corpus, replace(choices, max_hotkeys=bears + 1))


def test_the_text_bears_a_payload_of_the_widest_list() -> None:
    """One of which the widest lists leave less than half of the text is refused."""
    plan, corpus = small_plan(), synthetic_corpus(20_000)
    manifest = parse_manifest(_manifest_of(_prepare()))
    size, pages = manifest.segment_pages, 24
    assert pages == plan["training"]["inner_steps"] * plan["training"]["batch_pages"]
    bears = manifest.num_segments // 2 * size // pages
    spec = _prepare(training__max_width=bears).spec
    assert wide_hotkeys(spec, manifest) == 1
    narrow = replace(spec, training=replace(spec.training, max_width=1))
    assert wide_hotkeys(narrow, manifest) == bears
    named = rf"training\.max_width is {bears + 1}.*larger text, or a max_width of at most {bears}$"
    with pytest.raises(ConfigError, match=named):
        prepare_run(
            plan | {"training": plan["training"] | {"max_width": bears + 1}},
            corpus,
            RunChoices(owner_hotkey=hotkey_of("owner"), start_block=99),
        )


def test_more_held_out_pages_than_the_text_has_are_refused() -> None:
    manifest = parse_manifest(_manifest_of(run := _prepare()))
    evaluation = replace(run.spec.evaluation, held_out_pages=manifest.num_pages)
    spec = replace(run.spec, evaluation=evaluation)
    digest = bytes.fromhex(spec.data.manifest_digest)
    check_manifest(manifest, spec, digest)
    evaluation = replace(evaluation, held_out_pages=manifest.num_pages + 1)
    with pytest.raises(ConfigError, match=r"evaluation\.held_out_pages"):
        check_manifest(manifest, replace(spec, evaluation=evaluation), digest)


def _manifest_of(run: PreparedRun) -> bytes:
    return run.blobs[bytes.fromhex(run.spec.data.manifest_digest)]


class Failing(MemoryStore):
    """A bucket that takes so many objects and then none."""

    def __init__(self, num_objects: int) -> None:
        super().__init__()
        self.num_left = num_objects

    def put(self, key: str, data: bytes) -> None:
        if self.num_left == 0:
            raise Unavailable("away")
        self.num_left -= 1
        super().put(key, data)


def test_an_upload_that_broke_off_goes_on_where_it_was() -> None:
    run, bucket = _prepare(), Failing(2)
    said: list[str] = []
    with pytest.raises(Unavailable):
        upload_missing(run, bucket, bucket.reader(), said.append)
    assert len(bucket.list("")) == len(said) == 2
    bucket.num_left = 100
    sent_bytes = upload_missing(run, bucket, bucket.reader(), said.append)
    sizes = [bucket.size(key) for key, _ in run.objects()]
    assert sent_bytes == sum(sizes[2:]) > 0
    assert bucket.num_left == 100 - len(sizes[2:])
    assert sum("there already" in line for line in said) == 2
    assert upload_missing(run, bucket, bucket.reader(), said.append) == 0


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d + b"x", lambda d: bytes(len(d))])
def test_an_object_of_other_bytes_is_sent_again(damage) -> None:
    run, bucket = _prepare(), MemoryStore()
    upload(run, bucket)
    digest, data = next(iter(run.blobs.items()))
    bucket.put(blob_key(digest), damage(data))
    assert upload_missing(run, bucket, bucket.reader(), lambda _: None) == len(data)
    assert bucket.get(blob_key(digest), max_bytes=len(data)) == data


class FromFiles(Failing):
    """A bucket that knows which objects came from files; a download whole is refused."""

    def __init__(self) -> None:
        super().__init__(10**6)
        self.files: list[str] = []

    def reader(self) -> "FromFiles":
        return self

    def put_file(self, key: str, path: Path) -> None:
        self.files.append(key)
        MemoryStore.put(self, key, path.read_bytes())

    def get(self, key: str, *, max_bytes: int) -> bytes:
        raise AssertionError("held whole")

    def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
        data = MemoryStore.get(self, key, max_bytes=max_bytes)
        for place in range(start, len(data), 1000):
            take(data[place : place + 1000])


def test_shards_of_a_folder_go_from_their_files_and_are_compared_as_they_come(tmp_path) -> None:
    whole = _prepare()
    folder = replace(whole, dataset=_in_folder(whole.dataset, tmp_path))
    bucket = FromFiles()
    upload_missing(folder, bucket, bucket, lambda _: None)
    keys = [shard_key(bytes.fromhex(shard.sha256)) for shard in folder.shards]
    assert bucket.files == keys
    expected = MemoryStore()
    upload(whole, expected)
    assert bucket.list("") == expected.list("")
    assert all(
        MemoryStore.get(bucket, key, max_bytes=2**30) == expected.get(key, max_bytes=2**30)
        for key in bucket.list("")
    )
    assert upload_missing(folder, bucket, bucket, lambda _: None) == 0
    data = MemoryStore.get(bucket, keys[0], max_bytes=2**30)
    bucket.put(keys[0], data[:-1] + bytes([data[-1] ^ 1]))
    assert upload_missing(folder, bucket, bucket, lambda _: None) == len(data)


def test_a_damaged_shard_of_a_folder_is_not_published(tmp_path) -> None:
    whole = _prepare()
    folder = replace(whole, dataset=_in_folder(whole.dataset, tmp_path))
    path = shard_path(tmp_path, folder.shards[-1])
    path.write_bytes(path.read_bytes()[::-1])
    bucket = FromFiles()
    with pytest.raises(ConfigError, match="another digest"):
        upload_missing(folder, bucket, bucket, lambda _: None)
    assert shard_key(bytes.fromhex(folder.shards[-1].sha256)) not in bucket.files


def _in_folder(dataset: Files, folder: Path) -> DatasetFolder:
    (folder / LISTS).mkdir()
    (folder / SHARDS).mkdir()
    for shard in (*dataset.manifest.shards, dataset.manifest.held_out):
        list_path(folder, shard).write_bytes(dataset.digest_list(shard))
        shard_path(folder, shard).write_bytes(dataset.shard_data(shard))
    (folder / MANIFEST_NAME).write_bytes(manifest_bytes(dataset.manifest))
    return open_folder(folder)


def test_a_warm_start_lowers_the_loss_of_theta_0_and_repeats() -> None:
    """On pages that the steps did not draw one by one: a hundred of the training text."""
    said: list[str] = []
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=99)
    cold = _prepare()
    plan = small_plan(training__warm_start_steps=40)
    warm = prepare_run(plan, synthetic_corpus(20_000), choices, said.append)
    assert warm.spec == _prepare(training__warm_start_steps=40).spec
    losses = []
    for run in (cold, warm):
        params = load_theta0(partial(_blob, run), run.spec)
        scorer = Scorer(run.spec, "cpu")
        scorer.load(params)
        manifest = parse_manifest(run.blobs[bytes.fromhex(run.spec.data.manifest_digest)])
        pages = PageReader(manifest, LocalSource(cold.dataset)).pages(range(100))
        losses.append(scorer.losses(pages).mean())
    assert losses[1] < losses[0] - 0.3
    assert said[0].endswith("step 0 of 40")
    assert len(said) == 10
