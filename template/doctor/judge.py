"""Judgements: measured figures against what the run needs. Pure; every answer is a finding."""

from dataclasses import dataclass
from typing import Final

from template import version_words
from template.chain import WeightTimes
from template.doctor import checks
from template.doctor.findings import Finding, bad, doubtful, good

GB: Final = 1e9
RAO_PER_TAO: Final = 1e9
USABLE_CLOCK_S: Final = 300.0
"""S3 servers refuse requests whose clock is 15 minutes off; blocks are seconds old."""
DOUBTFUL_CLOCK_S: Final = 60.0
SLOW_READ_S: Final = 5.0
STALE_BLOCKS: Final = 10
"""Block times of the newest block's age after which an endpoint stands still or lags."""
STALE_S: Final = 120.0
"""The same at least, for a chain of short blocks."""


def judge_clock(ahead_s: float, *, age_limit_s: float) -> Finding:
    """`ahead_s`: this machine's clock less the newest block's time, so a block's age or more.

    `age_limit_s`: the age of a block of a chain that moves. A clock behind the chain has no other
    cause; a clock ahead may be an endpoint that stands still.
    """
    name, figures = checks.CLOCK, {"clock_ahead_s": round(ahead_s, 1)}
    side = f"{abs(ahead_s):,.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the newest block"
    mend = (
        "set it (`timedatectl set-ntp true`). If it is right, the endpoint of --subtensor.network "
        "is behind: name another"
    )
    if abs(ahead_s) > USABLE_CLOCK_S:
        return bad(
            name, f"this machine's clock is {side}, and buckets refuse it: {mend}", **figures
        )
    if ahead_s > max(DOUBTFUL_CLOCK_S, age_limit_s) or ahead_s < -DOUBTFUL_CLOCK_S:
        return doubtful(name, f"this machine's clock is {side}: {mend}", **figures)
    return good(name, f"within {abs(ahead_s):,.0f} s of the newest block's time", **figures)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainSeen:
    """An endpoint as seen in a few reads. `read_s`: the longest read. `rose`: whether a new block
    came while the doctor looked, for `watched_s`; `final_lag`: blocks from the best to the final.
    """

    where: str
    head: int
    final_lag: int
    read_s: float
    block_s: float
    rose: bool
    watched_s: float


def judge_chain(seen: ChainSeen) -> Finding:
    """Whether the endpoint answers soon and its chain moves."""
    figures = {
        "head_block": seen.head,
        "final_lag_blocks": seen.final_lag,
        "read_s": round(seen.read_s, 3),
        "block_s": seen.block_s,
    }
    if not seen.rose:
        return bad(
            checks.CHAIN,
            f"the endpoint {seen.where} answers and stands still: block {seen.head} for "
            f"{seen.watched_s:.0f} s: name another with --subtensor.network",
            **figures,
        )
    if seen.read_s > SLOW_READ_S:
        return doubtful(
            checks.CHAIN,
            f"the endpoint {seen.where} is slow: {seen.read_s:.1f} s for one read; a node that "
            "learns of blocks late misses windows: name a nearer one with --subtensor.network",
            **figures,
        )
    return good(
        checks.CHAIN,
        f"{seen.where} answers in {seen.read_s:.2f} s, at block {seen.head}, final "
        f"{seen.final_lag} blocks behind",
        **figures,
    )


def judge_balance(free_rao: int, cost_rao: int, *, is_registered: bool, coldkey: str) -> Finding:
    """Whether the coldkey can pay a registration, where the hotkey still needs one."""
    name = checks.BALANCE
    figures = {
        "free_tao": free_rao / RAO_PER_TAO,
        "registration_cost_tao": cost_rao / RAO_PER_TAO,
    }
    has = f"coldkey {coldkey} has {free_rao / RAO_PER_TAO:,.4f} TAO free"
    if is_registered or free_rao > cost_rao:
        return good(name, f"{has}; a registration costs {cost_rao / RAO_PER_TAO:,.4f}", **figures)
    return bad(
        name,
        f"{has}, and the hotkey's registration costs {cost_rao / RAO_PER_TAO:,.4f}: send TAO to "
        "the coldkey (`btcli wallet balance` shows it)",
        **figures,
    )


