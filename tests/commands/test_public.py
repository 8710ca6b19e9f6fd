"""`explain` and `site` by the chain and the buckets of a finished run; flags that are wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from simulation.swarm import FOUR, STAKES_TAO, TINY, build_world, honest, run, to_the_end, uid_of
from simulation.world import hotkey_of
from template import __version__, version_key
from template.base.miner import Miner
from template.base.validator import Validator
from template.bucket.site_shelf import SiteShelf
from template.cli.main import build_parser, run_command
from template.cli.public_flags import ExplainConfig, SiteConfig
from template.commands.explain import explain
from template.commands.site import render_until_the_end, write_site
from template.errors import StateError, Unavailable
from template.protocol.run import Run
from template.protocol.spec import spec_to_toml
from template.public.gather import Gatherer
from template.public.payslip_json import payslip_json
from template.settings import ChainConfig
from template.store.memory import MemoryStore
from tests.support.audited import reader
from tests.support.notices import NOTICE, asking, own_subnet, put, signed
from tests.support.schemas import check_json
from tests.support.successions import proposed, supporting

WINDOWS = 4
URL = "ws://user:pass-word@127.0.0.1:9944/very-secret"


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    world = build_world(STAKES_TAO, **{**TINY, "schedule__num_windows": WINDOWS})
    run(world, honest(*FOUR), folder)
    (folder / "run.toml").write_text(spec_to_toml(world.spec))
    return world, folder


def explain_config(played, name: str, window: int | None = None) -> ExplainConfig:
    world, folder = played
    return ExplainConfig(
        run=folder / "run.toml",
        spec=world.spec,
        chain=ChainConfig(netuid=1, network=URL, fallbacks=()),
        hotkey=hotkey_of(name),
        window=window,
        as_json=True,
    )


def site_config(played, out: Path, **changes) -> SiteConfig:
    world, folder = played
    return replace(
        SiteConfig(
            run=folder / "run.toml",
            spec=world.spec,
            chain=ChainConfig(netuid=1, network=URL, fallbacks=()),
            out=out,
            windows=100,
            watch=False,
        ),
        **changes,
    )


def test_without_a_window_the_newest_voted_one_is_explained(played, tmp_path) -> None:
    world, _ = played
    slip = explain(reader(world, tmp_path), explain_config(played, "m0"))
    assert slip.window == WINDOWS - 1
    assert slip.uid == uid_of(world, "m0")
    row = payslip_json(slip)
    check_json(row, "payslip")
    assert "user:pass-word" not in json.dumps(row)
    assert "very-secret" not in json.dumps(row)
    assert "ws://127.0.0.1:9944" in json.dumps(row)


def test_a_window_before_the_first_vote_is_an_error_in_words(played, tmp_path) -> None:
    world, _ = played
    block = world.time.block
    try:
        world.time.block = world.spec.schedule.start_block + 3
        with pytest.raises(Unavailable, match="no window has been voted on yet"):
            explain(reader(world, tmp_path), explain_config(played, "m0"))
    finally:
        world.time.block = block


def test_a_site_is_written_and_pages_of_an_older_one_leave(played, tmp_path) -> None:
    world, _ = played
    out = tmp_path / "site"
    (out / "window").mkdir(parents=True)
    (out / "window" / "00009999.html").write_text("of another run")
    (out / "mine.txt").write_text("kept")
    gatherer = Gatherer(reader(world, tmp_path), netuid=1, network="local")
    write_site(reader(world, tmp_path), gatherer, site_config(played, out), is_live=True)
    assert not (out / "window" / "00009999.html").exists()
    assert (out / "mine.txt").read_text() == "kept"
    assert 'http-equiv="refresh"' in (out / "index.html").read_text()
    row = json.loads((out / "index.json").read_text())
    assert [w["window"] for w in row["windows"]] == list(range(WINDOWS))
    config = site_config(played, out, windows=2)
    write_site(reader(world, tmp_path), gatherer, config, is_live=False)
    assert 'http-equiv="refresh"' not in (out / "index.html").read_text()
    assert sorted(path.stem for path in (out / "window").glob("*.html")) == [
        f"{w:08d}" for w in range(WINDOWS - 2, WINDOWS)
    ]


def test_a_watched_site_follows_a_succession(tmp_path) -> None:
    """It begins under the first spec, and ends where the second one ends the run."""
    end, switch = 9, 8
    names = {"owner": 0, "val-a": 1000, "m0": 0, "watcher": 0}
    world = build_world(names, **{**TINY, "schedule__num_windows": end})
    lengths = {
        "blocks_per_window": 20,
        "upload_blocks": 4,
        "scoring_blocks": 10,
        "tempo_blocks": 39,
    }
    fields = {f"schedule__{name}": length for name, length in lengths.items()}
    after = proposed(world, tmp_path, switch, **fields, schedule__num_windows=end + 1)
    supporting(tmp_path, ("val-a",), after)
    (tmp_path / "run.toml").write_text(spec_to_toml(world.spec))

    def watching(world, context) -> Run:
        reading = reader(world, tmp_path / "reading")
        reading = replace(reading, waiter=context.waiter)
        gatherer = Gatherer(reading, netuid=1, network="local")
        config = site_config((world, tmp_path), tmp_path / "site", watch=True)
        render_until_the_end(reading, gatherer, config, None)
        return reading.run

    drives = {"val-a": to_the_end(Validator), "m0": to_the_end(Miner), "watcher": watching}
    seen = run(world, drives, tmp_path)["watcher"]
    assert seen.newest.spec_id == after.spec_id
    page = (tmp_path / "site" / "index.html").read_text()
    assert f"The run has ended, after {end + 1} windows" in page
    row = json.loads((tmp_path / "site" / "index.json").read_text())
    assert [w["window"] for w in row["windows"]] == list(range(end + 1))


def test_pages_in_a_bucket_are_those_of_the_last_rendering(played, tmp_path) -> None:
    world, _ = played
    bucket = MemoryStore()
    prefix = f"{world.spec.run_id.hex()}/site/"
    bucket.put(f"{prefix}window/00009999.html", b"of an older rendering")
    bucket.put("another/site/index.html", b"of another run")
    gatherer = Gatherer(reader(world, tmp_path), netuid=1, network="local")
    config = site_config(played, tmp_path / "site")
    shelf = SiteShelf(bucket, world.spec.run_id)
    files = write_site(reader(world, tmp_path), gatherer, config, is_live=False)
    assert shelf.put(files) == sum(map(len, files.values()))
    assert bucket.list(prefix) == sorted(prefix + name for name in files)
    assert bucket.get(f"{prefix}index.html", max_bytes=10**6) == files["index.html"]
    assert shelf.put(files) == 0
    changed = {**files, "index.html": b"changed"}
    del changed["window/00000000.html"]
    assert shelf.put(changed) == len(b"changed")
    assert bucket.list(prefix) == sorted(prefix + name for name in changed)
    assert bucket.get("another/site/index.html", max_bytes=100) == b"of another run"


def test_a_page_whose_upload_failed_is_put_by_the_next_call(tmp_path) -> None:
    bucket = MemoryStore()
    shelf = SiteShelf(bucket, bytes(16))
    with pytest.raises(ValueError, match="not usable"):
        shelf.put({"a.html": b"1", "b b.html": b"2"})
    assert shelf.put({"a.html": b"1", "c.html": b"3"}) == 1


@pytest.mark.parametrize(
    ("least", "words"),
    [
        (0, ""),
        (version_key(__version__), "demands version"),
        (9_008_007, "demands version 9.8.7 or newer"),
    ],
)
def test_the_page_tells_of_a_version_that_the_owner_demands(played, tmp_path, least, words) -> None:
    world, _ = played
    world.ledger.least_version_key = least
    try:
        gatherer = Gatherer(reader(world, tmp_path), netuid=1, network="local")
        config = site_config(played, tmp_path / "site")
        files = write_site(reader(world, tmp_path), gatherer, config, is_live=False)
    finally:
        world.ledger.least_version_key = 0
    page, row = files["index.html"].decode(), json.loads(files["index.json"])
    assert row["least_version_key"] == least
    assert ("demands version" in page) == bool(words)
    assert words in page
    assert ("That one is older" in page) == (least > version_key(__version__))
    check_json(row, "run")


@pytest.mark.parametrize("version", ["0.0.1", __version__, "9.8.7"])
def test_the_page_tells_of_the_version_in_the_owners_notice(played, tmp_path, version) -> None:
    world, _ = played
    ledger, notice = world.ledger, replace(NOTICE, version=version)
    before = ledger.owner_hotkey
    try:
        put(own_subnet(world), signed(notice))
        gatherer = Gatherer(
            reader(world, tmp_path), netuid=1, network="local", ask_notice=asking(world)
        )
        config = site_config(played, tmp_path / "site")
        files = write_site(reader(world, tmp_path), gatherer, config, is_live=False)
    finally:
        ledger.owner_hotkey = before
    page, row = files["index.html"].decode(), json.loads(files["index.json"])
    assert row["notice"] == {
        "version": version, "kind": "wheel", "digest": NOTICE.digest.hex(),
    }  # fmt: skip
    check_json(row, "run")
    digest = f"wheel with SHA-256 <code>{NOTICE.digest.hex()}</code>"
    assert f"signed notice names version {version}: {digest}" in page
    assert ("Newer than version" in page) == (notice.key > version_key(__version__))


def test_without_a_notice_the_page_tells_of_none(played, tmp_path) -> None:
    world, _ = played
    gatherer = Gatherer(
        reader(world, tmp_path), netuid=1, network="local", ask_notice=asking(world)
    )
    config = site_config(played, tmp_path / "site")
    files = write_site(reader(world, tmp_path), gatherer, config, is_live=False)
    assert json.loads(files["index.json"])["notice"] is None
    assert "notice names" not in files["index.html"].decode()


def test_a_folder_that_refuses_is_an_error_with_a_remedy(played, tmp_path) -> None:
    world, _ = played
    (tmp_path / "file").write_text("")
    gatherer = Gatherer(reader(world, tmp_path), netuid=1, network="local")
    config = site_config(played, tmp_path / "file" / "site")
    with pytest.raises(StateError, match="--out"):
        write_site(reader(world, tmp_path), gatherer, config, is_live=False)


@pytest.mark.parametrize(
    ("command", "flags", "named"),
    [
        ("explain", ["5F", "--netuid", "1"], "explain: HOTKEY"),
        ("explain", [hotkey_of("m0"), "--netuid", "1", "--window=-1"], "explain: --window"),
        ("explain", [hotkey_of("m0"), "--netuid", "1", "--window", "-1"], "explain: --window"),
        ("site", ["--out", "x", "--netuid", "1", "--windows", "0"], "site: --windows"),
        ("site", ["--out", "x", "--netuid", "1", "--windows", "9999"], "site: --windows"),
        ("site", ["--out", "x", "--netuid", "1", "--bucket-of", "5F"], "site: --bucket-of"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(played, command, flags, named, capsys) -> None:
    _, folder = played
    argv = [*flags, "--run", str(folder / "run.toml")]
    assert run_command(command, argv, f"tessera {command}") == 2
    assert capsys.readouterr().err.startswith(named)


def test_help_tells_what_both_are_for() -> None:
    text = build_parser().format_help()
    assert "explain a hotkey's pay in a window" in text
    assert "render a run as static pages" in text
