"""`tessera status`: one's own neuron at a glance, as tables or as one JSON object."""

import fcntl
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from template import __spec_version__, __version__, version_words
from template.base.preflight import LOCK_FILE
from template.base.standing import RAO_PER_TAO
from template.chain.bittensor import BittensorChain, ChainOptions, open_wallet
from template.chain.health import format_duration
from template.cli.signals import STOP_LIMIT_S, unwind_on_signals
from template.cli.status_flags import StatusConfig
from template.cli.terminal import complain, one_line, say_json
from template.commands.newcomer import existing_subnet
from template.doctor.bundle import tail
from template.errors import (
    EXIT_ENDED,
    EXIT_INTERRUPTED,
    EXIT_TRY_AGAIN,
    ConfigError,
    SubnetError,
    exit_status,
)
from template.files import reason, remedy
from template.metrics import EVENTS_FILE
from template.protocol.run import Run
from template.status.glance import Glance, OnChain, to_json
from template.status.phase import Phase, phase_at
from template.status.rows import OwnRows, parse_rows, read_rows
from template.sync.spec_folder import SpecFolder

OPTIONS: Final = ChainOptions(read_timeout_s=10.0, read_deadline_s=10.0)
"""A person waits for the answer."""
MAX_TAIL_BYTES: Final = 4_000_000
MAX_TAIL_LINES: Final = 20_000
WIDTH_CHARS: Final = 100
_PID_CHARS: Final = 16


def run_status(config: StatusConfig) -> int:
    """Print the glance; the exit status: 1 if something needs a look."""
    unwind_on_signals(limit_s=STOP_LIMIT_S)
    try:
        glance = look(config)
    except SubnetError as error:
        complain(f"status: {error}")
        return exit_status(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if config.is_json:
        say_json(to_json(glance))
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH_CHARS, highlight=False)
        for part in render(glance):
            console.print(part)
    return EXIT_TRY_AGAIN if glance.warnings else EXIT_ENDED


def look(config: StatusConfig) -> Glance:
    """The glance; ConfigError without the hotkey's file or the subnet."""
    hotkey = hotkey_address(config)
    chain, phase, fault = None, None, ""
    try:
        chain, phase = _ask_chain(config, hotkey)
    except ConfigError:
        raise
    except SubnetError as error:
        fault = f"the chain does not answer: {error}"
    pid, lock_fault = process_of(config)
    return Glance(
        role=config.role,
        hotkey=hotkey,
        run_id=config.spec.run_id.hex(),
        version=__version__,
        version_key=__spec_version__,
        now_s=time.time(),
        pid=pid,
        lock_fault=lock_fault,
        rows=own_rows(config),
        phase=phase,
        chain=chain,
        fault=fault,
    )


def hotkey_address(config: StatusConfig) -> str:
    """The hotkey's address. ConfigError if its file is missing, locked or no key."""
    wallet = config.wallet
    return str(open_wallet(wallet.name, wallet.hotkey, str(wallet.path)).hotkey.ss58_address)


def own_rows(config: StatusConfig) -> OwnRows:
    """What the newest part of metrics.jsonl says; nothing without the file."""
    lines: list[str] = []
    if config.neuron is not None:
        path = config.neuron.state_dir / EVENTS_FILE
        text = tail(path, max_bytes=MAX_TAIL_BYTES, max_lines=MAX_TAIL_LINES)
        lines = text.splitlines()
    return read_rows(parse_rows(lines), config.role, num_windows=config.num_windows)


def _ask_chain(config: StatusConfig, hotkey: str) -> tuple[OnChain, Phase]:
    chain = BittensorChain(
        endpoint=config.chain.network,
        fallbacks=config.chain.fallbacks,
        netuid=config.chain.netuid,
        wallet=None,
        version_key=__spec_version__,
        options=OPTIONS,
    )
    with closing(chain):
        graph, head, block_s = existing_subnet(chain), chain.head(), chain.block_time_s()
        least = chain.least_version_key()
    me = graph.by_hotkey(hotkey)
    spec = config.spec
    is_validator = config.role == "validator"
    on_chain = OnChain(
        head=head,
        block_s=block_s,
        uid=None if me is None else me.uid,
        stake_tao=0.0 if me is None else me.total_stake_rao / RAO_PER_TAO,
        share=0.0 if me is None else (me.dividends if is_validator else me.incentive),
        emission_alpha=0.0 if me is None else me.emission_rao / RAO_PER_TAO,
        permit=me is not None and me.validator_permit,
        hotkeys=len(graph.neurons),
        least_version_key=least,
    )
    run = Run(spec)
    if config.neuron is not None:
        SpecFolder(run, config.neuron.state_dir).restore()
    return on_chain, phase_at(run.schedule, run.num_windows, head, config.role)


