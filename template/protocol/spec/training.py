"""Tables of the run spec about learning: data, inner loop, compression, outer step."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from template.protocol.quorum import QuorumRules
from template.protocol.record import MAX_UIDS
from template.protocol.spec.constraints import Hotkeys, Name, OneOf, Range, Sha256, Table
from template.protocol.spec.model import MAX_VOCAB_SIZE

# The upper limits lie far beyond every run. The limits keep a stranger's spec from taking time or
# memory without end, and catch a slip of the keyboard.
MAX_PAGE_TOKENS = 2**20
MAX_SEGMENT_PAGES = 2**16
MAX_ALPHA_WINDOWS = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatSpec(Table):
    """Only for a dataset of conversations: the four tokens that mark a conversation's messages.

    A message is its role's token, the text, and `end`. With this table the loss counts answers
    alone: the tokens after an `assistant` token, up to the next `end` token and with it, in
    training, scoring and audit. A page begins outside of an answer. All tokens count of a page with
    fewer than 4 such tokens. `tessera data prepare --chat` prints the table.
    """

    TABLE: ClassVar[str] = "data.chat"

    system: Annotated[int, Range(ge=0, lt=MAX_VOCAB_SIZE)]
    """Token id before a system message."""
    user: Annotated[int, Range(ge=0, lt=MAX_VOCAB_SIZE)]
    """Token id before a question."""
    assistant: Annotated[int, Range(ge=0, lt=MAX_VOCAB_SIZE)]
    """Token id before an answer."""
    end: Annotated[int, Range(ge=0, lt=MAX_VOCAB_SIZE)]
    """Token id after every message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec(Table):
    """The dataset: tokenizer, shards and the buckets that serve the shards."""

    TABLE: ClassVar[str] = "data"

    tokenizer: Annotated[str, Name()]
    """Name of the tokenizer; `byte` takes each byte as a token. A node refuses to start when the
    dataset's manifest names another tokenizer.
    """
    manifest_digest: Annotated[str, Sha256()]
    """SHA-256 of the dataset's manifest, which lists every shard by digest."""
    mirrors: Annotated[tuple[str, ...], Hotkeys()]
    """Hotkeys whose buckets serve the dataset. With a single mirror, an outage of its bucket
    stops every node without a copy.
    """
    page_tokens: Annotated[int, Range(ge=8, le=MAX_PAGE_TOKENS)]
    """Tokens of a page. A page is one training sequence, so longer pages need more memory."""
    segment_pages: Annotated[int, Range(ge=1, le=MAX_SEGMENT_PAGES)]
    """Pages of a segment, the part of a shard that is drawn, fetched and verified as one. Larger
    segments need fewer requests; smaller ones draw more diverse pages in a window.
    """
    chat: ChatSpec | None = None
    """The table `[data.chat]`; without it every predicted token counts in the loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec(Table):
    """The inner loop of a miner: steps of an optimizer on the assigned pages of one window.

    The learning rate is a function of the window alone, in three phases: a linear warm-up, a
    stable phase at `inner_lr`, and a decay, a cosine down to `final_lr_share` of `inner_lr`.
    """

    TABLE: ClassVar[str] = "training"

    inner_steps: Annotated[int, Range(ge=1, le=65_536)]
    """H, the maximum of inner steps on one page list. A slow machine stops at the deadline with
    fewer steps, or takes several windows for them, as far as `outer.max_staleness` goes.
    """
    batch_pages: Annotated[int, Range(ge=1, le=65_536)]
    """Pages of one inner step."""
    inner_lr: Annotated[float, Range(gt=0, le=100)]
    """Peak learning rate of the inner optimizer. At too high a rate the loss of every miner
    diverges.
    """
    final_lr_share: Annotated[float, Range(ge=0, le=1)]
    """Learning rate at the end of the run, as a share of `inner_lr`; 1 keeps the rate constant."""
    decay_share: Annotated[float, Range(ge=0, le=1)]
    """Share of the run's windows, the last ones, over which the learning rate decays. Nothing
    before depends on the length of the run. 0 never decays, for a run without a planned end; 1
    decays from the warm-up on.
    """
    warmup_windows: Annotated[float, Range(ge=0, le=1_000_000)]
    """Windows of linear warm-up; fractions count. 0 starts at the peak rate."""
    warm_start_steps: Annotated[int, Range(ge=0, le=10_000_000)]
    """Inner steps that the owner trains theta_0 alone before publishing the run, `batch_pages`
    pages each. Nodes take theta_0 as published. 0 publishes random parameters, which suffer most
    from the lag of two windows.
    """
    own_update_share: Annotated[float, Range(ge=0, le=1)]
    """Share of a busy miner's own pending payload by which the miner starts ahead of theta. 0
    starts from theta; 1 takes the miner's own work for the work of all.
    """
    adam_beta1: Annotated[float, Range(ge=0, lt=1)]
    """Decay of AdamW's first moment per inner step."""
    adam_beta2: Annotated[float, Range(ge=0, lt=1)]
    """Decay of AdamW's second moment per inner step."""
    weight_decay: Annotated[float, Range(ge=0, le=100)]
    """Decoupled weight decay of the inner optimizer."""
    max_gradient_norm: Annotated[float, Range(gt=0, le=1e12)]
    """Global norm to which a larger gradient is clipped in each inner step."""
    precision: Annotated[str, OneOf("no", "bf16")]
    """Mixed precision of the inner loop, in accelerate's words: "no" is float32. Master
    parameters are float32 in both.
    """

    inner_optimizer: Annotated[str, OneOf("adamw", "muon")] = "adamw"
    """Optimizer of the inner steps. "muon" steps every hidden matrix by Muon, in the length of an
    AdamW step, and all other tensors by AdamW. "muon" needs an `outer.outer_lr` of its own.
    """
    muon_momentum: Annotated[float, Range(ge=0, lt=1)] = 0.95
    """Decay of Muon's momentum per inner step."""
    max_width: Annotated[int, Range(ge=1, le=1024)] = 1
    """Maximum width of a payload: a fast machine takes batches of so many times `batch_pages`. The
    pages of the widest payload are held back from the held-out pages of the window.
    """
    max_parts: Annotated[int, Range(ge=1, le=512)] = 1
    """Parts into which a machine with little memory may cut the model, at most: it trains one of
    them a window, which the assignment seed draws. At most as many as the model has blocks.
    """

    @property
    def pages_per_window(self) -> int:
        """Pages that a payload of width 1 trains."""
        return self.inner_steps * self.batch_pages

    @property
    def most_pages(self) -> int:
        """Pages of the widest payload: so many are assigned to each hotkey in one window."""
        return self.max_width * self.pages_per_window

    def width_of(self, pages: int) -> int:
        """The width of a payload that claims so many pages: that of as many narrow ones."""
        return max(1, -(-pages // self.pages_per_window))

    def least_pages(self, width: int) -> int:
        """Pages of one inner step at this width: the least that a payload may claim."""
        return width * self.batch_pages


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressionSpec(Table):
    """Compression of the pseudo-gradient. contrib/FORMAT.md describes the bytes."""

    TABLE: ClassVar[str] = "compression"

    top_k: Annotated[int, Range(ge=1, le=4096)]
    """Elements kept of each chunk of 4096. Payload bytes grow about in proportion."""
    error_feedback_decay: Annotated[float, Range(ge=0, lt=1)]
    """beta, the factor on error feedback per window. 0 forgets everything left out of a payload;
    near 1, stale parts come back for a long time.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class OuterSpec(Table):
    """The outer step: accepted set, averaging, clipping, and the caps of length and energy."""

    TABLE: ClassVar[str] = "outer"

    outer_lr: Annotated[float, Range(gt=0, le=1000)]
    """The first alpha, the factor on the mean of the accepted payloads. Sparse payloads overlap
    little, so values above 1 are usual; a high alpha makes the update overshoot. A rough value is
    enough where `alpha_windows` is above 0.
    """
    alpha_windows: Annotated[int, Range(ge=0, le=MAX_ALPHA_WINDOWS)]
    """Validators' votes move alpha, by a factor of 2^(1/8) a window at most, in the windows below
    this one; then alpha stays. Later votes would only shrink alpha, since a shorter step always
    helps the next window, and the decay of the learning rate is to do that. 0: alpha is `outer_lr`.
    """
    min_divisor: Annotated[int, Range(ge=1, le=MAX_UIDS)]
    """n_min, the smallest divisor of the sum of payloads. A lone payload moves the model by
    alpha / n_min of its length at most.
    """
    max_staleness: Annotated[int, Range(ge=0, le=256)]
    """Windows between a payload's base window and its window, at most. Staler payloads are
    refused.
    """
    staleness_decay: Annotated[float, Range(gt=0, le=1)]
    """lambda, the factor on a payload for each window of staleness; 1 weighs all alike."""
    clip_factor: Annotated[float, Range(gt=0, le=1e6)]
    """kappa. A tensor of a payload is scaled down to kappa times the median norm of recently
    accepted payloads.
    """
    clip_windows: Annotated[int, Range(ge=1, le=1024)]
    """Recent windows for the median norm. A long memory reacts slowly; each window adds norms to
    every checkpoint.
    """
    initial_norm_share: Annotated[float, Range(gt=0, le=1000)]
    """Limit on the median norm before the first accepted payload, as a share of the tensor's norm
    in theta_0.
    """
    initial_norm_floor: Annotated[float, Range(gt=0, le=1000)]
    """Minimum of the limit by `initial_norm_share`, per square root of the tensor's number of
    elements: a tensor of zeros in theta_0 can still be trained.
    """
    max_energy_share: Annotated[float, Range(gt=0, le=1)]
    """Maximum share of an update's energy (sum of squared payload lengths) for the payloads of one
    coldkey; 1 sets no cap. With few coldkeys the cap is twice an equal part, where that is more.
    """
    peers_per_step: Annotated[int, Range(ge=1, le=MAX_UIDS)]
    """Maximum of payloads in one outer step; payloads with the most voting stake come first."""
    reference_windows: Annotated[int, Range(ge=1, le=10**6)]
    """The reference stake, of which more than half decides, loses one part in so many per window
    without more votes: it halves in about 0.69 times as many windows. While voters sleep, a
    minority gains power slowly; when much stake leaves for good, the run pauses for that long.
    """
    min_reference_rao: Annotated[int, Range(ge=0, le=10**18)]
    """Minimum of the reference stake, in rao. With 0 the first voters of a run decide alone,
    however small; with a share of the validators' stake a run starts once they are awake.
    """
    max_length_ratio: Annotated[float, Range(ge=0, le=1000)] = 0.0
    """Maximum length of a payload's tensor in a step, over the usual length of the tensor there
    (the upper median over coldkeys); a longer one is scaled down. 0 leaves lengths to the clip
    alone, by norms of windows before, which a falling learning rate leaves far above those of now.
    """

    def quorum_rules(self) -> QuorumRules:
        """The fields for counting votes."""
        return QuorumRules(
            peers_per_step=self.peers_per_step,
            reference_windows=self.reference_windows,
            min_reference_rao=self.min_reference_rao,
            alpha_windows=self.alpha_windows,
        )
