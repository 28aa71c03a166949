"""JSON from providers, cleaned for storage: PostgreSQL's text takes neither NUL nor half of a surrogate pair."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar, cast

import msgspec

REPLACEMENT = "\ufffd"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HIGH = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPES = re.compile(rb"\\\\|" + _HIGH + _LOW + rb"|" + _HIGH + rb"|" + _LOW)
_LONE = 6
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)
DECODING_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

MAX_LEVELS = 200
"""The levels that JSON from a provider may have. A request that passes it back may have a few more."""

_T = TypeVar("_T")
_J = TypeVar("_J")


class Malformed(ValueError):
    """The bytes are not the JSON they should be."""


class TooDeep(Malformed):
    """The JSON is nested too deeply. What was read of it is valid."""


def decode(decoder: msgspec.json.Decoder[_T], raw: bytes) -> _T:
    """Raises Malformed. Escaped halves of surrogate pairs become U+FFFD. A byte order mark is removed."""
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    try:
        return decoder.decode(raw)
    except DECODING_ERRORS:
        repaired = _ESCAPES.sub(_repair, raw)
        if repaired == raw:
            raise Malformed from None
    try:
        return decoder.decode(repaired)
    except DECODING_ERRORS:
        raise Malformed from None


def decode_loosely(raw: bytes) -> Any:
    """Decodes like `decode`, and also accepts what other JSON readers accept: NaN and infinities, which become null, line ends
    in texts, and bytes that are not UTF-8, which become U+FFFD. Halves of surrogate pairs stay, because the other half may come
    in the next piece. Raises Malformed, TooDeep."""
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    try:
        return _ANY.decode(raw)
    except DECODING_ERRORS:
        pass
    try:
        return json.loads(raw.decode("utf-8", "replace"), strict=False, parse_constant=_nothing)
    except RecursionError:
        raise TooDeep from None
    except ValueError:
        raise Malformed from None


def _nothing(_: str) -> None:
    """The value of a number that is none."""


def _repair(match: re.Match[bytes]) -> bytes:
    found = match.group()
    return rb"\ufffd" if len(found) == _LONE else found


def clean(text: str) -> str:
    """NUL and halves of surrogate pairs become U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", REPLACEMENT)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class TextPieces:
    """A text that comes in pieces. If the two halves of a surrogate pair come in separate pieces, they become one character."""

    __slots__ = ("_half", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._half = ""

    def take(self, piece: str) -> str:
        """Returns what the piece adds, cleaned for storage. It is empty if the piece is only the first half of a character."""
        piece = self._half + piece
        self._half = piece[-1] if piece and "\ud800" <= piece[-1] <= "\udbff" else ""
        piece = clean(piece[:-1] if self._half else piece)
        self._pieces.append(piece)
        return piece

    def end(self) -> str:
        """Returns what replaces a half without its other half."""
        left, self._half = REPLACEMENT if self._half else "", ""
        if left:
            self._pieces.append(left)
        return left

    def __bool__(self) -> bool:
        """Whether any piece has come, also an empty one."""
        return bool(self._pieces)

    @property
    def text(self) -> str:
        return "".join(self._pieces)


def fit(value: _J, levels: int = MAX_LEVELS) -> _J:
    """Returns JSON with clean texts. Raises Malformed if it is nested more deeply than `levels`."""
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
