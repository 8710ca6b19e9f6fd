"""A block range trained while the rest is frozen: against plain PyTorch, and what it leaves out."""

import gc
import weakref
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from template.errors import ConfigError
from template.protocol.ranges import cut_model
from template.protocol.root import tensors_digest
from template.protocol.spec import RunSpec
from template.training.checkpoint import LocalCheckpoint, load_local, save_local
from template.training.flops import flops_per_token, range_flops_per_token
from template.training.inner import InnerTrainer
from template.training.losses import CHUNKED_VOCAB
from template.training.model import (
    Params,
    build_model,
    build_without_memory,
    copy_params,
    initial_params,
    load_params,
    tensor_shapes,
)
from template.training.options import InnerOptions
from template.training.outer import first_state
from template.training.rates import inner_lr

LAYERS, PARTS = 6, 4
MIXTURE: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "router_aux_loss_coef": 0.01,
}
MODELS: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "chunked": {"tie_word_embeddings": False, "vocab_size": CHUNKED_VOCAB},
    "mixture": {"architecture": "qwen3_moe", "tie_word_embeddings": True, **MIXTURE},
}
HELD: dict[str, dict[str, Any]] = {
    "on the device": {},
    "checkpointed": {"checkpoints_activations": True},
    "on the host": {"frozen": "host"},
    "in passes": {"micro_batch": 2},
}


def _spec(spec: RunSpec, **fields: Any) -> RunSpec:
    """Six layers, each of as many parameters as the embedding of the plain vocabulary."""
    model = replace(
        spec.model, hidden_size=16, intermediate_size=48, num_hidden_layers=LAYERS, **fields
    )
    return replace(spec, model=model, training=replace(spec.training, max_parts=LAYERS))


@pytest.fixture(params=MODELS)
def deep(request: pytest.FixtureRequest, spec: RunSpec) -> RunSpec:
    return _spec(spec, **MODELS[request.param])


@pytest.fixture
def tied(spec: RunSpec) -> RunSpec:
    return _spec(spec, **MODELS["tied"])


@pytest.fixture
def untied(spec: RunSpec) -> RunSpec:
    return _spec(spec, **MODELS["untied"])


def _parts(spec: RunSpec) -> tuple[frozenset[str], ...]:
    """As many as the model bears, up to `PARTS`: most of a large vocabulary's are the ends."""
    shapes = tensor_shapes(spec)
    for parts in range(PARTS, 0, -1):
        try:
            return tuple(frozenset(part) for part in cut_model(shapes, parts))
        except ValueError:
            continue
    raise LookupError(parts)


def _trainer(spec: RunSpec, **options: Any) -> InnerTrainer:
    return InnerTrainer(spec, "cpu", InnerOptions(**{"parts": len(_parts(spec)), **options}))


def _batches(spec: RunSpec, seed: int = 1, count: int = 3) -> list[np.ndarray]:
    shape = (count, spec.training.batch_pages, spec.data.page_tokens)
    return list(np.random.default_rng(seed).integers(0, spec.model.vocab_size, size=shape))


def _train(
    trainer: InnerTrainer, theta: Params, batches: list[np.ndarray], names: Collection[str] | None
) -> Params:
    return dict(trainer.train(theta, 2, batches, lambda: False, trained=names).pseudo_gradient)


