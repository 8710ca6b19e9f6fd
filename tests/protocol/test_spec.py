"""The run spec: every rule with its message, run ids, round trips, and no field without use."""

import ast
import hashlib
import json
import re
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.swarm import small_plan, synthetic_corpus
from template.commands.plan import RunChoices, load_plan, prepare_run
from template.errors import ConfigError
from template.protocol import spec as spec_module
from template.protocol.quorum import QuorumRules
from template.protocol.schedule import Schedule
from template.protocol.spec import ModelSpec, RunSpec, load_spec, parse_spec, spec_to_toml
from template.protocol.toml import from_table

ROOT = Path(__file__).parents[2]
PLANS = sorted((ROOT / "runs").glob("*.toml"))
ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
BOB = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"

OPTIONAL = {
    name: [field.name for field in fields(table) if field.default is not MISSING]
    for name, table in (
        ("model", ModelSpec),
        ("data", spec_module.DataSpec),
        ("training", spec_module.TrainingSpec), ("outer", spec_module.OuterSpec),
    )
}  # fmt: skip
"""Left out of the small run's text; test_model_spec.py tests those of the model."""
OTHER_VALUES: dict[str, object] = {
    "training.decay_share": 0.5,
    "name": "another",
    "model.architecture": "mistral",
    "model.hidden_size": 128,
    "model.num_attention_heads": 4,
    "model.num_key_value_heads": 1,
    "model.tie_word_embeddings": False,
    "data.manifest_digest": "ef" * 32,
    "data.mirrors": (BOB,),
    "data.tokenizer": "another",
    "schedule.network": "public",
    "training.precision": "bf16",
    "checkpoint.theta0_digest": "ef" * 32,
}
"""For fields whose value plus one, or times 0.9, is not a valid one."""


def required(spec: RunSpec) -> dict[str, Any]:
    table = {name: value for name, value in asdict(spec).items() if value is not None}
    for section, keys in OPTIONAL.items():
        table[section] = {k: v for k, v in table[section].items() if k not in keys}
    return table


def leaves(spec: RunSpec) -> dict[str, Any]:
    table = required(spec)
    nested = {f"{s}.{k}": v for s, t in table.items() if isinstance(t, dict) for k, v in t.items()}
    return {"name": spec.name, **nested}


def with_leaf(spec: RunSpec, leaf: str, value: Any) -> RunSpec:
    section, _, key = leaf.rpartition(".")
    if not section:
        return replace(spec, **{key: value})
    return replace(spec, **{section: replace(getattr(spec, section), **{key: value})})


def other_value(leaf: str, value: Any) -> object:
    if leaf in OTHER_VALUES:
        return OTHER_VALUES[leaf]
    return value + 1 if isinstance(value, int) else value * 0.9 if value < 1 else value * 1.1


def edited(text: str, leaf: str, value: str | None) -> str:
    """The spec's text with one key set to a TOML value, or left out."""
    section, _, key = leaf.rpartition(".")
    head, body = ("", text) if not section else text.split(f"[{section}]\n", 1)
    line = "" if value is None else f"{key} = {value}\n"
    changed, count = re.subn(rf"^{key} = .*\n", lambda _: line, body, count=1, flags=re.MULTILINE)
    assert count == 1, f"{leaf} is not in the text"
    return changed if not section else f"{head}[{section}]\n{changed}"


def test_every_field_changes_the_run_id(spec: RunSpec) -> None:
    run_ids = {spec.run_id}
    varied = leaves(spec).keys()
    for leaf in varied:
        run_ids.add(with_leaf(spec, leaf, other_value(leaf, leaves(spec)[leaf])).run_id)
    assert len(run_ids) == 1 + len(varied)
    assert len(varied) > 50


def test_run_id_is_the_hash_of_the_canonical_form(spec: RunSpec) -> None:
    text = json.dumps(required(spec), sort_keys=True, separators=(",", ":"))
    assert spec.run_id == hashlib.sha256(text.encode()).digest()[:16]


def test_run_id_does_not_depend_on_how_the_file_is_written(spec: RunSpec, spec_text: str) -> None:
    head, *sections = re.split(r"(?m)^(?=\[)", spec_text)
    shuffled = head + "".join(reversed(sections))
    assert parse_spec("# a comment\n" + shuffled).run_id == spec.run_id
    integer = edited(spec_text, "model.rope_theta", "10_000")
    assert parse_spec(integer).run_id == spec.run_id


