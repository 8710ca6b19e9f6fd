"""Setting weights in the clear, and what holds of the chain as a whole."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from localnet.chain.metadata import clone_storage_entry, load_metadata
from tests.support.localnet.signing import TAO, S, stake


def set_weights(ledger: Any, name: str, row: dict[int, int], **changes: Any) -> str:
    args = {"netuid": 1, "dests": list(row), "weights": list(row.values()), "version_key": 0}
    hotkey = ledger.wallets[name].hotkey
    return ledger.call(hotkey, S, "set_mechanism_weights", **{"mecid": 0, **args, **changes})


# Weights


def test_weights_are_stored_max_upscaled_and_dated(subnet: Any) -> None:
    subnet.seal(5)
    assert set_weights(subnet, "owner", {1: 1, 3: 2, 2: 0}) == "ok"
    assert subnet.get("Weights", 1, 0) == [(1, 32768), (3, 65535), (2, 0)]
    assert subnet.get("LastUpdate", 1)[0] == subnet.height


def test_weights_in_the_plain_call_do_the_same(subnet: Any) -> None:
    subnet.seal(5)
    args = {"netuid": 1, "dests": [2], "weights": [9], "version_key": 0}
    assert subnet.call(subnet.wallets["owner"].hotkey, S, "set_weights", **args) == "ok"
    assert subnet.get("Weights", 1, 0) == [(2, 65535)]


def test_the_rate_limit_counts_blocks_from_the_last_weights(subnet: Any) -> None:
    subnet.seal(5)
    assert set_weights(subnet, "owner", {1: 1}) == "ok"
    subnet.seal(3)
    assert set_weights(subnet, "owner", {1: 1}) == "SettingWeightsTooFast"
    assert set_weights(subnet, "owner", {2: 1}) == "ok"


@pytest.mark.parametrize(
    ("row", "changes", "wanted"),
    [
        # Commit-reveal is on by default, also where there is no subnet.
        ({1: 1}, {"netuid": 0}, "CommitRevealEnabled"),
        ({1: 1}, {"weights": [1, 2]}, "WeightVecNotEqualSize"),
        ({1: 1}, {"netuid": 8}, "CommitRevealEnabled"),
        ({1: 1}, {"mecid": 1}, "MechanismDoesNotExist"),
        ({0: 1, 1: 1, 2: 1, 3: 1, 4: 1}, {}, "UidsLengthExceedUidsInSubNet"),
        ({1: 1}, {"dests": [1, 1], "weights": [1, 1]}, "DuplicateUids"),
        ({4: 1}, {}, "UidVecContainInvalidOne"),
    ],
)
def test_malformed_weights_end_in_the_runtimes_error(
    subnet: Any, row: dict[int, int], changes: dict[str, Any], wanted: str
) -> None:
    subnet.seal(5)
    assert set_weights(subnet, "owner", row, **changes) == wanted
    assert subnet.get("Weights", 1, 0) == []


def test_weights_need_a_uid_and_a_permit_unless_they_are_self_weights(subnet: Any) -> None:
    subnet.seal(5)
    assert set_weights(subnet, "dave", {1: 1}) == "HotKeyNotRegisteredInSubNet"
    assert set_weights(subnet, "alice", {2: 1}) == "NeuronNoValidatorPermit"
    assert set_weights(subnet, "alice", {1: 1}) == "ok"
    assert stake(subnet, "bob", 10 * TAO) == "ok"
    subnet.seal(20)
    assert set_weights(subnet, "bob", {1: 1}) == "ok"


def test_a_row_shorter_than_the_minimum_is_refused(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(min_allowed_weights=3))
    ledger.seal(5)
    assert set_weights(ledger, "owner", {1: 1, 2: 1}) == "WeightVecLengthIsLow"
    assert set_weights(ledger, "owner", {1: 1, 2: 1, 3: 1}) == "ok"


# The chain as a whole


def test_the_same_inputs_make_the_same_blocks_and_a_seed_changes_them(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    # Signatures are randomised, so only blocks without signed extrinsics can be equal.
    one, two, other = make_ledger(), make_ledger(), make_ledger(tempo_blocks=21)
    for ledger in (one, two, other):
        ledger.seal(3)
    assert one.chain.head.hash == two.chain.head.hash
    assert one.chain.genesis_hash != other.chain.genesis_hash
    assert populated(one).chain.head.hash != populated(two).chain.head.hash


def test_a_header_hash_commits_to_parent_state_and_extrinsics(ledger: Any) -> None:
    ledger.seal()
    header = ledger.chain.head.header
    assert header.parent_hash == ledger.chain.genesis_hash
    as_json = header.to_json()
    assert as_json["number"] == "0x1"
    encoded = b"".join(
        bytes.fromhex(part.removeprefix("0x"))
        for part in (
            as_json["parentHash"],
            "04",  # compact 1
            as_json["stateRoot"],
            as_json["extrinsicsRoot"],
            "04",  # one digest item
            as_json["digest"]["logs"][0],
        )
    )
    codec = ledger.metadata.codec
    assert codec.call_hash(encoded) == header.hash, "blake2b-256 of the SCALE header"
    decoded = json.dumps(codec.decode("scale_info::593", encoded))
    assert as_json["stateRoot"] in decoded


def test_the_metadata_patch_adds_one_false_item_and_changes_nothing_else() -> None:
    metadata = load_metadata()
    entry = metadata.entry(S, "SubnetEpochConsensus")
    assert metadata.codec.decode(entry.value_type, entry.default_bytes) is False
    with pytest.raises(ValueError, match="no storage item"):
        clone_storage_entry(metadata.metadata_bytes, pallet=S, source="Nope", name="X")
    with pytest.raises(ValueError, match="no storage"):
        clone_storage_entry(metadata.metadata_bytes, pallet="Nope", source="Tempo", name="X")
