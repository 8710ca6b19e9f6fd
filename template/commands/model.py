"""`model latest`, `generate`, `eval` and `publish`: what people do with the model of a run."""

from collections.abc import Callable
from pathlib import Path

from template.cli.model_flags import Config, EvalConfig, GenerateConfig, LatestConfig
from template.cli.signals import STOP_LIMIT_S, unwind_on_signals
from template.cli.terminal import complain, say, say_piece
from template.commands.model_chat import run_chat
from template.commands.model_eval import run_eval
from template.commands.model_generate import run_generate
from template.commands.model_latest import fetch_into
from template.commands.model_publish import run_publish
from template.errors import EXIT_ENDED, EXIT_INTERRUPTED, SubnetError, exit_status

Say = Callable[[str], None]


def run_model(config: Config) -> int:
    """Run one command; the exit status."""
    unwind_on_signals(limit_s=STOP_LIMIT_S)
    try:
        _run(config)
    except SubnetError as error:
        complain(f"model: {error}")
        return exit_status(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_ENDED


def _run(config: Config) -> None:
    if isinstance(config, LatestConfig):
        _fetch(config, config.out)
    elif isinstance(config, GenerateConfig):
        (run_chat if config.is_chat else run_generate)(config, say_piece, complain)
    elif isinstance(config, EvalConfig):
        run_eval(config, say, complain)
    else:
        say(run_publish(config, complain))


def _fetch(config: LatestConfig, out: Path) -> None:
    facts = fetch_into(config.source, out, complain)
    loss = "" if facts.loss_nats is None else f", loss {facts.loss_nats:.4f} nats per token"
    say(f"theta_{facts.window} is in {out}: lineage root {facts.lineage_root}{loss}")
