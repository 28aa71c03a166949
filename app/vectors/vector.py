"""Vectors: 32-bit floats. As bytes they are little-endian, one after the other."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Iterable

from app.vectors.store import Distance, Vector

_FLOAT_BYTES = 4


def vector_of(numbers: Iterable[float]) -> Vector:
    """Rounds to 32-bit floats. A number that is too large becomes infinite."""
    return array("f", numbers)


def vector_from_bytes(packed: bytes) -> Vector:
    """Raises ValueError if the number of bytes is not a multiple of four."""
    vector = array("f")
    vector.frombytes(packed)
    if sys.byteorder == "big":
        vector.byteswap()
    return vector


def vector_to_bytes(vector: Vector) -> bytes:
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return vector.tobytes()


def vector_from_base64(text: str) -> Vector:
    """Raises ValueError if the text is not base64, or not of whole 32-bit floats."""
    try:
        packed = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("not base64") from None
    if len(packed) % _FLOAT_BYTES:
        raise ValueError("not a multiple of four bytes")
    return vector_from_bytes(packed)


def fault_of(vector: Vector, dimensions: int, distance: Distance) -> str | None:
    """Says why a collection cannot take this vector; None if it can. A sum of finite 32-bit floats is finite, since it has 64."""
    if len(vector) != dimensions:
        return f"The vector has {len(vector)} numbers; the collection's vectors have {dimensions}."
    if not math.isfinite(sum(vector)):
        return "The vector has a number that is not finite."
    if distance is Distance.COSINE and not any(vector):
        return "The vector has only zeros, so it has no direction and no cosine."
    return None
