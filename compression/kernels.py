"""Compiled loops over chunks, for encoder and decoder.

The fuzzer runs the loops as plain Python (NUMBA_DISABLE_JIT=1). The code converts integers to
int64 before any arithmetic, since numpy and Numba promote small integers differently. Compiled
loops check no bounds: callers pass arrays sized from the model's shapes, and `_read_indices`
checks a stranger's indices before any index addresses a tensor.

Legend: N chunks, C elements per chunk, K kept values per chunk, S chunks of a strip, H bodies.
"""

from typing import NamedTuple

import numpy as np

from compression.jit import compiled


class Grid(NamedTuple):
    """Position of a group's chunks in the flat tensor, in elements (see ChunkGroup)."""

    offset: int
    col_blocks: int
    height: int
    width: int
    stride: int


class Places(NamedTuple):
    """Offsets of a group's parts in a body, and bytes per chunk of each part."""

    scales: int
    lows: int
    uppers: int
    codes: int
    low_bytes: int
    upper_bytes: int
    code_bytes: int
    low_bits: int
    num_elements: int
    k: int


BLOCK_BITS = 6
BLOCK_SIDE = 1 << BLOCK_BITS
MAGNITUDE_BITS = 0x7FFFFFFF
ENOUGH_CANDIDATES = 4
"""The rough search over a whole chunk ends at this many candidates per kept value."""

STRIP_CHUNKS = 16
"""Chunks read side by side: rows of 4 KiB, and 256 KiB of magnitudes."""
GOOD, WRONG_ONES, NOT_ASCENDING, TOO_LARGE, LOW_PADDING, CODE_PADDING = range(6)
"""Results of reading a chunk; the first fault of the first faulty chunk counts."""
SCALE_STEPS = 16
RATIO_STEPS = 16

NUM_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
ONES_IN_BYTE = np.array(
    [([bit for bit in range(8) if byte & 128 >> bit] + 8 * [0])[:8] for byte in range(256)],
    dtype=np.int32,
)
"""[256, 8]: positions of a byte's ones, from the most significant bit, then zeros."""


@compiled
def _base(grid: Grid, chunk: int) -> int:
    row = chunk // grid.col_blocks
    col = chunk - row * grid.col_blocks
    return grid.offset + row * grid.height * grid.stride + col * grid.width


@compiled
def _flat(grid: Grid, base: int, index: int) -> int:
    """Flat index in the tensor of an index in a chunk."""
    # Nearly all chunks are BLOCK_SIDE wide; a shift saves a division per kept value.
    row = index >> BLOCK_BITS if grid.width == BLOCK_SIDE else index // grid.width
    return base + row * grid.stride + index - row * grid.width


# Encoding


@compiled
def accumulate_and_select(
    flat: np.ndarray,
    flat_bits: np.ndarray,
    delta: np.ndarray,
    decay: np.float32,
    grid: Grid,
    first: int,
    index_NK: np.ndarray,
    value_NK: np.ndarray,
) -> None:
    """Chunks from `first` on: flat <- decay * flat + delta, and the k largest of each.

    `flat_bits` is `flat` as int32. With an empty `delta`, `flat` is unchanged. Fills
    `index_NK` (uint16, ascending) and `value_NK`; lowest indices first among equal magnitudes.
    """
    num_chunks, k = index_NK.shape
    num_elements = grid.height * grid.width
    magnitude_SC = np.empty((STRIP_CHUNKS, num_elements), dtype=np.int32)
    candidate_C = np.empty(num_elements + 1, dtype=np.int32)
    place_C = np.empty(num_elements + 1, dtype=np.int32)
    limit = np.int64(0)
    chunk = np.int64(0)
    while chunk < num_chunks:
        # A strip of chunks side by side has rows long enough for the memory to prefetch, but must
        # end with its row of blocks: the next row starts elsewhere in memory.
        in_row = grid.col_blocks - (first + chunk) % grid.col_blocks
        count = min(STRIP_CHUNKS, in_row, num_chunks - chunk)
        base = _base(grid, first + chunk)
        _accumulate(flat, flat_bits, delta, decay, grid, base, magnitude_SC[:count])
        for strip in range(count):
            limit = _select(magnitude_SC[strip], k, limit, candidate_C, place_C, index_NK[chunk])
            for kept in range(k):
                where = _flat(grid, base, np.int64(index_NK[chunk, kept]))
                value_NK[chunk, kept] = flat[where]
            base += grid.width
            chunk += 1


