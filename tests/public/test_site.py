"""The pages of a run: complete, small, escaped, without secrets, and the same as their JSON."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from posixpath import join, normpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.verdict_log import decode_log
from simulation.world import hotkey_of
from template.protocol.keys import verdict_key
from template.protocol.notice import VersionNotice
from template.public.facts import LogState, ReadLog, RunFacts
from template.public.site.charts import Bar, Point, bar_chart, line_chart, short_number
from template.public.site.render import MAX_PAGE_BYTES, render_site
from template.training.model import payload_format
from tests.support.browser import find_browser, look_at, take_picture
from tests.support.public import WINDOWS, Played
from tests.support.schemas import check_json

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&{{ 7 * 7 }}\x1b[31m\u202e"
PHONE_PX, DESKTOP_PX = 390, 1280


def form_at(played):
    return lambda _: payload_format(played.world.spec)


@pytest.fixture(scope="session")
def files(played: Played, facts: RunFacts) -> dict[str, bytes]:
    return render_site(facts, form_at(played))


class Page(HTMLParser):
    """Tags and links of a page."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.feed(data.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def pages(files: dict[str, bytes]) -> dict[str, Page]:
    return {name: Page(data) for name, data in files.items() if name.endswith(".html")}


def test_there_is_a_page_for_the_run_each_window_and_each_hotkey(played, files) -> None:
    expected = {"index"} | {f"window/{w:08d}" for w in range(WINDOWS)}
    expected |= {f"hotkey/{n.hotkey}" for n in played.world.ledger.neurons}
    assert set(files) == {f"{name}.{end}" for name in expected for end in ("html", "json")}


def test_every_link_leads_to_a_file_of_the_site(files) -> None:
    for name, page in pages(files).items():
        for link in page.links:
            if not link.startswith(("data:", "#")):
                target = normpath(join(name.rpartition("/")[0], link))
                assert target in files, (name, link)


def test_pages_load_nothing_and_run_nothing(files) -> None:
    for name, page in pages(files).items():
        assert not {"script", "iframe", "img", "object", "embed", "form"} & set(page.tags), name
        assert not {a for a in page.attributes if a.startswith("on")}, name
        assert all(not link.startswith(("http:", "https:", "//")) for link in page.links), name
        assert b"default-src 'none'" in files[name]


def test_pages_are_small(files) -> None:
    assert max(map(len, files.values())) < MAX_PAGE_BYTES / 5
    assert sum(map(len, files.values())) < 2 * MAX_PAGE_BYTES


def test_each_json_keeps_to_its_schema(files) -> None:
    kinds = {"index": "run", "window": "window", "hotkey": "hotkey"}
    checked = dict.fromkeys(kinds, 0)
    for name, data in files.items():
        if name.endswith(".json"):
            kind = name.split("/")[0].removesuffix(".json")
            row = json.loads(data)
            check_json(row, kinds[kind])
            if kind == "hotkey":
                check_json(row["payslip"], "payslip")
            checked[kind] += 1
    assert checked["index"] == 1
    assert checked["window"] == WINDOWS


def test_the_first_page_says_what_was_accepted_and_refused(played, facts, files) -> None:
    row = json.loads(files["index.json"])
    accepted = {w["window"]: w["num_accepted"] for w in row["windows"]}
    for window in range(WINDOWS):
        assert accepted[window] == len(facts.windows[window].outcome.accepted)
    assert row["refused"]["not_delivered"] == WINDOWS
    assert row["refused"]["overlap"] >= WINDOWS - 1
    text = files["index.html"].decode()
    assert "not_delivered" in text
    assert text.count('<svg class="chart') == 4
    losses = [w["loss"]["mean"] for w in row["windows"]]
    assert losses[-1] < losses[0]


def test_the_curve_is_the_mean_of_the_held_out_losses_of_the_log(played, files) -> None:
    bucket = played.world.buckets[hotkey_of("val-a")]
    data = bucket.get(verdict_key(played.world.spec.run_id, 3), max_bytes=2**24)
    log = decode_log(data.decode())
    row = json.loads(files["window/00000003.json"])
    assert row["loss"]["mean"] == pytest.approx(log.measured.held_out_H.mean())
    assert row["loss"]["num_pages"] == played.world.spec.evaluation.held_out_pages


def test_a_page_of_a_run_before_its_first_vote(played) -> None:
    facts = played.gatherer().read(0, -1)
    files = render_site(facts, form_at(played))
    assert "None yet." in files["index.html"].decode()
    assert json.loads(files["index.json"])["windows"] == []


def test_strangers_texts_are_escaped_wherever_they_stand(played, facts) -> None:
    """Reasons and statuses in logs, hotkeys, faults of buckets and chain: all at once."""
    spoiled = spoil(facts)
    files = render_site(spoiled, form_at(played))
    assert sum(b"&lt;script&gt;" in data for data in files.values()) > WINDOWS
    assert b"names version 9.8.7: &lt;script&gt;" in files["index.html"]
    for name, page in pages(files).items():
        assert not {"script", "img"} & set(page.tags), name
        assert not {a for a in page.attributes if a.startswith("on")}, name
        assert b"<script" not in files[name]
        assert b"49" not in re.findall(rb"&amp;(\S+) ", files[name])


