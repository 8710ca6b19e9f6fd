"""Reading a localnet while it runs: what nodes say, who voted or ended, where payloads are.

Owns the rows with the chain's head at which they were seen. Does not own what follows from them
(`measure`), nor the localnet.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.chaos.measure import Ended, Sight
from localnet.events import JsonlTail, Row, accepted_uids
from localnet.launcher import Heights, Localnet
from template.chain.ballots import read_ballot
from template.chain.bittensor import ConnectionLost
from template.errors import NotFound, StoreError
from template.metrics import EVENTS_FILE
from template.protocol.keys import bucket_name, payload_key
from template.protocol.quorum import Ballot
from template.protocol.record import Vote
from template.protocol.root import Member
from template.protocol.run import Run
from template.protocol.ss58 import public_key
from template.store.s3 import S3Store

MAX_PAYLOAD_BYTES: Final = 1 << 24
_POLLS_PER_SEARCH: Final = 4


class Watcher:
    """Reads what the nodes write, and looks for every accepted payload in the buckets."""

    def __init__(self, net: Localnet, names: Sequence[str]) -> None:
        self._net = net
        self._tails = {n: JsonlTail(net.config.out / "nodes" / n / EVENTS_FILE) for n in names}
        self.sights: list[Sight] = []
        self.ends: list[Ended] = []
        self._dead: set[tuple[str, int]] = set()
        self.losses: dict[int, float] = {}
        self.head = 0
        self.voters: dict[int, frozenset[str]] = {}
        self._names = {hotkey: name for name, hotkey in net.hotkeys.items()}
        self._wanted: dict[tuple[int, int], Member | None] = {}
        self._found: set[tuple[int, int]] = set()
        self._stores = {
            hotkey: S3Store(
                net.server.bucket(bucket_name(public_key(hotkey)), net.server.admin), deadline_s=0.0
            )
            for hotkey in net.hotkeys.values()
        }
        self._polls = 0

    def read(self, heights: Heights) -> None:
        self.head = heights.head
        self._note_ends()
        for name, tail in self._tails.items():
            for row in tail.read_new():
                self._add(name, row)
        self._polls += 1
        if self._polls % _POLLS_PER_SEARCH == 0:
            self.search()

    def produced(self) -> dict[tuple[int, int], bool]:
        """(window, uid) of each accepted payload -> whether its bytes were found."""
        return {key: key in self._found for key in self._wanted}

    def search(self) -> None:
        """Look once for each accepted payload that was not found yet."""
        for key in [key for key in self._wanted if key not in self._found]:
            try:
                if self._is_there(key):
                    self._found.add(key)
            except (ConnectionLost, StoreError):
                return  # chain or bucket server are down: next time

    def votes(self, window: int) -> Mapping[str, Vote]:
        """Votes on a window that count, by process name. ConnectionLost without the chain."""
        ballot = read_ballot(self._net.chain, Run(self._net.spec), window)
        return {self._names[voter.hotkey]: voter.vote for voter in ballot.voters}

    def _note_ends(self) -> None:
        """Each process once; the keeper's pause before a restart is longer than a poll."""
        for name in self._tails:
            service = self._net.service(name)
            pid, status = service.pid, service.exit
            if status is not None and (name, pid) not in self._dead:
                self._dead.add((name, pid))
                self.ends.append(Ended(node=name, status=status, block=self.head))

    def _add(self, name: str, row: Row) -> None:
        if "held_out_loss" in row:
            self.losses.setdefault(row["window"], float(row["held_out_loss"]))
        if "state_root" not in row:
            return
        uids = tuple(accepted_uids(row))
        self.sights.append(
            Sight(
                node=name,
                window=row["window"],
                state_window=row["state_window"],
                root=row["state_root"],
                digest=row.get("params_digest", ""),
                accepted=uids,
                no_op=row.get("no_op", ""),
                block=self.head,
            )
        )
        for uid in uids:
            self._wanted.setdefault((row["window"], uid), None)

    def _is_there(self, key: tuple[int, int]) -> bool:
        window, _uid = key
        member = self._wanted[key]
        if member is None:
            ballot = read_ballot(self._net.chain, Run(self._net.spec), window)
            self._note(window, ballot)
            member = self._wanted[key]
        return member is not None and any(
            self._gives(store, window, member) for store in self._stores.values()
        )

    def _note(self, window: int, ballot: Ballot) -> None:
        """Whose digests were accepted, and who voted."""
        self.voters[window] = frozenset(self._names[voter.hotkey] for voter in ballot.voters)
        for uid, member in ballot.candidates.items():
            if (window, uid) in self._wanted:
                self._wanted[window, uid] = member

    def _gives(self, store: S3Store, window: int, member: Member) -> bool:
        name = payload_key(self._net.spec.run_id, window, member.digest)
        try:
            data = store.get(name, max_bytes=MAX_PAYLOAD_BYTES)
        except NotFound:
            return False
        return hashlib.sha256(data).digest() == member.digest
