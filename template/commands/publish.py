"""Publishing a run: from a plan to blobs in a bucket, a record on chain and a run spec on disk.

Owns the order of the steps and the checks before each step. Every step can be repeated: an
interrupted command continues. After the spec is written no step has to run again.
"""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from template.base.preflight import ask_for_place
from template.base.standing import unregistered_owner
from template.bucket.own import OwnBucket
from template.chain import Chain, Metagraph
from template.chain.ballots import read_records_of_any_run
from template.chain.commands import Commands, wallet_flags
from template.chain.health import redact_endpoint
from template.cli.owner_flags import FAR_BLOCK, PublishConfig
from template.commands.plan import (
    PreparedRun,
    RunChoices,
    check_plan,
    prepare_run,
    upload_missing,
    upload_spec,
    wasted_share,
    wide_hotkeys,
)
from template.data.corpus import load_corpus
from template.data.folder import open_folder
from template.errors import ChainError, ConfigError
from template.files import reason, remedy
from template.protocol.record import MAX_UIDS, Access, Record, encode_record
from template.protocol.schedule import Schedule
from template.protocol.spec import RunSpec

FINAL_LIMIT_S = 300.0
_POLL_S = 0.25
LOCAL_FLAG = "--local "
MOST_WASTED = 0.2
"""Share of bytes fetched beyond the pages trained on, above which the owner is told."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A published run. `block`: the head at the time of writing."""

    spec: RunSpec
    text: str
    block: int

    @property
    def sha256(self) -> str:
        """SHA-256 of the run spec's file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def publish_run(config: PublishConfig, chain: Chain, bucket: OwnBucket, say: Say) -> Published:
    """All steps, in order; --out is written last. Raises SubnetError with the remedy.

    Plan, subnet and bucket were checked before.
    """
    hotkey, first_block = bucket.hotkey, chain.head()
    choices = _choices(config, hotkey, first_block + config.start_in_blocks)
    draft = check_plan(config.plan, config.table, choices)
    length = draft.schedule.length
    say(f"plan: {draft.name}, {length}; window 0 starts at block {choices.start_block:,}")
    data = load_corpus(config.text) if config.data is None else open_folder(config.data)
    run = prepare_run(config.table, data, choices, say)
    say(f"dataset and theta_0: {len(run.shards)} shards, {run.num_bytes:,} bytes")
    _tell_waste(run, say)
    _tell_wide(run, choices.max_hotkeys, say)
    upload_missing(run, bucket.writer, bucket.reader, say)
    text = upload_spec(run.spec, bucket.writer)
    schedule = run.spec.schedule.schedule()
    _check_ahead(chain.head(), schedule, first_block)
    _publish_record(chain, hotkey, config.bucket.access, run.spec.run_id, say)
    block = chain.head()
    _check_ahead(block, schedule, first_block)
    write_spec(config.out, text)
    return Published(spec=run.spec, text=text, block=block)


def _tell_wide(run: PreparedRun, max_hotkeys: int, say: Say) -> None:
    spec, manifest = run.spec, run.dataset.manifest
    bears = wide_hotkeys(spec, manifest)
    if bears < max_hotkeys:
        say(
            f"note: the text of {manifest.num_pages:,} pages bears {bears} hotkeys with payloads "
            f"of training.max_width ({spec.training.max_width}); with more, pages of the widest "
            "payloads may be drawn as held-out pages too: take a larger text, or a smaller "
            "max_width"
        )


def _tell_waste(run: PreparedRun, say: Say) -> None:
    share = wasted_share(run.spec, run.dataset.manifest)
    if share > MOST_WASTED:
        say(
            f"note: a miner fetches {share:.0%} more than it trains on: take smaller segments, "
            "a multiple of data.segment_pages as pages of a window, or shorter shards"
        )


def _choices(config: PublishConfig, hotkey: str, start_block: int) -> RunChoices:
    return RunChoices(
        owner_hotkey=hotkey,
        start_block=start_block,
        seed=config.seed,
        num_windows=config.num_windows,
        max_hotkeys=MAX_UIDS,
    )


def draft_of(config: PublishConfig, hotkey: str) -> RunSpec:
    """The future spec of the plan, without digests and start."""
    return check_plan(config.plan, config.table, _choices(config, hotkey, start_block=FAR_BLOCK))


def check_subnet(config: PublishConfig, chain: Chain, hotkey: str, say: Say) -> None:
    """ConfigError for a plan unfit for the chain; a warning through `say` where in doubt."""
    spec = draft_of(config, hotkey)
    wallet = config.wallet
    commands = Commands(
        netuid=config.chain.netuid,
        network=redact_endpoint(config.chain.network),
        wallet=wallet_flags(wallet.name, wallet.hotkey, wallet.path),
    )
    uid = ask_for_place(chain, hotkey, commands).uid
    graph = chain.metagraph(chain.finalized())
    if graph.tempo_blocks > spec.schedule.tempo_blocks:
        raise ConfigError(
            f"--plan {config.plan}: schedule.tempo_blocks is {spec.schedule.tempo_blocks}, but "
            f"subnet {graph.netuid} has a tempo of {graph.tempo_blocks} blocks: the commitment "
            "quota would not last; write that tempo into the plan"
        )
    say(f"subnet {graph.netuid}: {hotkey} is uid {uid}; {len(graph.neurons)} hotkeys registered")
    if graph.owner_uid is None:
        raise ConfigError(
            f"--netuid {graph.netuid}: {unregistered_owner(graph)}; no validator would set weights"
        )
    refuse_other_runs(graph, read_records_of_any_run(chain, graph.block), config.over)
    say(f"what nobody earns goes to uid {graph.owner_uid}, the subnet owner's hotkey: it is burned")
    if hotkey != graph.owner_hotkey:
        say(
            f"note: the subnet owner's hotkey is {graph.owner_hotkey}: a run published by {hotkey} "
            "is not found by the netuid alone, so hand out its run spec"
        )


def refuse_other_runs(
    graph: Metagraph, records: Mapping[str, Record], over: Collection[str]
) -> None:
    """ConfigError where validators vote in another run, but for the runs that are over.

    `over`: first bytes of their run ids, hexadecimal. A subnet has one vector of weights, which the
    validators with most stake decide: two runs side by side would starve the miners of one.
    """
    stakes: dict[str, int] = {}
    for neuron in graph.neurons:
        record = records.get(neuron.hotkey, Record())
        if record.vote is not None and neuron.validator_permit:
            run = record.run.hex()
            stakes[run] = stakes.get(run, 0) + neuron.total_stake_rao
    others = {run: rao for run, rao in stakes.items() if rao and run not in over}
    if others:
        run, rao = max(others.items(), key=lambda item: item[1])
        share = rao / sum(stakes.values())
        raise ConfigError(
            f"--netuid {graph.netuid}: validators with {share:.0%} of the stake that votes vote in "
            f"run {run}: a subnet pays one run at a time, by the weights of most of its stake. "
            "Change that run by `tessera succession`, publish on another subnet, or, if it is "
            f"over, start again with --over {run}"
        )


def _publish_record(chain: Chain, hotkey: str, access: Access, run_id: bytes, say: Say) -> None:
    """Put access and offer of the run on chain and wait for finality; other sections stay."""

    def says_so(record: Record) -> bool:
        return record.access == access and record.offer == run_id

    block = chain.finalized()
    record = read_records_of_any_run(chain, block).get(hotkey, Record())
    if says_so(record):
        say(f"record: on chain already, final at block {block:,}")
        return
    say(
        "record with the bucket and the run id: publishing it, and waiting until it is final, for "
        f"{FINAL_LIMIT_S:.0f} s at most"
    )
    chain.publish(encode_record(replace(record, access=access, offer=run_id)))
    end_s = time.monotonic() + FINAL_LIMIT_S
    while time.monotonic() < end_s:
        latest = chain.finalized()
        if latest > block:
            block = latest
            if says_so(read_records_of_any_run(chain, block).get(hotkey, Record())):
                say(f"record: final at block {block:,}")
                return
        time.sleep(_POLL_S)
    raise ChainError(
        f"the record of {hotkey} was sent, but is not in a final block after "
        f"{FINAL_LIMIT_S:.0f} s (last final block: {block}): start this command again"
    )


def _check_ahead(head: int, schedule: Schedule, first_block: int) -> None:
    """ConfigError for a start in the past: the block behind window 0's pages must be unknown."""
    drawn = schedule.assignment_block(0)
    if head >= drawn:
        margin_blocks = schedule.first_block(0) - drawn
        raise ConfigError(
            f"--start-in {schedule.first_block(0) - first_block}: too soon: the pages of window "
            f"0 are drawn at block {drawn}, and block {head} is here already. Start again with "
            f"more than {head - first_block + margin_blocks}: what was uploaded is not sent again"
        )


