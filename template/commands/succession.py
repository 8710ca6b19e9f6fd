"""`succession draft|show|support|withdraw`: change a run by the voting stake."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from template import version_words
from template.base.supporting import support_path
from template.chain.ballots import read_records, read_standing_votes
from template.cli.succession_flags import DraftConfig, ShowConfig, SupportConfig
from template.cli.terminal import complain, one_line, say
from template.commands.newcomer import existing_subnet
from template.commands.plan import check_dataset
from template.commands.publish import write_spec
from template.commands.reading import follow_run
from template.context import ReadContext
from template.data.folder import DatasetFolder, open_folder
from template.data.manifest import manifest_digest
from template.data.preparing.card import read_chat
from template.errors import (
    EXIT_ENDED,
    EXIT_INTERRUPTED,
    ConfigError,
    SubnetError,
    Unavailable,
    disk_trouble,
    exit_status,
)
from template.peers.client import Peers
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.record import MAX_UIDS, Support
from template.protocol.run import Run
from template.protocol.spec import RunSpec, spec_to_toml
from template.protocol.spec.run import spec_table
from template.protocol.strangers import fault
from template.protocol.succession import changes
from template.protocol.toml import from_table
from template.sync.dataset import check_manifest
from template.sync.lineage import find_voted_root
from template.sync.successions import fetch_spec


def run_succession(config: DraftConfig | ShowConfig | SupportConfig) -> int:
    """Run one command; the exit status."""
    try:
        if isinstance(config, SupportConfig):
            _support(config)
            return EXIT_ENDED
        dataset = None
        if isinstance(config, DraftConfig) and config.data is not None:
            dataset = open_folder(config.data)  # Checked before the chain is waited for.
            read_chat(config.data)
        with follow_run(config.run, config.chain, config.spec) as context:
            existing_subnet(context.chain)
            if isinstance(config, DraftConfig):
                _draft(context, config, dataset)
            else:
                _show(context)
    except SubnetError as error:
        complain(f"succession: {error}")
        return exit_status(error)
    except KeyboardInterrupt:
        complain("succession: interrupted")
        return EXIT_INTERRUPTED
    return EXIT_ENDED


def _draft(context: ReadContext, config: DraftConfig, dataset: DatasetFolder | None) -> None:
    vote = find_voted_root(context)
    if vote is None:
        raise Unavailable(
            "no root has the votes of more than half of the reference stake: a proposal names the "
            "history that it continues; try again once the validators vote"
        )
    spec = drafted(context.run, config, vote.root, dataset)
    window = context.schedule.window_of(context.chain.finalized())
    decided = spec.first_window - LEAD_WINDOWS
    if decided <= window:
        raise ConfigError(
            f"--window {spec.first_window}: the votes on window {decided} would decide, and the "
            f"chain is in window {window}: name window {window + LEAD_WINDOWS + 1} or later, with "
            "time for the validators' operators"
        )
    write_spec(config.out, spec_to_toml(spec))
    say(f"run spec {spec.spec_id.hex()} for window {spec.first_window} on, in {config.out}:")
    _say_changes(context.run.newest, spec)
    say(
        f"the votes on window {decided} decide, counted at block "
        f"{context.schedule.vote_block(decided):,}. Hand the file to the validators: "
        f"`tessera succession support {config.out}`"
    )


def drafted(
    run: Run, config: DraftConfig, root: bytes, dataset: DatasetFolder | None = None
) -> RunSpec:
    """The new spec, after the run's newest; ConfigError if it may not follow, or if the dataset is
    not fit for it.
    """
    table: dict[str, Any] = spec_table(run.newest)
    if dataset is not None:
        table = _laid_over(table, {"data": _data_fields(dataset)})
    given = ((f"--changes {config.changes_file}:", config.file_changes), ("--set", config.changes))
    for where, new in given:
        for name in new:
            if name not in _tables(table):
                there = ", ".join(_tables(table))
                raise ConfigError(f"{where} {name}: no such table; there are: {there}")
        table = _laid_over(table, new)
    table["name"] = config.name or table["name"]
    table["continues"] = {
        "run_id": run.run_id.hex(),
        "spec": run.newest.spec_id.hex(),
        "window": config.window,
        "root": root.hex(),
        "least_version": config.least_version,
    }
    spec = from_table(RunSpec, table)
    Run(*run, spec)
    if dataset is not None:
        check_manifest(dataset.manifest, spec, manifest_digest(dataset.manifest))
        check_dataset(dataset.manifest, spec, 1 if run.is_local else MAX_UIDS)
    return spec


def _laid_over(table: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A table with other values, table by table; None takes a key out."""
    found = dict(table)
    for key, value in new.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping):
            before = found.get(key)
            found[key] = _laid_over(before if isinstance(before, Mapping) else {}, value)
        else:
            found[key] = value
    return found


