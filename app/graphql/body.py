"""Turns the bytes of a request into one GraphQL request. It is strict: UTF-8, finite numbers, one object, no batch.

The size limit holds while reading, so a body that is too large is never kept. The bytes that are being read and used are
limited over the whole process. A few bytes can become an object of a few hundred, so the memory that a text needs is limited
before it is decoded.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from urllib.parse import parse_qs

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.domain.errors import LimitExceeded
from app.graphql.errors import Code, Description, RequestFailed, failed_by, failure
from app.runtime.offload import Offload
from app.web.capacity import Share

MAX_JSON_VALUES = 100_000
MAX_JSON_OBJECTS = 8_000
MAX_ESCAPES = 1_500_000
MAX_WIDE_BYTES = 6 * 1024 * 1024
"""The limit for strings with non-ASCII characters, which take four times the space when they are decoded. An image in base64 is
ASCII."""
MAX_DIGITS = 64
MAX_TOTAL_DIGITS = 2_000_000
_ALL_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_TOO_LONG = b"0" * (MAX_DIGITS + 1)
_NUMBER = re.compile(rb"0+")
_WIDE_ESCAPE = re.compile(rb"\\u(?!00[0-7])")
_MAX_QUOTES_PER_VALUE = 4
_CUT_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_MAX_CUT_ESCAPE_LENGTH = 5
_MAX_BYTES_PER_CHARACTER = 6
_PIECE = 64 * 1024


class _Body(msgspec.Struct, rename="camel"):
    """`query` stays encoded until its length is known to be allowed."""

    query: msgspec.Raw = msgspec.Raw(b"null")
    operation_name: str | None = None
    variables: dict[str, object] | None = None
    extensions: dict[str, object] | None = None
    document_id: str | None = None


def _finite(text: str) -> float:
    """Parses a number. msgspec takes ten times as long for a number with many digits and blocks the event loop meanwhile."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number


_body_decoder = msgspec.json.Decoder(_Body, float_hook=_finite)
_text_decoder = msgspec.json.Decoder(str | None)
_object_decoder: msgspec.json.Decoder[dict[str, object] | None] = msgspec.json.Decoder(
    dict[str, object] | None, float_hook=_finite
)


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """`size` is the number of bytes of the request."""

    query: str | None
    operation_name: str | None = None
    variables: Mapping[str, object] | None = None
    extensions: Mapping[str, object] | None = None
    document_id: str | None = None
    size: int = 0


def body_too_large(had: int, allowed: int) -> RequestFailed:
    return _refused(LimitExceeded("body bytes", had, allowed))


