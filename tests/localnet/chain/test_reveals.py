"""Timelocked commitments open with the beacon's pulse, and end with their hotkey's uid."""

from typing import Any

import bittensor_core
import pytest

from localnet.chain.metadata import bytes_of
from localnet.chain.pallets import published
from tests.support.localnet.commit_cases import ROUND, make_chain, pulse, seal_to_round
from tests.support.localnet.signing import commit, events, raw_field, register

NEVER = 10**9


def locked(data: bytes, reveal_round: int = ROUND) -> dict[str, Any]:
    return {"TimelockEncrypted": {"encrypted": data, "reveal_round": reveal_round}}


def read(ledger: Any, item: str, name: str = "alice") -> Any:
    state = ledger.chain.state_at(ledger.height)
    return state.commitments.get(item, 1, ledger.wallets[name].hot)


def index_of(ledger: Any) -> list[Any]:
    return published.timelocked(ledger.chain.state_at(ledger.height))


@pytest.fixture
def chain() -> Any:
    return make_chain("off")


@pytest.mark.parametrize("plain", [b"\xff\x00secret", b"0xtext", b"a"])
def test_a_locked_field_opens_in_the_block_of_its_pulse(chain: Any, plain: bytes) -> None:
    assert commit(chain, "alice", locked(seal_to_round(plain))) == "ok"
    chain.seal(3)
    assert read(chain, "RevealedCommitments") is None
    pulse(chain)
    [(data, block)] = read(chain, "RevealedCommitments")
    assert (bytes_of(data), block) == (plain, chain.height)
    assert read(chain, "CommitmentOf") is None, "nothing else was in it"
    assert index_of(chain) == []
    who = {"netuid": 1, "who": chain.wallets["alice"].hot}
    assert events(chain, "Commitments") == [("CommitmentRevealed", who)]


def test_the_sdks_envelope_opens_too(chain: Any) -> None:
    sealed, _ = bittensor_core.encrypt_at_round(b"enveloped", ROUND)
    assert commit(chain, "alice", locked(bytes(sealed))) == "ok"
    pulse(chain)
    assert read(chain, "RevealedCommitments") == [("enveloped", chain.height)]


def test_other_fields_stay_and_later_rounds_wait(chain: Any) -> None:
    later = locked(b"\xffwaits", NEVER)
    assert commit(chain, "alice", raw_field(b"x"), locked(seal_to_round(b"s")), later) == "ok"
    committed_at = chain.height
    pulse(chain)
    record = read(chain, "CommitmentOf")
    waiting = {"encrypted": "0x" + b"\xffwaits".hex(), "reveal_round": NEVER}
    assert record["info"]["fields"] == [raw_field(b"x"), {"TimelockEncrypted": waiting}]
    assert record["block"] == committed_at
    assert index_of(chain) == [(1, chain.wallets["alice"].hot)]
    chain.seal(2)
    assert len(read(chain, "RevealedCommitments")) == 1, "it is opened once"


@pytest.mark.parametrize(
    ("data", "reveal_round", "reason"),
    [
        (b"\xff" * 300, ROUND, "Decrypt"),
        (b"", ROUND, "Decrypt"),
        (b"\x03", ROUND, "Decrypt"),
        (bytes(bittensor_core.encrypt_at_round(b"x", ROUND + 1)[0]), ROUND, "RoundMismatch"),
        (seal_to_round(b"x", ROUND + 1), ROUND, "Decrypt"),
        (seal_to_round(b""), ROUND, "EmptyPlaintext"),
        (b"x", ROUND - 1, "PulseExpired"),
    ],
)
def test_what_never_opens_is_marked(
    chain: Any, data: bytes, reveal_round: int, reason: str
) -> None:
    assert commit(chain, "alice", locked(data, reveal_round)) == "ok"
    pulse(chain)
    [field] = read(chain, "CommitmentOf")["info"]["fields"]
    assert bytes_of(field["TimelockRevealFailed"]["encrypted"]) == data
    [(name, attributes)] = events(chain, "Commitments")
    assert (name, attributes["error"]) == ("CommitmentRevealFailed", reason)
    assert index_of(chain) == []
    assert read(chain, "RevealedCommitments") is None


def test_ten_reveals_are_kept(chain: Any) -> None:
    pulse(chain)
    for number in range(12):
        # The quota of an epoch is for about eleven of these.
        if number == 6:
            chain.seal(20)
        assert commit(chain, "alice", locked(seal_to_round(bytes([200, number])))) == "ok"
        chain.seal()
    kept = [bytes_of(data)[1] for data, _ in read(chain, "RevealedCommitments")]
    assert kept == list(range(2, 12))


def test_a_pruned_uids_commitments_go_with_it() -> None:
    chain = make_chain("off", max_uids=4)
    pulse(chain)
    for name in ("bob", "carol"):
        assert commit(chain, name, locked(seal_to_round(b"s"))) == "ok"
        chain.seal()
        assert commit(chain, name, locked(b"x", NEVER), "ResetBondsFlag") == "ok"
    items = ("CommitmentOf", "LastCommitment", "LastBondsReset", "RevealedCommitments")
    assert all(read(chain, item, name) for item in items for name in ("bob", "carol"))
    assert register(chain, "dave") == "ok"
    assert chain.get("Uids", 1, chain.wallets["bob"].hot) is None
    assert [read(chain, item, "bob") for item in (*items, "UsedSpaceOf")] == [None] * 5
    assert all(read(chain, item, "carol") for item in items)
    assert index_of(chain) == [(1, chain.wallets["carol"].hot)]
