"""Mutated objects of strangers: every outcome is a valid object, or a short error of our own."""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from evaluation.verdict_log import LogError, decode_log, encode_log
from evaluation.verify import verify_logs
from simulation.world import hotkey_of
from template.data.manifest import Manifest, Shard, manifest_bytes, parse_manifest
from template.data.tokenizer import load_tokenizer
from template.errors import ConfigError, ObjectError, RecordError
from template.protocol.lineage import LineageStep, encode_lineage, parse_lineage
from template.protocol.record import (
    Access,
    AccessKind,
    PayloadCommitment,
    Record,
    Vote,
    decode_record,
    encode_record,
)
from template.protocol.root import Member
from template.protocol.spec import parse_spec
from template.protocol.ss58 import public_key
from template.scoring.rules import pay_rules
from template.training.checkpoint import restored_state
from template.training.model import tensor_shapes
from template.training.outer import OuterState, first_state
from template.training.published import build_checkpoint, parse_published
from tests.support.logs import made_up_log
from tests.support.mutations import mutated

MAX_MESSAGE_CHARS = 500
RUN = bytes(range(16))
SPEC_TEXT = Path(__file__).with_name("spec.toml").read_text(encoding="ascii")
SPEC = parse_spec(
    SPEC_TEXT.replace("hidden_size = 64", "hidden_size = 4").replace(
        "ate_size = 168", "ate_size = 4"
    )
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`read` takes bytes of `valid` and `other` without an error."""

    valid: bytes
    other: bytes
    read: Callable[[bytes], object]
    error: type[Exception]


def _record() -> Kind:
    access = Access(
        kind=AccessKind.S3, account="http://127.0.0.1:9000", access_key_id="id",
        secret_access_key="secret",
    )  # fmt: skip
    vote = Vote(
        window=7, root=bytes(16), sample_digest=bytes(8), uids=frozenset({1, 9}),
        missing=frozenset({3}), log_digest=bytes(16),
    )  # fmt: skip
    payload = PayloadCommitment(window=7, digest=bytes(32))
    return Kind(
        valid=encode_record(Record.of(RUN, access=access, vote=vote)),
        other=encode_record(Record.of(RUN, access=access, payload=payload)),
        read=decode_record,
        error=RecordError,
    )


def _manifest() -> Kind:
    shards = tuple(Shard(sha256=f"{n:064x}", num_segments=n) for n in range(1, 6))
    manifest = Manifest(
        tokenizer=load_tokenizer("byte").entry,
        token_bytes=2,
        page_tokens=64,
        segment_pages=8,
        shards=shards[1:],
        held_out=shards[0],
    )
    return Kind(
        valid=manifest_bytes(manifest),
        other=manifest_bytes(replace(manifest, segment_pages=16)),
        read=parse_manifest,
        error=ObjectError,
    )


def _lineage() -> Kind:
    members = tuple(
        Member(
            uid=uid, hotkey=(hotkey := hotkey_of(f"m{uid}")), public_key=public_key(hotkey),
            coldkey=bytes(32), digest=bytes([uid]) * 32,
        )
        for uid in range(3)
    )  # fmt: skip
    steps, root = [], bytes(32)
    for window in range(3):
        step = LineageStep(
            window=window, root=root, members=members, voting_stake_rao=10**15, checkpoint=b"",
            voted_root=root[:16],
        )  # fmt: skip
        steps.append(step)
        root = step.next_root
    return Kind(
        valid=encode_lineage(steps),
        other=encode_lineage(steps[1:]),
        read=parse_lineage,
        error=ObjectError,
    )


def _state() -> OuterState:
    params = {name: torch.ones(shape) for name, shape in tensor_shapes(SPEC).items()}
    state = first_state(params, SPEC.run_id)
    norms = ((0, (state.initial_norms, state.initial_norms)),)
    return replace(state, accepted_norms=norms, reference_rao=10**15, exponent=-5)


def _published() -> Kind:
    state = _state()

    def read(data: bytes) -> object:
        return restored_state(parse_published(data, SPEC).carried, state.params)

    return Kind(
        valid=build_checkpoint(state, SPEC).manifest,
        other=build_checkpoint(replace(state, window=9), SPEC).manifest,
        read=read,
        error=ObjectError,
    )


def _log() -> Kind:
    rules = pay_rules(SPEC)

    def read(data: bytes) -> object:
        return verify_logs([decode_log(data.decode("utf-8", "replace"))], rules)

    return Kind(
        valid=encode_log(made_up_log(8)).encode(),
        other=encode_log(made_up_log(9)).encode(),
        read=read,
        error=LogError,
    )


def _spec() -> Kind:
    return Kind(
        valid=SPEC_TEXT.encode(),
        other=SPEC_TEXT.replace("64", "32").encode(),
        read=lambda data: parse_spec(data.decode("utf-8", "replace")).run_id,
        error=ConfigError,
    )


KINDS: Mapping[str, Callable[[], Kind]] = {
    "record": _record,
    "dataset manifest": _manifest,
    "checkpoint manifest": _published,
    "lineage": _lineage,
    "verdict log": _log,
    "run spec": _spec,
}


def _besiege(kind: Kind, num_mutations: int, seed: int) -> Counter[str]:
    """Outcomes; an exception of another kind, or a long message, fails with the bytes."""
    generator, outcomes = random.Random(seed), Counter[str]()
    kind.read(kind.valid)
    for _ in range(num_mutations):
        data = mutated(kind.valid, kind.other, generator)
        try:
            kind.read(data)
        except kind.error as error:
            message = str(error)
            assert len(message) <= MAX_MESSAGE_CHARS, data[:200]
            assert message.isascii(), data[:200]
            assert message.isprintable(), data[:200]
            outcomes["refused"] += 1
        else:
            outcomes["valid"] += 1
    return outcomes


@pytest.mark.parametrize("name", KINDS)
def test_mutations_are_valid_or_refused_shortly(name: str) -> None:
    outcomes = _besiege(KINDS[name](), 2000, 3)
    assert outcomes["refused"] > outcomes["valid"] or name == "record"


@pytest.mark.siege
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", KINDS)
def test_mutations_in_large_numbers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    started_s = time.monotonic()
    outcomes = _besiege(KINDS[name](), 200_000, 4)
    line = f"{name}: {json.dumps(outcomes)} in {time.monotonic() - started_s:.0f} s"
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
    assert outcomes.total() == 200_000