def _refused(error: LimitExceeded) -> RequestFailed:
    return failure(Code.LIMIT_EXCEEDED, str(error), 413, limit=error.limit, had=error.had, allowed=error.allowed)


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads a body of at most `limit` bytes within `timeout`."""

    limit: int
    timeout: timedelta

    @asynccontextmanager
    async def read(self, receive: Receive, announced: int | None, places: Share, byte_share: Share) -> AsyncIterator[bytes]:
        """Holds one of `places` until the body has arrived, and the body's bytes of `byte_share` until the block ends.

        Raises RequestFailed (413, 408), Overloaded, ClientDisconnect.
        """
        if announced is not None and announced > self.limit:
            raise body_too_large(announced, self.limit)
        held = [0]
        try:
            try:
                with places.one():
                    async with asyncio.timeout(self.timeout.total_seconds()):
                        body = await self._collect(receive, held, byte_share)
            except TimeoutError as error:
                raise failure(Code.TIMEOUT, "the body did not arrive in time", 408) from error
            yield body
        finally:
            byte_share.give_back(held[0])

    async def _collect(self, receive: Receive, held: list[int], byte_share: Share) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            if held[0] + len(chunk) > self.limit:
                raise body_too_large(held[0] + len(chunk), self.limit)
            byte_share.take(len(chunk))
            held[0] += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


@dataclass(frozen=True, slots=True)
class BodyParser:
    """Accepts documents of at most `document_bytes`. Large bodies are parsed in the threads of `offload`."""

    document_bytes: int
    offload: Offload

    async def parse(self, body: bytes) -> GraphQLRequest:
        """Raises RequestFailed: 413 if the decoded text would be too large; 400 for anything that is not one JSON object with
        fields of the right types. A document that is obviously too long is refused before it is unescaped."""
        try:
            await check_json_complexity(body)
        except ValueError as error:
            raise _malformed(body, error) from None
        return await self.parse_checked(body)

    async def parse_object(self, body: bytes) -> dict[str, object]:
        """Any JSON object. Raises RequestFailed as `parse` does."""
        try:
            await check_json_complexity(body)
            if len(body) <= _PIECE:
                found = _object_decoder.decode(body)
            else:
                found = await self.offload.run_in_thread(len(body), partial(_object_decoder.decode, body))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise failure(Code.BAD_USER_INPUT, f"the body is not a JSON object: {_reason(error)}", 400) from None
        if found is None:
            raise failure(Code.BAD_USER_INPUT, "the body is not a JSON object: null", 400)
        return found

    async def parse_checked(self, body: bytes | msgspec.Raw) -> GraphQLRequest:
        """Parses a body that has already passed the JSON complexity check."""
        if len(body) <= _PIECE:
            return _parse(body, self.document_bytes)
        return await self.offload.run_in_thread(len(body), partial(_parse, body, self.document_bytes))


def _parse(body: bytes | msgspec.Raw, document_bytes: int) -> GraphQLRequest:
    try:
        found = _body_decoder.decode(body)
        if len(found.query) > _MAX_BYTES_PER_CHARACTER * document_bytes + 2:
            raise failed_by(LimitExceeded("document bytes", len(found.query) - 2, document_bytes), "")
        query = _text_decoder.decode(found.query)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise _malformed(bytes(body), error) from None
    return GraphQLRequest(query, found.operation_name, found.variables, found.extensions, found.document_id, len(body))


async def parse_query_string(raw: bytes) -> GraphQLRequest:
    """Raises RequestFailed with 400 or 413."""
    try:
        fields = parse_qs(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
        pick = {name: values[0] for name, values in fields.items() if len(values) == 1}
        return GraphQLRequest(
            pick.get("query"),
            pick.get("operationName") or None,
            await _json_parameter(pick, "variables"),
            await _json_parameter(pick, "extensions"),
            pick.get("documentId"),
        )
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise failure(Code.BAD_USER_INPUT, f"the query string cannot be read: {_reason(error)}", 400) from None


async def _json_parameter(fields: Mapping[str, str], name: str) -> dict[str, object] | None:
    text = fields.get(name)
    if not text:
        return None
    raw = text.encode()
    await check_json_complexity(raw)
    return _object_decoder.decode(raw)


class JsonComplexity:
    """Counts what a JSON text, given in pieces, will become: the values outside its strings, and the strings that take much
    space. The time is proportional to the length of the text, whatever its content."""

    def __init__(self) -> None:
        self.values = 0
        self.objects = 0
        self.wide_bytes = 0
        self._quotes = 0
        self._digits = 0
        self._escapes = 0
        self._in_string = False
        self._escape = b""
        self._string_bytes = 0
        self._is_wide = False

    def add(self, piece: bytes) -> None:
        """Raises LimitExceeded, and ValueError if the text is no JSON. If a number is cut into two pieces, the pieces are
        counted separately."""
        text, plain = self._without_escaped_quotes(piece)
        parts = text.split(b'"')
        outside = b'"'.join(parts[self._in_string :: 2])
        self.objects += outside.count(b"{")
        self.values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        _within("JSON objects", self.objects, MAX_JSON_OBJECTS)
        _within("JSON values", self.values, MAX_JSON_VALUES)
        self._count_digits(outside)
        self._quotes += len(parts) - 1
        if self._quotes > _MAX_QUOTES_PER_VALUE * (self.values + 1):
            raise ValueError("there is no separator between two strings")
        self._weigh(parts[not self._in_string :: 2], all_plain=plain)
        self._in_string ^= len(parts) % 2 == 0

    def _without_escaped_quotes(self, piece: bytes) -> tuple[bytes, bool]:
        """Returns a text of the same length, and whether all of it is plain."""
        escapes = piece.count(b"\\")
        if not escapes and not self._escape:
            return piece, piece.isascii()
        self._escapes += escapes
        _within("escapes in JSON", self._escapes, MAX_ESCAPES)
        text = (self._escape + piece).replace(b"\\\\", b"//").replace(b'\\"', b"//")
        cut = _CUT_ESCAPE.search(text, max(0, len(text) - _MAX_CUT_ESCAPE_LENGTH))
        self._escape = b"" if cut is None else cut[0]
        text = text if cut is None else text[: cut.start()]
        return text, _is_plain(text)

    def _weigh(self, strings: list[bytes], *, all_plain: bool) -> None:
        """`strings` belong to one piece. The first may be the rest of a string that began in an earlier piece."""
        if all_plain and len(strings) > 1:
            strings = [strings[0], strings[-1]]
        for place, string in enumerate(strings):
            if place or not self._in_string:
                self._string_bytes, self._is_wide = 0, False
            self._string_bytes += len(string)
            if self._is_wide:
                self.wide_bytes += len(string)
            elif not (all_plain or _is_plain(string)):
                self._is_wide = True
                self.wide_bytes += self._string_bytes
        _within("bytes of text beyond ASCII", self.wide_bytes, MAX_WIDE_BYTES)

    def _count_digits(self, outside: bytes) -> None:
        alike = outside.translate(_ALL_DIGITS_ALIKE)
        self._digits += alike.count(b"0")
        if _TOO_LONG in alike:
            raise LimitExceeded("digits of a number", max(map(len, _NUMBER.findall(alike))), MAX_DIGITS)
        _within("digits of all numbers", self._digits, MAX_TOTAL_DIGITS)


def _is_plain(text: bytes) -> bool:
    """Whether the text is ASCII, also after its escapes are decoded."""
    return text.isascii() and not (b"\\u" in text and _WIDE_ESCAPE.search(text))


def _within(limit: str, had: int, allowed: int) -> None:
    if had > allowed:
        raise LimitExceeded(limit, had, allowed)


async def check_json_complexity(raw: bytes) -> None:
    """Checks piece by piece; other tasks can run in between. Raises RequestFailed, and ValueError if the text is no JSON."""
    if len(raw) <= MAX_JSON_OBJECTS:
        return
    form = JsonComplexity()
    try:
        for start in range(0, len(raw), _PIECE):
            form.add(raw[start : start + _PIECE])
            await asyncio.sleep(0)
    except LimitExceeded as error:
        raise _refused(error) from None


class Malformed(RequestFailed):
    """The body is not a GraphQL request."""

    def __init__(self, message: str) -> None:
        super().__init__([Description(Code.BAD_USER_INPUT, message, 400).formatted()], 400)


def _malformed(body: bytes, error: Exception) -> Malformed:
    if body.lstrip()[:1] == b"[":
        return Malformed("the body is a list; send one operation a request")
    return Malformed(f"the body is not a GraphQL request in JSON: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return str(error)
