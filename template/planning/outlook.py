"""The planner's whole answer: windows, memory and bills of all roles, and what does not work."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from template.data.manifest import Manifest
from template.planning import covenant
from template.planning.bill import (
    Bill,
    miner_bill,
    owner_bill,
    run_manifest,
    run_tokens,
    validator_bill,
)
from template.planning.case import Case
from template.planning.costs import codec_threads
from template.planning.evidence import WorkOutlook, expect_work, read_law
from template.planning.hardware import CLASSES, COUNTS, GB, Machine, usual_machine
from template.planning.memory import Memory, miner_memory, owner_memory, validator_memory
from template.planning.miner import (
    FOLLOW,
    SAVES,
    UPLOAD,
    Change,
    MinerWindow,
    changes,
    miner_window,
)
from template.planning.phases import Phase
from template.planning.ranges import possible_parts
from template.planning.validator import ValidatorWindow, validator_window
from template.training.options import Frozen

FORMAT: Final = 1
"""Version of the JSON object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleOutlook:
    """What one role needs. Bytes of the line: of a window, or, for an owner, once."""

    role: str
    up_bytes: float
    down_bytes: float
    memory: Memory
    bill: Bill


@dataclass(frozen=True, kw_only=True, slots=True)
class Smallest:
    """Names of the smallest machines; None if none of those looked at suffices.

    `miner` and `validator` by the devices' memory; `in_time`: a miner's that does all inner steps
    of the plan, with the code of today. `in_range`: the single device with the least memory on
    which a miner trains the model, whole or cut into `range_parts`, with `range_frozen`.
    """

    miner: str | None
    validator: str | None
    in_time: str | None
    in_range: str | None
    range_parts: int
    range_frozen: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """The answer to a case. `faults`: what does not work, a sentence each."""

    case: Case
    miner: MinerWindow
    validator: ValidatorWindow
    roles: tuple[RoleOutlook, ...]
    changes: tuple[Change, ...]
    smallest: Smallest
    faults: tuple[str, ...]
    dataset_tokens: int
    work: WorkOutlook

    @property
    def fits(self) -> bool:
        """Whether a miner's model fits in the machine's devices."""
        return self.roles[0].memory.fits


def look_ahead(case: Case, dataset_tokens: int | None = None) -> Outlook:
    """The answer. `dataset_tokens` None: as many as the run reads if no page is read twice."""
    tokens = run_tokens(case) if dataset_tokens is None else dataset_tokens
    manifest = run_manifest(case, tokens)
    miner, validator, work = (
        miner_window(case),
        validator_window(case),
        expect_work(case.spec, read_law()),
    )
    roles = (_miner(case, miner), _validator(case, validator, manifest), _owner(case, manifest))
    return Outlook(
        case=case,
        miner=miner,
        validator=validator,
        roles=roles,
        changes=tuple(changes(case)),
        smallest=find_smallest(case),
        faults=(
            *_miner_faults(case, miner, roles),
            *_validator_faults(case, validator, roles),
            *_work_faults(case, work),
        ),
        dataset_tokens=tokens,
        work=work,
    )


def work_sentence(outlook: Outlook) -> str:
    """A sentence on the effect that the law expects of a plan, its interval, and the gate."""
    work, evaluation = outlook.work, outlook.case.spec.evaluation
    source = "" if work.measured else ", extrapolated from smaller models"
    gate = "never opens" if work.windows is None else f"opens in {work.windows:.1f} windows"
    needed = "no number of" if work.needed is None else f"{work.needed:,}"
    return (
        f"an honest payload of {work.pages:,} pages shows {work.effect:.2f} deviations of a page "
        f"(95 %: {work.low:.2f} to {work.high:.2f}{source}); the plan assumes "
        f"{evaluation.work_effect:g} and looks at {evaluation.claimed_pages} claimed pages, so "
        f"the gate {gate} in the mean; {needed} claimed pages would open it in one, beside the "
        f"{evaluation.held_out_pages} held out."
    )


def _work_faults(case: Case, work: WorkOutlook) -> Iterator[str]:
    assumed = case.spec.evaluation.work_effect
    if work.windows is None:
        yield (
            f"work test: by the law of small models an honest payload of {work.pages:,} pages "
            f"shows {work.effect:.2f} deviations, and less than {assumed / 2:g}, half of what is "
            "assumed, is refused: lower evaluation.work_effect, or train fewer pages a window"
        )


def _miner(case: Case, window: MinerWindow) -> RoleOutlook:
    return _role("miner", window.phases, miner_memory(case), miner_bill(case))


def _validator(case: Case, window: ValidatorWindow, manifest: Manifest) -> RoleOutlook:
    bill = validator_bill(case, manifest)
    return _role("validator", window.phases, validator_memory(case), bill)


def _role(role: str, phases: tuple[Phase, ...], memory: Memory, bill: Bill) -> RoleOutlook:
    return RoleOutlook(
        role=role,
        up_bytes=sum(phase.up_bytes for phase in phases),
        down_bytes=sum(phase.down_bytes for phase in phases),
        memory=memory,
        bill=bill,
    )


