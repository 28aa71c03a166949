"""From the bytes of a request to one GraphQL request. Strict: UTF-8, finite numbers, one object, no batch.

The limit holds while reading, so a body that is too large is never kept; what is being read and used is bounded over the whole
process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import parse_qs

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.errors import LimitExceeded
from app.graphql.errors import Code, Description, RequestFailed, failed_by, failure
from app.web.load import Capacity

MOST_JSON_VALUES = 250_000
_MOST_BYTES_A_CHARACTER = 6
_PIECE = 64 * 1024


class _Body(msgspec.Struct, rename="camel"):
    """`query` stays as it came until its length is known to be good."""

    query: msgspec.Raw = msgspec.Raw(b"null")
    operation_name: str | None = None
    variables: dict[str, object] | None = None
    extensions: dict[str, object] | None = None
    document_id: str | None = None


_body_decoder = msgspec.json.Decoder(_Body)
_text_decoder = msgspec.json.Decoder(str | None)
_object_decoder = msgspec.json.Decoder(dict[str, object] | None)


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """`size` is the number of bytes it came in."""

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
    """Reads a body of at most `limit` bytes within `timeout`; its bytes count against `capacity` until the block ends."""

    limit: int
    capacity: Capacity
    timeout: timedelta

    @asynccontextmanager
    async def read(self, receive: Receive, announced: int | None) -> AsyncIterator[bytes]:
        """Raises RequestFailed (413, 408), Overloaded, ClientDisconnect."""
        if announced is not None and announced > self.limit:
            raise body_too_large(announced, self.limit)
        held = [0]
        try:
            try:
                async with asyncio.timeout(self.timeout.total_seconds()):
                    body = await self._collect(receive, held)
            except LimitExceeded as error:
                raise _refused(error) from None
            except TimeoutError as error:
                raise failure(Code.TIMEOUT, "the body did not arrive in time", 408) from error
            yield body
        finally:
            self.capacity.give_back(held[0])

    async def _collect(self, receive: Receive, held: list[int]) -> bytes:
        chunks: list[bytes] = []
        separators, counted, values = 0, 0, JsonValues()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            if held[0] + len(chunk) > self.limit:
                raise body_too_large(held[0] + len(chunk), self.limit)
            self.capacity.take(len(chunk))
            held[0] += len(chunk)
            chunks.append(chunk)
            if held[0] > MOST_JSON_VALUES:
                separators += _separators(chunk)
            if separators > MOST_JSON_VALUES:
                await values.add(chunks[counted:])
                counted = len(chunks)
            if not message.get("more_body", False):
                return b"".join(chunks)


def parse_body(body: bytes, document_bytes: int) -> GraphQLRequest:
    """Raises RequestFailed with 400 for anything that is not one JSON object with fields of the right kinds, and for a document
    so long that it need not be unescaped to see that it passes the limit of `document_bytes`."""
    try:
        found = _body_decoder.decode(body)
        if len(found.query) > _MOST_BYTES_A_CHARACTER * document_bytes + 2:
            raise failed_by(LimitExceeded("document bytes", len(found.query) - 2, document_bytes), "")
        query = _text_decoder.decode(found.query)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise _malformed(body, error) from None
    return GraphQLRequest(query, found.operation_name, found.variables, found.extensions, found.document_id, len(body))


def parse_query_string(raw: bytes) -> GraphQLRequest:
    try:
        fields = parse_qs(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
        pick = {name: values[0] for name, values in fields.items() if len(values) == 1}
        return GraphQLRequest(
            pick.get("query"),
            pick.get("operationName") or None,
            _json_parameter(pick, "variables"),
            _json_parameter(pick, "extensions"),
            pick.get("documentId"),
        )
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise failure(Code.BAD_USER_INPUT, f"the query string cannot be read: {_reason(error)}", 400) from None


def _json_parameter(fields: Mapping[str, str], name: str) -> dict[str, object] | None:
    text = fields.get(name)
    return _object_decoder.decode(text) if text else None


class JsonValues:
    """Counts the values of a JSON text that is given piece by piece: a few bytes make an object of a few hundred, so what a text
    may unfold to is bounded before it is decoded. What stands within its strings is no value."""

    def __init__(self) -> None:
        self._count = 0
        self._in_string = False
        self._escape = b""

    async def add(self, pieces: Iterable[bytes]) -> None:
        """Others have their turn after each. Raises LimitExceeded."""
        for piece in pieces:
            self._add(piece)
            if self._count > MOST_JSON_VALUES:
                raise LimitExceeded("JSON values", self._count, MOST_JSON_VALUES)
            await asyncio.sleep(0)

    def _add(self, piece: bytes) -> None:
        text = (self._escape + piece).replace(b"\\\\", b"")
        self._escape = b"\\" if text.endswith(b"\\") else b""
        parts = text.removesuffix(b"\\").replace(b'\\"', b"").split(b'"')
        self._count += _separators(b"".join(parts[self._in_string :: 2]))
        self._in_string ^= len(parts) % 2 == 0


def _separators(text: bytes) -> int:
    """About as many as values, or more where they stand in strings."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


async def check_values(text: str) -> None:
    """Raises LimitExceeded where a text has too many values."""
    if len(text) <= MOST_JSON_VALUES:
        return
    raw = text.encode()
    if _separators(raw) > MOST_JSON_VALUES:
        await JsonValues().add(raw[start : start + _PIECE] for start in range(0, len(raw), _PIECE))


class Malformed(RequestFailed):
    """Not a GraphQL request at all."""

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