class Plain:
    """The same without our code: all gradients are made, those outside of the range are dropped."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec, self.states = spec, dict[str, dict[str, Tensor]]()

    def train(
        self, theta: Params, batches: list[np.ndarray], names: Collection[str], moved: float = 0.0
    ) -> Params:
        """`moved`: added to every parameter before the second step."""
        spec, training = self.spec, self.spec.training
        model = build_model(spec).train()
        load_params(model, theta)
        named = {name: p for name, p in model.named_parameters() if name in names}
        optimizer = torch.optim.AdamW(
            named.values(),
            betas=(training.adam_beta1, training.adam_beta2),
            weight_decay=training.weight_decay,
        )
        for name, parameter in named.items():
            if name in self.states:
                optimizer.state[parameter] = self.states[name]
        for step, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = inner_lr(spec, 2, step)
            if step == 1:
                load = {name: p.detach() + moved for name, p in model.named_parameters()}
                load_params(model, load)
            tokens = torch.from_numpy(batch)
            model.zero_grad()
            model(input_ids=tokens, labels=tokens).loss.backward()
            torch.nn.utils.clip_grad_norm_(list(named.values()), training.max_gradient_norm)
            optimizer.step()
        self.states |= {name: optimizer.state[p] for name, p in named.items()}
        end = copy_params(model)
        return {name: theta[name] + (moved if len(batches) > 1 else 0.0) - end[name]
                for name in named}  # fmt: skip


@pytest.mark.parametrize("model", ["tied", "untied"])
@pytest.mark.parametrize("part", range(PARTS))
def test_a_range_trains_as_the_whole_with_the_other_gradients_dropped(
    spec, model: str, part: int
) -> None:
    """Bit by bit, and what is frozen has no part in the result."""
    deep = _spec(spec, **MODELS[model])
    theta, batches, names = initial_params(deep, 3), _batches(deep), _parts(deep)[part]
    before = tensors_digest(theta)
    found = _train(_trainer(deep), theta, batches, names)
    assert found.keys() == names
    assert tensors_digest(found) == tensors_digest(Plain(deep).train(theta, batches, names))
    assert all(delta.abs().max() > 0 for delta in found.values())
    assert tensors_digest(theta) == before, "theta is the frozen tensors' own memory"


@pytest.mark.parametrize("held", HELD)
def test_wherever_the_frozen_tensors_lie_the_result_is_the_same(deep, held: str) -> None:
    """Bit by bit; the cut of a batch into passes moves the result by rounding."""
    theta, batches = initial_params(deep, 3), _batches(deep)
    whole, cut = _trainer(deep, parts=1), _trainer(deep, **HELD[held])
    for names in (_parts(deep)[0], _parts(deep)[-1]):
        expected = _train(whole, theta, batches, names)
        found = _train(cut, theta, batches, names)
        if held == "in passes":
            assert all(torch.allclose(found[n], expected[n], atol=1e-5) for n in names)
        else:
            assert tensors_digest(found) == tensors_digest(expected)
        whole.reset_moments()


@pytest.mark.parametrize("held", ["on the device", "on the host"])
def test_ranges_take_turns_and_each_goes_on_with_its_moments(untied, held: str) -> None:
    """Against plain AdamW of each range: its own moments, and its own count of steps."""
    theta, trainer, plain = initial_params(untied, 3), _trainer(untied, **HELD[held]), Plain(untied)
    parts = _parts(untied)
    for turn, part in enumerate((0, 2, 0, 3, 2, 0)):
        batches = _batches(untied, seed=turn, count=2)
        found = _train(trainer, theta, batches, parts[part])
        expected = plain.train(theta, batches, parts[part])
        assert tensors_digest(found) == tensors_digest(expected), turn
    moments = trainer.moments()
    assert moments.keys() == {f"{key}.{n}" for n, s in plain.states.items() for key in s}
    assert {float(moments[f"step.{n}"]) for n in parts[0]} == {6.0}
    assert {float(moments[f"step.{n}"]) for n in parts[3]} == {2.0}
    trainer.reset_moments()
    assert trainer.moments() == {}


def test_the_whole_and_a_range_take_turns(untied) -> None:
    """As after a restart with other flags: the moments go with the tensors."""
    theta, plain, parts = initial_params(untied, 3), Plain(untied), _parts(untied)
    trainer = _trainer(untied, parts=1)
    for turn, names in enumerate((parts[1], None, parts[2], None)):
        found = _train(trainer, theta, _batches(untied, seed=turn), names)
        expected = plain.train(theta, _batches(untied, seed=turn), names or frozenset(theta))
        assert tensors_digest(found) == tensors_digest(expected), turn


@pytest.mark.parametrize("held", ["on the device", "on the host"])
def test_a_move_in_the_middle_moves_the_frozen_tensors_too(untied, held: str) -> None:
    theta, batches, names = initial_params(untied, 3), _batches(untied), _parts(untied)[1]
    goal = {name: tensor + 0.01 for name, tensor in theta.items()}
    asked = iter([None, goal, None])
    result = _trainer(untied, **HELD[held]).train(
        theta, 2, batches, lambda: False, lambda: next(asked), trained=names
    )
    expected = Plain(untied).train(theta, batches, names, moved=0.01)
    still = Plain(untied).train(theta, batches, names)
    assert result.moved_at == 1
    assert result.pseudo_gradient.keys() == names
    for name, delta in result.pseudo_gradient.items():
        assert torch.allclose(delta, expected[name], atol=1e-6), name
        assert not torch.allclose(delta, still[name], atol=1e-6), "frozen tensors count"


def test_what_training_has_moved_on_from_leaves_memory(untied) -> None:
    """The frozen tensors are theta's own memory, and theta is needed no longer."""
    start = [initial_params(untied, 3)]
    goal = {name: tensor + 0.01 for name, tensor in start[0].items()}
    frozen = sorted(start[0].keys() - _parts(untied)[1])
    pointers = {start[0][name].data_ptr() for name in frozen}
    goals, trainer, held = iter([None, goal, None]), _trainer(untied), list[int]()

    def stop() -> bool:
        parameters = trainer._model.parameters()
        held.append(sum(parameter.data_ptr() in pointers for parameter in parameters))
        return False

    trainer.train(
        start.pop(), 2, _batches(untied), stop, lambda: next(goals), trained=_parts(untied)[1]
    )
    assert held == [len(frozen), len(frozen), 0]
    last = {tensor.data_ptr() for tensor in goal.values()}
    assert not any(p.data_ptr() in last for p in trainer._model.parameters() if not p.is_meta)