@compiled
def _accumulate(
    flat: np.ndarray,
    flat_bits: np.ndarray,
    delta: np.ndarray,
    decay: np.float32,
    grid: Grid,
    base: int,
    magnitude_SC: np.ndarray,
) -> None:
    """Update chunks side by side from `base` on; fill magnitudes as int32 [S, C]."""
    num_strips = magnitude_SC.shape[0]
    for row in range(grid.height):
        start = base + row * grid.stride
        if delta.size:
            for place in range(start, start + num_strips * grid.width):
                flat[place] = flat[place] * decay + delta[place]
        for strip in range(num_strips):
            for col in range(grid.width):
                bits = flat_bits[start + strip * grid.width + col]
                # The bits of non-negative floats sort like integers. NaN sorts above infinity,
                # so NaN is always kept, and `check_values` finds it.
                magnitude_SC[strip, row * grid.width + col] = bits & MAGNITUDE_BITS


@compiled
def _select(
    magnitude_C: np.ndarray,
    k: int,
    guess: int,
    candidate_C: np.ndarray,
    place_C: np.ndarray,
    index_K: np.ndarray,
) -> int:
    """Fill `index_K`, ascending; return a limit for the next chunk's search.

    `candidate_C` and `place_C` are scratch arrays of C + 1 elements.
    """
    floor = _rough_limit(magnitude_C, k, guess)
    # Write always, advance only past candidates: no branch to mispredict. The write after the
    # last candidate is why the scratch arrays have an extra slot.
    num_candidates = np.int64(0)
    for place in range(magnitude_C.size):
        candidate_C[num_candidates] = magnitude_C[place]
        place_C[num_candidates] = place
        num_candidates += np.int64(magnitude_C[place] > floor)
    limit, missing = _limit(candidate_C[:num_candidates], k, floor)
    kept = np.int64(0)
    for candidate in range(num_candidates):
        is_tie = candidate_C[candidate] == limit
        # Candidates come in index order, so the lowest indices win among equal magnitudes.
        if candidate_C[candidate] > limit or (is_tie and missing > 0):
            missing -= np.int64(is_tie)
            index_K[kept] = place_C[candidate]
            kept += 1
    return limit


@compiled
def _count_above(magnitude_C: np.ndarray, limit: int) -> int:
    bound = np.int32(limit)  # An int32 compare fills a vector register with more lanes.
    count = np.int32(0)
    for place in range(magnitude_C.size):
        count += np.int32(magnitude_C[place] > bound)
    return np.int64(count)


