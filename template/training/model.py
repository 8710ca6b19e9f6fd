"""The model of a run, and its parameters as a plain dict of float32 tensors.

`Params` (name -> float32 CPU tensor, contiguous) is the form of theta in the outer step, digests
and checkpoints. Tied tensors appear once.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from threading import Lock
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from compression import round_to_short
from template.errors import ConfigError
from template.protocol.payload import PayloadFormat
from template.protocol.ranges import cut_model
from template.protocol.spec import RunSpec

Params = dict[str, Tensor]


_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""Architecture of the run spec -> the class that a published checkpoint names for loaders."""
ATTENTION = "sdpa"
"""Torch's scaled dot-product attention, which takes a flash kernel where the device has one."""


def model_config(spec: RunSpec) -> PretrainedConfig:
    """The Hugging Face config of a spec's model."""
    return AutoConfig.for_model(spec.model.architecture, **config_fields(spec))


def config_fields(spec: RunSpec) -> dict[str, Any]:
    """The fields of the Hugging Face config that differ from run to run or from the defaults."""
    model = spec.model
    fields: dict[str, Any] = {
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "max_position_embeddings": spec.data.page_tokens,
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_hidden_layers,
        "num_key_value_heads": model.num_key_value_heads,
        "pad_token_id": None,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_parameters": {"rope_theta": model.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": model.tie_word_embeddings,
        "use_cache": False,
        "vocab_size": model.vocab_size,
    }
    # Qwen's default is 128 whatever the width; a Llama without the field has the bytes of old.
    if model.head_dim or model.architecture == "qwen3":
        fields["head_dim"] = model.head_width
    if model.architecture == "mistral":
        fields["sliding_window"] = None
    if model.is_mixture:
        fields |= {
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": model.moe_intermediate_size,
            "norm_topk_prob": model.norm_topk_prob,
            "num_experts": model.num_experts,
            "num_experts_per_tok": model.num_experts_per_tok,
            "output_router_logits": False,
            "router_aux_loss_coef": model.router_aux_loss_coef,
        }
    return fields


_BUILDING = Lock()
"""Held while a model is built: `init_empty_weights` changes how modules of all threads are made, so
that models built meanwhile lose their tied weights, or their memory.
"""


def config_json(spec: RunSpec, dtype: str = "float32") -> bytes:
    """`config.json` of a published checkpoint, or of a folder with tensors of another `dtype`: the
    values of `model_config`, independent of the version of transformers, since every node must
    publish the same bytes.

    The base of the rotary embedding stands in both places where loaders look: transformers 4 and
    loaders of its age read `rope_theta` alone, and take 10,000 without a word if it is missing.
    Generation keeps keys and values, which training has no use for. `max_position_embeddings` stays
    the length of a page: no later position was ever trained.
    """
    fields = config_fields(spec) | {
        "architectures": [_CLASSES[spec.model.architecture]],
        "dtype": dtype,
        "model_type": spec.model.architecture,
        "rope_theta": spec.model.rope_theta,
        "use_cache": True,
    }
    return json.dumps(fields, sort_keys=True, indent=2).encode()


def build_model(spec: RunSpec) -> PreTrainedModel:
    """A float32 model with random values from the global generator, ready for `load_params`."""
    with _BUILDING:
        model = AutoModelForCausalLM.from_config(model_config(spec), attn_implementation=ATTENTION)
    return cast(PreTrainedModel, model.float())


def tensor_shapes(spec: RunSpec) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every trained tensor; built on the meta device, so without memory."""
    return dict(_tensor_shapes(spec))


@lru_cache(maxsize=8)
def _tensor_shapes(spec: RunSpec) -> Mapping[str, tuple[int, ...]]:
    # Kept, because a stranger's manifest must not cost a model's construction each.
    with _BUILDING, torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(spec))
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


@lru_cache(maxsize=16)
def payload_format(spec: RunSpec) -> PayloadFormat:
    """The layout of a run's payloads, from the spec alone."""
    return PayloadFormat(
        run_id=spec.run_id,
        shapes=tensor_shapes(spec),
        top_k=spec.compression.top_k,
        max_width=spec.training.max_width,
        max_parts=spec.training.max_parts,
    )


def payload_bytes(spec: RunSpec) -> int:
    """Exact length of a payload of a run's whole model, the longest one."""
    return payload_format(spec).num_bytes


def initial_params(spec: RunSpec, seed: int) -> Params:
    """Parameters drawn from a seed, for a run's owner; other nodes load theta_0 by digest.

    Rounded to 24 bits, as theta_0 is published. The bits depend on torch's version and on the
    machine.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        params = copy_params(build_model(spec))
    for tensor in params.values():
        round_to_short(tensor)
    return params


def copy_params(model: torch.nn.Module) -> Params:
    """Copies of the model's parameters as float32 CPU tensors."""
    return {
        name: p.detach().to("cpu", torch.float32).clone().contiguous()
        for name, p in model.named_parameters()
    }


@torch.no_grad()
def load_params(model: torch.nn.Module, params: Mapping[str, Tensor]) -> None:
    """Copy values into the model. KeyError for a missing name, RuntimeError for a wrong shape."""
    for name, parameter in model.named_parameters():
        parameter.copy_(params[name])


def build_without_memory(spec: RunSpec, device: torch.device | None = None) -> PreTrainedModel:
    """The float32 model with parameters that take no memory, to be cut before any is made.

    The buffers, which no checkpoint holds, have their values; on `device`, if there is one.
    """
    with _BUILDING, init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(model_config(spec), attn_implementation=ATTENTION)
    model.tie_weights()
    if device is not None:
        for module in model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(device)
    return cast(PreTrainedModel, model.float())


def check_parts(spec: RunSpec, parts: int) -> None:
    """ConfigError if the run's model cannot be cut into so many parts, or the run does not."""
    most = spec.training.max_parts
    if parts > most:
        raise ConfigError(
            f"--neuron.parts {parts}: this run cuts its model into {most} parts at most "
            "(training.max_parts): name fewer, or leave --neuron.parts out"
        )
    try:
        cut_model(tensor_shapes(spec), parts)
    except ValueError as error:
        raise ConfigError(f"--neuron.parts {parts}: {error}") from error