def test_round_trip_through_toml(spec: RunSpec, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(spec_to_toml(spec), encoding="utf-8")
    assert load_spec(path) == spec
    for leaf, value in leaves(spec).items():
        changed = with_leaf(spec, leaf, other_value(leaf, value))
        assert parse_spec(spec_to_toml(changed)) == changed


printable = st.characters(exclude_categories=["C", "Z"])


@settings(deadline=None)
@given(
    st.text(printable, max_size=128),
    st.floats(1e-300, 100),
    st.lists(st.sampled_from([ALICE, BOB]), min_size=1),
)
def test_any_values_round_trip(spec: RunSpec, name: str, rate: float, mirrors: list[str]) -> None:
    changed = with_leaf(with_leaf(spec, "name", name), "training.inner_lr", rate)
    changed = with_leaf(changed, "data.mirrors", tuple(mirrors))
    parsed = parse_spec(spec_to_toml(changed))
    assert parsed == changed
    assert parsed.run_id == changed.run_id


def test_every_missing_key_is_named(spec: RunSpec, spec_text: str) -> None:
    for leaf in leaves(spec).keys() - {"schedule.num_windows"}:
        with pytest.raises(ConfigError, match=rf"^{re.escape(leaf)}: missing"):
            parse_spec(edited(spec_text, leaf, None))


def test_every_wrong_type_is_named(spec: RunSpec, spec_text: str) -> None:
    for leaf, value in leaves(spec).items():
        for wrong in ("{}", "[1]", '"text"', "true", "1.5", "1", "2020-01-01"):
            right = {
                str: wrong == '"text"',
                bool: wrong == "true",
                int: wrong == "1",
                float: wrong in ("1", "1.5"),
                tuple: False,
            }
            if not right[type(value)]:
                with pytest.raises(ConfigError, match=rf"^{re.escape(leaf)}(\[0\])?: must be"):
                    parse_spec(edited(spec_text, leaf, wrong))


def test_unknown_keys_are_named_with_those_that_exist(spec_text: str) -> None:
    with pytest.raises(ConfigError, match=r"^surprise: unknown key; known here: .*compression"):
        parse_spec("surprise = 1\n" + spec_text)
    text = spec_text.replace("[outer]\n", "[outer]\nouter_learning_rate = 1.0\n")
    with pytest.raises(ConfigError, match=r"^outer\.outer_learning_rate: unknown.*outer_lr"):
        parse_spec(text)


def test_a_missing_section_is_named(spec_text: str) -> None:
    head, _, tail = spec_text.partition("[weights]")
    with pytest.raises(ConfigError, match="^weights: missing"):
        parse_spec(head + tail[tail.index("[checkpoint]") :])


def test_a_section_must_be_a_table(spec_text: str) -> None:
    head, _, tail = spec_text.partition("[weights]")
    with pytest.raises(ConfigError, match="^weights: must be a table"):
        parse_spec("weights = 3\n" + head + tail[tail.index("[checkpoint]") :])


RULES_BETWEEN_TWO = {
    ("model.hidden_size", "65"): "model.num_attention_heads",
    ("schedule.finality_lag_blocks", "6"): "schedule.vote_margin_blocks",
    ("weights.history_windows", "3"): "weights.min_windows",
}
"""(key, value) -> the key that the message names, where it is another one of the two."""

HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    ("leaf", "values"),
    [
        ("model.architecture", ['"gpt2"', '""']),
        ("model.vocab_size", ["0", "-1"]),
        ("model.hidden_size", ["0", "65"]),
        ("model.intermediate_size", ["0"]),
        ("model.num_hidden_layers", ["0"]),
        ("model.num_attention_heads", ["0", "3", "-2"]),
        ("model.num_key_value_heads", ["0", "3", "4"]),
        ("model.rope_theta", ["0.0", "nan", "inf"]),
        ("model.rms_norm_eps", ["0", "-1e-6", "nan"]),
        ("data.manifest_digest", ['""', f'"{"ab" * 31}"', f'"{"AB" * 32}"', f'"{"ab " * 32}"']),
        ("data.mirrors", ["[]", '["5Grwva"]', f'["{ALICE}", ""]', f'["1{ALICE}"]']),
        ("data.page_tokens", ["1", "-64"]),
        ("schedule.network", ['"finney"']),
        ("schedule.start_block", ["5", "-1"]),
        ("schedule.blocks_per_window", ["0", "25"]),
        ("schedule.upload_blocks", ["0"]),
        ("schedule.scoring_blocks", ["0"]),
        ("schedule.vote_margin_blocks", ["2", "0"]),
        ("schedule.finality_lag_blocks", ["-1", "6"]),
        ("schedule.tempo_blocks", ["0", "2000"]),
        ("schedule.num_windows", ["0"]),
        ("training.inner_steps", ["0"]),
        ("training.batch_pages", ["0"]),
        ("training.inner_lr", ["0", "-1e-3", "nan", "inf", HUGE]),
        ("training.final_lr_share", ["-0.1", "1.1"]),
        ("training.decay_share", ["-0.1", "1.1", "nan"]),
        ("training.warmup_windows", ["-1", "inf"]),
        ("training.warm_start_steps", ["-1", "1.5"]),
        ("training.own_update_share", ["-0.1", "1.1", "nan"]),
        ("training.adam_beta1", ["1.0", "-0.1"]),
        ("training.adam_beta2", ["1.0", "-0.1"]),
        ("training.weight_decay", ["-0.1"]),
        ("training.max_gradient_norm", ["0.0"]),
        ("training.precision", ['"fp16"']),
        ("compression.top_k", ["0", "4097"]),
        ("compression.error_feedback_decay", ["1.0", "-0.5", "nan"]),
        ("outer.outer_lr", ["0.0", "inf"]),
        ("outer.alpha_windows", ["-1", "1048577", "0.5"]),
        ("outer.min_divisor", ["0"]),
        ("outer.max_staleness", ["-1"]),
        ("outer.staleness_decay", ["0.0", "1.5"]),
        ("outer.clip_factor", ["0.0"]),
        ("outer.clip_windows", ["0"]),
        ("outer.initial_norm_share", ["0.0"]),
        ("outer.initial_norm_floor", ["0.0"]),
        ("outer.max_energy_share", ["0.0", "1.01", "nan"]),
        ("outer.peers_per_step", ["0", "257"]),
        ("outer.min_reference_rao", ["-1"]),
        ("outer.reference_windows", ["0", "-1"]),
        ("evaluation.held_out_pages", ["1"]),
        ("evaluation.curve_pages", ["0"]),
        ("evaluation.assignment_windows", ["0"]),
        ("evaluation.step_share", ["0.0", "1.1"]),
        ("evaluation.naming_gain", ["0.0", "1.1", "nan"]),
        ("evaluation.naming_error", ["0.0", "0.5"]),
        ("evaluation.naming_z", ["-0.1", "inf"]),
        ("evaluation.min_relative_gain", ["-0.1", "1.0"]),
        ("evaluation.confidence_z", ["-1"]),
        ("evaluation.claimed_pages", ["-1"]),
        ("evaluation.work_effect", ["0.0", "-1.0", "inf"]),
        ("evaluation.work_error", ["0.0", "0.5"]),
        ("evaluation.work_windows", ["0"]),
        ("evaluation.max_overlap", ["0.0", "1.1"]),
        ("evaluation.max_payloads", ["0", "257"]),
        ("evaluation.loss_tolerance", ["0.0", "1.0"]),
        ("weights.history_windows", ["0", "3"]),
        ("weights.min_windows", ["1", "9"]),
        ("weights.max_share", ["0.0", "1.01"]),
        ("checkpoint.theta0_digest", ['"none"']),
        ("checkpoint.every_windows", ["0"]),
        ("checkpoint.digest_every_windows", ["0"]),
        ("checkpoint.part_bytes", ["0", "-1", "4294967297"]),
    ],
)
def test_values_out_of_range_are_named(spec_text: str, leaf: str, values: list[str]) -> None:
    for value in values:
        named = RULES_BETWEEN_TWO.get((leaf, value), leaf)
        with pytest.raises(ConfigError, match=rf"(^|run spec: ){re.escape(named)}(\[0\])?: \S"):
            parse_spec(edited(spec_text, leaf, value))


