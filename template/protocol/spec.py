"""The run spec: everything that the nodes of one run must agree on before it starts.

One TOML file, parsed once into frozen dataclasses. `run_id`, the first 16 bytes of the
SHA-256 of its canonical form, is in every object key and every payload: two nodes with
different specs cannot mix. Fields are documented where they are declared; a change of any
of them makes another run.
"""

import hashlib
import json
import math
import re
import tomllib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from template.errors import ConfigError
from template.protocol.keys import RUN_ID_BYTES
from template.protocol.quorum import QuorumRules
from template.protocol.record import MAX_RECORD_BYTES, MAX_UIDS, R2_RECORD_BYTES
from template.protocol.schedule import Schedule
from template.protocol.ss58 import public_key
from template.protocol.toml import from_table

COMMITMENT_QUOTA_BYTES = 3100
"""Bytes that the chain lets one hotkey commit in one subnet epoch (pallet Commitments)."""

MAX_PUBLIC_WINDOW_BLOCKS = 200
"""A public node keeps the state of 256 blocks: all reads of a window must fall within them."""

PLAN_HINT = " (a plan, as in runs/, is no run spec yet: the owner makes one of it)"

RECORDS_PER_WINDOW = 3
"""Commitments of a hotkey in one window: a payload, a vote and one retry."""


