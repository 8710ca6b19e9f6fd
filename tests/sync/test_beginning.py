"""Whether a run has begun, as its voters' buckets tell."""

from dataclasses import replace

from template.peers.client import Peers
from template.sync.beginning import steps_before_payloads
from template.sync.lineage import find_voted_root, read_lineage_to


def test_a_run_with_applied_payloads_has_begun(context) -> None:
    peers = Peers(context)
    peers.refresh()
    vote = find_voted_root(context)
    assert vote is not None
    assert any(step.members for step in read_lineage_to(context, peers, vote))
    assert steps_before_payloads(context, peers) is None


def test_a_run_whose_lineage_no_bucket_has_may_have_begun(context, buckets) -> None:
    for bucket in buckets.values():
        for key in bucket.list(f"{context.run.run_id.hex()}/lineage/"):
            bucket.delete(key)
    peers = Peers(context)
    assert steps_before_payloads(context, peers) is None


def test_where_nobody_votes_there_are_no_steps(context) -> None:
    class Silent:
        def __getattr__(self, name):
            return getattr(context.chain, name)

        def commitments(self, _block):
            return {}

    silent = replace(context, chain=Silent())
    assert steps_before_payloads(silent, Peers(silent)) == []
