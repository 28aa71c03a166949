"""JSON from providers, cleaned for storage: PostgreSQL's text takes neither NUL nor half of a surrogate pair.

An answer that is almost JSON is read as far as it makes sense. Values that JSON does not have (NaN, 1e400) become null, and so
do values that are nested too deeply. A body that was cut is never treated as whole.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec

REPLACEMENT = "\ufffd"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
REPAIRED = "The provider's answer was no valid JSON; it was read as far as it could be."
_HIGH = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPES = re.compile(rb"\\\\|" + _HIGH + _LOW + rb"|" + _HIGH + rb"|" + _LOW)
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]|,(?=\s*[\]}])', re.DOTALL)
_LONE = 6
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any)
DECODING_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_MAX_DEPTH = 100
_MAX_LOOSE_BYTES = 4 * 1024 * 1024
_MAX_PREFIX = 100
_MAX_DIGITS = 1000
_MAX_LOOKED_AT = 4000
_CONTROL = re.compile(r"[\x00-\x08]")

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


def read_object(raw: bytes) -> tuple[Mapping[str, Any], bool]:
    """Returns the one object of a body, and whether it had to be repaired. Raises Malformed.

    Repaired are: values that JSON does not have, control characters and wrong escapes in texts, bytes that are not UTF-8, text
    before or after the object, superfluous commas, values that are nested too deeply, an object in a list or in a text.
    """
    try:
        found, is_repaired = decode(_ANY, raw), False
    except Malformed:
        found, is_repaired = _decode_loosely(raw), True
    if isinstance(found, Mapping):
        return found, is_repaired
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], Mapping):
        return found[0], True
    if isinstance(found, str) and found.lstrip().startswith("{"):
        return read_object(found.encode("utf-8", "replace"))[0], True
    raise Malformed


def as_utf8(raw: bytes) -> bytes:
    """Converts a body from UTF-16 or UTF-32 to UTF-8, without its byte order mark."""
    encoding = json.detect_encoding(raw)
    if not encoding.startswith("utf-8"):
        raw = raw.decode(encoding, "replace").encode("utf-8", "replace")
    return raw.removeprefix(BYTE_ORDER_MARK)


def _decode_loosely(raw: bytes) -> Any:
    text = _ESCAPES.sub(_repair, as_utf8(raw)).decode("utf-8", "replace")
    start = text.find("{")
    before = "".join(line for line in text[: max(start, 0)].splitlines() if not line.startswith(":")).strip()
    if start < 0 or len(before) > _MAX_PREFIX or "<" in before or '"' in before:
        raise Malformed
    text = _ESCAPE.sub(_valid_escape, text[start:])
    try:
        return _LOOSE.raw_decode(text)[0]
    except (ValueError, RecursionError):
        if len(text) > _MAX_LOOSE_BYTES:
            raise Malformed from None
    try:
        return _LOOSE.raw_decode(_flattened(text))[0]
    except (ValueError, RecursionError):
        raise Malformed from None


def _flattened(text: str) -> str:
    """Replaces values that are nested too deeply by null, and removes trailing commas."""
    kept: list[str] = []
    depth = at = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if depth <= _MAX_DEPTH:
            kept += (text[at : match.start()], "" if token == "," else token)
        at = match.end()
        if token in {"{", "["}:
            depth += 1
            if depth == _MAX_DEPTH + 1:
                kept[-1] = "null"
        elif token in {"}", "]"}:
            depth -= 1
    return "".join(kept) + text[at:]


def _valid_escape(match: re.Match[str]) -> str:
    return match.group() if len(match.group()) > 1 else "\\\\"


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


_LOOSE = json.JSONDecoder(strict=False, parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)


def _repair(match: re.Match[bytes]) -> bytes:
    found = match.group()
    return rb"\ufffd" if len(found) == _LONE else found


def is_json(raw: bytes) -> bool:
    """Whether the body is one JSON value, without any repair."""
    try:
        _ANY.decode(raw)
    except DECODING_ERRORS:
        return False
    return True


def is_text(raw: bytes) -> bool:
    """Whether the body begins as UTF-8 without control characters. A character at the end may be cut."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(raw[:_MAX_LOOKED_AT])
    except UnicodeDecodeError:
        return False
    return _CONTROL.search(text) is None


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


def without_half(text: str) -> str:
    """Clean, and without the first half of a surrogate pair at its end."""
    return clean(text[:-1] if _ends_in_half(text) else text)


def _ends_in_half(text: str) -> bool:
    return bool(text) and "\ud800" <= text[-1] <= "\udbff"


class TextPieces:
    """A text that comes in pieces. If the two halves of a surrogate pair come in separate pieces, they become one character."""

    __slots__ = ("_half", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._half = ""

    def take(self, piece: str) -> str:
        """Returns what the piece adds, cleaned for storage. It is empty if the piece is only the first half of a character."""
        piece = self._half + piece
        self._half = piece[-1] if _ends_in_half(piece) else ""
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