def process_of(config: StatusConfig) -> tuple[int | None, str]:
    """The pid of `holder`, and a warning that names the file if nobody can tell."""
    if config.neuron is None:
        return None, ""
    try:
        return holder(config.neuron.state_dir), ""
    except OSError as error:
        lock = config.neuron.state_dir / LOCK_FILE
        text = f"{lock}: {reason(error)}, so nobody knows whether the neuron runs"
        return None, f"{text}; {remedy(lock, error)}"


def holder(state_dir: Path) -> int | None:
    """The pid of the process that holds the state folder, 0 if it says none; None if none does.

    OSError if the lock file is there and cannot be looked at.
    """
    try:
        with (state_dir / LOCK_FILE).open("r", encoding="ascii", errors="replace") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = lock.read(_PID_CHARS).strip()
                return int(text) if text.isdecimal() else 0
    except FileNotFoundError:
        return None
    return None


def render(glance: Glance) -> list[Table | Text]:
    """Everything, from top to bottom."""
    parts: list[Table | Text] = [
        Text(f"{glance.role} {glance.hotkey}, run {glance.run_id}", style="bold"),
        Text(_process_words(glance)),
        *(Text(line) for line in _chain_lines(glance)),
    ]
    if glance.rows.windows:
        parts.append(windows_table(glance))
    parts += [Text(one_line(text), style="bold yellow") for text in glance.warnings]
    return parts


def _process_words(glance: Glance) -> str:
    if glance.role == "owner":
        return f"version {glance.version}"
    runs = "not running" if glance.pid is None else f"running as process {glance.pid}"
    runs = "perhaps running" if glance.lock_fault else runs
    silent_s, window = glance.silent_s, glance.rows.state_window
    said = "no metrics yet" if silent_s is None else f"last word {format_duration(silent_s)} ago"
    at = "" if window is None else f", at theta_{window}"
    return f"{runs}, version {version_words(glance.version_key)}{at}, {said}"


def _chain_lines(glance: Glance) -> list[str]:
    chain, phase = glance.chain, glance.phase
    if chain is None or phase is None:
        return []
    place = "not registered" if chain.uid is None else f"uid {chain.uid} of {chain.hotkeys}"
    kind = "dividends" if glance.role == "validator" else "incentive"
    lines = [
        f"{place}: {chain.share:.2%} of the {kind}, {chain.emission_alpha:,.4f} alpha in the last "
        f"epoch, stake {chain.stake_tao:,.3f} TAO",
        f"block {chain.head:,}, window {phase.window}, {phase.name}: {phase.text}",
    ]
    for each in phase.deadlines[:2]:
        ahead_s = (each.block - chain.head) * chain.block_s
        lines.append(f"  {each.what}: block {each.block:,}, in {format_duration(ahead_s)}")
    return lines


_COLUMNS: Final = {
    "miner": (
        ("loss", "loss", ".4f"),
        ("steps", "steps", ",.0f"),
        ("tokens_per_s", "tokens/s", ",.0f"),
        ("mfu", "MFU", ".1%"),
        ("utilisation", "busy", ".0%"),
        ("payload_bytes", "bytes", ",.0f"),
    ),
    "validator": (
        ("held_out_loss", "held-out loss", ".4f"),
        ("payloads", "payloads", ",.0f"),
        ("named", "named", ",.0f"),
        ("gain_mean", "mean gain", ".2e"),
    ),
}


def windows_table(glance: Glance) -> Table:
    """The last windows, a row each."""
    columns = _COLUMNS.get(glance.role, ())
    right = [Column(title, justify="right") for _name, title, _form in columns]
    last = "own payload" if glance.role == "miner" else "refused"
    table = Table(
        Column("window", justify="right"),
        *right,
        Column("accepted", justify="right"),
        last,
        box=SIMPLE_HEAD,
    )
    for seen in glance.rows.windows:
        cells = [
            format(seen.figures[name], form) if name in seen.figures else ""
            for name, _title, form in columns
        ]
        refused = ", ".join(f"{count} {reason}" for reason, count in seen.refused.items())
        accepted = "" if seen.accepted is None else str(seen.accepted)
        words = seen.outcome or refused
        # As texts: square brackets in a reason are no markup.
        row = (str(seen.window), *cells, accepted, words)
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table