def judge_version(own_key: int, least_key: int, *, role: str, version: str) -> Finding:
    """Whether this version's key reaches the subnet's `weights_version`."""
    name = checks.VERSION
    figures: dict[str, int | str] = {"version_key": own_key, "least_version_key": least_key}
    if own_key >= least_key:
        return good(name, f"{version}, as new as the subnet's owner demands", **figures)
    needed = version_words(least_key)
    loss = (
        "the chain refuses this validator's weights"
        if role == "validator"
        else ("validators of this version can set no weights, so its protocol may be out of use")
    )
    remedy = (
        f"this is version {version}, and the subnet's owner demands {needed} (weights_version "
        f"{least_key}): {loss}; install {needed} and start again"
    )
    return (bad if role == "validator" else doubtful)(name, remedy, **figures)


def describe_weights(times: WeightTimes, tempo_blocks: int, block_s: float) -> Finding:
    """When the subnet takes weights and counts them: for information, never a fault."""
    lag = times.lag_blocks(tempo_blocks)
    if times.reveal_epochs:
        epochs = f"{times.reveal_epochs} epoch{'s' * (times.reveal_epochs > 1)}"
        words = (
            f"commit-reveal is on: a row counts {epochs} after it was set, {lag} blocks of "
            f"{block_s:g} s or {lag * block_s / 60:.0f} minutes, and pay comes as much later"
        )
    else:
        words = "commit-reveal is off: a row counts in the next epoch, and anybody can copy it"
    return good(
        checks.WEIGHTS,
        f"{words}; the chain takes a row every {times.rate_limit_blocks} blocks and counts it for "
        f"{times.cutoff_blocks}",
        reveal_epochs=times.reveal_epochs,
        lag_blocks=lag,
        rate_limit_blocks=times.rate_limit_blocks,
        cutoff_blocks=times.cutoff_blocks,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LineNeed:
    """Megabits (10^6) a second that a role needs each way to be in time, from the plan."""

    up_mbps: float
    down_mbps: float
    what: str


def judge_line(up_mbps: float, down_mbps: float, need: LineNeed) -> Finding:
    """The measured line to the bucket against the plan's need."""
    figures = {
        "up_mbps": round(up_mbps, 2),
        "down_mbps": round(down_mbps, 2),
        "needed_up_mbps": round(need.up_mbps, 3),
        "needed_down_mbps": round(need.down_mbps, 3),
    }
    slow = [
        f"{have:,.1f} Mb/s {way}, {needed:,.1f} needed"
        for way, have, needed in (
            ("up", up_mbps, need.up_mbps),
            ("down", down_mbps, need.down_mbps),
        )
        if have < needed
    ]
    if slow:
        return bad(
            checks.LINE,
            f"the line to the bucket is too slow: {' and '.join(slow)} ({need.what}): take a "
            "faster line or a nearer bucket, or leave the line to this neuron alone",
            **figures,
        )
    return good(
        checks.LINE,
        f"{up_mbps:,.0f} Mb/s up and {down_mbps:,.0f} down; {need.up_mbps:,.2g} and "
        f"{need.down_mbps:,.2g} needed ({need.what})",
        **figures,
    )


def judge_disk(free_bytes: float, own_bytes: float, needed_bytes: float, where: str) -> Finding:
    """Room on the disk: what is free, and what this neuron's own state takes already."""
    figures = {
        "free_gb": round(free_bytes / GB, 3),
        "own_gb": round(own_bytes / GB, 3),
        "needed_gb": round(needed_bytes / GB, 3),
    }
    if free_bytes + own_bytes < needed_bytes:
        return bad(
            checks.DISK,
            f"--neuron.state_dir: the plan needs {needed_bytes / GB:,.2f} GB, and the file system "
            f"of {where} has {free_bytes / GB:,.2f} GB free: free some, or name a folder on "
            "another disk",
            **figures,
        )
    return good(
        checks.DISK,
        f"{free_bytes / GB:,.1f} GB free, {needed_bytes / GB:,.2f} GB needed",
        **figures,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bytes:
    """Memory in bytes: `total` of the machine or device, `free` of it now, `needed` by the plan."""

    total: float
    free: float
    needed: float


def judge_memory(host: Bytes, device: Bytes | None) -> Finding:
    """Memory of host and device against the plan; a device that computes in the host's has None."""
    figures = {
        "host_gb": round(host.total / GB, 2),
        "host_free_gb": round(host.free / GB, 2),
        "host_needed_gb": round(host.needed / GB, 2),
    }
    if device is not None:
        figures |= {
            "device_gb": round(device.total / GB, 2),
            "device_free_gb": round(device.free / GB, 2),
            "device_needed_gb": round(device.needed / GB, 2),
        }
        if device.total < device.needed:
            return bad(
                checks.MEMORY,
                f"the device has {device.total / GB:,.1f} GB, and the plan needs "
                f"{device.needed / GB:,.1f} GB: take a larger device, or --neuron.parts "
                "(`tessera plan --parts auto` says how many)",
                **figures,
            )
    if host.total < host.needed:
        return bad(
            checks.MEMORY,
            f"this machine has {host.total / GB:,.1f} GB of memory, and the plan needs "
            f"{host.needed / GB:,.1f} GB: take a machine with more (a container: raise its limit)",
            **figures,
        )
    short = [
        f"{each.free / GB:,.1f} GB of the {where}'s memory are free, {each.needed / GB:,.1f} needed"
        for where, each in (("machine", host), ("device", device))
        if each is not None and each.free < each.needed
    ]
    if short:
        return doubtful(
            checks.MEMORY, f"{' and '.join(short)}: end other programs before the start", **figures
        )
    return good(
        checks.MEMORY,
        f"{host.free / GB:,.1f} GB of the machine free, {host.needed / GB:,.2f} needed"
        + (
            ""
            if device is None
            else f"; {device.free / GB:,.1f} of the device, {device.needed / GB:,.1f} needed"
        ),
        **figures,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSeen:
    """Measured inner steps. `step_s`: the median step; `steps`: the plan's in a window; `least`:
    the share of a window's steps below which a payload does not count.
    """

    step_s: float
    steps: int
    least: float
    window_s: float
    tokens_per_s: float
    mfu: float | None


def judge_step(seen: StepSeen) -> Finding:
    """The plan's inner steps at the measured pace, against a window."""
    name, share = checks.INNER_STEP, seen.window_s / max(seen.step_s * seen.steps, 1e-9)
    figures: dict[str, float] = {
        "step_s": round(seen.step_s, 4),
        "window_s": round(seen.window_s, 1),
        "steps_share": round(share, 3),
        "tokens_per_s": round(seen.tokens_per_s, 1),
    }
    if seen.mfu is not None:
        figures["mfu"] = round(seen.mfu, 4)
    pace = f"a step takes {seen.step_s:,.3g} s, {seen.steps} steps make a window of "
    pace += f"{seen.window_s:,.0f} s"
    if share < seen.least:
        return bad(
            name,
            f"{pace}: this device does {share:.1%} of them, and a payload counts from "
            f"{seen.least:.1%} on: take a faster device, or send one payload for several windows "
            "with --neuron.windows",
            **figures,
        )
    if share < 1.0:
        return doubtful(
            name,
            f"{pace}: this device does {share:.0%} of them, and is paid for that share",
            **figures,
        )
    return good(name, f"{pace}: {1 / share:.0%} of the window", **figures)
