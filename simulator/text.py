"""Tokens and words that are the same for the same request every time.

A token is four characters, rounded up. It replaces a tokeniser, and anyone can check it by hand.
"""

from __future__ import annotations

import json

from simulator.structured import Json

CHARS_PER_TOKEN = 4
IMAGE_TOKENS = 1000
PAGE_TOKENS = 1500 + IMAGE_TOKENS
"""A page of a PDF counts for its text and its image."""
MESSAGE_OVERHEAD_CHARS = 3 * CHARS_PER_TOKEN

_SENTENCES = (
    "The grid operator reports the hourly carbon intensity of every zone it serves",
    "Steam at the plant is made by two boilers, and only the older one burns oil",
    "A meter that reads zero for a week is more often broken than idle",
    "Freight moved by rail on this corridor emits a quarter of what the road emits",
    "The audit compares invoices with meter readings and lists every gap it finds",
    "Cooling takes most of the load in summer, lighting hardly any of it",
    "Two suppliers sent their own factors, the rest were taken from the public table",
    "Waste heat of the data hall warms the offices from October until April",
    "The estimate is given with its range, because half of the inputs are estimates too",
    "Nothing in the record was changed after the quarter had been closed",
)
_PERIOD = ". ".join(_SENTENCES) + ". "
_STARTS = tuple(_PERIOD.index(sentence) for sentence in _SENTENCES)
_CORPUS = _PERIOD * 20
_MAX_SLICE_LENGTH = len(_CORPUS) - len(_PERIOD)


def tokens_of(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


def prose(seed: int, tokens: int) -> str:
    """Returns text of exactly this many tokens. The seed chooses where it begins."""
    length = tokens * CHARS_PER_TOKEN
    if length <= 0:
        return ""
    start = _STARTS[seed % len(_STARTS)]
    source = _CORPUS if length <= _MAX_SLICE_LENGTH else _PERIOD * (length // len(_PERIOD) + 2)
    return source[start : start + length - 1] + "."


def default_length(seed: int) -> int:
    """Some tens of tokens: 24 to 63."""
    return 24 + (seed >> 8) % 40


def pieces(text: str) -> list[str]:
    """Yields one token at a time."""
    return [text[at : at + CHARS_PER_TOKEN] for at in range(0, len(text), CHARS_PER_TOKEN)]


def escaped(value: Json) -> bytes:
    """JSON in ASCII, because half a surrogate pair can only be sent in this form."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
