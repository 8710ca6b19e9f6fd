"""Byte lengths of a chunk's indices in the Elias-Fano code.

The low l = floor(log2(n / k)) bits of k ascending indices below n are stored verbatim (the low
part); the high parts as a bit map with the i-th 1 at bit high_i + i (the upper map). 64 indices
of 4096 take 48 + 16 = 64 bytes, 8 bits an index (the bound is log2 C(4096, 64) / 64 = 7.36).
The size depends on n and k alone. Bits are filled from the most significant bit of each byte;
padding bits are zero.

Source: P. Elias (1974); R. Fano (1971).
"""


def low_bits(num_elements: int, k: int) -> int:
    """Width of the low part of an index: floor(log2(num_elements / k))."""
    return (num_elements // k).bit_length() - 1


def section_bytes(num_elements: int, k: int) -> tuple[int, int]:
    """Bytes per chunk of the low parts and of the upper map."""
    width = low_bits(num_elements, k)
    upper_bits = k + ((num_elements - 1) >> width)
    return -(-k * width // 8), -(-upper_bits // 8)