def _owner(case: Case, manifest: Manifest) -> RoleOutlook:
    bill = owner_bill(case, manifest)
    return RoleOutlook(
        role="owner",
        up_bytes=bill.storage.total_bytes,
        down_bytes=0.0,
        memory=owner_memory(case),
        bill=bill,
    )


def find_smallest(case: Case) -> Smallest:
    """The smallest machines, by the sum of their devices' peaks in bf16."""
    machines = list(machines_by_size(case.machine))
    cases = [replace(case, machine=m, parts=1, frozen="bf16") for m in machines]
    single = sorted((m for m in machines if m.count == 1), key=lambda m: m.memory_bytes)
    cut = next(filter(None, (best_cut(replace(case, machine=m)) for m in single)), None)

    def first(suffices: Any) -> str | None:
        return next((each.machine.name for each in cases if suffices(each)), None)

    def is_in_time(each: Case) -> bool:
        window = miner_window(each)
        is_done = window.room_s >= window.steps_s and window.is_in_time
        return is_done and miner_memory(each).fits

    return Smallest(
        miner=first(lambda each: miner_memory(each).fits),
        validator=first(lambda each: validator_memory(each).fits),
        in_time=first(is_in_time),
        in_range=None if cut is None else cut.machine.name,
        range_parts=1 if cut is None else cut.parts,
        range_frozen="bf16" if cut is None else cut.frozen,
    )


def best_cut(case: Case) -> Case | None:
    """The case with the fewest parts that fit in the machine's device; None if none do.

    With frozen tensors on the device, if any number of parts fits so: copies from the host cost
    time. Several devices train the whole model alone.
    """
    kinds: tuple[Frozen, ...] = ("bf16", "host")
    tried = [replace(case, parts=1, frozen="bf16")]
    if case.machine.count == 1:
        numbers = possible_parts(case.spec)
        tried += [replace(case, parts=p, frozen=kind) for kind in kinds for p in numbers]
    return next((each for each in tried if miner_memory(each).fits), None)


def machines_by_size(like: Machine) -> Iterator[Machine]:
    """Machines with GPUs and the usual hosts, the smallest first; else as `like`."""
    found = [
        replace(
            usual_machine(device.name, count),
            mfu=like.mfu,
            scoring_mfu=like.scoring_mfu,
            disk_bytes_per_s=like.disk_bytes_per_s,
        )
        for device in CLASSES.values()
        if not device.is_cpu
        for count in COUNTS
    ]
    yield from sorted(found, key=lambda machine: machine.count * machine.device.peaks[0])


def _miner_faults(case: Case, window: MinerWindow, roles: tuple[RoleOutlook, ...]) -> Iterator[str]:
    memory = roles[0].memory
    if not memory.fits:
        cut = best_cut(case)
        how = "" if cut is None else f", or train a part of it (--parts {cut.parts}"
        how += "" if cut is None else f"{' --frozen host' * (cut.frozen == 'host')})"
        yield (
            f"miner: does not fit: {memory.device_bytes / GB:,.1f} GB with one page and activation "
            f"checkpointing, a {case.machine.device.name} has "
            f"{case.machine.device.memory_bytes / GB:,.0f} GB: take more or larger devices{how}"
        )
    if not window.is_in_time:
        yield (
            f"miner: commits too late: {window.before_commit_s:,.0f} s between the last inner step "
            f"and the commitment, {window.margin_s:,.0f} s allowed: no payload counts"
        )
    if not window.is_up_in_time:
        yield (
            f"miner: uploads too late: {window.seconds_of((UPLOAD,)):,.0f} s for a payload, "
            f"{window.upload_room_s:,.0f} s until validators stop reading"
        )
    if not window.keeps_up:
        yield (
            f"miner: does not keep up beside training: {window.seconds_of(FOLLOW):,.0f} s to "
            f"follow and {window.seconds_of(SAVES):,.0f} s to save, of {window.window_s:,.0f} s"
        )
    if window.done_share < 1.0:
        yield (
            f"miner: does {window.done_share:.0%} of the plan's inner steps: they take "
            f"{window.steps_s:,.0f} s, {window.room_s:,.0f} s are left"
        )
    if case.drawn < case.peers:
        yield (
            f"run: {case.drawn} of {case.peers} payloads are read in a window "
            "(evaluation.max_payloads)"
        )


