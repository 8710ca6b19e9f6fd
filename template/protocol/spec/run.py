"""The whole run spec: the tables, the rules between fields, and the run id.

Every function of `RULES` takes a spec with valid fields and raises ConfigError, naming a key and
the remedy, if two fields contradict each other.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any

from template.protocol.keys import RUN_ID_BYTES
from template.protocol.record import MAX_RECORD_BYTES, R2_RECORD_BYTES
from template.protocol.spec.constraints import Name, check_fields, require
from template.protocol.spec.continues import ContinuesSpec
from template.protocol.spec.model import (
    MAX_PARAMETERS,
    MIXTURES,
    WITH_HEAD_DIM,
    ModelSpec,
    count_by_field,
)
from template.protocol.spec.pay import EvaluationSpec, WeightsSpec
from template.protocol.spec.timing import CheckpointSpec, ScheduleSpec
from template.protocol.spec.training import (
    CompressionSpec,
    DataSpec,
    OuterSpec,
    TrainingSpec,
)

COMMITMENT_QUOTA_BYTES = 3100
"""Bytes that the chain lets one hotkey commit in one subnet epoch (pallet Commitments)."""

MAX_PUBLIC_WINDOW_BLOCKS = 200
"""Longest window on a public chain, whose nodes keep the state of 256 blocks."""

MAX_ASSIGNED_PAGES = 2**20
"""Limit on the pages of a hotkey in one window, of which a node holds one list per hotkey."""

RECORDS_PER_WINDOW = 2
"""Commitments of a validator in one window: a vote and one retry. A miner's are half as long."""
SPARE_RECORDS = 2
"""Commitments besides in one tempo: after a restart, and a changed offer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """A complete run spec. Any change makes another spec, with another id.

    A spec without `continues` is the first of its run, and its id is the run's.
    """

    name: Annotated[str, Name()]
    """Name of the run, for people."""
    model: ModelSpec
    data: DataSpec
    schedule: ScheduleSpec
    training: TrainingSpec
    compression: CompressionSpec
    outer: OuterSpec
    evaluation: EvaluationSpec
    weights: WeightsSpec
    checkpoint: CheckpointSpec
    continues: ContinuesSpec | None = None

    def __post_init__(self) -> None:
        check_fields(self, "")
        for rule in RULES:
            rule(self)

    @property
    def spec_id(self) -> bytes:
        """First 16 bytes of SHA-256 over the canonical form: JSON, keys sorted, no spaces, without
        optional keys at their default.
        """
        return _spec_id(self)

    @property
    def run_id(self) -> bytes:
        """Id of the run's first spec; part of every object key and payload: two runs never mix."""
        if self.continues is None:
            return self.spec_id
        return bytes.fromhex(self.continues.run_id)

    @property
    def first_window(self) -> int:
        """The first window under this spec."""
        return 0 if self.continues is None else self.continues.window


@lru_cache(maxsize=64)
def _spec_id(spec: RunSpec) -> bytes:
    return table_id(spec_table(spec))


def table_id(table: Mapping[str, Any]) -> bytes:
    """The id of a spec by its table, which may have keys that this version does not know.

    As `spec_to_toml` writes it: without optional keys at their default. TypeError or ValueError for
    values that no spec has.
    """
    canonical = json.dumps(table, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).digest()[:RUN_ID_BYTES]


def spec_table(spec: RunSpec) -> dict[str, Any]:
    """A spec as nested tables, without optional keys at their default.

    A new optional key so leaves the run id of every older spec as it was.
    """
    tables = {table.name: getattr(spec, table.name) for table in fields(spec)}
    defaults = {
        (name, field.name): field.default
        for name, table in tables.items()
        if is_dataclass(table)
        for field in fields(table)
        if field.default is not MISSING
    }
    return {
        section: {
            key: value
            for key, value in table.items()
            if (section, key) not in defaults or value != defaults[section, key]
        }
        if isinstance(table, dict)
        else table
        for section, table in asdict(spec).items()
        if table is not None
    }


def heads_divide_width(spec: RunSpec) -> None:
    """`model.num_attention_heads` divides `model.hidden_size`: every head has the same width."""
    model = spec.model
    require(
        model.hidden_size % model.num_attention_heads == 0,
        "model.num_attention_heads",
        f"is {model.num_attention_heads}, must divide model.hidden_size, {model.hidden_size}",
    )