def test_moments_of_all_ranges_come_back_from_disk(untied, tmp_path) -> None:
    theta, parts = initial_params(untied, 3), _parts(untied)
    unbroken = _trainer(untied)
    for part in (0, 2):
        _train(unbroken, theta, _batches(untied, seed=part), parts[part])
    state = first_state(theta, untied.run_id)
    saved = LocalCheckpoint(state=state, groups={"moments": unbroken.moments()})
    save_local(tmp_path / "node.safetensors", saved, untied.run_id)
    loaded = load_local(tmp_path / "node.safetensors", untied)
    assert loaded is not None
    restarted = _trainer(untied)
    restarted.load_moments(loaded.groups["moments"])
    assert tensors_digest(restarted.moments()) == tensors_digest(unbroken.moments())
    for turn, part in enumerate((2, 1, 0)):
        found = [
            _train(trainer, theta, _batches(untied, seed=turn), parts[part])
            for trainer in (unbroken, restarted)
        ]
        assert tensors_digest(found[0]) == tensors_digest(found[1])
    lacking = unbroken.moments()
    lacking.pop(f"exp_avg.{min(parts[0])}")
    with pytest.raises(KeyError, match="exp_avg"):
        _trainer(untied).load_moments(lacking)


def _kept_bytes(spec: RunSpec, names: Collection[str] | None, **options: Any) -> int:
    """Bytes that a step's forward passes keep for the backward pass, without parameters."""
    trainer, theta = _trainer(spec, **options), initial_params(spec, 3)
    kept: dict[int, int] = {}
    held: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in {p.data_ptr() for p in trainer._model.parameters()}:
            held.append(tensor)  # else its place in memory may be another's
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _train(trainer, theta, _batches(spec, count=1), names)
    return sum(kept.values())


def test_nothing_is_kept_of_the_blocks_below_the_range(untied) -> None:
    """The higher the range, the less; the lowest keeps no inputs of frozen matrices."""
    bytes_kept = [_kept_bytes(untied, names) for names in _parts(untied)]
    whole = _kept_bytes(untied, None)
    assert whole > bytes_kept[0] > bytes_kept[1] > bytes_kept[2] > bytes_kept[3] > 0
    lowest = min(int(n.split(".")[2]) for n in _parts(untied)[2] if ".layers." in n)
    assert bytes_kept[2] < whole * (LAYERS - lowest + 1) / LAYERS


class Allocations(TorchDispatchMode):
    """Notes the tensors of a shape that operations make, while they live."""

    def __init__(self, is_counted: Callable[[str, Tensor], bool]) -> None:
        super().__init__()
        self._is_counted = is_counted
        self._living = weakref.WeakSet[Any]()
        self.made, self.most = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else (out,):
            if isinstance(tensor, Tensor) and self._is_counted(str(func), tensor):
                self._living.add(tensor.untyped_storage())
                self.made += 1
                self.most = max(self.most, len(self._living))
        return out