def spoil(facts: RunFacts) -> RunFacts:
    """The facts with a hostile text in every place that a stranger can write to."""
    windows = {}
    for number, window in facts.windows.items():
        logs = {}
        for hotkey, read in window.logs.items():
            judgement = read.judgement
            if judgement is not None:
                verdicts = {
                    uid: replace(verdict, detail=EVIL, status=EVIL if uid % 2 else verdict.status)
                    for uid, verdict in judgement.verdicts.items()
                }
                judgement = replace(judgement, verdicts=verdicts)
            logs[hotkey] = replace(read, detail=EVIL, judgement=judgement)
        logs[EVIL] = ReadLog(state=LogState.NO_ANSWER, detail=EVIL)
        votes = tuple(replace(vote, root=EVIL) for vote in window.votes)
        windows[number] = replace(window, logs=logs, votes=votes, chain_fault=EVIL)
    neurons = {
        hotkey: replace(neuron, coldkey=EVIL) for hotkey, neuron in facts.subnet.neurons.items()
    }
    notice = VersionNotice(version="9.8.7", kind="tag", digest=bytes(32))
    object.__setattr__(notice, "kind", EVIL)  # which no notice that was parsed can say
    subnet = replace(facts.subnet, neurons=neurons, weights_fault=EVIL, notice=notice)
    return replace(facts, windows=windows, subnet=subnet, lineage_fault=EVIL, root=EVIL)


def test_no_secret_is_in_any_page(played, files) -> None:
    keys = {played.world.access(n.hotkey).access_key_id for n in played.world.ledger.neurons}
    for name, data in files.items():
        text = data.decode()
        assert not any(key in text for key in keys), name
        assert "secret" not in text.lower(), name
        assert str(played.folder) not in text, name


def test_rendering_again_changes_nothing(played, facts, files) -> None:
    assert render_site(facts, form_at(played)) == files


def test_a_chart_has_a_mark_for_each_window_and_scales_to_its_values() -> None:
    chart = str(line_chart([Point(window=w, value=2.0 - w / 10) for w in range(9)], "loss", "nats"))
    assert chart.count("<circle") == 9
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', chart)]
    assert heights == sorted(heights), "a falling loss falls"
    bars = str(bar_chart([Bar(window=w, parts=(w, 1)) for w in range(4)], ("a", "b"), "l", "u"))
    assert bars.count("<rect") == 7, "a part of zero has no mark"
    assert line_chart([Point(window=0, value=float("nan"))] * 3, "l", "u") == ""
    assert bar_chart([], ("a",), "l", "u") == ""


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(-2e39, 2e39), st.floats(0, 2e39)), min_size=0, max_size=6))
def test_a_chart_is_drawn_of_whatever_a_log_may_say(values) -> None:
    """Gains of a stranger's log lie within these bounds, and may lie anywhere within."""
    points = [Point(window=w, value=v, error=e) for w, (v, e) in enumerate(values)]
    chart = str(line_chart(points, "gain", "nats"))
    assert (chart == "") == (len(values) < 2)
    assert "nan" not in chart
    assert "inf" not in chart


def test_pages_of_a_full_subnet_over_many_windows_are_small(played, facts) -> None:
    """256 uids and 100 windows: each page with all that it loads stays below its bound."""
    one = facts.windows[WINDOWS - 1]
    windows = {w: replace(one, window=w) for w in range(100)}
    some = facts.subnet.neurons[hotkey_of("m0")]
    neurons = dict(facts.subnet.neurons)
    for uid in range(len(neurons), 256):
        hotkey = hotkey_of(f"crowd-{uid}")
        neurons[hotkey] = replace(some, uid=uid, hotkey=hotkey)
    crowd = replace(
        facts, windows=windows, last_counted=99, subnet=replace(facts.subnet, neurons=neurons)
    )
    files = render_site(crowd, form_at(played))
    assert len(files) == 2 * (1 + 100 + 256)
    assert max(map(len, files.values())) < MAX_PAGE_BYTES


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [(0.0, 1, "0"), (2.25, 0.05, "2.25"), (15_000, 5000, "15k"), (2_000_000, 1e6, "2M")],
)
def test_ticks_are_short(value, step, text) -> None:
    assert short_number(value, step) == text


browser = find_browser()


@pytest.mark.skipif(browser is None, reason="no Chromium on this machine")
def test_a_real_browser_shows_the_pages_without_a_word_on_its_console(files, tmp_path) -> None:
    assert browser is not None
    for name, data in files.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    some = [name for name in sorted(files) if name.endswith(".html")]
    for name in (some[0], some[len(some) // 2], some[-1]):
        url = (tmp_path / "site" / name).as_uri()
        look = look_at(browser, url, tmp_path / "profile")
        assert look.console == [], name
        assert "</table>" in look.dom
        for width in (PHONE_PX, DESKTOP_PX):
            picture = tmp_path / f"{width}.png"
            take_picture(browser, url, picture, tmp_path / "profile", width=width, height=900)
            assert picture.stat().st_size > 10_000
            assert picture.read_bytes()[16:20] == width.to_bytes(4, "big")


@pytest.mark.skipif(browser is None, reason="no Chromium on this machine")
def test_what_a_page_says_on_the_console_is_seen(tmp_path) -> None:
    """The control of the two tests beside it."""
    assert browser is not None
    page = tmp_path / "loud.html"
    page.write_text("<p>x</p><script>console.error('heard')</script><img src='none.png'>")
    assert any("heard" in line for line in look_at(browser, page.as_uri(), tmp_path / "p").console)


@pytest.mark.skipif(browser is None, reason="no Chromium on this machine")
def test_a_real_browser_runs_nothing_of_a_strangers_text(played, facts, tmp_path) -> None:
    assert browser is not None
    files = render_site(spoil(facts), form_at(played))
    page = Path(tmp_path / "evil.html")
    page.write_bytes(files["window/00000002.html"])
    look = look_at(browser, page.as_uri(), tmp_path / "profile")
    assert look.console == []
    assert "<script>" not in look.dom
    assert "<img" not in look.dom
