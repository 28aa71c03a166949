"""From the bytes of a request to one GraphQL request. Strict: UTF-8, finite numbers, one object, no batch.

The limit holds while reading, so a body that is too large is never kept; what is being read and used is bounded over the whole
process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import parse_qs

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.errors import LimitExceeded
from app.graphql.errors import Code, RequestFailed, failure
from app.web.load import Capacity

MOST_JSON_VALUES = 1_000_000
_EMPTY: dict[str, object] = {}


class _Body(msgspec.Struct, rename="camel"):
    query: str | None = None
    operation_name: str | None = None
    variables: dict[str, object] | None = None
    extensions: dict[str, object] | None = None
    document_id: str | None = None


_body_decoder = msgspec.json.Decoder(_Body)
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
    error = LimitExceeded("body bytes", had, allowed)
    return failure(Code.LIMIT_EXCEEDED, str(error), 413, limit=error.limit, had=had, allowed=allowed)


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
            except TimeoutError as error:
                raise failure(Code.TIMEOUT, "the body did not arrive in time", 408) from error
            yield body
        finally:
            self.capacity.give_back(held[0])

    async def _collect(self, receive: Receive, held: list[int]) -> bytes:
        chunks: list[bytes] = []
        values = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            if held[0] + len(chunk) > self.limit:
                raise body_too_large(held[0] + len(chunk), self.limit)
            self.capacity.take(len(chunk))
            held[0] += len(chunk)
            if held[0] > MOST_JSON_VALUES:
                values = _counted(chunk, values)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


def parse_body(body: bytes) -> GraphQLRequest:
    """Raises RequestFailed with 400 for anything that is not one JSON object with fields of the right kinds."""
    try:
        found = _body_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise _malformed(body, error) from None
    return _request(found, len(body))


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


def request_from_payload(payload: object, size: int) -> GraphQLRequest:
    """The same from what a WebSocket message of `size` bytes carried; raises ValueError where it is no request."""
    try:
        found = msgspec.convert(payload, _Body)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    return _request(found, size)


def _request(found: _Body, size: int) -> GraphQLRequest:
    return GraphQLRequest(found.query, found.operation_name, found.variables, found.extensions, found.document_id, size)


def _json_parameter(fields: Mapping[str, str], name: str) -> dict[str, object] | None:
    text = fields.get(name)
    return _object_decoder.decode(text) if text else None


def too_many_values(text: str) -> bool:
    """A few bytes make an object of a few hundred: what a text may unfold to is bounded before it is decoded."""
    return len(text) > MOST_JSON_VALUES and text.count(",") + text.count("[") + text.count("{") > MOST_JSON_VALUES


def _counted(chunk: bytes, values: int) -> int:
    """The same while a long body arrives, so that no single step takes long."""
    values += chunk.count(b",") + chunk.count(b"[") + chunk.count(b"{")
    if values > MOST_JSON_VALUES:
        error = LimitExceeded("JSON values", values, MOST_JSON_VALUES)
        raise failure(Code.LIMIT_EXCEEDED, str(error), 413, limit=error.limit, had=values, allowed=MOST_JSON_VALUES)
    return values


def _malformed(body: bytes, error: Exception) -> RequestFailed:
    if body.lstrip()[:1] == b"[":
        return failure(Code.BAD_USER_INPUT, "the body is a list; send one operation a request", 400)
    return failure(Code.BAD_USER_INPUT, f"the body is not a GraphQL request in JSON: {_reason(error)}", 400)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return str(error)