def test_no_gradient_is_made_of_a_frozen_tensor(untied) -> None:
    """Of what has the shape of a frozen layer's matrix alone; counted as operations make it."""
    names = _parts(untied)[3]
    assert "lm_head.weight" in names
    theta = initial_params(untied, 3)
    trainer, shape = _trainer(untied), (16, 48)  # of every layer's down_proj
    layers = {n.split(".")[2] for n in names if n.endswith("down_proj.weight")}

    def is_gradient(function: str, tensor: Tensor) -> bool:
        return "mm" in function and tensor.shape in (shape, shape[::-1])

    with Allocations(is_gradient) as found:
        _train(trainer, theta, _batches(untied, count=1), names)
    assert found.made == 3 * len(layers), "up, gate and down of the trained layers"
    frozen = [p for n, p in trainer._model.named_parameters() if n not in names]
    assert frozen
    assert not any(p.requires_grad or p.grad is not None for p in frozen)


def test_a_range_has_gradients_moments_and_masters_of_its_own_alone(untied) -> None:
    """Bytes of all tensors that the trainer has beside theta and the moments of other ranges."""
    theta, parts = initial_params(untied, 3), _parts(untied)
    num_bytes = {None: 0, 1: 0}
    for part in num_bytes:
        names = None if part is None else parts[part]
        trainer = _trainer(untied, parts=1 if part is None else PARTS)
        living: list[int] = []

        def count(_make_room: Callable[[], None], trainer=trainer, living=living) -> None:
            of_theta = {tensor.data_ptr() for tensor in theta.values()}
            own = [p for p in trainer._model.parameters() if p.data_ptr() not in of_theta]
            gradients = [p.grad for p in own if p.grad is not None]
            moments = [m for m in trainer.moments().values() if m.dim()]
            living.append(sum(t.numel() * t.element_size() for t in (*own, *gradients, *moments)))

        trainer.train(theta, 2, _batches(untied), lambda: False, rest=count, trained=names)
        num_bytes[part] = max(living)
    share = sum(theta[n].numel() for n in parts[1]) / sum(t.numel() for t in theta.values())
    assert num_bytes[1] == pytest.approx(share * num_bytes[None])


def test_frozen_layers_on_the_host_are_on_the_device_one_at_a_time(untied) -> None:
    """Counted as copies are made: in the forward pass, and again above the range's lowest block."""
    names, theta = _parts(untied)[1], initial_params(untied, 3)
    matrices = 7
    trained = {n.split(".")[2] for n in names if ".layers." in n}
    above = LAYERS - 1 - max(map(int, trained))
    gc.collect()
    trainer = _trainer(untied, frozen="host")
    shapes = {s for n, s in tensor_shapes(untied).items() if ".layers." in n and len(s) > 1}

    def is_copied(function: str, tensor: Tensor) -> bool:
        return "_to_copy" in function and tuple(tensor.shape) in shapes

    with Allocations(is_copied) as found:
        _train(trainer, theta, _batches(untied, count=1), names)
    assert found.made == matrices * (LAYERS - len(trained) + above)
    assert found.most <= 2 * matrices, "the layer, and what the graph still holds of another"


