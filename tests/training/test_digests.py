"""How often theta is hashed."""

import dataclasses

from template.protocol.parts import hash_parts
from template.protocol.root import tensors_digest
from template.training import outer, spread
from template.training import published as published_module
from template.training.published import build_checkpoint, parse_published, restore_published
from tests.support.outer_steps import decision_on, random_payload


def test_theta_is_hashed_once_for_the_root_and_once_for_files(
    theta0, spec, form, monkeypatch
) -> None:
    """Root, log and comparisons share the tree's digest; only a checkpoint's files are hashed."""
    every = dataclasses.replace(
        spec, checkpoint=dataclasses.replace(spec.checkpoint, every_windows=1)
    )
    state = outer.first_state(theta0, spec.run_id)
    trees, files = [], []

    def counted_tree(tensors):
        trees.append(1)
        return tensors_digest(tensors)

    def counted_files(tensors, *limits):
        files.append(1)
        return hash_parts(tensors, *limits)

    monkeypatch.setattr(spread, "tensors_digest", counted_tree)
    monkeypatch.setattr(published_module, "hash_parts", counted_files)
    payloads = {1: random_payload(form, 5, window=0)}
    after = outer.outer_step(state, decision_on(0, payloads), payloads, every)
    assert (len(trees), len(files)) == (1, 0)
    outer.params_digest(after)
    published = build_checkpoint(after, spec)
    assert (len(trees), len(files)) == (1, 1)
    manifest = parse_published(published.manifest, spec)
    parts = [published.blobs[part.digest] for part in manifest.parts]
    restored = restore_published(manifest, parts, spec)
    outer.params_digest(restored)
    assert (len(trees), len(files)) == (2, 1)
    assert build_checkpoint(restored, spec).blobs == published.blobs
    other = dataclasses.replace(after, params={n: t + 1 for n, t in after.params.items()})
    assert outer.state_digest(other) != outer.state_digest(after)
    assert len(trees) == 3
