"""Who is compared: a rule with its lag and its remedies. Rates are what tuning found.

`REMEDIES` are those of the shipped plans. Every low-communication rule runs at lag 0, at lag
1 as it is, and at lag 1 with the same remedies; ours also at lag 0 from the warm start.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.learning.rules import LOCAL_RULES
from benchmarks.learning.trial import Trial

Rates = Mapping[str, Mapping[str, Any]]
"""Contender -> fields of a trial."""

RATES = Path(__file__).resolve().parent / "rates.json"
WARM_ROUNDS = 2
"""The warm start takes the tokens of so many rounds, which the trial then lacks."""
CATCH_UP_SHARE = 1 / 3
"""Of a round, when miners have what the others sent: K blocks of B, and the time to fetch it."""

ADAMW, MUON, DEMO = "adamw_dp", "muon_dp", "demo"
OURS = "ours/1+"
"""The rule, the lag and the remedies that ship."""
SYNCHRONOUS = "ours/0+"
"""The same without lag: from the same warm start. Nothing is under way to be eager about."""
WITH_MUON = {name: name.replace("/", "-muon/") for name in (OURS, SYNCHRONOUS)}
"""Both with Muon inside instead of AdamW; the warm start too."""


def remedied(trial: Trial) -> Trial:
    """With a warm start, at equal tokens; with a lag, a miner's own work stands for everybody's
    until it has the others'.
    """
    catch_up = max(1, round(CATCH_UP_SHARE * trial.inner_steps)) if trial.lag else 0
    return replace(
        trial,
        eager=1.0,
        catch_up_step=catch_up,
        warm_steps=WARM_ROUNDS * trial.miners * trial.inner_steps,
        rounds=trial.rounds - WARM_ROUNDS,
    )


def contenders() -> dict[str, Trial]:
    """Name -> 24 rounds of it at rates of no meaning; "/0" and "/1" are lags, "+" remedies."""
    found = {name: Trial(strategy=name, lag=0) for name in (ADAMW, MUON, DEMO)}
    for rule in LOCAL_RULES:
        found[f"{rule}/0"] = Trial(strategy=rule, lag=0)
        found[f"{rule}/1"] = Trial(strategy=rule, lag=1)
        found[f"{rule}/1+"] = remedied(Trial(strategy=rule, lag=1))
    found[SYNCHRONOUS] = remedied(Trial(strategy="ours", lag=0))
    return found | {muon: replace(found[plain], inner="muon") for plain, muon in WITH_MUON.items()}


def load_rates(path: Path = RATES) -> Rates:
    """What tuning chose."""
    rates: Rates = json.loads(path.read_text())["rates"]
    return rates


def rates_name(name: str) -> str:
    """Whose search a contender's rates come from: the clip is all that sets ours and the
    mean apart, and in a search among honest miners it does not show.
    """
    return name.replace("mean/", "ours/")


def tuned(name: str, rates: Rates, **changes: Any) -> Trial:
    """A contender at its rates; `rounds` counts those whose tokens a warm start took."""
    rule, _, inner = name.partition("/")[0].partition("-")
    plain = Trial(strategy=rule, lag=int("/1" in name), inner=inner or "adamw")
    trial = replace(plain, **rates[rates_name(name)], **changes)
    return remedied(trial) if name.endswith("+") else trial
