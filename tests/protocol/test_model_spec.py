"""The model's table: what each architecture takes, and how large a model may be, by arithmetic."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from template.errors import ConfigError
from template.protocol.spec import RunSpec, parse_spec, spec_to_toml
from template.protocol.spec.model import (
    MAX_PARAMETERS,
    ModelSpec,
    count_active_parameters,
    count_parameters,
)

MIXTURE: dict[str, Any] = {
    "architecture": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "router_aux_loss_coef": 0.001,
}
OPTIONAL: dict[str, Any] = {"head_dim": 48, **{k: v for k, v in MIXTURE.items() if k[0] != "a"}}
DEFAULTS = {"norm_topk_prob": False, "router_aux_loss_coef": 0.0}


@pytest.fixture
def spec() -> RunSpec:
    return parse_spec((Path(__file__).parent / "spec.toml").read_text(encoding="utf-8"))


def of_model(spec: RunSpec, **changes: Any) -> RunSpec:
    return replace(spec, model=replace(spec.model, **changes))


def with_lines(spec: RunSpec, **values: Any) -> str:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    return spec_to_toml(spec).replace("[model]\n", f"[model]\n{lines}")


def test_an_optional_key_at_its_default_makes_the_same_run(spec: RunSpec) -> None:
    """The run id is that of the spec as it was before there were optional keys."""
    written = with_lines(spec, **{key: DEFAULTS.get(key, 0) for key in OPTIONAL})
    assert parse_spec(written).run_id == spec.run_id
    assert parse_spec(written) == spec
    assert not any(key in spec_to_toml(spec) for key in OPTIONAL)
    assert spec.run_id.hex() == "39505df15e6ef13c2b4a2a5c0634a845"


def test_every_optional_key_makes_another_run_and_comes_back_from_toml(spec: RunSpec) -> None:
    full = of_model(spec, head_dim=48, **MIXTURE)
    others = [full, *(of_model(full, **{key: _other(value)}) for key, value in OPTIONAL.items())]
    assert len({other.run_id for other in others}) == 1 + len(OPTIONAL)
    assert all(parse_spec(spec_to_toml(other)) == other for other in others)


def _other(value: Any) -> Any:
    return not value if isinstance(value, bool) else value * 2 if value != 2 else 1


@pytest.mark.parametrize("architecture", ["llama", "mistral", "olmo2", "qwen3"])
@pytest.mark.parametrize("key", list(OPTIONAL))
def test_a_key_of_another_architecture_is_named(spec: RunSpec, architecture: str, key: str) -> None:
    """Ignored, the key would promise a model that no node trains."""
    if key == "head_dim" and architecture != "olmo2":
        assert of_model(spec, architecture=architecture, head_dim=48).model.head_width == 48
        return
    with pytest.raises(ConfigError, match=rf"model\.{key}: .*{architecture}.* no such field"):
        of_model(spec, architecture=architecture, **{key: OPTIONAL[key]})


@pytest.mark.parametrize("key", ["num_experts", "num_experts_per_tok", "moe_intermediate_size"])
def test_a_mixture_lacks_no_size(spec: RunSpec, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key}: .*needs it"):
        of_model(spec, **{**MIXTURE, key: 0})


@pytest.mark.parametrize(("chosen", "fits"), [(4, True), (5, False)])
def test_a_token_takes_no_more_experts_than_there_are(
    spec: RunSpec, chosen: int, fits: bool
) -> None:
    if fits:
        of_model(spec, **{**MIXTURE, "num_experts_per_tok": chosen})
        return
    with pytest.raises(ConfigError, match=r"model\.num_experts_per_tok: is 5, at most num_experts"):
        of_model(spec, **{**MIXTURE, "num_experts_per_tok": chosen})


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"head_dim": 33}, "head_dim"), ({"num_attention_heads": 64}, "num_attention_heads")],
)
def test_heads_are_even_for_the_rotary_embedding(
    spec: RunSpec, changes: dict[str, int], key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key}: makes heads of (33|1) elements"):
        of_model(spec, **changes)


ABSURD = [
    ("vocab_size", {"vocab_size": 2**32, "hidden_size": 4096}),
    ("intermediate_size", {"intermediate_size": 262_144, "hidden_size": 65_536,
                           "num_hidden_layers": 512}),
    ("num_attention_heads", {"hidden_size": 65_536, "num_attention_heads": 1024,
                             "num_key_value_heads": 1024, "num_hidden_layers": 512,
                             "head_dim": 4096}),
    ("num_experts", {**MIXTURE, "num_experts": 4096, "moe_intermediate_size": 262_144,
                     "hidden_size": 65_536}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "sizes"), ABSURD)
def test_an_absurd_size_is_refused_by_name(spec: RunSpec, key: str, sizes: dict[str, Any]) -> None:
    """Before anything is allocated: the rule is arithmetic, in a module without torch."""
    with pytest.raises(ConfigError, match=rf"model\.{key}: .*parameters of .*at most 1,099") as e:
        of_model(spec, **sizes)
    assert len(str(e.value)) < 300


def test_the_largest_vocabulary_is_bounded_by_the_parameters_alone(spec: RunSpec) -> None:
    assert of_model(spec, vocab_size=2**32).model.vocab_size == 2**32
    with pytest.raises(ConfigError, match=r"model\.vocab_size: is 4294967297, must be in"):
        of_model(spec, vocab_size=2**32 + 1)
    wide: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 168, "head_dim": 32}
    few = count_parameters(replace(spec.model, **wide, vocab_size=1)) - 1024
    most = (MAX_PARAMETERS - few) // 1024
    of_model(spec, **wide, vocab_size=most)
    with pytest.raises(ConfigError, match=r"model\.vocab_size: "):
        of_model(spec, **wide, vocab_size=most + 1)


def test_the_published_sizes_of_known_models() -> None:
    """Counts by arithmetic against those in the models' papers and cards."""
    shared: dict[str, Any] = {"rope_theta": 5e5, "rms_norm_eps": 1e-5}
    covenant = ModelSpec(
        architecture="llama", vocab_size=262_144, hidden_size=8192, intermediate_size=28_672,
        num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        tie_word_embeddings=False, **shared,
    )  # fmt: skip
    llama_8b = ModelSpec(
        architecture="llama", vocab_size=128_256, hidden_size=4096, intermediate_size=14_336,
        num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        tie_word_embeddings=False, **shared,
    )  # fmt: skip
    qwen_30b = ModelSpec(
        architecture="qwen3_moe", vocab_size=151_936, hidden_size=2048, intermediate_size=6144,
        num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128,
        tie_word_embeddings=False, num_experts=128, num_experts_per_tok=8,
        moe_intermediate_size=768, norm_topk_prob=True, **shared,
    )  # fmt: skip
    assert count_parameters(covenant) == 72_747_327_488
    assert count_parameters(llama_8b) == 8_030_261_248
    assert count_parameters(qwen_30b) == 30_532_122_624
    assert round(count_active_parameters(qwen_30b) / 1e9, 1) == 3.0
