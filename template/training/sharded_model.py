"""The model of one rank of many: a cut of every parameter, by PyTorch's FSDP2 (`fully_shard`).

FSDP2 cuts the first dimension into equal parts, rounded up. A layer's parameters are whole on every
rank for the time of the layer's own arithmetic alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from template.protocol.spec import RunSpec
from template.training.answers import answer_shares
from template.training.losses import (
    CHUNKED_VOCAB,
    next_token_loss,
    shared_loss,
    spread_loss,
)
from template.training.memory import TrimmedBackward, TrimmedForward
from template.training.model import build_without_memory
from template.training.options import InnerOptions
from template.training.scorer import losses_of_tokens

_PREFIX = "model."


class PageLoss(nn.Module):
    """The mean loss of some pages, nats per predicted token that counts.

    The root of what is cut: all its parameters outside of the layers are whole while it computes,
    the output layer too.
    """

    def __init__(self, model: PreTrainedModel, spec: RunSpec) -> None:
        super().__init__()
        self.model = model
        self._spec, self._chat = spec.model, spec.data.chat

    def forward(self, tokens: Tensor) -> Tensor:
        spreads = self._spec.router_aux_loss_coef > 0
        shares = None if self._chat is None else answer_shares(tokens, self._chat)
        if self._spec.vocab_size < CHUNKED_VOCAB and not spreads:
            if shares is not None:
                return shared_loss(self.model(input_ids=tokens).logits, tokens, shares)
            loss: Tensor = self.model(input_ids=tokens, labels=tokens).loss
            return loss
        asked = {"output_router_logits": True} if spreads else {}
        out = self.model.model(input_ids=tokens, **asked)
        hidden = out.last_hidden_state
        head = self.model.lm_head.weight.to(hidden.dtype)
        loss = next_token_loss(hidden, head, tokens, shares_PT=shares)
        if spreads:
            crowding = spread_loss(out.router_logits, len(tokens), self._spec.num_experts_per_tok)
            loss = loss + self._spec.router_aux_loss_coef * crowding
        return loss


class PageLosses(nn.Module):
    """The loss of each predicted token, nats; float32 [pages, page_tokens - 1].

    The root of what is cut for scoring, in the arithmetic of `Scorer`.
    """

    def __init__(self, model: PreTrainedModel, spec: RunSpec) -> None:
        super().__init__()
        self.model = model
        self._is_chunked = spec.model.vocab_size >= CHUNKED_VOCAB

    def forward(self, tokens: Tensor) -> Tensor:
        return losses_of_tokens(self.model, tokens, self._is_chunked)


def build_sharded(
    spec: RunSpec, device: torch.device, size: int, options: InnerOptions
) -> PageLoss:
    """This rank's cut of the model, with any values; no rank ever holds the whole of it."""
    model = build_without_memory(spec)
    if options.checkpoints_activations:
        model.activation_checkpointing_enable({"use_reentrant": False})
    root = PageLoss(model, spec)
    policy = MixedPrecisionPolicy()
    if spec.training.precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if options.compiles:
        for layer in model.model.layers:
            layer.compile()
    _cut(root, model, device, size, mp_policy=policy)
    if device.type == "cpu":
        TrimmedBackward(root.parameters())
    return root


def build_sharded_for_scoring(spec: RunSpec, device: torch.device, size: int) -> PageLosses:
    """As `build_sharded`, in float32 and for forward passes alone."""
    model = build_without_memory(spec)
    root = PageLosses(model, spec)
    # FSDP2 leaves the root's parameters whole after a forward pass, for the backward pass: a
    # payload's step, which moves the ranks' rows, would not be seen by the next pass.
    _cut(root, model, device, size, reshard_after_forward=True)
    if device.type == "cpu":
        TrimmedForward(model.model.layers)
    return root


def end_pass(root: PageLosses) -> None:
    """Forget a pass without a backward pass: FSDP2 notes every layer of every pass for one."""
    assert isinstance(root, FSDPModule), "a model that was cut"
    root.reset_iter_state()


def _cut(
    root: nn.Module, model: PreTrainedModel, device: torch.device, size: int, **options: Any
) -> None:
    """Cut layer by layer, then the rest, and give the rows memory on the device."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # Before the cut, for FSDP2 to see one parameter: of two, each has memory of its own where rows
    # are padded, and a change of the one would not reach the other.
    model.tie_weights()
    mesh = init_device_mesh(device.type, (size,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, **options)
    fully_shard(root, mesh=mesh, **options)
    root.to_empty(device=device)
    model.tie_weights()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def named_rows(root: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by their names in theta."""
    return {name.removeprefix(_PREFIX): p for name, p in root.named_parameters()}


def rows_of(tensor: Tensor) -> Tensor:
    """This rank's rows of a cut tensor: the tensor's own memory."""
    if not isinstance(tensor, DTensor):
        raise TypeError("not a tensor of `build_sharded`")
    with torch.no_grad():
        return tensor.to_local()


def even_cuts(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """The ranks' limits along the first dimension, as FSDP2 cuts."""
    rows = shape[0]
    step = -(-rows // size)
    return tuple(min(rank * step, rows) for rank in range(size + 1))
