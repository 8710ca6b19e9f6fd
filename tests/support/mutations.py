"""Random mutations of valid bytes: flips, insertions, deletions, repeats, splices, huge numbers."""

import random
import re

_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?")
_VALUES = (
    b"-1", b"0", b"1e308", b"-1e308", b"1e999", b"NaN", b"inf", b"1.5", b"true", b"null", b"{}",
    b"[]", b'""', b'"\\u001b[2J"', b'"\xe2\x80\xae"', b"9" * 19, b"9" * 400, b"9" * 5000,
    b"0x" + b"f" * 5000, b"1e" + b"9" * 400, b"[" * 3000, b'{"a":' * 3000, b"2020-01-01",
)  # fmt: skip


def mutated(data: bytes, other: bytes, generator: random.Random) -> bytes:
    """The data after one to three mutations; `other`: a second valid object, for splices."""
    for _ in range(generator.randint(1, 3)):
        data = generator.choice(_MUTATIONS)(data, other, generator)
    return data


def _flip(data: bytes, other: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        if changed:
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _insert(data: bytes, other: bytes, generator: random.Random) -> bytes:
    place = generator.randint(0, len(data))
    return data[:place] + generator.randbytes(generator.randint(1, 8)) + data[place:]


def _delete(data: bytes, other: bytes, generator: random.Random) -> bytes:
    start, end = _span(data, generator)
    return data[:start] + data[end:]


def _repeat(data: bytes, other: bytes, generator: random.Random) -> bytes:
    start, end = _span(data, generator)
    return data[:end] + data[start:end] * generator.choice([1, 1, 2, 50]) + data[end:]


def _splice(data: bytes, other: bytes, generator: random.Random) -> bytes:
    start, end = _span(other, generator)
    place, rest = sorted((generator.randint(0, len(data)), generator.randint(0, len(data))))
    return data[:place] + other[start:end] + data[rest:]


def _replace_number(data: bytes, other: bytes, generator: random.Random) -> bytes:
    numbers = list(_NUMBER.finditer(data))
    if not numbers:
        return data
    number = generator.choice(numbers)
    return data[: number.start()] + generator.choice(_VALUES) + data[number.end() :]


def _replace_text(data: bytes, other: bytes, generator: random.Random) -> bytes:
    texts = list(re.finditer(rb'"[^"\n]*"', data))
    if not texts:
        return data
    text = generator.choice(texts)
    return data[: text.start()] + generator.choice(_VALUES) + data[text.end() :]


def _span(data: bytes, generator: random.Random) -> tuple[int, int]:
    start = generator.randint(0, len(data))
    return start, min(len(data), start + generator.choice([1, 2, 8, 64, 512]))


_MUTATIONS = (_flip, _insert, _delete, _repeat, _splice, _replace_number, _replace_text)