@pytest.mark.parametrize(
    ("leaf", "value"),
    [
        ("schedule.blocks_per_window", "26"),
        ("schedule.vote_margin_blocks", "3"),
        ("schedule.finality_lag_blocks", "5"),
        ("schedule.finality_lag_blocks", "0"),
        ("schedule.start_block", "6"),
        ("compression.top_k", "1"),
        ("compression.top_k", "4096"),
        ("compression.error_feedback_decay", "0"),
        ("outer.alpha_windows", "0"),
        ("outer.alpha_windows", "1048576"),
        ("outer.peers_per_step", "256"),
        ("outer.max_staleness", "0"),
        ("weights.min_windows", "8"),
        ("weights.max_share", "1"),
        ("model.num_key_value_heads", "1"),
    ],
)
def test_values_at_their_limits_are_accepted(spec_text: str, leaf: str, value: str) -> None:
    assert leaves(parse_spec(edited(spec_text, leaf, value)))[leaf] == float(value)


def public_schedule(spec: RunSpec, **changes: int) -> object:
    base: dict[str, Any] = {"blocks_per_window": 100, "tempo_blocks": 360, "network": "public"}
    return replace(spec, schedule=replace(spec.schedule, **{**base, **changes}))


@pytest.mark.parametrize(("blocks", "fits"), [(200, True), (201, False)])
def test_a_public_window_fits_what_nodes_keep(spec: RunSpec, blocks: int, fits: bool) -> None:
    if fits:
        public_schedule(spec, blocks_per_window=blocks)
    else:
        with pytest.raises(ConfigError, match=r"blocks_per_window: at most 200"):
            public_schedule(spec, blocks_per_window=blocks)
    with_leaf(spec, "schedule.blocks_per_window", blocks)


