"""Coverage-guided fuzzing of the door for peers' bytes: `open_payload`, and `decode` inside it.

Whatever libFuzzer invents, only PayloadError may come out, and what is let in must be valid in
full. Half of the inputs get a good header and the right length, so that the search starts
behind the first checks. The codec's loops run as Python here: the fuzzer sees their branches,
and numpy refuses an index behind an array's end.

    make fuzz FUZZ_S=180
    python -m fuzz.payload -max_total_time=180 <corpus folder>
"""

import os
import random
import sys
from collections import Counter
from pathlib import Path

import atheris

os.environ["NUMBA_DISABLE_JIT"] = "1"

with atheris.instrument_imports(include=["compression", "template.protocol", "template.errors"]):
    import torch

    from template.protocol.payload import PayloadFormat
    from template.protocol.ranges import BlockRange
    from tests.support.hostile import HEADER_BYTES, Door, damaged, honest_frame

SHAPES: dict[str, tuple[int, ...]] = {
    "embed.bias": (66,),
    "layers.0.weight": (70, 66),
    "layers.0.scalar": (),
    "layers.1.kernel": (3, 5, 7),
    "layers.1.none": (0, 4),
}
FORM = PayloadFormat(run_id=b"a run of 16 byte", shapes=SHAPES, top_k=64, max_width=4, max_parts=2)
DOOR = Door(form=FORM)
HONEST, OTHER = honest_frame(FORM), honest_frame(FORM, seed=1)
HALVES = [honest_frame(FORM, blocks=BlockRange(part=part, parts=2)) for part in range(2)]
OUTCOMES: Counter[str] = Counter()


def test_one_input(data: bytes) -> None:
    """The raw bytes, and the same bytes as the sections under honest headers."""
    OUTCOMES[DOOR.outcome(data)] += 1
    for frame in (HONEST, *HALVES):
        body = (data + frame[HEADER_BYTES + len(data) :])[: len(frame) - HEADER_BYTES]
        OUTCOMES[DOOR.outcome(frame[:HEADER_BYTES] + body)] += 1


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutations three times in four, else the faults of the test suite."""
    generator = random.Random(seed)
    if generator.randrange(4):
        return atheris.Mutate(data, max_size)
    frame = data if len(data) == len(HONEST) else HONEST
    return damaged(frame, OTHER, generator)[:max_size]


def seed_corpus(folder: Path) -> None:
    """Whole frames and bare sections, so that the first generation passes the door."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = {"honest": HONEST, "other": OTHER, "low": HALVES[0], "high": HALVES[1]}
    for name, frame in frames.items():
        (folder / name).write_bytes(frame)
        (folder / f"{name}-body").write_bytes(frame[HEADER_BYTES:])


def main(argv: list[str]) -> None:
    """Fuzz until libFuzzer's own flags say stop."""
    torch.set_num_threads(1)
    folders = [Path(argument) for argument in argv[1:] if not argument.startswith("-")]
    for folder in folders[:1]:
        seed_corpus(folder)
    atheris.Setup([*argv, f"-max_len={2 * len(HONEST)}"], test_one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
