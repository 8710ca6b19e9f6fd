"""`model eval`: a model under the tasks of EleutherAI's lm-eval, beside the figures of others.

lm-eval is an extra. Standard tasks come from the hub; a folder of own task files needs none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, chdir, nullcontext
from dataclasses import dataclass
from typing import Any, TypeGuard

from template.cli.model_flags import EvalConfig
from template.commands.model_generate import Loaded, load_model
from template.commands.model_latest import model_folder
from template.errors import ConfigError, Unavailable
from template.files import reason, remedy
from template.protocol.strangers import fault

Say = Callable[[str], None]

OTHERS = ("Covenant-72B", "LLaMA-2-70B", "K2-65B", "INTELLECT-1")
FIGURES: Mapping[str, tuple[float, ...]] = {
    "arc_challenge": (56.8, 57.4, 53.8, 44.8),
    "arc_easy": (80.9, 79.6, 76.0, 71.8),
    "piqa": (81.6, 82.6, 82.5, 77.4),
    "openbookqa": (44.0, 49.4, 48.0, 43.8),
    "hellaswag": (80.6, 84.3, 82.9, 70.3),
    "winogrande": (75.9, 80.4, 76.4, 63.3),
    "mmlu": (67.1, 65.6, 65.5, 32.7),
}
"""Task -> per cent by `OTHERS`, zero-shot: table 1 of arXiv 2603.08163."""
METRICS = ("acc_norm", "acc", "exact_match", "word_perplexity", "byte_perplexity")
"""In the order of preference; the first three are shares of 1."""
_NUM_SHARES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A task's result: per cent for a share, with its standard error, or a perplexity."""

    task: str
    metric: str
    value: float
    error: float | None


def run_eval(config: EvalConfig, say: Say, complain: Say) -> None:
    """Measure and print; ConfigError for an unknown task, Unavailable if a task cannot be had."""
    with model_folder(config.source, complain) as folder:
        loaded = load_model(folder, config.source.device)
    results = measure(loaded, config)
    if config.out is not None:
        try:
            config.out.write_text(json.dumps(results, indent=1, default=str))
        except OSError as error:
            raise ConfigError(
                f"--out {config.out}: cannot be written ({reason(error)}); "
                f"{remedy(config.out, error)}"
            ) from error
    for line in table(rows_of(results["results"], config.tasks)):
        say(line)


def measure(loaded: Loaded, config: EvalConfig) -> dict[str, Any]:
    """The results of lm-eval, with versions and configs of the tasks."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    # In full: the folder is the working directory while the tasks run.
    own_tasks = str(config.task_dir.resolve()) if config.task_dir is not None else None
    manager = TaskManager(include_path=own_tasks)
    known = {*manager.all_tasks}
    unknown = [name for name in config.tasks if name not in known]
    if unknown:
        raise ConfigError(
            f"--tasks: {', '.join(unknown)}: lm-eval {lm_eval.__version__} has none of this name; "
            "`lm-eval ls tasks` lists them, and --task_dir adds own ones"
        )
    model = HFLM(
        pretrained=loaded.model,
        tokenizer=loaded.tokenizer,
        backend="causal",
        max_length=loaded.context_tokens,
        batch_size=config.batch_size,
        prefix_token_id=loaded.separator,
    )
    place: AbstractContextManager[None] = nullcontext()
    if config.task_dir is not None:
        place = chdir(config.task_dir)
    try:
        with place:
            found = lm_eval.simple_evaluate(
                model=model,
                tasks=list(config.tasks),
                task_manager=manager,
                num_fewshot=config.num_fewshot,
                limit=config.limit,
                log_samples=False,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise Unavailable(
            f"--tasks {','.join(config.tasks)}: lm-eval could not run them ({fault(error)}). "
            "Standard tasks are read from the Hugging Face hub: without it, name own tasks with "
            "--task_dir"
        ) from error
    kept = ("results", "versions", "configs", "n-shot", "n-samples")
    return {name: found[name] for name in kept if name in found}


def rows_of(results: Mapping[str, Mapping[str, Any]], tasks: Sequence[str]) -> list[Row]:
    """A row for each task, in the order given, by the first metric of `METRICS` that it has."""
    rows = []
    for task in tasks:
        values = {name.partition(",")[0]: value for name, value in results.get(task, {}).items()}
        metric = next((name for name in METRICS if _is_number(values.get(name))), None)
        if metric is None:
            continue
        factor = 100.0 if metric in METRICS[:_NUM_SHARES] else 1.0
        value, error = values[metric], values.get(f"{metric}_stderr")
        rows.append(
            Row(
                task=task,
                metric=metric,
                value=factor * value,
                error=factor * error if _is_number(error) else None,
            )
        )
    return rows


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines of text, beside the figures of other models."""
    cells = [["task", "metric", "this model", *OTHERS]]
    for row in rows:
        error = "" if row.error is None else f" +- {row.error:.1f}"
        others = [f"{value:.1f}" for value in FIGURES.get(row.task, ())] or [""] * len(OTHERS)
        cells.append([row.task, row.metric, f"{row.value:.1f}{error}", *others])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
