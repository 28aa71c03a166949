"""Vectors by hashing. The same text gives the same unit vector. Texts that share words are closer to each other."""

from __future__ import annotations

import array
import base64
import hashlib
import math
import sys
from functools import lru_cache


@lru_cache(maxsize=4096)
def vector(text: str, dimensions: int) -> array.array[float]:
    """Each word adds its own direction. The result is float32 and has length 1."""
    sums = [0.0] * dimensions
    for word in text.lower().split() or [""]:
        for index, value in _direction(word, dimensions):
            sums[index] += value
    norm = math.sqrt(sum(value * value for value in sums)) or 1.0
    return array.array("f", [value / norm for value in sums])


@lru_cache(maxsize=4096)
def _direction(word: str, dimensions: int) -> tuple[tuple[int, float], ...]:
    digest = hashlib.shake_128(word.encode("utf-8", "surrogatepass")).digest(16 * 4)
    return tuple(
        (int.from_bytes(digest[at : at + 3], "little") % dimensions, 1.0 if digest[at + 3] & 1 else -1.0)
        for at in range(0, len(digest), 4)
    )


def encoded(values: array.array[float]) -> str:
    """Little-endian float32 as base64, as it is on the wire."""
    if sys.byteorder == "big":
        values = array.array("f", values)
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode("ascii")
