"""The table of the run spec about the model: a causal language model of `transformers`.

Keys have the names of Hugging Face's configs. The number of parameters follows from the keys by
arithmetic, so a node refuses an absurd model before anything is allocated.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from template.protocol.spec.constraints import OneOf, Range, Table

# The upper limits lie far beyond every run. The limits keep a stranger's spec from taking time or
# memory without end, and catch a slip of the keyboard.
MAX_VOCAB_SIZE = 2**32
MAX_PARAMETERS = 2**40
"""Limit on the parameters of a model, 15 times Covenant's 72 B."""

MIXTURES = ("qwen3_moe",)
"""Architectures whose feed-forward layers are mixtures of experts."""
WITH_HEAD_DIM = ("llama", "mistral", "qwen3", "qwen3_moe")
"""Architectures whose config has a head width of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec(Table):
    """A causal language model of `transformers`, with the field names of its Hugging Face config.

    A key marked *optional* may be left out. Written out with its default, an optional key makes the
    same run. The keys about experts belong to the mixture of experts, qwen3_moe.
    """

    TABLE: ClassVar[str] = "model"

    architecture: Annotated[str, OneOf("llama", "mistral", "olmo2", "qwen3", "qwen3_moe")]
    """Family of the model, the config's `model_type`. llama and mistral differ in name alone; qwen3
    normalizes queries and keys by head, olmo2 over all heads and after each layer; qwen3_moe is
    qwen3 with a mixture of experts.
    """
    vocab_size: Annotated[int, Range(ge=1, le=MAX_VOCAB_SIZE)]
    """Number of token ids, the tokenizer's (256 for `byte`) or up to 1,023 more, as a padded
    vocabulary has. A node refuses to start when the dataset's manifest gives another number.
    """
    hidden_size: Annotated[int, Range(ge=1, le=65_536)]
    """Width of the residual stream."""
    intermediate_size: Annotated[int, Range(ge=1, le=262_144)]
    """Width of the feed-forward layers; unused in a mixture of experts."""
    num_hidden_layers: Annotated[int, Range(ge=1, le=512)]
    """Number of transformer layers."""
    num_attention_heads: Annotated[int, Range(ge=1, le=1024)]
    """Query heads of each layer."""
    num_key_value_heads: Annotated[int, Range(ge=1, le=1024)]
    """Key and value heads of each layer; fewer than query heads is grouped-query attention."""
    rope_theta: Annotated[float, Range(gt=0, le=1e12)]
    """Base of the rotary position embedding."""
    rms_norm_eps: Annotated[float, Range(gt=0, le=1)]
    """Added to the mean square in RMSNorm, against division by zero."""
    tie_word_embeddings: bool
    """Whether input and output embedding share one tensor. Two tensors make a larger payload."""
    head_dim: Annotated[int, Range(ge=0, le=4096)] = 0
    """Width of a head; 0: `hidden_size / num_attention_heads`. Not of olmo2."""
    num_experts: Annotated[int, Range(ge=0, le=4096)] = 0
    """Experts of each layer."""
    num_experts_per_tok: Annotated[int, Range(ge=0, le=4096)] = 0
    """Experts that compute each token."""
    moe_intermediate_size: Annotated[int, Range(ge=0, le=262_144)] = 0
    """Width of an expert's feed-forward layer."""
    norm_topk_prob: bool = False
    """Whether the weights of a token's experts are scaled to a sum of 1."""
    router_aux_loss_coef: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Factor on the loss that spreads each page's tokens over the experts, in training alone. At 0
    a few experts may take all tokens.
    """

    @property
    def head_width(self) -> int:
        """Elements of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def is_mixture(self) -> bool:
        """Whether the feed-forward layers are mixtures of experts."""
        return self.architecture in MIXTURES


def count_by_field(model: ModelSpec) -> dict[str, int]:
    """Parameters by the field that sets their number the most; by arithmetic alone."""
    hidden, layers, head = model.hidden_size, model.num_hidden_layers, model.head_width
    queries, keys = model.num_attention_heads * head, model.num_key_value_heads * head
    if model.is_mixture:
        expert = 3 * hidden * model.moe_intermediate_size
        feed_forward = {"num_experts": layers * model.num_experts * (expert + hidden)}
    else:
        feed_forward = {"intermediate_size": layers * 3 * hidden * model.intermediate_size}
    # Two norms a layer and the last one; qwen3's over a head, olmo2's over all heads.
    norms = {"olmo2": queries + keys, "qwen3": 2 * head, "qwen3_moe": 2 * head}
    return {
        "vocab_size": model.vocab_size * hidden * (1 if model.tie_word_embeddings else 2),
        "num_attention_heads": layers * 2 * hidden * (queries + keys),
        **feed_forward,
        "num_hidden_layers": layers * (2 * hidden + norms.get(model.architecture, 0)) + hidden,
    }


def count_parameters(model: ModelSpec) -> int:
    """Number of trained values of a model."""
    return sum(count_by_field(model).values())


def count_active_parameters(model: ModelSpec) -> int:
    """Trained values in a token's multiplications: the head, and of the experts the token's."""
    counts = count_by_field(model)
    counts["vocab_size"] = model.vocab_size * model.hidden_size
    if model.is_mixture:
        idle = model.num_experts - model.num_experts_per_tok
        expert = 3 * model.hidden_size * model.moe_intermediate_size
        counts["num_experts"] -= model.num_hidden_layers * idle * expert
    return sum(counts.values())
