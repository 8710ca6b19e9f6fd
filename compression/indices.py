"""Sorted index sets in fixed-size Elias-Fano sections: how many bytes they take.

k ascending indices below n: the low l = floor(log2(n / k)) bits of each are stored as
they are; the high parts as a bit map in which the i-th one stands at high_i + i. For 64
of 4096 that is 48 + 16 = 64 bytes, 8 bits an index (the bound is log2 C(4096, 64) / 64 =
7.36). The size depends on n and k alone. Bits are filled from the most significant of
each byte; padding bits are zero.

Source: P. Elias (1974); R. Fano (1971).
"""


def low_bits(num_elements: int, k: int) -> int:
    """Bits of each index that are stored as they are."""
    return (num_elements // k).bit_length() - 1


def section_bytes(num_elements: int, k: int) -> tuple[int, int]:
    """Bytes per chunk of the low parts and of the upper map."""
    width = low_bits(num_elements, k)
    upper_bits = k + ((num_elements - 1) >> width)
    return -(-k * width // 8), -(-upper_bits // 8)
