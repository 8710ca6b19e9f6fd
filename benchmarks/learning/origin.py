"""Which code made a row of the record: a digest of the definitions that decide a trial's numbers.

The definitions are found by name in the syntax trees: the rule's class, `run_trial`, and all that
these name in this repository's packages, through imports. Docstrings, annotations, comments,
layout and definitions that nothing names are not in the digest, so a change of these costs no
run. Nor are `PASSED_ON`, which carry numbers to that code and make none; the numbers themselves,
a trial's plan, are digested as values.

Not seen: a method called on an object whose class nothing names, other versions of torch and
numpy, another CPU. The losses of two machines differed by 0.1 % (D176).
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.learning.record import Rows
from benchmarks.learning.rules import RULES
from benchmarks.learning.text import ROOT
from benchmarks.learning.trial import KEY_DIGITS, Trial
from benchmarks.learning.workers import trial_plan

PACKAGES = ("benchmarks", "compression", "evaluation", "template")
RUN = ("benchmarks.learning.run", "run_trial")
PASSED_ON = (
    "benchmarks.learning.rules", "benchmarks.learning.trial", "compression.jit",
    "compression.torch_encoder", "compression.workers", "template.commands", "template.errors",
    "template.files", "template.protocol", "template.settings", "template.training.spread",
)  # fmt: skip
"""Modules whose definitions are left out, and all below them."""
JUDGES = ("benchmarks.learning.judge", "evaluation", "template.scoring")
"""Left out too where no miner sends noise: nobody judges there."""
PLAN_DIGITS = 8
DECIDING = {
    "model": None, "data": ("page_tokens",), "compression": None,
    "training": (
        "inner_steps", "batch_pages", "inner_lr", "final_lr_share", "decay_share",
        "warmup_windows", "adam_beta1", "adam_beta2", "weight_decay", "max_gradient_norm",
    ),
    "outer": (
        "outer_lr", "min_divisor", "clip_factor", "clip_windows", "initial_norm_share",
        "initial_norm_floor", "max_energy_share", "max_length_ratio",
    ),
}  # fmt: skip
"""Sections of a plan -> keys that decide a run among honest miners; None: all."""
CURRENT, STALE, UNMARKED = "current", "stale", "unmarked"
"""Of a row: made by the code that is here, by other code, or before rows had a digest."""
Name = tuple[str, str]
"""A module and a name in it."""


def code_digest(trial: Trial, root: Path = ROOT) -> str:
    """Of the code under `root` and the plan that make a trial's numbers, as "code.plan"."""
    plan = json.dumps(_deciding_values(trial), sort_keys=True, default=str)
    code = rule_digest(trial.strategy, trial.noise_miners > 0, root)[:KEY_DIGITS]
    return f"{code}.{hashlib.sha256(plan.encode()).hexdigest()[:PLAN_DIGITS]}"


def age(trial: Trial, row: Mapping[str, Any], root: Path = ROOT) -> str:
    """CURRENT, STALE or UNMARKED."""
    code = row.get("code")
    if code is None:
        return UNMARKED
    return CURRENT if code == code_digest(trial, root) else STALE


def to_run(trials: Iterable[Trial], rows: Rows, again: bool = False) -> list[Trial]:
    """Trials without a row or with a stale one, each once; `again`: with an unmarked one too."""
    kept = (CURRENT,) if again else (CURRENT, UNMARKED)
    each = {trial.key: trial for trial in trials}
    return [t for key, t in each.items() if key not in rows or age(t, rows[key]) not in kept]


