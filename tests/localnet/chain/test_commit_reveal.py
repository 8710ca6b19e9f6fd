"""Commit-reveal: what is committed, when it opens, and what never does."""

from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from localnet.chain.drand import open_timelock
from localnet.chain.extrinsics import InvalidTransaction
from localnet.chain.metadata import load_metadata
from localnet.chain.pallets.commit_reveal import decode_row
from tests.support.localnet.commit_cases import (
    PAYLOAD,
    PULSES,
    ROUND,
    call,
    commit,
    commit_row,
    events,
    make_chain,
    payload,
    pulse,
    put,
    queued,
    run_to_epoch,
    seal_to_round,
)
from tests.support.localnet.ledger import Ledger, LocalWallet

ROW = {2: 3, 3: 1}
STORED = [(2, 65_535), (3, 21_845)]


@pytest.fixture
def chain() -> Ledger:
    return make_chain("on")


def weights(chain: Ledger) -> list[Any]:
    return list(chain.get("Weights", 1, 1))


def test_plain_weights_are_refused_while_commit_reveal_is_on(chain: Ledger) -> None:
    args = {"dests": [2], "weights": [1], "version_key": 0}
    assert call(chain, "alice", "set_weights", **args) == "CommitRevealEnabled"
    assert call(chain, "alice", "set_mechanism_weights", mecid=0, **args) == "CommitRevealEnabled"
    assert weights(chain) == []


def test_a_commit_is_stored_dated_and_announced(chain: Ledger) -> None:
    data = seal_to_round(payload(chain, "alice", ROW))
    assert commit(chain, "alice", data) == "ok"
    epoch = chain.get("SubnetEpochIndex", 1)
    alice = chain.wallets["alice"].hot
    assert queued(chain, epoch) == [(alice, chain.height, "0x" + data.hex(), ROUND)]
    assert chain.get("LastUpdate", 1)[1] == chain.height
    digest = "0x" + blake2b(data, digest_size=32).hexdigest()
    assert ("TimelockedWeightsCommitted", (alice, 1, digest, ROUND)) in events(chain)
    assert weights(chain) == []


def test_a_commit_opens_in_the_first_block_of_the_next_epoch(chain: Ledger) -> None:
    pulse(chain)
    assert commit_row(chain, "alice", ROW) == "ok"
    committed_at, epoch = chain.height, chain.get("SubnetEpochIndex", 1)
    while chain.get("SubnetEpochIndex", 1) == epoch:
        assert weights(chain) == []
        chain.seal()
    assert weights(chain) == STORED
    assert queued(chain, epoch) == []
    names = [name for name, _ in events(chain)]
    assert names[:2] == ["WeightsSet", "TimelockedWeightsRevealed"]
    assert chain.get("LastUpdate", 1)[1] == committed_at
    assert chain.get("Incentive", 1)[2] == pytest.approx(0.75 * 65_535, abs=2)


def test_a_commit_waits_for_its_pulse_within_its_epoch(chain: Ledger) -> None:
    assert commit_row(chain, "alice", ROW) == "ok"
    epoch = chain.get("SubnetEpochIndex", 1)
    run_to_epoch(chain)
    chain.seal(3)
    assert weights(chain) == [] != queued(chain, epoch)
    pulse(chain)
    assert weights(chain) == STORED
    assert queued(chain, epoch) == []


def test_a_commit_without_a_pulse_expires(chain: Ledger) -> None:
    assert commit_row(chain, "alice", ROW) == "ok"
    epoch = chain.get("SubnetEpochIndex", 1)
    run_to_epoch(chain)
    run_to_epoch(chain)
    assert queued(chain, epoch) == []
    pulse(chain)
    assert weights(chain) == []


def test_the_reveal_period_counts_epochs(chain: Ledger) -> None:
    put(chain, "RevealPeriodEpochs", 1, value=2)
    pulse(chain)
    assert commit_row(chain, "alice", ROW) == "ok"
    run_to_epoch(chain)
    assert weights(chain) == []
    run_to_epoch(chain)
    assert weights(chain) == STORED


