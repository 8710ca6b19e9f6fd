"""A replay from the command line: the model again, from public objects alone."""

from collections.abc import Callable
from pathlib import Path

from template.audit.replay import Replayed, audit_validators, replay_run
from template.cli.audit_flags import ReplayConfig
from template.cli.terminal import complain, say_json
from template.commands.newcomer import existing_subnet
from template.commands.reading import follow_run
from template.errors import ConfigError, ConsensusError, SubnetError
from template.peers.client import Peers
from template.sync.dataset import fetch_companions, open_pages
from template.training.model_folder import ModelFiles, model_files, write_files
from template.training.outer import params_digest

Say = Callable[[str], None]
EXIT_UNKNOWN = 2


def run_replay_command(config: ReplayConfig) -> int:
    """Run a replay: progress on standard error, the result on standard output; the exit status."""
    try:
        return run_replay(config, complain, say_json)
    except SubnetError as error:
        complain(f"replay: {error}")
    except KeyboardInterrupt:
        complain("replay: interrupted")
    return EXIT_UNKNOWN


def run_replay(config: ReplayConfig, say: Say, tell: Callable[[object], None]) -> int:
    """0 if the replay ends at the majority's root and every audited figure follows; else 1.

    `say` gets progress, `tell` the result, a JSON value. Raises SubnetError if chain or
    buckets do not answer.
    """
    spec = config.spec
    with follow_run(config.run, config.chain, spec) as context:
        existing_subnet(context.chain)
        peers = Peers(context)
        try:
            replayed = replay_run(context, peers, config.since, say)
        except ConsensusError as error:
            say(str(error))
            return 1
        if config.out is not None:
            params, made_by = replayed.state.params, context.run.maker(replayed.state.window)
            entry = open_pages(context, peers, spec=made_by).manifest.tokenizer
            companions = fetch_companions(context, peers, entry, made_by)
            _save_model(config.out, model_files(params, made_by, companions, "float32"))
            say(f"theta_{replayed.state.window} is in {config.out}")
        if config.audit:
            audit_validators(context, replayed, say)
        for hotkey, lines in replayed.wrong.items():
            for line in lines:
                say(f"{hotkey}: {line}")
        tell(_result(replayed))
        return int(bool(replayed.wrong))


def _save_model(folder: Path, files: ModelFiles) -> None:
    try:
        write_files(folder, files)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}: name another folder") from error


def _result(replayed: Replayed) -> dict[str, object]:
    state = replayed.state
    return {
        "from_window": replayed.start,
        "window": state.window,
        "root": state.root.hex(),
        "params_digest": params_digest(state).hex(),
        "num_payloads": replayed.num_payloads,
        "wrong": replayed.wrong,
    }
