"""Recorded pulses: which files are taken, and when a chain knows a pulse."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from localnet.chain.chain import LocalChain
from localnet.chain.config import ChainConfig
from localnet.chain.drand import read_pulses, round_time_s
from localnet.chain.journal import open_chain
from localnet.chain.metadata import load_metadata
from template.errors import ConfigError
from tests.support.localnet.commit_cases import PULSES, ROUND


@pytest.fixture
def chain() -> LocalChain:
    config = ChainConfig(seed="drand", drand_pulses=PULSES)
    return LocalChain(config, load_metadata(), secret=bytes(32), now_ms=1_000)


def known(chain: LocalChain) -> list[int]:
    state = chain.state_at(chain.head.header.number)
    return sorted(number for number, _ in state.drand.entries("Pulses"))


def test_a_round_has_the_time_that_drand_gives_it() -> None:
    assert round_time_s(1) == 1_692_803_367
    assert round_time_s(ROUND) == 1_692_806_364


def test_a_pulse_is_known_from_its_own_time_on(chain: LocalChain) -> None:
    chain.produce_block(round_time_s(ROUND) * 1000 - 1)
    assert known(chain) == []
    chain.produce_block(round_time_s(ROUND) * 1000)
    assert known(chain) == [ROUND]
    state = chain.state_at(chain.head.header.number)
    stored = state.drand.get("Pulses", ROUND)
    signature = bytes.fromhex(PULSES[ROUND])
    randomness = sha256(signature).hexdigest()
    # The randomness that drand published for the round.
    assert randomness == "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd"
    assert stored == {
        "round": ROUND,
        "randomness": "0x" + randomness,
        "signature": "0x" + signature.hex(),
    }
    assert state.drand.get("LastStoredRound") == state.drand.get("OldestStoredRound") == ROUND
    chain.produce_block(round_time_s(ROUND) * 1000 + 9_999)
    assert known(chain) == [ROUND, ROUND + 1]
    state = chain.state_at(chain.head.header.number)
    assert state.drand.get("LastStoredRound") == ROUND + 1
    assert state.drand.get("OldestStoredRound") == ROUND


def test_pulses_of_the_past_are_known_in_the_first_block(chain: LocalChain) -> None:
    chain.produce_block(round_time_s(10**6) * 1000)
    assert known(chain) == [ROUND, ROUND + 1]
    events = chain.state_at(1).system.get("Events")
    pulses = [e["event"] for e in events if e["event"]["module_id"] == "Drand"]
    assert [(p["event_id"], p["attributes"]) for p in pulses] == [
        ("NewPulse", {"rounds": [ROUND, ROUND + 1]})
    ]


def test_a_chain_continues_with_its_pulses_from_its_file(tmp_path: Path) -> None:
    config = ChainConfig(seed="drand", drand_pulses=PULSES)
    path = tmp_path / "state"
    chain, journal = open_chain(path, config, load_metadata(), now_ms=1_000)
    journal.write_block(chain.produce_block(round_time_s(ROUND) * 1000))
    journal.close()
    again, journal = open_chain(path, config, load_metadata(), now_ms=1_000)
    journal.close()
    assert again.head.hash == chain.head.hash
    assert known(again) == [ROUND]
    with pytest.raises(ConfigError, match="--drand-pulses"):
        open_chain(path, ChainConfig(seed="drand"), load_metadata(), now_ms=1_000)


def test_a_file_of_genuine_pulses_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pulses.json"
    path.write_text(json.dumps(PULSES))
    assert read_pulses(path) == PULSES


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({ROUND: PULSES[ROUND + 1]}),
        json.dumps({ROUND: "00" * 48}),
        json.dumps({ROUND: 7}),
        json.dumps({-1: PULSES[ROUND]}),
        json.dumps({"x": PULSES[ROUND]}),
        json.dumps([1]),
        "{",
        "\u00e9",
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pulses.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="--drand-pulses"):
        read_pulses(path)
    with pytest.raises(ConfigError, match="--drand-pulses"):
        read_pulses(tmp_path / "missing.json")