def test_what_cannot_be_opened_is_dropped_and_stops_nobody(chain: Ledger) -> None:
    pulse(chain)
    whole = seal_to_round(payload(chain, "alice", ROW))
    hostile = {
        "text, no ciphertext": b"0xzz",
        "nothing": b"",
        "cut short": whole[:-40],
        "to another round": seal_to_round(payload(chain, "alice", {3: 1}), ROUND + 1),
        "another hotkey's row": seal_to_round(payload(chain, "bob", {3: 1})),
        "a secret of another length": with_secret_of(whole, 33),
        "no row": seal_to_round(b"\xff" * 40),
        "a uid that does not exist": seal_to_round(payload(chain, "alice", {9: 1})),
    }
    for data in hostile.values():
        assert commit(chain, "alice", data) == "ok"
    assert commit_row(chain, "owner", {3: 1}) == "ok"
    run_to_epoch(chain)
    assert weights(chain) == []
    assert chain.get("Weights", 1, 0) == [(3, 65_535)]
    assert [name for name, _ in events(chain)].count("TimelockedWeightsRevealed") == 1


def with_secret_of(ciphertext: bytes, size: int) -> bytes:
    """The ciphertext with its first secret, 32 bytes after a point of 96, of another size."""
    secret = (ciphertext[104:136] * 3)[:size]
    return ciphertext[:96] + size.to_bytes(8, "little") + secret + ciphertext[136:]


def test_a_payload_without_a_hotkey_still_counts(chain: Ledger) -> None:
    pulse(chain)
    data = bytes(chain.metadata.codec.encode("(Vec<u16>,Vec<u16>,u64)", ([2, 3], [3, 1], 0)))
    assert commit(chain, "alice", seal_to_round(data)) == "ok"
    run_to_epoch(chain)
    assert weights(chain) == STORED


def test_the_last_of_several_commits_counts(chain: Ledger) -> None:
    pulse(chain)
    for row in ({2: 1}, {3: 1}, ROW):
        assert commit_row(chain, "alice", row) == "ok"
    run_to_epoch(chain)
    assert weights(chain) == STORED


def test_at_most_ten_commits_of_a_hotkey_wait(chain: Ledger) -> None:
    data = seal_to_round(payload(chain, "alice", ROW))
    run_to_epoch(chain)
    for _ in range(10):
        assert commit(chain, "alice", data) == "ok"
    assert commit(chain, "alice", data) == "TooManyUnrevealedCommits"
    assert commit_row(chain, "bob", ROW) == "ok"
    run_to_epoch(chain)
    assert commit(chain, "alice", data) == "ok"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"commit_reveal_version": 3}, "IncorrectCommitRevealVersion"),
        ({"commit_reveal_version": 5}, "IncorrectCommitRevealVersion"),
        ({"mecid": 1}, "MechanismDoesNotExist"),
        ({"commit": "0x" + "00" * 5_000}, "ok"),
        ({"reveal_round": ROUND - 1}, "InvalidRevealRound"),
        ({"reveal_round": ROUND}, "ok"),
    ],
)
def test_commits_that_the_runtime_refuses(
    chain: Ledger, changes: dict[str, Any], wanted: str
) -> None:
    pulse(chain)
    assert commit(chain, "alice", b"\xff", **changes) == wanted
    assert bool(queued(chain, chain.get("SubnetEpochIndex", 1))) == (wanted == "ok")


def test_a_commit_that_the_runtime_has_no_room_for_does_not_enter_the_pool(chain: Ledger) -> None:
    with pytest.raises(InvalidTransaction, match="weight commit is too long"):
        commit(chain, "alice", b"\xff" * 5_001)
    assert commit(chain, "alice", b"\xff" * 5_000) == "ok"


def test_strangers_and_hasty_hotkeys_cannot_commit() -> None:
    chain = make_chain("on", weights_rate_limit_blocks=5)
    assert commit(chain, "dave", b"\xff") == "HotKeyNotRegisteredInSubNet"
    assert commit(chain, "alice", b"\xff") == "ok"
    chain.seal(3)
    assert commit(chain, "alice", b"\xff") == "CommittingWeightsTooFast"
    assert commit(chain, "alice", b"\xff") == "ok"


def test_a_reveal_is_not_rate_limited() -> None:
    chain = make_chain("on", weights_rate_limit_blocks=15)
    pulse(chain)
    chain.seal(17)
    assert commit_row(chain, "alice", ROW) == "ok"
    run_to_epoch(chain)
    assert chain.height - chain.get("LastUpdate", 1)[1] < 15
    assert weights(chain) == STORED


def test_commits_need_commit_reveal() -> None:
    chain = make_chain("off")
    assert commit(chain, "alice", b"\xff") == "CommitRevealDisabled"
    assert call(chain, "alice", "commit_weights", commit_hash="0x" + "ab" * 32) == (
        "CommitRevealDisabled"
    )


