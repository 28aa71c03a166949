"""The hash of a request: equal for equal values, whatever the size of their texts.

Texts are hashed in pieces. So in a thread beside the event loop no step blocks the loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

_PIECE = 64 * 1024
_SHORT = 1024


def digest(value: object) -> bytes:
    """SHA-256 of dataclasses, lists, texts and numbers, also nested."""
    words: list[str] = []
    _spell(msgspec.to_builtins(value), words)
    hashing = hashlib.sha256()
    for piece in _pieces(words):
        hashing.update(piece.encode())
    return hashing.digest()


def _spell(value: object, words: list[str]) -> None:
    """Every part is preceded by its length, so different values never give the same text."""
    if isinstance(value, str):
        words.append(f'"{len(value)}:')
        words.append(value)
    elif isinstance(value, dict):
        words.append(f"{{{len(value)}:")
        for name, branch in sorted(value.items()):
            _spell(name, words)
            _spell(branch, words)
    elif isinstance(value, (list, tuple)):
        words.append(f"[{len(value)}:")
        for branch in value:
            _spell(branch, words)
    else:
        words.append(f"{value!r};")


def _pieces(words: list[str]) -> Iterator[str]:
    short: list[str] = []
    length = 0
    for word in words:
        if len(word) > _SHORT:
            yield "".join(short)
            yield from (word[start : start + _PIECE] for start in range(0, len(word), _PIECE))
            short, length = [], 0
            continue
        short.append(word)
        length += len(word)
        if length > _PIECE:
            yield "".join(short)
            short, length = [], 0
    yield "".join(short)