def _validator_faults(
    case: Case, window: ValidatorWindow, roles: tuple[RoleOutlook, ...]
) -> Iterator[str]:
    memory = roles[1].memory
    if not memory.fits:
        yield (
            f"validator: does not fit: {memory.device_bytes / GB:,.1f} GB, a "
            f"{case.machine.device.name} has {case.machine.device.memory_bytes / GB:,.0f} GB"
        )
    if window.num_scored < case.drawn:
        yield (
            f"validator: scores {window.num_scored} of {case.drawn} payloads in its "
            f"{window.budget_s:,.0f} s"
        )
    if window.num_named < min(window.num_scored, case.accepted):
        yield (
            f"validator: names {window.num_named} of {min(window.num_scored, case.accepted)} "
            "scored payloads: its share of the others is not up before the vote"
        )
    if not window.follows_in_time:
        yield (
            f"validator: takes {window.follow_s:,.0f} s to take and save a step, "
            f"{window.after_s:,.0f} s are there: falls behind the chain"
        )
    elif not window.is_published:
        yield (
            f"validator: its share of a checkpoint takes {window.checkpoint_s:,.0f} s of upload, "
            f"{window.checkpoint_room_s:,.0f} s are there before the next: one comes "
            "before the other is out, and is dropped"
        )


def assumptions(case: Case) -> list[str]:
    """What the figures rest on beside the run spec, a sentence each."""
    machine, device = case.machine, case.machine.device
    found = [
        f"training reaches {machine.mfu:.0%} of {device.peaks[0]:,.0f} TFLOPS in bf16 a device "
        "(--mfu), scoring "
        f"{machine.scoring_mfu:.0%} of {device.peaks[1]:,.0f} in float32 (--scoring-mfu)",
        f"the host has {machine.cores} cores (--cores) of the kind of the record, of which the "
        f"codec's loops use {codec_threads(machine.cores, machine.count)}, 16 for each socket, and "
        "its disk takes "
        f"{machine.disk_bytes_per_s / GB:,.1f} GB/s (--disk-gb-s)",
        f"a block takes {case.block_s:g} s (--block-s)",
        f"{case.peers} miners (--peers) and {case.validators} validators (--validators), all "
        "honest; every payload is good",
        f"the line carries {case.line.up_mbps:g} Mb/s up and {case.line.down_mbps:g} Mb/s down at "
        "once, and nothing else",
        "host seconds and memory grow in a straight line from the record of `make bench-size`",
    ]
    if case.parts > 1:
        found.append(
            f"the model is cut into {case.parts} parts (--parts), of which the chain draws one for "
            "each window; memory is that of the largest need, seconds are the mean of the parts"
        )
    if case.parts > 1 and case.frozen == "host":
        found.append(
            f"frozen layers come from the host (--frozen host) at {device.host_bytes_per_s / GB:g} "
            "GB/s, in each pass and again for its backward pass, beside no computation"
        )
    if machine.count > 1:
        found.append(
            f"theta's chunks are spread evenly over {machine.count} devices: miners train so, and "
            "validators score so, under torchrun; what goes between the devices costs no time"
        )
    return found


def _phase_row(role: str, phase: Phase) -> dict[str, Any]:
    return {
        "role": role,
        "name": phase.name,
        "seconds": phase.seconds,
        "hidden_s": phase.hidden_s,
        "blocking_s": phase.blocking_s,
        "up_bytes": phase.up_bytes,
        "down_bytes": phase.down_bytes,
        "why": phase.why,
    }


def _role_row(outlook: RoleOutlook) -> Mapping[str, Any]:
    storage = outlook.bill.storage
    return {
        "up_bytes": outlook.up_bytes,
        "down_bytes": outlook.down_bytes,
        **asdict(outlook.memory),
        "bucket_bytes": storage.total_bytes,
        "usd_per_day": outlook.bill.usd_per_day,
    }


def to_json(outlook: Outlook) -> dict[str, Any]:
    """The answer as plain values. Seconds and bytes are of a window; an owner's bytes are once."""
    case, window = outlook.case, outlook.miner
    return {
        "format": FORMAT,
        "plan": case.spec.name,
        "parameters": case.parameters,
        "payload_bytes": case.payload_bytes,
        "own_payload_bytes": case.own_payload_bytes,
        "parts": case.parts,
        "frozen": case.frozen,
        "theta0_bytes": case.theta0_bytes,
        "checkpoint_bytes": case.checkpoint_bytes,
        "machine": case.machine.name,
        "up_mbps": case.line.up_mbps,
        "down_mbps": case.line.down_mbps,
        "peers": case.peers,
        "validators": case.validators,
        "window_s": case.window_s,
        "utilisation": window.utilisation,
        "utilisation_limit": window.utilisation_limit,
        "training_s": window.training_s,
        "steps_s": window.steps_s,
        "steps_share": window.done_share,
        "commits_in_time": window.is_in_time,
        "phases": [_phase_row("miner", phase) for phase in window.phases]
        + [_phase_row("validator", phase) for phase in outlook.validator.phases],
        "scored_payloads": outlook.validator.num_scored,
        "named_payloads": outlook.validator.num_named,
        "changes": [asdict(change) for change in outlook.changes],
        "roles": {each.role: _role_row(each) for each in outlook.roles},
        "smallest": asdict(outlook.smallest),
        "utilisation_if_nothing_hidden": covenant.ours(case),
        "dataset_tokens": outlook.dataset_tokens,
        "work_test": asdict(outlook.work),
        "fits": outlook.fits,
        "faults": list(outlook.faults),
        "assumptions": assumptions(case),
    }
