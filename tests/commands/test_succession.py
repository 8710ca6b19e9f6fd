"""`tessera succession`: drafts, and what a validator's operator hands to the running validator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulation.swarm import TINY, build_world, synthetic_corpus
from simulation.world import World, hotkey_of
from template.base.supporting import Supporter, support_path
from template.cli.main import run_command
from template.cli.succession_flags import DraftConfig
from template.commands.publish import refuse_other_runs, write_spec
from template.commands.succession import drafted
from template.data.manifest import manifest_bytes, manifest_digest
from template.data.shards import build_dataset
from template.data.tokenizer import ByteTokenizer
from template.errors import ConfigError, Unavailable
from template.peers.client import Peers
from template.protocol.keys import blob_key, spec_key
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.record import Record, Support, Vote, encode_record
from template.protocol.run import Run
from template.protocol.spec import RunSpec, load_spec, spec_to_toml
from template.settings import ChainConfig
from template.store.memory import MemoryStore
from template.sync.bootstrap import Bootstrap
from template.sync.dataset import open_datasets
from template.sync.follower import Follower
from tests.support.successions import successor

ROOT = bytes(range(16))
WINDOW = 12


@pytest.fixture(scope="module")
def world() -> World:
    return build_world({"owner": 0, "val-a": 600, "m0": 0}, **{**TINY, "schedule__num_windows": 40})


def draft_config(spec: RunSpec, **changes) -> DraftConfig:
    given: dict[str, Any] = {"changes": {}, "name": None, "window": WINDOW}
    given |= {"least_version": "0.0.0"}
    return DraftConfig(
        run=Path("run.toml"),
        spec=spec,
        chain=ChainConfig(netuid=1, network="local"),
        out=Path("next.toml"),
        **{**given, **changes},
    )


def test_a_draft_changes_keys_and_names_its_place(world) -> None:
    spec = world.spec
    changes = {"outer": {"outer_lr": 0.5}, "schedule": {"num_windows": None}}
    config = draft_config(spec, changes=changes, name="another", least_version="0.1.0")
    after = drafted(Run(spec), config, ROOT)
    assert after.continues is not None
    assert after.continues.root == ROOT.hex()
    assert (after.first_window, after.continues.least_version) == (WINDOW, "0.1.0")
    assert (after.outer.outer_lr, after.name) == (0.5, "another")
    assert not after.schedule.has_end
    assert after.training == spec.training
    second = drafted(Run(spec, after), draft_config(spec, window=WINDOW + 1), ROOT)
    assert second.continues is not None
    assert second.continues.spec == after.spec_id.hex()
    assert second.outer.outer_lr == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outr": {"outer_lr": 0.5}}, "--set outr: no such table; there are: model, data"),
        ({"continues": {"window": 3}}, "--set continues: no such table"),
        ({"name": {"x": 3}}, "--set name: no such table"),
        ({"outer": {"outer_rate": 0.5}}, "outer.outer_rate: unknown key"),
        ({"outer": {"outer_lr": "fast"}}, "outer.outer_lr: must be a number"),
        ({"outer": {"outer_lr": -1.0}}, "outer.outer_lr: is -1.0"),
        ({"outer": {"outer_lr": None}}, "outer.outer_lr: missing"),
        ({"model": {"hidden_size": 16}}, "model.hidden_size: a succession cannot change it"),
        ({"schedule": {"num_windows": WINDOW}}, "schedule.num_windows: is 12, must be more"),
    ],
)
def test_a_wrong_change_is_named(world, changes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drafted(Run(world.spec), draft_config(world.spec, changes=changes), ROOT)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "inner_lr=1"], "--set inner_lr=1: write TABLE.KEY=VALUE"),
        (["--set", "training.inner_lr"], "--set training.inner_lr: write TABLE.KEY=VALUE"),
        (["--set", "data.tokenizer=byte"], "a text is in quotes"),
        (["--set", "outer.outer_lr=" + "[" * 20_000], "not valid TOML: RecursionError"),
        (["--set", "outer.outer_lr=1\nx=2"], "more than one value"),
        (["--set", "outer" + ".a" * 20_000 + "=1"], "write TABLE.KEY=VALUE"),
        (["--unset", "num_windows"], "--unset num_windows: write TABLE.KEY"),
        (["--out", "no/next.toml"], "--out no/next.toml: there is no folder no; create it"),
    ],
)
def test_a_wrong_flag_of_a_draft_is_named(world, tmp_path, capsys, flags, message) -> None:
    (tmp_path / "run.toml").write_text(spec_to_toml(world.spec))
    argv = ["draft", "--run", str(tmp_path / "run.toml"), "--netuid", "1", "--window", "9"]
    argv += ["--out", str(tmp_path / "next.toml"), *flags]
    assert run_command("succession", argv, "tessera succession") == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--window", "-3"], "argument --window: must be a whole number from 1 to 999999"),
        (["--window", "\u00b2"], "argument --window: must be a whole number"),
        (["--least-version", "foo"], "argument --least-version: must be MAJOR.MINOR.PATCH"),
        (["--least-version", "1.2.3.4"], "argument --least-version: must be MAJOR.MINOR.PATCH"),
        (["--data", "no"], "--data no: has no manifest.json"),
        (["--data", "DAMAGED"], "manifest.json: "),
    ],
)
def test_a_wrong_flag_is_found_before_the_chain_is_asked(
    world, tmp_path, capsys, flags, message
) -> None:
    """There is no chain at this address."""
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "run.toml").write_text(spec_to_toml(world.spec))
    argv = ["draft", "--run", str(tmp_path / "run.toml"), "--netuid", "1", "--window", "9"]
    argv += ["--out", str(tmp_path / "next.toml"), "--subtensor.network", "ws://127.0.0.1:9"]
    argv += [str(tmp_path) if flag == "DAMAGED" else flag for flag in flags]
    try:
        status: object = run_command("succession", argv, "tessera succession")
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_spec_that_the_disk_refuses_is_told_by_its_flag(tmp_path) -> None:
    """The folder was there when the flags were read."""
    with pytest.raises(ConfigError, match=r"--out .*next\.toml: cannot be written \(No such file"):
        write_spec(tmp_path / "gone" / "next.toml", "")


def test_the_examples_of_the_help_can_be_copied(capsys) -> None:
    with pytest.raises(SystemExit):
        run_command("succession", ["--help"], "tessera succession")
    lines = capsys.readouterr().out.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("      --"):
            assert lines[number - 1].endswith("\\"), lines[number - 1]
    assert max(map(len, lines)) <= 100


def test_support_is_handed_to_the_validator_and_taken_back(world, tmp_path, capsys) -> None:
    after = successor(world.spec, WINDOW)
    (tmp_path / "next.toml").write_text(spec_to_toml(after))
    state = ["--neuron.state_dir", str(tmp_path)]
    argv = ["support", str(tmp_path / "next.toml"), *state]
    assert run_command("succession", argv, "tessera succession") == 0
    assert load_spec(support_path(tmp_path)) == after
    assert f"the votes on window {WINDOW - LEAD_WINDOWS} decide" in capsys.readouterr().out
    for _ in range(2):
        assert run_command("succession", ["withdraw", *state], "tessera succession") == 0
    assert not support_path(tmp_path).exists()


def test_a_spec_that_continues_nothing_and_a_wrong_folder_are_refused(
    world, tmp_path, capsys
) -> None:
    (tmp_path / "run.toml").write_text(spec_to_toml(world.spec))
    argv = ["support", str(tmp_path / "run.toml"), "--neuron.state_dir", str(tmp_path)]
    assert run_command("succession", argv, "tessera succession") == 2
    assert "continues no run" in capsys.readouterr().err
    argv[1] = str(tmp_path / "missing.toml")
    assert run_command("succession", argv, "tessera succession") == 2
    assert f"SPEC {argv[1]}: cannot be read" in capsys.readouterr().err
    argv[-1] = str(tmp_path / "nowhere")
    assert run_command("succession", argv, "tessera succession") == 2
    assert "no such folder" in capsys.readouterr().err


class Desk:
    """A validator's supporter in a still world, and its file."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.hotkey = world, hotkey_of("val-a")
        self.context = world.context(self.hotkey, folder)
        peers = Peers(self.context)
        peers.refresh()
        state = Bootstrap(self.context, peers).published_or_first_state(1)
        self.follower = Follower(self.context, peers, state)
        self.root = state.root[:16].hex()
        datasets = open_datasets(self.context, peers, 0)
        self.carried: list[RunSpec] = []
        self.supporter = Supporter(
            self.context, peers, self.follower, datasets, self.carried.append
        )

    def proposal(self, window: int = WINDOW, root: str | None = None, **fields) -> RunSpec:
        after = successor(self.context.run.newest, window, **fields)
        assert after.continues is not None
        link = replace(after.continues, root=self.root if root is None else root)
        return replace(after, continues=link)

    def stand_at(self, window: int) -> None:
        """At theta_window, as if without payloads."""
        ledger = self.follower.ledger
        self.follower.ledger = replace(ledger, state=replace(ledger.state, window=window))

    def write(self, spec: RunSpec) -> None:
        support_path(self.context.state_dir).write_text(spec_to_toml(spec))