def test_the_calls_without_a_mechanism_or_a_version_do_the_same(chain: Ledger) -> None:
    pulse(chain)
    sealed = seal_to_round(payload(chain, "alice", ROW))
    row: dict[str, Any] = {"commit": "0x" + sealed.hex(), "reveal_round": ROUND}
    plain = {**row, "commit_reveal_version": 4}
    assert call(chain, "alice", "commit_timelocked_weights", **plain) == "ok"
    assert call(chain, "alice", "commit_crv3_mechanism_weights", mecid=0, **row) == "ok"
    first, second = queued(chain, chain.get("SubnetEpochIndex", 1))
    assert first[2:] == second[2:]
    run_to_epoch(chain)
    assert weights(chain) == STORED


# Salted hashes


def salted(chain: Ledger, row: dict[int, int], salt: list[int]) -> tuple[str, dict[str, Any]]:
    """(the hash of a row of alice's, the arguments that reveal it)."""
    hashed = (chain.wallets["alice"].hot, 1, list(row), list(row.values()), salt, 0)
    encoded = chain.metadata.codec.encode(
        "(AccountId32,u16,Vec<u16>,Vec<u16>,Vec<u16>,u64)", hashed
    )
    digest = "0x" + blake2b(bytes(encoded), digest_size=32).hexdigest()
    revealed = {"uids": list(row), "values": list(row.values()), "salt": salt, "version_key": 0}
    return digest, revealed


def test_a_salted_row_is_revealed_in_its_epoch_only(chain: Ledger) -> None:
    digest, reveal = salted(chain, ROW, [7, 8])
    alice = chain.wallets["alice"].hot
    assert call(chain, "alice", "commit_weights", commit_hash=digest) == "ok"
    committed_at = chain.height
    epoch = chain.get("SubnetEpochIndex", 1)
    assert chain.get("WeightCommits", 1, alice) == [(digest, epoch, committed_at, 0)]
    assert ("WeightsCommitted", (alice, 1, digest)) in events(chain)
    assert call(chain, "alice", "reveal_weights", **reveal) == "RevealTooEarly"
    run_to_epoch(chain)
    wrong = {**reveal, "salt": [7, 9]}
    assert call(chain, "alice", "reveal_weights", **wrong) == "NoWeightsCommitFound"
    assert call(chain, "bob", "reveal_weights", **reveal) == "NoWeightsCommitFound"
    assert call(chain, "alice", "reveal_mechanism_weights", mecid=0, **reveal) == "ok"
    assert weights(chain) == STORED
    assert chain.get("LastUpdate", 1)[1] == committed_at
    assert ("WeightsRevealed", (alice, 1, digest)) in events(chain)
    assert chain.get("WeightCommits", 1, alice) is None
    assert call(chain, "alice", "reveal_weights", **reveal) == "NoWeightsCommitFound"


def test_a_salted_row_expires(chain: Ledger) -> None:
    digest, reveal = salted(chain, ROW, [1])
    assert call(chain, "alice", "commit_mechanism_weights", mecid=0, commit_hash=digest) == "ok"
    run_to_epoch(chain)
    run_to_epoch(chain)
    assert call(chain, "alice", "reveal_weights", **reveal) == "RevealTooEarly"
    assert weights(chain) == []


def test_a_reveal_spends_older_commits_and_a_failing_one_spends_none(chain: Ledger) -> None:
    first, second = salted(chain, {2: 1}, [1]), salted(chain, ROW, [2])
    bad = salted(chain, {9: 1}, [3])
    for digest, _ in (first, second, bad):
        assert call(chain, "alice", "commit_weights", commit_hash=digest) == "ok"
    run_to_epoch(chain)
    assert call(chain, "alice", "reveal_weights", **bad[1]) == "UidVecContainInvalidOne"
    assert call(chain, "alice", "reveal_weights", **second[1]) == "ok"
    assert call(chain, "alice", "reveal_weights", **first[1]) == "NoWeightsCommitFound"
    alice = chain.wallets["alice"].hot
    assert [each[0] for each in chain.get("WeightCommits", 1, alice)] == [bad[0]]


def test_at_most_ten_hashes_wait_and_expired_ones_do_not_count(chain: Ledger) -> None:
    run_to_epoch(chain)
    for number in range(10):
        digest = f"0x{number:064x}"
        assert call(chain, "alice", "commit_weights", commit_hash=digest) == "ok"
    eleventh = "0x" + "ab" * 32
    assert call(chain, "alice", "commit_weights", commit_hash=eleventh) == (
        "TooManyUnrevealedCommits"
    )
    run_to_epoch(chain)
    run_to_epoch(chain)
    assert call(chain, "alice", "commit_weights", commit_hash=eleventh) == "ok"
    alice = chain.wallets["alice"].hot
    assert [each[0] for each in chain.get("WeightCommits", 1, alice)] == [eleventh]