def write_spec(out: Path, text: str) -> None:
    """Write the run spec's file completely or leave no file; ConfigError if the disk refuses."""
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ConfigError(
            f"--out {out}: cannot be written ({reason(error)}); {remedy(out, error)}"
        ) from error


def summary(published: Published, config: PublishConfig, block_s: float, now_s: float) -> str:
    """The text for the owner: facts of the run and next steps. `now_s`: seconds since 1970."""
    spec = published.spec
    schedule = spec.schedule
    wait_s = (schedule.start_block - published.block) * block_s
    length_s = schedule.num_windows * schedule.blocks_per_window * block_s
    starts = datetime.fromtimestamp(now_s + wait_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"""\
run spec     {config.out}
SHA-256      {published.sha256}
run_id       {spec.run_id.hex()}
start        block {schedule.start_block:,}, in about {_duration(wait_s)} ({starts})
length       {spec.schedule.length}, about {_duration(length_s)} at {block_s:.2g} s a block
mirror       {", ".join(spec.data.mirrors)}

Miners and validators find the run by the netuid, and see that all is there:
  tessera newcomer --netuid {config.chain.netuid} \
--subtensor.network {redact_endpoint(config.chain.network)} \
{LOCAL_FLAG if schedule.is_local else ""}--out {config.out.name}
Tell them the SHA-256, which the command shows to them too.
Keep the bucket and its read key as they are until the run has ended.
"""


def _duration(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} seconds"