@cache
def rule_digest(strategy: str, judged: bool, root: Path = ROOT) -> str:
    """The digest of the definitions behind one rule; `judged`: the judge of payloads included."""
    rule, left_out = RULES[strategy], PASSED_ON if judged else (*PASSED_ON, *JUDGES)
    parts = definitions([RUN, (rule.__module__, rule.__qualname__)], left_out, root)
    text = "".join(f"{module}:{name}:{parts[module, name]}\n" for module, name in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()


def definitions(
    first: Sequence[Name], left_out: Sequence[str] = PASSED_ON, root: Path = ROOT
) -> dict[Name, str]:
    """Dumps of the named definitions and of all that these name, however far away."""
    found: dict[Name, str] = {}
    ahead = list(first)
    while ahead:
        where, name = ahead.pop()
        module = None if _is_in(where, left_out) else read_module(where, root)
        if module is None or (where, name) in found:
            continue
        if name in module.imports:
            ahead += _targets(module.imports[name], root)
        if name in module.parts:
            part = module.parts[name]
            found[where, name] = part.syntax
            ahead += [(where, used) for used in part.names]
            ahead += [found for target in part.imports for found in _targets(target, root)]
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The statements that define one name: their syntax, and what they name and import."""

    syntax: str = ""
    names: frozenset[str] = frozenset()
    imports: tuple[Name, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """A file's top-level names: names that the file defines, and names that the file imports."""

    parts: dict[str, Part] = field(default_factory=dict)
    imports: dict[str, Name] = field(default_factory=dict)


@cache
def read_module(name: str, root: Path) -> Module | None:
    """A module of this repository by its dotted name; None for a stranger's."""
    path = _path(name, root)
    if path is None:
        return None
    module = Module()
    for node in ast.parse(path.read_text()).body:
        for bound, target in _imported(node):
            module.imports[bound] = target
        bounds = _bound(node)
        part = _part(node) if bounds else Part()
        for bound in bounds:
            before = module.parts.get(bound, Part())
            module.parts[bound] = Part(
                syntax=before.syntax + part.syntax,
                names=before.names | part.names,
                imports=before.imports + part.imports,
            )
    return module


def _part(node: ast.stmt) -> Part:
    """Of one statement; annotations are followed, and left out of the syntax."""
    inner = list(ast.walk(node))
    names = frozenset(each.id for each in inner if isinstance(each, ast.Name))
    imports = tuple(target for each in inner for _, target in _imported(each))
    for each in inner:
        if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            each.body = [s for s in each.body if not _is_text(s)] or [ast.Pass()]
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            each.returns = None
        if isinstance(each, ast.arg):
            each.annotation = None
        if isinstance(each, ast.AnnAssign):
            each.annotation = ast.Constant(value=None)
    return Part(syntax=ast.dump(node), names=names, imports=imports)


def _path(name: str, root: Path) -> Path | None:
    if name.partition(".")[0] not in PACKAGES:
        return None
    place = root.joinpath(*name.split("."))
    choices = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in choices if path.is_file()), None)


def _targets(target: Name, root: Path) -> list[Name]:
    """An imported name; where it is a module, all of that module's own."""
    where, name = target
    if name and _path(f"{where}.{name}", root):
        where, name = f"{where}.{name}", ""
    if name:
        return [target]
    module = read_module(where, root)
    return [(where, own) for own in module.parts] if module else []


def _imported(node: ast.AST) -> Iterator[tuple[str, Name]]:
    """What an import statement binds, and to what; a whole module has an empty name."""
    if isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            yield alias.asname or alias.name, (node.module, alias.name)
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], (alias.name, "")


def _bound(node: ast.stmt) -> list[str]:
    """Names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return []


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_in(where: str, modules: Sequence[str]) -> bool:
    return any(where == stop or where.startswith(stop + ".") for stop in modules)


def _deciding_values(trial: Trial) -> Mapping[str, object]:
    plan = trial_plan(trial)
    if trial.noise_miners:
        return {section: plan[section] for section in (*DECIDING, "evaluation")}
    values = {
        section: {key: plan[section].get(key) for key in keys or sorted(plan[section])}
        for section, keys in DECIDING.items()
    }
    # Switched off is as before there was such a key, which digests of rows do not know.
    if values["outer"]["max_length_ratio"] == 0:
        del values["outer"]["max_length_ratio"]
    return values