@pytest.fixture
def desk(world, tmp_path) -> Desk:
    return Desk(world, tmp_path / "val-a")


def test_a_supported_spec_is_served_before_it_is_named(desk, monkeypatch) -> None:
    assert desk.supporter.support(0) is None
    spec = desk.proposal(outer__outer_lr=0.5)
    desk.write(spec)
    key = spec_key(desk.world.spec.run_id, spec.spec_id)
    with monkeypatch.context() as patched:
        patched.setattr(MemoryStore, "put", refuse)
        assert desk.supporter.support(0) is None
    assert desk.supporter.support(0) == Support(window=WINDOW, spec=spec.spec_id)
    text = desk.world.buckets[desk.hotkey].get(key, max_bytes=10**5)
    assert text == spec_to_toml(spec).encode()
    support_path(desk.context.state_dir).unlink()
    assert desk.supporter.support(1) is None


def refuse(*_args: object) -> None:
    raise Unavailable("away")


def test_support_ends_with_the_ballot_and_goes_over_to_what_was_adopted(desk, caplog) -> None:
    spec = desk.proposal(outer__outer_lr=0.5)
    desk.write(spec)
    last = WINDOW - LEAD_WINDOWS
    expected = Support(window=WINDOW, spec=spec.spec_id)
    assert desk.supporter.support(last) == expected
    assert desk.supporter.support(last + 1) is None, "a word now would say that it was adopted"
    assert "did not adopt it" not in caplog.text
    desk.stand_at(last + 3)
    for window in (last + 2, last + 3):
        assert desk.supporter.support(window) is None
    assert caplog.text.count("did not adopt it") == 1
    desk.context.run.extend(spec)
    assert desk.supporter.support(last + 2) == expected, "the newest spec of the run"
    later = desk.proposal(WINDOW + 9)
    desk.write(later)
    assert desk.supporter.support(last + 2) == Support(window=WINDOW + 9, spec=later.spec_id)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"root": "cd" * 16}, "continues.root: is no root of the last 512 windows"),
        ({"continues__least_version": "9.0.0"}, "demands version 9.0.0 or newer"),
        ({"model__vocab_size": 300}, "model.vocab_size: a succession cannot change it"),
        ({"data__segment_pages": 3}, "data.segment_pages is 3, the dataset's is 8"),
        ({"evaluation__curve_pages": 100_000}, "evaluation.curve_pages is 100000"),
    ],
)
def test_what_cannot_be_supported_is_told_once(desk, caplog, fields, message) -> None:
    desk.write(desk.proposal(**fields))
    for window in (0, 1):
        assert desk.supporter.support(window) is None
    assert caplog.text.count(message) == 1
    desk.write(desk.proposal())
    assert desk.supporter.support(1) is not None, "another file is another chance"


