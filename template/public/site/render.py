"""From the facts of a run to files: a page and its JSON for the run, each window and each hotkey.

Pure: {relative path: bytes}. Every page stands alone: style inline, no script, charts as SVG.
Templates escape every value; nothing but charts and the style is marked safe.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from template import __spec_version__, __version__, version_words
from template.protocol.notice import VersionNotice
from template.protocol.payload import PayloadFormat
from template.protocol.spec import spec_to_toml
from template.protocol.succession import changes
from template.public.causes import cause_of
from template.public.facts import RunFacts
from template.public.payslip import payslip
from template.public.payslip_json import VERSION, payslip_json
from template.public.payslip_text import TITLES
from template.public.site.charts import Bar, Point, bar_chart, line_chart
from template.public.site.models import RunModel, WindowModel, run_model
from template.public.statements import Commands
from template.public.view import RunView

MAX_PAGE_BYTES: Final = 500_000
"""Of each page with all that it loads, which is nothing; held by a test on a run of 256 uids."""
RECENT_WINDOWS: Final = 30
"""Windows in the first page's table, and payloads in a hotkey's; the charts have them all."""
LONG_WORD_CHARS: Final = 30
REFRESH_S: Final = 10
"""A page that is rendered again in each window loads itself again so often, at least."""


def render_site(
    facts: RunFacts,
    form_at: Callable[[int], PayloadFormat],
    *,
    run_file: str = "run.toml",
    refresh_s: int | None = None,
) -> dict[str, bytes]:
    """Every file of the site. `form_at`: the layout of a window's payloads.

    `refresh_s`: pages load themselves again so often; None: never.
    """
    view = RunView(facts)
    run = run_model(view, form_at)
    commands = Commands(facts=facts, run_file=run_file)
    common = {"facts": facts, "refresh_s": refresh_s, "css": Markup(_style())}
    files: dict[str, bytes] = {}
    for path, template, values, row in _pages(view, run, commands):
        depth = path.count("/")
        shown = {**common, **values, "root": "../" * depth, "json_path": path.rpartition("/")[2]}
        files[f"{path}.html"] = _template(template).render(shown).encode()
        files[f"{path}.json"] = json.dumps(_finite(row), sort_keys=True).encode() + b"\n"
    return files


Page = tuple[str, str, dict[str, Any], dict[str, Any]]
"""Path without its end, template, values for it, and the JSON value."""


def _pages(view: RunView, run: RunModel, commands: Commands) -> Iterator[Page]:
    yield "index", "index.html", _index(view, run), run_json(view, run)
    for window in run.windows:
        row = {"version": VERSION, "run_id": _run_id(view), **_window_row(window)}
        yield f"window/{window.window:08d}", "window.html", {"window": window}, row
    for hotkey in sorted(view.facts.subnet.neurons):
        yield _hotkey_page(view, run, hotkey, commands)


def _index(view: RunView, run: RunModel) -> dict[str, Any]:
    windows = run.windows
    losses = [
        Point(window=w.window, value=w.loss.mean, error=w.loss.standard_error)
        for w in windows
        if w.loss is not None
    ]
    decided = [
        Bar(window=w.window, parts=(w.num_accepted, w.num_refused, w.num_others)) for w in windows
    ]
    return {
        "run": run,
        "specs": _specs(view),
        "own_version": __version__,
        "own_version_key": __spec_version__,
        "recent": list(reversed(windows[-RECENT_WINDOWS:])),
        "spec_text": spec_to_toml(view.facts.run.newest),
        "loss_chart": line_chart(losses, "Held-out loss by window", "nats per token"),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "payload_chart": bar_chart(
            decided, ("accepted", "refused", "nobody's fault"), "Payloads by window", "payloads"
        ),
        "token_chart": bar_chart(
            [Bar(window=w.window, parts=(w.tokens,)) for w in windows],
            ("tokens",), "Tokens in accepted payloads by window", "tokens",
        ),
        "byte_chart": bar_chart(
            [Bar(window=w.window, parts=(w.payload_bytes,)) for w in windows],
            ("bytes",), "Bytes of measured payloads by window", "bytes",
        ),
    }  # fmt: skip


def run_json(view: RunView, run: RunModel) -> dict[str, Any]:
    """The first page as a value: `schemas/run.json`."""
    facts = view.facts
    return {
        "version": VERSION,
        "run_id": _run_id(view),
        "netuid": facts.netuid,
        "block": facts.subnet.block,
        "window_now": facts.head_window,
        "last_counted": facts.last_counted,
        "root": facts.root,
        "root_window": facts.root_window,
        "faults": [f for f in (facts.lineage_fault, facts.subnet.weights_fault) if f],
        "least_version_key": facts.subnet.least_version_key,
        "notice": _notice_json(facts.subnet.notice),
        "price_tao": facts.subnet.price_tao,
        "hotkeys": [asdict(row) for row in run.hotkeys],
        "windows": [_window_row(window, in_full=False) for window in run.windows],
        "refused": dict(run.refused),
        "checkpoints": [asdict(each) for each in facts.checkpoints],
        "spec": spec_to_toml(facts.run.newest),
        "specs": _specs(view),
    }


def _specs(view: RunView) -> list[dict[str, Any]]:
    """Each spec of the run, first to newest, with what it changed."""
    specs = view.facts.run.specs
    return [
        {
            "id": spec.spec_id.hex(),
            "first_window": spec.first_window,
            "changes": [] if before is None else list(map(str, changes(before, spec))),
        }
        for before, spec in zip((None, *specs[:-1]), specs, strict=True)
    ]


def _notice_json(notice: VersionNotice | None) -> dict[str, str] | None:
    if notice is None:
        return None
    return {"version": notice.version, "kind": notice.kind, "digest": notice.digest.hex()}


def _window_row(window: WindowModel, *, in_full: bool = True) -> dict[str, Any]:
    row: dict[str, Any] = asdict(window)
    row |= {
        "num_accepted": window.num_accepted,
        "num_refused": window.num_refused,
        "num_others": window.num_others,
        "num_logs": window.num_logs,
    }
    if not in_full:
        del row["payloads"], row["votes"]
    return row


def _hotkey_page(view: RunView, run: RunModel, hotkey: str, commands: Commands) -> Page:
    neuron = view.facts.subnet.neurons[hotkey]
    summary = next(row for row in run.hotkeys if row.hotkey == hotkey)
    sent = [(w, row) for w in run.windows for row in w.payloads if row.hotkey == hotkey]
    voted = [(w, row) for w in run.windows for row in w.votes if row.hotkey == hotkey]
    newest = max(view.facts.windows, default=None)
    slip = None if newest is None else payslip(view, hotkey, newest, commands)
    shares = [Point(window=w.window, value=100 * r.share) for w, r in sent if r.share is not None]
    gains = [
        Point(window=w.window, value=row.gain, error=row.gain_error or 0.0)
        for w, row in sent
        if row.gain is not None
    ]
    row = {
        "version": VERSION,
        "run_id": _run_id(view),
        "summary": asdict(summary),
        "payloads": [{"window": w.window, **asdict(each)} for w, each in sent],
        "votes": [{"window": w.window, **asdict(each)} for w, each in voted],
        "payslip": None if slip is None else payslip_json(slip),
    }
    values = {
        "neuron": neuron,
        "summary": summary,
        "sent": list(reversed(sent[-RECENT_WINDOWS:])),
        "voted": list(reversed(voted[-RECENT_WINDOWS:])) if summary.num_votes else [],
        "slip": slip,
        "titles": TITLES,
        "share_chart": line_chart(shares, "Share of the pay by window", "%"),
        "gain_chart": line_chart(gains, "Gain by window", "nats per token"),
    }
    return f"hotkey/{hotkey}", "hotkey.html", values, row


def _run_id(view: RunView) -> str:
    return view.facts.run.run_id.hex()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("template.public.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent,
        short=_short,
        brief=_brief,
        big=_big,
        gain=_gain,
        cause=cause_of,
        number=_number,
        version=version_words,
    )
    return environment


def _template(name: str) -> Any:
    return _environment().get_template(name)


def _style() -> str:
    source, _, _ = PackageLoader("template.public.site").get_source(_environment(), "style.css")
    return source


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


def _short(text: str) -> str:
    """A hotkey or a digest as people recognise it."""
    return text if len(text) <= 14 else f"{text[:6]}...{text[-4:]}"


def _brief(text: str) -> str:
    """A reason with its long words, as keys and hotkeys, cut; the page's JSON has all of it."""
    return " ".join(_short(word) if len(word) > LONG_WORD_CHARS else word for word in text.split())


def _big(number: float | None) -> str:
    return "?" if number is None else f"{number:,.0f}"


def _number(number: float | None, digits: int = 4) -> str:
    return "?" if number is None or not math.isfinite(number) else f"{number:.{digits}f}"


def _gain(row: Any) -> str:
    return "" if row.gain is None else f"{row.gain:+.5f} \u00b1 {row.gain_error or 0.0:.5f}"


def _finite(value: Any) -> Any:
    """JSON has no infinities, and the keys of its objects are texts."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
