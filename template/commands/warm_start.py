"""Warm start: the owner trains theta_0 alone for a few steps before publishing the run.

In the first windows every coordinate moves, and the lag costs most; a short warm start skips these
windows. Nodes do not repeat the warm start: the spec names theta_0 by digest.
"""

from collections.abc import Callable, Iterator

import numpy as np

from compression import round_to_short
from template.data.pages import PageReader
from template.data.source import Files, LocalSource
from template.protocol.spec import RunSpec
from template.training.devices import find_device
from template.training.inner import InnerTrainer
from template.training.model import Params

Say = Callable[[str], None]
_WORDS = 10


def warm_started(params: Params, spec: RunSpec, dataset: Files, seed: int, say: Say) -> Params:
    """`params` after `warm_start_steps` AdamW steps on pages drawn by `seed`; not in place.

    Rounded to 24 bits, as theta_0 is published.
    """
    if spec.training.warm_start_steps == 0:
        return params
    reader = PageReader(dataset.manifest, LocalSource(dataset))
    trainer = InnerTrainer(spec, find_device("auto"))
    trained = trainer.train_alone(params, _batches(spec, reader, seed, say))
    for tensor in trained.values():
        round_to_short(tensor)
    return trained


def _batches(spec: RunSpec, reader: PageReader, seed: int, say: Say) -> Iterator[np.ndarray]:
    steps, batch = spec.training.warm_start_steps, spec.training.batch_pages
    generator = np.random.default_rng(seed)
    for step in range(steps):
        if step * _WORDS // steps != (step - 1) * _WORDS // steps:
            say(f"theta_0 is trained alone: step {step:,} of {steps:,}")
        yield reader.pages(generator.integers(reader.num_pages, size=batch))