def key_value_heads_divide_heads(spec: RunSpec) -> None:
    """`model.num_key_value_heads` divides `model.num_attention_heads`: groups are equal."""
    model = spec.model
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    require(
        heads % kv_heads == 0,
        "model.num_key_value_heads",
        f"is {kv_heads}, must divide model.num_attention_heads, {heads}",
    )


def head_width_is_even(spec: RunSpec) -> None:
    """The width of a head, `model.head_dim` or `hidden_size / num_attention_heads`, is even: the
    rotary embedding turns pairs.
    """
    model = spec.model
    require(
        model.head_width % 2 == 0,
        "model.head_dim" if model.head_dim else "model.num_attention_heads",
        f"makes heads of {model.head_width} elements, must make an even number",
    )


def architecture_has_the_fields(spec: RunSpec) -> None:
    """A mixture of experts needs the keys about experts, and `model.num_experts_per_tok` is at most
    `model.num_experts`; other architectures have none of the keys, and olmo2 no `head_dim`.
    """
    model = spec.model
    name = f'architecture "{model.architecture}"'
    require(
        model.head_dim == 0 or model.architecture in WITH_HEAD_DIM,
        "model.head_dim",
        f"{name} has no such field, leave it out; {', '.join(WITH_HEAD_DIM)} have",
    )
    for key in ("num_experts", "num_experts_per_tok", "moe_intermediate_size"):
        value = getattr(model, key)
        require(not model.is_mixture or value > 0, f"model.{key}", f"{name} needs it, 1 or more")
        require(model.is_mixture or value == 0, f"model.{key}", _ONLY_MIXTURES.format(name))
    for key in ("norm_topk_prob", "router_aux_loss_coef"):
        is_set = bool(getattr(model, key))
        require(model.is_mixture or not is_set, f"model.{key}", _ONLY_MIXTURES.format(name))
    require(
        model.num_experts_per_tok <= model.num_experts,
        "model.num_experts_per_tok",
        f"is {model.num_experts_per_tok}, at most num_experts, {model.num_experts}",
    )


_ONLY_MIXTURES = f"{{}} has no such field, leave it out; {', '.join(MIXTURES)} has"


def model_is_bounded(spec: RunSpec) -> None:
    """A model has at most 1,099,511,627,776 parameters: every node must bear the spec of any run
    that a stranger offers.
    """
    counts = count_by_field(spec.model)
    largest = max(counts, key=lambda field: counts[field])
    require(
        sum(counts.values()) <= MAX_PARAMETERS,
        f"model.{largest}",
        f"with the model's other sizes makes {counts[largest]:,} parameters of "
        f"{sum(counts.values()):,}, at most {MAX_PARAMETERS:,} allowed; make it smaller",
    )


def chat_tokens_differ(spec: RunSpec) -> None:
    """The four token ids of `data.chat` differ, and each is less than `model.vocab_size`."""
    chat, vocab_size = spec.data.chat, spec.model.vocab_size
    if chat is None:
        return
    ids = asdict(chat)
    for key, token in ids.items():
        require(
            token < vocab_size,
            f"data.chat.{key}",
            f"is {token}, must be less than model.vocab_size, {vocab_size}",
        )
        others = [other for other, its in ids.items() if its == token and other != key]
        require(
            not others,
            f"data.chat.{key}",
            f"is {token}, as data.chat.{others[0] if others else ''}: each needs a token of its "
            "own",
        )


def capped_lengths_are_usual(spec: RunSpec) -> None:
    """`outer.max_length_ratio` is 0 or at least 1: below 1 it would shorten every payload."""
    ratio = spec.outer.max_length_ratio
    require(
        ratio == 0 or ratio >= 1,
        "outer.max_length_ratio",
        f"is {ratio:g}, must be 0 (no cap) or 1 or more",
    )


def window_holds_its_phases(spec: RunSpec) -> None:
    """`upload_blocks + scoring_blocks + vote_margin_blocks` is at most `blocks_per_window`: a
    window's payloads are uploaded, scored and voted on within the next window.
    """
    schedule = spec.schedule
    phases = schedule.upload_blocks + schedule.scoring_blocks + schedule.vote_margin_blocks
    require(
        phases <= schedule.blocks_per_window,
        "schedule.blocks_per_window",
        f"is {schedule.blocks_per_window}, but upload_blocks + scoring_blocks + vote_margin_blocks "
        f"are {phases} and must fit into it: make windows longer",
    )


