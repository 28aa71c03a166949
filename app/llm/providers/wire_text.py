"""JSON from providers, cleaned for storage: PostgreSQL's text takes neither NUL nor half of a surrogate pair."""

from __future__ import annotations

import re
from typing import TypeVar, cast

import msgspec

REPLACEMENT = "\ufffd"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HIGH = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPES = re.compile(rb"\\\\|" + _HIGH + _LOW + rb"|" + _HIGH + rb"|" + _LOW)
_LONE = 6
_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

MAX_LEVELS = 200
"""Of JSON from a provider that is given back. A request may bring back a few more."""

_T = TypeVar("_T")
_J = TypeVar("_J")


class Malformed(ValueError):
    """The bytes are not the JSON they should be."""


def decode(decoder: msgspec.json.Decoder[_T], raw: bytes) -> _T:
    """Raises Malformed. Escaped halves of surrogate pairs become U+FFFD. A byte order mark is removed."""
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    try:
        return decoder.decode(raw)
    except _ERRORS:
        repaired = _ESCAPES.sub(_repair, raw)
        if repaired == raw:
            raise Malformed from None
    try:
        return decoder.decode(repaired)
    except _ERRORS:
        raise Malformed from None


def _repair(match: re.Match[bytes]) -> bytes:
    found = match.group()
    return rb"\ufffd" if len(found) == _LONE else found


def clean(text: str) -> str:
    """NUL becomes U+FFFD."""
    return text.replace("\0", REPLACEMENT) if "\0" in text else text


def fit(value: _J, levels: int = MAX_LEVELS) -> _J:
    """JSON with clean texts. Raises Malformed if it is nested more deeply than `levels`."""
    if isinstance(value, str):
        return cast("_J", clean(value))
    if not isinstance(value, (dict, list)):
        return value
    if levels == 0:
        raise Malformed
    if isinstance(value, dict):
        return cast("_J", {clean(name): fit(branch, levels - 1) for name, branch in value.items()})
    return cast("_J", [fit(branch, levels - 1) for branch in value])


def word(value: object) -> str | None:
    """Returns the text if the value is a text that is not empty."""
    return value if isinstance(value, str) and value else None