def _data_fields(dataset: DatasetFolder) -> dict[str, Any]:
    """The fields of a spec that follow from a dataset; without a chat table in its card none."""
    manifest, chat = dataset.manifest, read_chat(dataset.folder)
    return {
        "manifest_digest": manifest_digest(manifest).hex(),
        "tokenizer": manifest.tokenizer.name,
        "page_tokens": manifest.page_tokens,
        "segment_pages": manifest.segment_pages,
        "chat": None if chat is None else asdict(chat),
    }


def _tables(table: Mapping[str, Any]) -> list[str]:
    return [n for n, value in table.items() if isinstance(value, dict) and n != "continues"]


def _say_changes(before: RunSpec, after: RunSpec) -> None:
    for change in changes(before, after):
        say(f"  {change}")
    least = "" if after.continues is None else after.continues.least_version
    if least not in ("", "0.0.0"):
        say(f"  needs version {least} or newer")


def _show(context: ReadContext) -> None:
    run, peers = context.run, Peers(context)
    before: RunSpec | None = None
    for spec in run:
        say(f"window {spec.first_window} on: {spec.spec_id.hex()}, {one_line(spec.name)}")
        if before is not None:
            _say_changes(before, spec)
        before = spec
    window = context.schedule.last_counted(context.chain.finalized())
    if window < 0:
        say("nothing has been voted on yet")
        return
    voters = read_standing_votes(context.chain, run, window)
    total_rao = sum(voter.stake_rao for voter in voters)
    stakes: dict[Support, int] = {}
    adopted = {spec.spec_id for spec in run}
    for voter in voters:
        if voter.support is not None and voter.support.spec not in adopted:
            stakes[voter.support] = stakes.get(voter.support, 0) + voter.stake_rao
    if not stakes:
        say("no other spec is supported now")
    peers.refresh()
    for support, rao in sorted(stakes.items(), key=lambda item: -item[1]):
        say(
            f"proposed for window {support.window} on: {support.spec.hex()}, supported by "
            f"{100 * rao / max(1, total_rao):.1f} % of the voting stake; the votes on window "
            f"{support.window - LEAD_WINDOWS} decide"
        )
        hotkeys = [voter.hotkey for voter in voters if voter.support == support]
        try:
            _say_changes(run.newest, fetch_spec(context, peers, support.spec, hotkeys))
        except (ConfigError, Unavailable) as error:
            say(f"  cannot be read here: {fault(error)}")
    _say_versions(context)


def _say_versions(context: ReadContext) -> None:
    """Which versions the hotkeys run, by their records."""
    records = read_records(context.chain, context.chain.finalized(), context.run.run_id)
    counts: dict[int, int] = {}
    for record in records.values():
        if record.has_statement:
            counts[record.software] = counts.get(record.software, 0) + 1
    told = (f"{version_words(key)}: {number}" for key, number in sorted(counts.items()))
    say(f"hotkeys by version: {', '.join(told) or 'none'}")


def put_support(state_dir: Path, spec: RunSpec | None) -> None:
    """Have the validator of a state folder support a spec, or none, from its next vote on.

    StateError if the disk refuses it.
    """
    path = support_path(state_dir)
    try:
        if spec is None:
            path.unlink(missing_ok=True)
            return
        new = path.with_suffix(".new")
        new.write_text(spec_to_toml(spec), encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        raise disk_trouble(path, error) from error


def _support(config: SupportConfig) -> None:
    put_support(config.state_dir, config.proposal)
    spec = config.proposal
    if spec is None:
        say("this validator supports no new spec from its next vote on")
        return
    say(
        f"this validator supports run spec {spec.spec_id.hex()} for window {spec.first_window} on "
        f"from its next vote on, if its log says nothing else; the votes on window "
        f"{spec.first_window - LEAD_WINDOWS} decide"
    )
