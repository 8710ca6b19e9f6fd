"""Reads the records and the ballot of a window from the chain."""

import logging
from collections.abc import Iterator, Mapping

from template.chain import Chain, Neuron
from template.errors import RecordError
from template.protocol.holders import Holding
from template.protocol.quorum import Ballot, Voter
from template.protocol.record import MAX_UIDS, PayloadCommitment, Record, decode_record
from template.protocol.root import Member
from template.protocol.run import Run
from template.protocol.ss58 import public_key

log = logging.getLogger(__name__)

ACTIVE_WINDOWS = 2
"""Windows before a window in which a holder of its payloads has voted. With more, validators that
have left are counted on for longer; with one, a single missed vote moves a validator's objects."""


def read_records(chain: Chain, block: int, run_id: bytes) -> dict[str, Record]:
    """hotkey -> record after a block, with the payloads and votes of one run only."""
    records = read_records_of_any_run(chain, block)
    return {hotkey: record.within(run_id) for hotkey, record in records.items()}


def read_records_of_any_run(chain: Chain, block: int) -> dict[str, Record]:
    """hotkey -> record after a block; a commitment that fails to decode is left out."""
    records = {}
    for hotkey, data in chain.commitments(block).items():
        try:
            records[hotkey] = decode_record(data)
        except RecordError as error:
            log.debug("commitment of %s is not a record: %s", hotkey, error)
    return records


def read_candidates(chain: Chain, run: Run, window: int) -> dict[int, Member]:
    """uid -> payload committed for a window, of hotkeys registered at the window's stake block."""
    return {
        neuron.uid: Member(
            uid=neuron.uid,
            hotkey=neuron.hotkey,
            public_key=public_key(neuron.hotkey),
            coldkey=public_key(neuron.coldkey),
            digest=payload.digest,
        )
        for neuron, payload in _read_payloads(chain, run, window)
        if payload.window == window
    }


def read_last_commits(chain: Chain, run: Run, window: int) -> dict[str, int]:
    """hotkey -> the window, `window` or earlier, of the newest payload committed by its end.

    Of hotkeys registered at the window's stake block. A record names the newest payload alone, so
    two blocks tell of all windows before: chain endpoints forget the blocks of those windows, and
    a node that can read the candidates can read this too.
    """
    return {
        neuron.hotkey: payload.window
        for neuron, payload in _read_payloads(chain, run, window)
        if payload.window <= window
    }


def _read_payloads(
    chain: Chain, run: Run, window: int
) -> Iterator[tuple[Neuron, PayloadCommitment]]:
    """Payloads on chain at the window's end, of hotkeys registered at the stake block."""
    schedule = run.schedule
    records = read_records(chain, schedule.commit_block(window), run.run_id)
    for neuron in chain.metagraph(schedule.stake_block(window)).neurons:
        record = records.get(neuron.hotkey)
        if record is not None and record.payload is not None and neuron.uid < MAX_UIDS:
            yield neuron, record.payload


def read_active_validators(chain: Chain, run_id: bytes, block: int, since: int) -> dict[str, int]:
    """hotkey -> stake of those with a permit and a vote on window `since` or later, at a block."""
    records = read_records(chain, block, run_id)
    votes = {hotkey: record.vote for hotkey, record in records.items()}
    return {
        neuron.hotkey: neuron.total_stake_rao
        for neuron in chain.metagraph(block).neurons
        if neuron.validator_permit
        and (vote := votes.get(neuron.hotkey)) is not None
        and vote.window >= since
    }


def read_holding(chain: Chain, run: Run, window: int) -> Holding:
    """What decides on the holders of a window's payloads; readable from the stake block on.

    A validator asleep for `ACTIVE_WINDOWS` holds nothing. Nobody is there in a run's first window.
    """
    block = run.schedule.stake_block(window)
    return Holding(
        seed=chain.block_hash(block),
        stakes=read_active_validators(chain, run.run_id, block, window - ACTIVE_WINDOWS),
    )


def read_ballot(chain: Chain, run: Run, window: int) -> Ballot:
    """Seed, candidates and votes of a window, read after its vote block is finalised.

    A vote counts if the hotkey holds a validator permit at the window's stake block.
    """
    schedule = run.schedule
    stake_block = schedule.stake_block(window)
    voters = _read_voters(chain, run, schedule.vote_block(window), stake_block)
    return Ballot(
        window=window,
        seed=chain.block_hash(stake_block),
        candidates=read_candidates(chain, run, window),
        voters=[voter for voter in voters if voter.vote.window == window],
    )


def read_standing_votes(chain: Chain, run: Run, window: int) -> list[Voter]:
    """Each hotkey's newest vote, on any window, at the vote block of `window`; permits as there."""
    vote_block = run.schedule.vote_block(window)
    return _read_voters(chain, run, vote_block, vote_block)


def read_votes_at(chain: Chain, run: Run, block: int) -> list[Voter]:
    """Each hotkey's newest vote, on any window, after a block; permits as there."""
    return _read_voters(chain, run, block, block)


def read_standing_votes_of_any_run(chain: Chain, run: Run, window: int) -> list[Voter]:
    """As `read_standing_votes`, whatever run each vote names."""
    block = run.schedule.vote_block(window)
    return _list_voters(chain, read_records_of_any_run(chain, block), block)


def _read_voters(chain: Chain, run: Run, vote_block: int, stake_block: int) -> list[Voter]:
    return _list_voters(chain, read_records(chain, vote_block, run.run_id), stake_block)


def _list_voters(chain: Chain, records: Mapping[str, Record], stake_block: int) -> list[Voter]:
    voters = []
    for neuron in chain.metagraph(stake_block).neurons:
        record = records.get(neuron.hotkey, Record())
        if record.vote is not None and neuron.validator_permit:
            voters.append(
                Voter(
                    uid=neuron.uid,
                    hotkey=neuron.hotkey,
                    stake_rao=neuron.total_stake_rao,
                    vote=record.vote,
                    support=record.support,
                )
            )
    return voters