@pytest.mark.parametrize(
    ("blocks_per_window", "tempo_blocks", "bytes_spent"),
    [(90, 360, 2688), (72, 360, 3136), (100, 400, 2688), (75, 360, 3136), (200, 360, 1792)],
)
def test_records_of_an_epoch_fit_the_quota(
    spec: RunSpec, blocks_per_window: int, tempo_blocks: int, bytes_spent: int
) -> None:
    """A window more than the epoch holds may start in it: 2 records for each, and 2 besides."""
    changes = {"blocks_per_window": blocks_per_window, "tempo_blocks": tempo_blocks}
    if bytes_spent <= 3100:
        public_schedule(spec, **changes)
    else:
        with pytest.raises(ConfigError, match=f"tempo_blocks.*{bytes_spent} bytes.*3100"):
            public_schedule(spec, **changes)


def test_derived_views(spec: RunSpec) -> None:
    assert spec.schedule.schedule() == Schedule(
        start_block=60, blocks_per_window=28, upload_blocks=6, vote_margin_blocks=6
    )
    assert spec.outer.quorum_rules() == QuorumRules(
        peers_per_step=20, reference_windows=500, min_reference_rao=0, alpha_windows=24
    )
    assert spec.training.pages_per_window == 30 * 8


def test_what_is_not_a_spec_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_spec(path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_spec(path)
    path.write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_spec(path)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_shipped_plan_is_a_spec_but_for_what_is_derived(path: Path) -> None:
    plan = load_plan(path)
    plan["data"] |= {"manifest_digest": "00" * 32, "mirrors": [ALICE]}
    plan["schedule"] |= {"start_block": 1000}
    plan["checkpoint"] |= {"theta0_digest": "00" * 32}
    spec = from_table(RunSpec, plan)
    assert parse_spec(spec_to_toml(spec)) == spec


@pytest.mark.parametrize("section", ["data", "schedule", "checkpoint"])
def test_a_plan_that_says_what_is_derived_is_refused(
    spec_text: str, section: str, tmp_path: Path
) -> None:
    path = tmp_path / "plan.toml"
    derived = r"(?m)^(manifest_digest|mirrors|start_block|theta0_digest) = .*\n"
    head, tail = spec_text.split(f"[{section}]\n")
    path.write_text(re.sub(derived, "", head) + f"[{section}]\n" + tail)
    with pytest.raises(ConfigError, match=rf"{section}\.\w+ is derived; leave it out"):
        load_plan(path)


def test_a_prepared_plan_names_its_blobs() -> None:
    run = prepare_run(
        small_plan(), synthetic_corpus(20_000), RunChoices(owner_hotkey=ALICE, start_block=77)
    )
    assert run.spec.schedule.start_block == 77
    assert run.spec.data.mirrors == (ALICE,)
    assert bytes.fromhex(run.spec.data.manifest_digest) in run.blobs
    assert bytes.fromhex(run.spec.checkpoint.theta0_digest) in run.blobs
    assert all(hashlib.sha256(data).digest() == digest for digest, data in run.blobs.items())


ONLY_VALIDATED = {
    "architecture",  # one value yet; it is in the file so that another can come
    "network",
    "scoring_blocks",
    "finality_lag_blocks",
    "tempo_blocks",
    "name",
}
"""Fields that decide whether a spec is valid, or which run it is, and nothing else."""


def reads_in(path: Path) -> set[tuple[str, str]]:
    """(owner, attribute) of every attribute read: `spec.outer.clip_factor` gives its last two."""
    return {
        (ast.unparse(node.value).rpartition(".")[2], node.attr)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_field_is_read_somewhere() -> None:
    """A rule between fields does not count as a use: rules read `model`, tables read `self`."""
    sources = {p for d in ("template", "evaluation", "neurons") for p in (ROOT / d).rglob("*.py")}
    own = set(Path(spec_module.__file__).parent.glob("*.py"))
    elsewhere = set().union(*(reads_in(path) for path in sources - own))
    views = set().union(*(reads_in(path) for path in own))
    reads = {(owner, a) for owner, a in elsewhere if owner != "self"}
    reads |= {(owner, a) for owner, a in views if owner == "self"}
    unread = []
    for table in fields(RunSpec):
        if is_dataclass(table.type):
            owners = {table.name, "spec", "self"}
            unread += [f.name for f in fields(table.type) if not reads_of(f.name, reads, owners)]
        elif not reads_of(table.name, reads, {"spec"}):
            unread.append(table.name)
    assert set(unread) <= ONLY_VALIDATED


def reads_of(name: str, reads: set[tuple[str, str]], owners: set[str]) -> bool:
    return any((owner, name) in reads for owner in owners)


def test_every_number_has_an_upper_limit(spec: RunSpec, spec_text: str) -> None:
    numbers = {leaf: v for leaf, v in leaves(spec).items() if type(v) in (int, float)}
    assert len(numbers) > 50
    for leaf in numbers:
        for huge in (2**63 - 1, 1e300):
            if type(numbers[leaf]) is type(huge):
                with pytest.raises(
                    ConfigError, match=rf"run spec: {re.escape(leaf)}: is .*must be"
                ):
                    parse_spec(edited(spec_text, leaf, repr(huge)))


@pytest.mark.parametrize(
    "number", ["9" * 19, "9" * 400, "9" * 5000, "0x" + "f" * 5000, "-" + "9" * 5000]
)
def test_a_number_of_many_digits_is_refused_shortly(
    spec: RunSpec, spec_text: str, number: str
) -> None:
    for leaf, value in leaves(spec).items():
        if type(value) in (int, float):
            with pytest.raises(ConfigError, match=rf"{re.escape(leaf)}: |not valid TOML") as caught:
                parse_spec(edited(spec_text, leaf, number))
            assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3000, "a = " + "[" * 3000, "a = " + "{a=" * 3000, "a" + ".a" * 30_000 + " = 1",
        "x = " + "9" * 60_000, "\x00", "name = " + '"' * 60_000, "a = 1\n" * 2, "= 1",
        "\x1b[2J = 1", '"' + "\U0001f600" * 10_000 + '" = 1', "a = 9999-99-99",
        "[model]\nmodel.a = {}", "#" * 2**16 + "x", "a = 1\n" * 100_000,
    ],
    ids=range(15),
)  # fmt: skip
def test_any_text_ends_in_a_short_error(text: str, tmp_path: Path) -> None:
    """Soon, too: without a limit on dots the parser takes ten seconds for the dotted key."""
    with pytest.raises(ConfigError) as caught:
        parse_spec(text)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.toml: "):
        load_spec(path)


def test_a_file_longer_than_a_spec_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="longer than a run spec"):
        load_spec(path)


def test_names_are_short_and_printable(spec_text: str) -> None:
    for leaf in ("name", "data.tokenizer"):
        for value in ("n" * 129, "\\u001b[2J", "a\\nb"):
            with pytest.raises(ConfigError, match=rf"{leaf}: is .*printable") as caught:
                parse_spec(edited(spec_text, leaf, f'"{value}"'))
            assert str(caught.value).isprintable()


def test_mirrors_are_few(spec_text: str) -> None:
    parse_spec(edited(spec_text, "data.mirrors", json.dumps([ALICE] * 256)))
    with pytest.raises(ConfigError, match=r"data\.mirrors: has 257 entries"):
        parse_spec(edited(spec_text, "data.mirrors", json.dumps([ALICE] * 257)))


def test_a_line_has_a_hundred_dots_at_most(spec_text: str) -> None:
    """The parser takes the square of a dotted key's parts: 11 s for 60 kB."""
    parse_spec("#" + "." * 100 + "\n" + spec_text)
    with pytest.raises(ConfigError, match="over 100 dots in a line"):
        parse_spec("#" + "." * 101 + "\n" + spec_text)