# The mask: what was committed before a uid changed hands is not said of its new holder


@pytest.mark.parametrize("is_salted", [False, True])
@pytest.mark.parametrize("is_registered_first", [False, True])
def test_a_pending_commit_masks_uids_registered_since(
    chain: Ledger, is_salted: bool, is_registered_first: bool
) -> None:
    pulse(chain)
    assert commit_row(chain, "alice", {2: 1, 3: 1}) == "ok"
    run_to_epoch(chain)
    assert weights(chain) == [(2, 65_535), (3, 65_535)]
    if is_registered_first:
        reregister(chain, 3)
    for number in (1, 2):
        # The second commit dates the weights anew; the first is still the earliest.
        if is_salted:
            digest = f"0x{number:064x}"
            assert call(chain, "alice", "commit_weights", commit_hash=digest) == "ok"
        else:
            assert commit(chain, "alice", b"\xff", reveal_round=ROUND + number) == "ok"
        if number == 1 and not is_registered_first:
            reregister(chain, 3)
    assert chain.get("LastUpdate", 1)[1] > chain.get("BlockAtRegistration", 1, 3)
    expected = [0, 0, 32_767, 32_767] if is_registered_first else [0, 0, 65_535, 0]
    assert incentive_of_next_epoch(chain) == pytest.approx(expected, abs=2)


def reregister(chain: Ledger, uid: int) -> None:
    """Date a uid to a block of its own, as if somebody had taken it over."""
    put(chain, "BlockAtRegistration", 1, uid, value=chain.height + 1)
    chain.seal()


def incentive_of_next_epoch(chain: Ledger) -> list[int]:
    run_to_epoch(chain)
    return list(chain.get("Incentive", 1))


# Strangers' bytes

CODEC = load_metadata().codec
ALICE = LocalWallet("alice")
WHOLE = seal_to_round(b"row" * 20)
u16s = st.lists(st.integers(0, 65_535), max_size=70)


@settings(max_examples=40)
@given(u16s, u16s, st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_a_payload_decodes_to_what_was_encoded(
    uids: list[int], values: list[int], version_key: int, tail: bytes
) -> None:
    value = (ALICE.hotkey.public_key, uids, values, version_key)
    row = decode_row(bytes(CODEC.encode(PAYLOAD, value)) + tail, 1, ALICE.hot)
    assert row is not None
    assert (row.dests, row.weights, row.version_key) == (uids, values, version_key)
    stranger = LocalWallet("bob")
    assert decode_row(bytes(CODEC.encode(PAYLOAD, value)), 1, stranger.hot) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_a_row_or_none(data: bytes) -> None:
    row = decode_row(data, 1, ALICE.hot)
    assert row is None or all(0 <= uid < 65_536 for uid in row.dests + row.weights)


@settings(max_examples=60)
@example(136, (80).to_bytes(8, "little"), len(WHOLE))
@example(96, (0).to_bytes(8, "little"), len(WHOLE))
@given(st.integers(0, len(WHOLE)), st.binary(max_size=9), st.integers(0, len(WHOLE)))
def test_a_damaged_ciphertext_is_none_or_the_whole(at: int, put_in: bytes, end: int) -> None:
    damaged = (WHOLE[:at] + put_in + WHOLE[at + len(put_in) :])[:end]
    assert open_timelock(damaged, PULSES[ROUND]) in (None, b"row" * 20)


@pytest.mark.parametrize("size", [0, 31, 33, 80])
def test_a_secret_of_another_length_does_not_stop_the_process(size: int) -> None:
    """The library aborts on each of these with an error that is no Exception."""
    assert open_timelock(with_secret_of(WHOLE, 32), PULSES[ROUND]) == b"row" * 20
    assert open_timelock(with_secret_of(WHOLE, size), PULSES[ROUND]) is None


def test_a_ciphertext_opens_with_its_own_pulse_only() -> None:
    assert open_timelock(WHOLE, PULSES[ROUND]) == b"row" * 20
    assert open_timelock(WHOLE, PULSES[ROUND + 1]) is None
    assert open_timelock(WHOLE, "00" * 48) is None
    assert open_timelock(WHOLE, "zz") is None