@pytest.fixture
def any_precision() -> Iterator[None]:
    """A process of its own, to accelerate: a node trains in one precision all its life."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("any_precision")
@pytest.mark.parametrize("held", ["on the device", "on the host"])
@pytest.mark.parametrize("model", ["tied", "untied", "chunked"])
def test_where_the_run_computes_in_bf16_frozen_matrices_lie_in_bf16(
    spec, model: str, held: str
) -> None:
    """The result is that of float32 parameters that bf16 can tell: the same bits."""
    long = _spec(spec, **MODELS[model])
    short = replace(long, training=replace(long.training, precision="bf16"))
    theta = {name: t.bfloat16().float() for name, t in initial_params(long, 3).items()}
    whole = _trainer(short, parts=1)
    for names in _parts(long):
        trainer = _trainer(short, **HELD[held])
        result = trainer.train(theta, 2, _batches(long, count=1), lambda: False, trained=names)
        found = dict(result.pseudo_gradient)
        matrices = {n for n, t in theta.items() if t.dim() > 1} - names
        dtypes = {n: p.dtype for n, p in trainer._model.named_parameters()}
        assert {dtypes[n] for n in matrices} == {torch.bfloat16}
        assert {dtypes[n] for n in theta.keys() - matrices} == {torch.float32}
        assert {moment.dtype for moment in trainer.moments().values()} == {torch.float32}
        assert {delta.dtype for delta in found.values()} == {torch.float32}
        plain = _whole_gradient_step(whole, theta, _batches(long, count=1), names)
        assert tensors_digest(found) == tensors_digest(plain)


def _whole_gradient_step(
    whole: InnerTrainer, theta: Params, batches: list[np.ndarray], names: Collection[str]
) -> Params:
    """One step of a whole model held in float32, of which only the range has AdamW."""
    whole.reset_moments()
    spec, model = whole._spec, whole._model
    load_params(whole._accelerator.unwrap_model(model), theta)
    named = {name: p for name, p in model.named_parameters() if name in names}
    training = spec.training
    optimizer = torch.optim.AdamW(
        named.values(),
        lr=inner_lr(spec, 2, 0),
        betas=(training.adam_beta1, training.adam_beta2),
        weight_decay=training.weight_decay,
    )
    model.train()
    model.zero_grad()
    whole._loss(torch.from_numpy(batches[0])).backward()
    torch.nn.utils.clip_grad_norm_(list(named.values()), training.max_gradient_norm)
    optimizer.step()
    return {name: theta[name] - p.detach() for name, p in named.items()}


def test_names_that_are_none_or_unknown_are_refused_and_training_goes_on(untied) -> None:
    trainer, theta, parts = _trainer(untied), initial_params(untied, 3), _parts(untied)
    first = _train(trainer, theta, _batches(untied), parts[1])
    for wrong, words in (((), "names no tensor"), (("model.nose",), "no tensor model.nose")):
        with pytest.raises(ValueError, match=words):
            _train(trainer, theta, _batches(untied), wrong)
    lacking = {name: t for name, t in theta.items() if name != "lm_head.weight"}
    with pytest.raises(KeyError, match="lm_head"):
        _train(trainer, lacking, _batches(untied), parts[1])
    cut = theta | {"lm_head.weight": theta["lm_head.weight"][:1]}
    with pytest.raises(RuntimeError, match=r"lm_head.weight: has shape \(1, 16\) instead of"):
        _train(trainer, cut, _batches(untied), parts[1])
    trainer.reset_moments()
    assert tensors_digest(_train(trainer, theta, _batches(untied), parts[1])) == (
        tensors_digest(first)
    )


def test_more_parts_than_blocks_are_a_wrong_flag(untied) -> None:
    with pytest.raises(ConfigError, match=r"--neuron.parts 99: .*name fewer"):
        _trainer(untied, parts=99)


def test_what_fits_is_remembered_for_ranges_alone(untied) -> None:
    whole, cut = _trainer(untied, parts=1), _trainer(untied)
    assert whole.notes()["setting"] != cut.notes()["setting"]
    assert cut.notes()["setting"] != _trainer(untied, frozen="host").notes()["setting"]


def test_flops_of_ranges(deep) -> None:
    """The whole has the known count; a range costs more than a forward pass."""
    shapes, whole = tensor_shapes(deep), flops_per_token(deep)
    assert range_flops_per_token(deep, shapes, shapes) == whole
    counts = [range_flops_per_token(deep, shapes, names) for names in _parts(deep)]
    assert all(whole / 3 < count < whole for count in counts)
    # One layer of six, by hand: forward of all, activations from there up, its own weights.
    layer = [n for n in shapes if ".layers.4." in n]
    if deep.model.is_mixture:
        return
    of_layer = sum(int(np.prod(shapes[n])) for n in layer)
    head = deep.model.vocab_size * deep.model.hidden_size
    dense = LAYERS * of_layer + head + 16
    width = deep.model.num_attention_heads * deep.model.head_width
    attention = 4 * width * deep.data.page_tokens * (LAYERS + 2 * 2)
    by_hand = 2 * dense + 2 * (2 * of_layer + head + 16) + 2 * of_layer + attention
    assert range_flops_per_token(deep, shapes, layer) == by_hand


def test_models_built_by_several_threads_keep_their_tied_weights_and_memory(tied) -> None:
    """A model without memory is built by a change of all modules that are made meanwhile."""
    names = set(tensor_shapes(tied))
    with ThreadPoolExecutor(6) as threads:
        built = list(
            threads.map(
                lambda number: (build_without_memory if number % 2 else build_model)(tied),
                range(24),
            )
        )
    for number, model in enumerate(built):
        assert {name for name, _ in model.named_parameters()} == names
        assert all(p.is_meta == bool(number % 2) for p in model.parameters())