def test_a_dataset_that_is_uploaded_later_is_supported_then(desk, caplog) -> None:
    """And from the mirrors that the proposal names, which the run has not adopted."""
    data = desk.world.spec.data
    dataset = build_dataset(
        synthetic_corpus(160_000),
        ByteTokenizer(),
        page_tokens=data.page_tokens,
        segment_pages=data.segment_pages,
    )
    digest = manifest_digest(dataset.manifest)
    mirror = hotkey_of("m0")
    desk.world.chain(mirror).publish(encode_record(Record(access=desk.world.access(mirror))))
    desk.world.time.block += 8
    desk.write(desk.proposal(data__manifest_digest=digest.hex(), data__mirrors=(mirror,)))
    for window in (0, 1):
        assert desk.supporter.support(window) is None
    assert caplog.text.count("upload the dataset with `tessera data upload`") == 2
    desk.world.buckets[mirror].put(blob_key(digest), manifest_bytes(dataset.manifest))
    assert desk.supporter.support(2) is not None
    assert [spec.data.mirrors for spec in desk.carried] == [(mirror,)], "its tokenizer is served"


def test_the_same_word_said_again_is_looked_at_again(desk) -> None:
    spec = desk.proposal(root="cd" * 16)
    desk.write(spec)
    assert desk.supporter.support(0) is None
    desk.root = "cd" * 16
    desk.supporter._roots.add(bytes.fromhex(desk.root))
    assert desk.supporter.support(0) is None, "refused for good, until it is said again"
    path = support_path(desk.context.state_dir)
    path.unlink()
    assert desk.supporter.support(0) is None
    desk.write(spec)
    assert desk.supporter.support(0) is not None


def test_a_word_that_cannot_be_read_costs_no_vote(desk, caplog) -> None:
    support_path(desk.context.state_dir).mkdir()
    assert desk.supporter.support(0) is None
    assert "this spec is not supported now" in caplog.text


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"a = [", b"x" * 100_000])
def test_a_file_of_garbage_is_told_and_supports_nothing(desk, data, caplog) -> None:
    support_path(desk.context.state_dir).write_bytes(data)
    for _ in range(2):
        assert desk.supporter.support(0) is None
    assert caplog.text.count("this spec is not supported") == bool(data)


def voting(world: World, name: str, run_id: bytes) -> dict[str, Record]:
    vote = Vote(window=3, root=bytes(16), sample_digest=bytes(8), uids=frozenset())
    return {hotkey_of(name): Record.of(run_id, vote=vote)}


def test_a_second_run_in_a_subnet_is_refused_until_the_first_is_over(world) -> None:
    graph = world.chain(hotkey_of("owner")).metagraph(world.time.block - 4)
    other = bytes(range(16))
    refuse_other_runs(graph, {}, ())
    refuse_other_runs(graph, voting(world, "m0", other), ())  # no permit: its vote says nothing
    records = voting(world, "val-a", other)
    with pytest.raises(ConfigError, match=f"100% of the stake .* run {other[:8].hex()}"):
        refuse_other_runs(graph, records, ("ab" * 8,))
    refuse_other_runs(graph, records, (other[:8].hex(),))
