"""Pending payloads: every payload is accepted once or returned once, in any order of events."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from template.base.pending import PendingPayload, PendingPayloads


@given(st.dictionaries(st.integers(0, 300), st.binary(max_size=20), max_size=12))
def test_payloads_survive_the_local_checkpoint_in_order_of_windows(frames) -> None:
    payloads = [PendingPayload(window=w, frame=frames[w]) for w in sorted(frames)]
    tensors = PendingPayloads(payloads).to_tensors()
    by_name = dict(sorted(tensors.items()))
    assert list(PendingPayloads.from_tensors(by_name)) == payloads


@dataclass
class Fate:
    """Where each payload went, by digest, in the model of the test."""

    made: dict[bytes, PendingPayload] = field(default_factory=dict)
    committed: list[bytes] = field(default_factory=list)
    revealed: list[bytes] = field(default_factory=list)
    accepted: list[bytes] = field(default_factory=list)
    returned: list[bytes] = field(default_factory=list)


class MinersPayloads(RuleBasedStateMachine):
    """Commits, uploads, decisions, withdrawals and restarts in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = PendingPayloads()
        self.fate = Fate()
        self.window = 0
        self.num_settled = 0

    @rule(skipped=st.integers(0, 2))
    def make(self, skipped: int) -> None:
        self.window += 1 + skipped
        payload = PendingPayload(window=self.window, frame=b"frame %d" % self.window)
        self.pending.add(payload)
        self.fate.made[payload.digest] = payload

    @rule()
    def commit(self) -> None:
        for payload in self.pending.uncommitted(self.window):
            assert payload.window == self.window
            assert payload.digest not in self.fate.committed
            self.pending.mark_committed(payload)
            self.fate.committed.append(payload.digest)
        assert self.pending.uncommitted(self.window) == []

    @rule(last_over=st.integers(0, 30))
    def reveal(self, last_over: int) -> None:
        for payload in self.pending.unrevealed(lambda window: window <= last_over):
            assert payload.window <= last_over
            assert payload.digest not in self.fate.revealed
            self.pending.mark_revealed(payload)
            self.fate.revealed.append(payload.digest)
        assert self.pending.unrevealed(lambda window: window <= last_over) == []

    @precondition(lambda self: self.num_settled < self.window)
    @rule(is_accepted=st.booleans(), skipped=st.integers(0, 2))
    def decide(self, is_accepted: bool, skipped: int) -> None:
        window = min(self.window, self.num_settled + 1 + skipped)
        self.num_settled = window
        here = [p.digest for p in self.pending if p.window == window]
        accepted = set(here) if is_accepted else set()
        self.fate.returned += [p.digest for p in self.pending.settle(window, accepted)]
        self.fate.accepted += sorted(accepted)
        assert all(payload.window > window for payload in self.pending)

    @rule(window=st.integers(0, 30))
    def withdraw(self, window: int) -> None:
        withdrawn = self.pending.withdraw(lambda payload: payload.window == window)
        self.fate.returned += [payload.digest for payload in withdrawn]

    @precondition(lambda self: self.fate.accepted)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        """An accepted payload found void returns from the bucket; the rest stays as before."""
        before = list(self.pending)
        digest = data.draw(st.sampled_from(self.fate.accepted))
        self.fate.accepted.remove(digest)
        self.fate.returned.append(digest)
        assert self.pending.settle(self.num_settled, set()) == []
        assert list(self.pending) == before

    @rule()
    def restart(self) -> None:
        """A restarted miner forgets its commitments and uploads, and no payload."""
        before = list(self.pending)
        self.pending = PendingPayloads.from_tensors(self.pending.to_tensors())
        self.fate.committed.clear()
        self.fate.revealed.clear()
        assert list(self.pending) == before

    @invariant()
    def every_payload_is_in_one_place(self) -> None:
        places = [p.digest for p in self.pending] + self.fate.accepted + self.fate.returned
        assert sorted(places) == sorted(self.fate.made)

    @invariant()
    def windows_ascend(self) -> None:
        windows = [payload.window for payload in self.pending]
        assert windows == sorted(windows)
        assert (self.pending.newest is None) == (not windows)
        assert [p.window for p in self.pending.before(self.window)] == [
            window for window in windows if window < self.window
        ]


TestMinersPayloads = MinersPayloads.TestCase
TestMinersPayloads.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