def votes_become_final(spec: RunSpec) -> None:
    """`schedule.vote_margin_blocks` exceeds `schedule.finality_lag_blocks`: a node learns the
    final votes while it can still fetch missing payloads.
    """
    margin, lag = spec.schedule.vote_margin_blocks, spec.schedule.finality_lag_blocks
    require(
        margin > lag,
        "schedule.vote_margin_blocks",
        f"is {margin}, must exceed finality_lag_blocks, {lag}, to leave time for fetching "
        "missing payloads",
    )


def public_window_fits_kept_state(spec: RunSpec) -> None:
    """On a public network `schedule.blocks_per_window` is at most 200: public nodes forget the
    state of a block after 256 blocks, and all reads of a window must come before.
    """
    schedule = spec.schedule
    require(
        schedule.network == "local" or schedule.blocks_per_window <= MAX_PUBLIC_WINDOW_BLOCKS,
        "schedule.blocks_per_window",
        f"at most {MAX_PUBLIC_WINDOW_BLOCKS} on a public network, whose nodes forget state; "
        f"is {schedule.blocks_per_window}",
    )


def first_pages_can_be_drawn(spec: RunSpec) -> None:
    """`schedule.start_block` is at least `schedule.vote_margin_blocks`: the block that draws the
    pages of window 0 comes so many blocks earlier.
    """
    start, margin = spec.schedule.start_block, spec.schedule.vote_margin_blocks
    require(
        start >= margin,
        "schedule.start_block",
        f"is {start}, must be vote_margin_blocks, {margin}, or more",
    )


def records_fit_quota(spec: RunSpec) -> None:
    """All records of a validator in one tempo fit the chain's quota of 3100 bytes: two records (a
    vote and a retry) for each window within reach of a tempo and two besides, 224 bytes each on a
    public network, 256 on a local network.
    """
    schedule = spec.schedule
    # A tempo that starts within a window touches one window more than fit into it.
    windows = math.ceil(schedule.tempo_blocks / schedule.blocks_per_window) + 1
    is_public = schedule.network == "public"
    record_bytes = R2_RECORD_BYTES if is_public else MAX_RECORD_BYTES * 2 // 3
    spent = (windows * RECORDS_PER_WINDOW + SPARE_RECORDS) * record_bytes
    require(
        spent <= COMMITMENT_QUOTA_BYTES,
        "schedule.tempo_blocks",
        f"an epoch may take {spent} bytes of records; the chain allows "
        f"{COMMITMENT_QUOTA_BYTES}: make windows longer or the tempo shorter",
    )


def assigned_pages_fit_memory(spec: RunSpec) -> None:
    """`training.inner_steps * batch_pages * max_width` is at most 1,048,576: every node lists the
    pages assigned to each hotkey.
    """
    pages = spec.training.most_pages
    require(
        pages <= MAX_ASSIGNED_PAGES,
        "training.inner_steps",
        f"times batch_pages and max_width makes {pages} pages a window, at most "
        f"{MAX_ASSIGNED_PAGES} allowed",
    )


def parts_are_blocks(spec: RunSpec) -> None:
    """`training.max_parts` is at most `model.num_hidden_layers`: no layer is cut."""
    parts, layers = spec.training.max_parts, spec.model.num_hidden_layers
    require(
        parts <= layers,
        "training.max_parts",
        f"is {parts}, at most model.num_hidden_layers, {layers}",
    )


def succession_comes_before_the_end(spec: RunSpec) -> None:
    """`continues.window` is less than `schedule.num_windows`: the succession has a window."""
    require(
        spec.first_window < spec.schedule.num_windows,
        "schedule.num_windows",
        f"is {spec.schedule.num_windows}, must be more than continues.window, {spec.first_window}",
    )


def pay_needs_no_more_than_history(spec: RunSpec) -> None:
    """`weights.min_windows` is at most `weights.history_windows`: otherwise no miner could ever be
    paid.
    """
    weights = spec.weights
    require(
        weights.min_windows <= weights.history_windows,
        "weights.min_windows",
        f"is {weights.min_windows}, must be in [2, weights.history_windows], here "
        f"{weights.history_windows}",
    )


RULES: Sequence[Callable[[RunSpec], None]] = (
    heads_divide_width,
    key_value_heads_divide_heads,
    head_width_is_even,
    architecture_has_the_fields,
    model_is_bounded,
    chat_tokens_differ,
    capped_lengths_are_usual,
    window_holds_its_phases,
    votes_become_final,
    public_window_fits_kept_state,
    first_pages_can_be_drawn,
    records_fit_quota,
    assigned_pages_fit_memory,
    parts_are_blocks,
    pay_needs_no_more_than_history,
    succession_comes_before_the_end,
)
"""The rules between fields, checked in this order on every new spec."""