@compiled
def _rough_limit(magnitude_C: np.ndarray, k: int, guess: int) -> int:
    """A limit below at least k magnitudes, and few more unless many are equal."""
    # Neighbouring chunks have similar limits, so the search starts at the last chunk's limit.
    enough, few = np.int64(-1), np.int64(MAGNITUDE_BITS)
    step = np.int64(1) << 20
    limit = guess
    while few - enough > 1:
        limit = min(max(limit, enough + 1), few - 1)
        count = _count_above(magnitude_C, limit)
        if count < k:
            few = limit
            limit = max(enough + (few - enough) // 2, few - step)
        else:
            enough = limit
            if count <= ENOUGH_CANDIDATES * k:
                return enough
            limit = min(enough + (few - enough) // 2, enough + step)
        # Doubled steps leave a good guess slowly and a bad guess soon; bisection caps a step.
        step *= 2
    return enough


@compiled
def _limit(magnitude_C: np.ndarray, k: int, floor: int) -> tuple[int, int]:
    """A limit, and the number of magnitudes equal to the limit needed beside all above, for k.

    All magnitudes must exceed `floor`.
    """
    enough, few = floor, np.int64(magnitude_C.max())
    num_above = np.int64(0)
    while few - enough > 1:
        middle = enough + (few - enough) // 2
        count = _count_above(magnitude_C, middle)
        if count > k:
            enough = middle
        else:
            few, num_above = middle, count
            if count == k:
                break
    return few, k - num_above


@compiled
def write_chunks(
    value_NK: np.ndarray,
    index_NK: np.ndarray,
    scale_N: np.ndarray,
    scale_unit: np.float32,
    middles: np.ndarray,
    level_256: np.ndarray,
    ratio: np.float32,
    places: Places,
    section: np.ndarray,
    first: int,
) -> None:
    """Write scale bytes, indices and codes of chunks; subtract the sent values from `value_NK`.

    `section` is the whole body. `middles` holds the 255 midpoints between scales, in units of
    1 / `scale_unit`; `level_256` the scales.
    """
    num_chunks, _k = value_NK.shape
    for chunk in range(num_chunks):
        number = first + chunk
        scale_byte = np.searchsorted(middles, scale_N[chunk] * scale_unit)
        section[places.scales + number] = scale_byte
        scale = level_256[scale_byte]
        lows = places.lows + number * places.low_bytes
        uppers = places.uppers + number * places.upper_bytes
        section[lows : lows + places.low_bytes] = 0
        section[uppers : uppers + places.upper_bytes] = 0
        _write_indices(index_NK[chunk], section, lows, uppers, places.low_bits)
        codes = places.codes + number * places.code_bytes
        section[codes : codes + places.code_bytes] = 0
        _write_codes(value_NK[chunk], section, codes, scale, ratio)


@compiled
def _write_indices(
    index_K: np.ndarray, section: np.ndarray, lows: int, uppers: int, low_bits: int
) -> None:
    for place in range(index_K.size):
        index = np.int64(index_K[place])
        high = (index >> low_bits) + place
        section[uppers + (high >> 3)] |= np.uint8(128 >> (high & 7))
        # Two bytes hold a low part: ten or more bits occur only with k <= 4, starting at an even
        # or early bit, so that no low part reaches into a third byte.
        low = index & ((np.int64(1) << low_bits) - 1)
        bit = place * low_bits
        wide = low << (24 - low_bits - (bit & 7))
        section[lows + (bit >> 3)] |= np.uint8(wide >> 16)
        if (bit & 7) + low_bits > 8:
            section[lows + (bit >> 3) + 1] |= np.uint8((wide >> 8) & 255)


@compiled
def _write_codes(
    value_K: np.ndarray, section: np.ndarray, codes: int, scale: np.float32, ratio: np.float32
) -> None:
    middle = np.float32(np.inf)  # With a scale of zero, both magnitudes are zero: send small.
    if scale > 0:
        middle = scale * ((np.float32(1) + ratio) / np.float32(2))
    smallest = np.float32(np.inf)
    for place in range(value_K.size):
        smallest = min(smallest, abs(value_K[place]))
    large_scale = scale * ratio
    for place in range(value_K.size):
        value = value_K[place]
        # The smallest value stays small. A chunk of large magnitudes alone would hide its scale:
        # encoding the decoded chunk again would choose another scale, and other bytes.
        is_large = abs(value) >= middle and abs(value) > smallest
        sent = large_scale if is_large else scale
        code = np.int64(is_large)
        if value < 0:
            code |= 2
            sent = -sent
        section[codes + (place >> 2)] |= np.uint8(code << (6 - 2 * (place & 3)))
        value_K[place] = value - sent


@compiled
def put(
    flat: np.ndarray, grid: Grid, first: int, index_NK: np.ndarray, value_NK: np.ndarray
) -> None:
    """Store the values at their indices in the flat tensor."""
    for chunk in range(index_NK.shape[0]):
        base = _base(grid, first + chunk)
        for place in range(index_NK.shape[1]):
            index = np.int64(index_NK[chunk, place])
            flat[_flat(grid, base, index)] = value_NK[chunk, place]


# Decoding


@compiled
def read_chunks(
    body: np.ndarray,
    places: Places,
    grid: Grid,
    first: int,
    level_256: np.ndarray,
    unit_256x4: np.ndarray,
    flat_NK: np.ndarray,
    value_NK: np.ndarray,
    norm_units: np.ndarray,
) -> int:
    """Read chunks from `first` on: flat indices (int64) and values; returns GOOD or a fault.

    Arrays of shape [N, 0]: a check alone. Adds to `norm_units` int64 [16, 2]: by the scale's
    octave, the squared scale in steps times the number of small and of large values.
    """
    k, is_wanted = places.k, flat_NK.shape[1] > 0
    index_K, low_K, value_K = _scratch(places)
    for chunk in range(flat_NK.shape[0]):
        number = first + chunk
        kind = _read_indices(body, places, number, index_K, low_K)
        if kind != GOOD:
            return kind
        scale_byte = np.int64(body[places.scales + number])
        scale = level_256[scale_byte]
        num_large = _read_codes(body, places, number, scale, unit_256x4, value_K)
        if num_large < 0:
            return CODE_PADDING
        if is_wanted:
            base = _base(grid, number)
            for place in range(k):
                flat_NK[chunk, place] = _flat(grid, base, np.int64(index_K[place]))
            value_NK[chunk] = value_K[:k]
        step = SCALE_STEPS + scale_byte % SCALE_STEPS if scale_byte else np.int64(0)
        # Integer sums are exact, so the norm does not depend on the order of pieces.
        norm_units[scale_byte // SCALE_STEPS, 0] += step * step * (k - num_large)
        norm_units[scale_byte // SCALE_STEPS, 1] += step * step * num_large
    return GOOD


@compiled
def add_chunks(
    flat: np.ndarray,
    body_HB: np.ndarray,
    places: Places,
    grid: Grid,
    first: int,
    num_chunks: int,
    level_H256: np.ndarray,
    unit_H256x4: np.ndarray,
    factor_H: np.ndarray,
) -> int:
    """flat += factor * value for chunks from `first` on; returns GOOD or a fault."""
    index_K, low_K, value_K = _scratch(places)
    for number in range(first, first + num_chunks):
        base = _base(grid, number)
        # Bodies in the inner loop: the chunk of parameters stays in the cache for all additions.
        for body in range(body_HB.shape[0]):
            data, factor = body_HB[body], factor_H[body]
            kind = _read_indices(data, places, number, index_K, low_K)
            if kind != GOOD:
                return kind
            scale = level_H256[body, np.int64(data[places.scales + number])]
            if _read_codes(data, places, number, scale, unit_H256x4[body], value_K) < 0:
                return CODE_PADDING
            for place in range(places.k):
                where = _flat(grid, base, np.int64(index_K[place]))
                # The protocol's order: the product rounds to float32, then the sum. Strict
                # arithmetic (see `jit`) never fuses the two.
                product = value_K[place] * factor
                flat[where] = flat[where] + product
    return GOOD


@compiled
def read_places(body: np.ndarray, places: Places, chunk_N: np.ndarray, place_NK: np.ndarray) -> int:
    """Kept indices in the chunks `chunk_N` of a group (int64 [N]); returns GOOD or a fault."""
    index_K, low_K, _value_K = _scratch(places)
    for row in range(chunk_N.size):
        kind = _read_indices(body, places, np.int64(chunk_N[row]), index_K, low_K)
        if kind != GOOD:
            return kind
        place_NK[row] = index_K[: places.k]
    return GOOD


@compiled
def _scratch(places: Places) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scratch arrays for a chunk: room for an upper map of ones alone, and for whole bytes."""
    index_K = np.empty(8 * places.upper_bytes + 8, dtype=np.int32)
    low_K = np.empty(places.k + 4, dtype=np.int32)
    return index_K, low_K, np.empty(4 * places.code_bytes, dtype=np.float32)


@compiled
def _read_indices(
    body: np.ndarray, places: Places, number: int, index_K: np.ndarray, low_K: np.ndarray
) -> int:
    """Decode Elias-Fano into the first k of `index_K`; returns GOOD or a fault."""
    k, low_bits = places.k, np.int32(places.low_bits)
    uppers = places.uppers + number * places.upper_bytes
    ones = np.int64(0)
    for byte in range(places.upper_bytes):
        value = np.int64(body[uppers + byte])
        # Always eight writes, without a branch; the next byte overwrites the surplus.
        for one in range(8):
            index_K[ones + one] = np.int32(8 * byte) + ONES_IN_BYTE[value, one]
        ones += np.int64(NUM_ONES[value])
    if ones != k:
        return WRONG_ONES
    lows = places.lows + number * places.low_bytes
    _read_lows(body, lows, places, low_K)
    for place in range(k):
        index_K[place] = ((index_K[place] - np.int32(place)) << low_bits) | low_K[place]
    # The last index bounds all others, as the ascending check below makes certain.
    if index_K[k - 1] >= places.num_elements:
        return TOO_LARGE
    # A count instead of an early return: no branch per index.
    num_wrong = np.int64(0)
    for place in range(k - 1):
        num_wrong += np.int64(index_K[place + 1] <= index_K[place])
    if num_wrong:
        return NOT_ASCENDING
    used = (k * places.low_bits) & 7
    if used and np.int64(body[lows + places.low_bytes - 1]) & (255 >> used):
        return LOW_PADDING
    return GOOD


@compiled
def _read_lows(body: np.ndarray, lows: int, places: Places, low_K: np.ndarray) -> None:
    """Fill `low_K` with the low bits of each index."""
    # Reads up to two bytes past the low parts: an upper map and codes always follow.
    if places.low_bits == 0:
        low_K[: places.k] = 0
        return
    if places.low_bits == 6:
        # Whole chunks at top_k = 64: three bytes are four low parts, without variable shifts.
        for quad in range((places.k + 3) // 4):
            at = lows + 3 * quad
            first, second = np.int32(body[at]), np.int32(body[at + 1])
            third = np.int32(body[at + 2])
            low_K[4 * quad] = first >> 2
            low_K[4 * quad + 1] = (first & 3) << 4 | second >> 4
            low_K[4 * quad + 2] = (second & 15) << 2 | third >> 6
            low_K[4 * quad + 3] = third & 63
        return
    mask = (np.int64(1) << places.low_bits) - 1
    for place in range(places.k):
        bit = place * places.low_bits
        at = lows + (bit >> 3)
        wide = np.int64(body[at]) << 16 | np.int64(body[at + 1]) << 8 | np.int64(body[at + 2])
        low_K[place] = (wide >> (24 - places.low_bits - (bit & 7))) & mask


@compiled
def _read_codes(
    body: np.ndarray,
    places: Places,
    number: int,
    scale: np.float32,
    unit_256x4: np.ndarray,
    value_K: np.ndarray,
) -> int:
    """Fill a chunk's values; returns the number of large values, or -1 if padding is set."""
    codes = places.codes + number * places.code_bytes
    num_large = np.int64(0)
    for byte in range(places.code_bytes):
        four = np.int64(body[codes + byte])
        for place in range(4):
            value_K[4 * byte + place] = unit_256x4[four, place] * scale
        # The second bit of each code marks the larger magnitude.
        num_large += np.int64(NUM_ONES[four & 0x55])
    used = 2 * (places.k & 3)
    if used and np.int64(body[codes + places.code_bytes - 1]) & (255 >> used):
        return -1
    return num_large