def _check(ok: bool, field: str, remedy: str) -> None:
    if not ok:
        raise ConfigError(f"run spec: {field}: {remedy}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A Llama in Hugging Face's field names."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool

    def __post_init__(self) -> None:
        _check(self.architecture == "llama", "model.architecture", 'only "llama" is built')
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
            _check(getattr(self, name) > 0, f"model.{name}", "must be positive")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        _check(
            heads > 0 and self.hidden_size % heads == 0,
            "model.num_attention_heads",
            "must divide model.hidden_size",
        )
        _check(
            kv_heads > 0 and heads % kv_heads == 0,
            "model.num_key_value_heads",
            "must divide model.num_attention_heads",
        )
        _check(self.rope_theta > 0, "model.rope_theta", "must be positive")
        _check(self.rms_norm_eps > 0, "model.rms_norm_eps", "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """The dataset. `manifest_digest`: SHA-256 of its manifest (hex). `mirrors`: hotkeys (SS58)
    whose buckets hold it. `page_tokens`: tokens of a page, which is one training sequence.
    """

    tokenizer: str
    manifest_digest: str
    mirrors: tuple[str, ...]
    page_tokens: int

    def __post_init__(self) -> None:
        _check_hex("data.manifest_digest", self.manifest_digest)
        _check(bool(self.mirrors), "data.mirrors", "name at least one hotkey")
        _check(self.page_tokens >= 2, "data.page_tokens", "must be 2 or more")
        for hotkey in self.mirrors:
            try:
                public_key(hotkey)
            except ValueError as error:
                raise ConfigError(f"run spec: data.mirrors: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSpec:
    """See `Schedule`. `network`: "public" or "local" (a chain that keeps all its state).
    `num_windows`: the run's length. `scoring_blocks`: a validator's budget between the
    upload deadline and the vote. `finality_lag_blocks`: how far finality trails the head.
    `tempo_blocks`: the subnet's epoch, for the commitment quota.
    """

    network: str
    start_block: int
    blocks_per_window: int
    upload_blocks: int
    scoring_blocks: int
    vote_margin_blocks: int
    finality_lag_blocks: int
    tempo_blocks: int
    num_windows: int

    def __post_init__(self) -> None:
        _check(self.network in ("public", "local"), "schedule.network", '"public" or "local"')
        b, k, m = self.blocks_per_window, self.upload_blocks, self.vote_margin_blocks
        _check(b > 0, "schedule.blocks_per_window", "must be positive")
        _check(k > 0, "schedule.upload_blocks", "must be positive")
        _check(self.scoring_blocks > 0, "schedule.scoring_blocks", "must be positive")
        _check(
            k + self.scoring_blocks + m <= b,
            "schedule.blocks_per_window",
            f"is {b}, but upload_blocks + scoring_blocks + vote_margin_blocks are "
            f"{k + self.scoring_blocks + m} and must fit into it: make windows longer",
        )
        _check(
            m > self.finality_lag_blocks >= 0,
            "schedule.vote_margin_blocks",
            "must exceed finality_lag_blocks, to leave time to fetch what is missing",
        )
        _check(
            self.network == "local" or b <= MAX_PUBLIC_WINDOW_BLOCKS,
            "schedule.blocks_per_window",
            f"at most {MAX_PUBLIC_WINDOW_BLOCKS} on a public network, whose nodes forget state",
        )
        _check(self.start_block >= m, "schedule.start_block", "must be vote_margin_blocks or more")
        _check(self.num_windows > 0, "schedule.num_windows", "must be positive")
        _check(self.tempo_blocks > 0, "schedule.tempo_blocks", "must be positive")
        windows = math.ceil(self.tempo_blocks / b) + 1
        record_bytes = R2_RECORD_BYTES if self.network == "public" else MAX_RECORD_BYTES // 2
        spent = windows * RECORDS_PER_WINDOW * record_bytes
        _check(
            spent <= COMMITMENT_QUOTA_BYTES,
            "schedule.tempo_blocks",
            f"an epoch may take {spent} bytes of records; the chain allows "
            f"{COMMITMENT_QUOTA_BYTES}: make windows longer or the tempo shorter",
        )

    def schedule(self) -> Schedule:
        return Schedule(
            start_block=self.start_block,
            blocks_per_window=self.blocks_per_window,
            upload_blocks=self.upload_blocks,
            vote_margin_blocks=self.vote_margin_blocks,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """Inner loop. `inner_steps` (H): the most AdamW steps of a window, each on `batch_pages`
    pages. Learning rates are functions of the window: linear warm-up over `warmup_windows`,
    then a cosine to `final_lr_share` of `inner_lr` at the run's end.
    `warm_start_steps`: inner steps, each on `batch_pages` pages, that theta_0 was trained
    alone before it was published; nodes take theta_0 as it is.
    `own_update_share`: a miner whose payload is under way starts from theta less so much of
    alpha times that payload; 0 starts from theta, 1 takes its own work for everybody's.
    `precision`: "no" (float32) or "bf16", as accelerate calls them.
    """

    inner_steps: int
    batch_pages: int
    inner_lr: float
    final_lr_share: float
    warmup_windows: float
    warm_start_steps: int
    own_update_share: float
    adam_beta1: float
    adam_beta2: float
    weight_decay: float
    max_gradient_norm: float
    precision: str

    def __post_init__(self) -> None:
        _check(self.inner_steps > 0, "training.inner_steps", "must be positive")
        _check(self.batch_pages > 0, "training.batch_pages", "must be positive")
        _check(self.inner_lr > 0, "training.inner_lr", "must be positive")
        _check(0 <= self.final_lr_share <= 1, "training.final_lr_share", "must be in [0, 1]")
        _check(self.warmup_windows >= 0, "training.warmup_windows", "must not be negative")
        _check(self.warm_start_steps >= 0, "training.warm_start_steps", "must not be negative")
        _check(0 <= self.own_update_share <= 1, "training.own_update_share", "must be in [0, 1]")
        for name in ("adam_beta1", "adam_beta2"):
            _check(0 <= getattr(self, name) < 1, f"training.{name}", "must be in [0, 1)")
        _check(self.weight_decay >= 0, "training.weight_decay", "must not be negative")
        _check(self.max_gradient_norm > 0, "training.max_gradient_norm", "must be positive")
        _check(self.precision in ("no", "bf16"), "training.precision", '"no" or "bf16"')

    @property
    def pages_per_window(self) -> int:
        return self.inner_steps * self.batch_pages


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressionSpec:
    """`top_k`: kept of each chunk of 4096. `error_feedback_decay`: beta."""

    top_k: int
    error_feedback_decay: float

    def __post_init__(self) -> None:
        _check(1 <= self.top_k <= 4096, "compression.top_k", "must be in [1, 4096]")
        _check(
            0 <= self.error_feedback_decay < 1,
            "compression.error_feedback_decay",
            "must be in [0, 1)",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OuterSpec:
    """Outer step. `outer_lr`: alpha. `min_divisor`: n_min, so that a lone payload never moves
    the model by more than 1/n_min. `max_staleness` (S_max) and `staleness_decay` (lambda).
    `clip_factor` (kappa) times the median norm of the payloads accepted in the last
    `clip_windows` windows bounds a tensor's norm; before there are any, the reference is
    `initial_norm_share` of the tensor's norm in theta_0, at least `initial_norm_floor`
    times the square root of its number of elements: a bound then, on the median norm of the
    window's own payloads. `max_energy_share`: of the update's energy, the sum of squared lengths
    of its payloads, that the payloads of one coldkey have together; twice an equal part where
    there are so few coldkeys that this is more. 1: no cap.
    """

    outer_lr: float
    min_divisor: int
    max_staleness: int
    staleness_decay: float
    clip_factor: float
    clip_windows: int
    initial_norm_share: float
    initial_norm_floor: float
    max_energy_share: float
    peers_per_step: int
    min_quorum_percent: int
    quorum_windows: int

    def __post_init__(self) -> None:
        _check(self.outer_lr > 0, "outer.outer_lr", "must be positive")
        _check(self.min_divisor >= 1, "outer.min_divisor", "must be 1 or more")
        _check(self.max_staleness >= 0, "outer.max_staleness", "must not be negative")
        _check(0 < self.staleness_decay <= 1, "outer.staleness_decay", "must be in (0, 1]")
        _check(self.clip_factor > 0, "outer.clip_factor", "must be positive")
        _check(self.clip_windows >= 1, "outer.clip_windows", "must be 1 or more")
        _check(self.initial_norm_share > 0, "outer.initial_norm_share", "must be positive")
        _check(self.initial_norm_floor > 0, "outer.initial_norm_floor", "must be positive")
        _check(0 < self.max_energy_share <= 1, "outer.max_energy_share", "must be in (0, 1]")
        _check(1 <= self.peers_per_step <= 256, "outer.peers_per_step", "must be in [1, 256]")
        _check(
            0 <= self.min_quorum_percent <= 100, "outer.min_quorum_percent", "must be in [0, 100]"
        )
        _check(self.quorum_windows >= 1, "outer.quorum_windows", "must be 1 or more")

    def quorum_rules(self) -> QuorumRules:
        return QuorumRules(
            peers_per_step=self.peers_per_step,
            min_quorum_percent=self.min_quorum_percent,
            quorum_windows=self.quorum_windows,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSpec:
    """Scoring. `held_out_pages`: pages of a window's common pool. `curve_pages`: of the
    fixed sample that draws the loss curve. `assignment_windows`: pages
    assigned in so many windows back are not held out. `step_share` (eta): the share of a
    payload's full step at which it is scored. A payload is named if its gain less `naming_z`
    standard errors over sequences exceeds `min_relative_gain` of the root mean square of the
    window's positive gains; a hotkey is paid by its mean relative gain less `confidence_z`
    standard errors over windows, if that exceeds `min_relative_gain` too.
    `claimed_pages`: sampled of what each payload says it was made from, for the work test, which
    decides between no effect and one of `work_effect` standard deviations of a sequence, wrongly
    in `work_error` of the cases, on the samples of the last `work_windows` windows. 0 claimed
    pages: no work test, whoever gains is paid. `max_overlap`: share of its kept places that a
    payload may have in common with another of the window or of those before. `max_payloads` are
    scored in a window at most; of more a sample is drawn, the same by all validators, and more
    windows count, up to `work_windows`. `loss_tolerance`: nats per token by which two machines
    may differ in the loss of one sequence.
    """

    held_out_pages: int
    curve_pages: int
    assignment_windows: int
    step_share: float
    naming_z: float
    min_relative_gain: float
    confidence_z: float
    claimed_pages: int
    work_effect: float
    work_error: float
    work_windows: int
    max_overlap: float
    max_payloads: int
    loss_tolerance: float

    def __post_init__(self) -> None:
        _check(1 <= self.max_payloads <= MAX_UIDS, "evaluation.max_payloads", "must be in [1, 256]")
        _check(self.claimed_pages >= 0, "evaluation.claimed_pages", "must not be negative")
        _check(self.work_effect > 0, "evaluation.work_effect", "must be positive")
        _check(0 < self.work_error < 0.5, "evaluation.work_error", "must be in (0, 0.5)")
        _check(0 < self.max_overlap <= 1, "evaluation.max_overlap", "must be in (0, 1]")
        _check(0 < self.loss_tolerance < 1, "evaluation.loss_tolerance", "must be in (0, 1)")
        _check(self.work_windows >= 1, "evaluation.work_windows", "must be 1 or more")
        _check(self.held_out_pages >= 2, "evaluation.held_out_pages", "must be 2 or more")
        _check(self.curve_pages >= 1, "evaluation.curve_pages", "must be 1 or more")
        _check(self.assignment_windows >= 1, "evaluation.assignment_windows", "must be 1 or more")
        _check(0 < self.step_share <= 1, "evaluation.step_share", "must be in (0, 1]")
        _check(self.naming_z >= 0, "evaluation.naming_z", "must not be negative")
        _check(0 <= self.min_relative_gain < 1, "evaluation.min_relative_gain", "must be in [0, 1)")
        _check(self.confidence_z >= 0, "evaluation.confidence_z", "must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsSpec:
    """Chain weights. A miner's weight grows with (lower bound of its mean held-out gain over
    `history_windows` windows) ** `gain_power`, at least `min_windows` of them scored, at most
    `max_share`; what nobody earns goes to `burn_uid`. Gain counts up to `credit_share` of what the
    median miner has for as much work.
    """

    history_windows: int
    min_windows: int
    gain_power: float
    credit_share: float
    max_share: float
    burn_uid: int

    def __post_init__(self) -> None:
        _check(self.history_windows >= 1, "weights.history_windows", "must be 1 or more")
        _check(
            2 <= self.min_windows <= self.history_windows,
            "weights.min_windows",
            "must be in [2, weights.history_windows]",
        )
        _check(
            self.gain_power >= 1 and self.gain_power % 0.5 == 0,
            "weights.gain_power",
            "must be 1 or more, in steps of 0.5",
        )
        _check(0 < self.credit_share <= 1, "weights.credit_share", "must be in (0, 1]")
        _check(0 < self.max_share <= 1, "weights.max_share", "must be in (0, 1]")
        _check(0 <= self.burn_uid < 256, "weights.burn_uid", "must be in [0, 256)")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSpec:
    """`theta0_digest`: SHA-256 (hex) of the safetensors file of the first parameters: a seed
    does not give the same bits everywhere. Validators publish a checkpoint every
    `every_windows` windows; every node takes the digest over all its tensors every
    `digest_every_windows`.
    """

    theta0_digest: str
    every_windows: int
    digest_every_windows: int

    def __post_init__(self) -> None:
        _check_hex("checkpoint.theta0_digest", self.theta0_digest)
        _check(self.every_windows >= 1, "checkpoint.every_windows", "must be 1 or more")
        _check(
            self.digest_every_windows >= 1, "checkpoint.digest_every_windows", "must be 1 or more"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """A whole run."""

    name: str
    model: ModelSpec
    data: DataSpec
    schedule: ScheduleSpec
    training: TrainingSpec
    compression: CompressionSpec
    outer: OuterSpec
    evaluation: EvaluationSpec
    weights: WeightsSpec
    checkpoint: CheckpointSpec

    @property
    def run_id(self) -> bytes:
        """First 16 bytes of SHA-256 over the canonical form: JSON, keys sorted, no spaces."""
        return _run_id(self)


@lru_cache(maxsize=16)
def _run_id(spec: RunSpec) -> bytes:
    canonical = json.dumps(asdict(spec), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()[:RUN_ID_BYTES]


def parse_spec(text: str) -> RunSpec:
    """A spec from TOML text; ConfigError names the key and what it may be."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"run spec: not valid TOML: {error}") from error
    return from_table(RunSpec, table)


def load_spec(path: Path) -> RunSpec:
    """A spec from a file; ConfigError if it cannot be read or is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--run {path}: cannot be read: {error}") from error
    try:
        return parse_spec(text)
    except ConfigError as error:
        hint = PLAN_HINT if "missing" in str(error) else ""
        raise ConfigError(f"--run {path}: {error}{hint}") from error


def spec_to_toml(spec: RunSpec) -> str:
    """TOML that parses back into an equal spec."""
    lines = [f"name = {_toml(spec.name)}"]
    for section, values in asdict(spec).items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_hex(field: str, value: str) -> None:
    ok = re.fullmatch("[0-9a-f]{64}", value) is not None
    _check(ok, field, "must be 64 lower-case hexadecimal digits (a SHA-256)")
