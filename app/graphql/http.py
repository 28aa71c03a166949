"""GraphQL over HTTP (the 2025 draft), as one plain ASGI application.

The order of the checks protects the server. Method, media type, key and load are checked before a byte of the body is read. A
place among the calls is taken only when the whole body has arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from graphql import OperationType
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.domain.errors import DeadlineExceeded, LimitExceeded
from app.graphql.accept import MediaType, is_named, negotiate
from app.graphql.body import BodyReader, GraphQLRequest, parse_query_string
from app.graphql.console import ConsolePage
from app.graphql.engine import Caller, Payload, Prepared
from app.graphql.errors import Code, RequestFailed, failed_by, failure
from app.graphql.operations import Operations, holder_of
from app.graphql.sse import EventStream, Streamer
from app.web.access_log import OPERATION
from app.web.misuse import Door, Origin
from app.web.protocols import KNOWN, extension
from app.web.request_ids import request_id_of

Header: TypeAlias = tuple[bytes, bytes]

STREAM_HINT = "subscriptions are streams: use a WebSocket with graphql-transport-ws, or Accept: text/event-stream"


class HeaderView(Mapping[str, str]):
    """The request's headers by lower-case name, without a copy. The values of a repeated header are joined with commas."""

    def __init__(self, raw: list[Header]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        wanted = name.encode("latin-1")
        values = [value for key, value in self._raw if key == wanted]
        if not values:
            raise KeyError(name)
        return b", ".join(values).decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (key.decode("latin-1") for key, _ in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


@dataclass(frozen=True, slots=True)
class _Streamed:
    """A subscription of a caller that also accepts events, but does not prefer them."""

    prepared: Prepared
    caller: Caller


class GraphQLEndpoint:
    """`/graphql`: the console page for a browser if the page is enabled, operations for every other caller."""

    def __init__(self, operations: Operations, bodies: BodyReader, console: ConsolePage | None) -> None:
        self._engine = operations.engine
        self._authenticate = operations.authenticate
        self._bodies_received = operations.bodies
        self._calls = operations.calls
        self._body_bytes = operations.body_bytes
        self._connections = operations.connections
        self._streamer = Streamer(operations)
        self._clock = operations.clock
        self._parser = operations.parser
        self._misuse = operations.misuse
        self._bodies = bodies
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = HeaderView(scope["headers"])
        accepted = negotiate(headers.get("accept"), html=self._console is not None and scope["method"] == "GET")
        media = accepted or MediaType.JSON
        try:
            self._check_method(scope["method"])
            if media is MediaType.HTML and self._console is not None:
                await self._console(scope, receive, send)
                return
            if accepted is None:
                names = f"{MediaType.RESPONSE_JSON}, {MediaType.JSON} or, for streams, {MediaType.EVENT_STREAM}"
                raise failure(Code.NOT_ACCEPTABLE, f"available media types: {names}", 406)
            if media is MediaType.EVENT_STREAM:
                await self._stream(scope, headers, receive, send, None)
                return
            payload = await self._answer(scope, headers, receive)
            if isinstance(payload, _Streamed):
                await self._stream(scope, headers, receive, send, payload)
                return
        except ClientDisconnect:
            return
        except RequestFailed as failed:
            await _send_failure(send, failed, media)
        except Exception as error:  # noqa: BLE001 (every surprise becomes one masked sentence and a log entry)
            self._misuse.note(error, Origin(Door.HTTP, scope))
            await _send_failure(send, failed_by(error, request_id_of(scope)), media)
        else:
            await send_json(send, 200, payload, media)

    async def _answer(self, scope: Scope, headers: HeaderView, receive: Receive) -> Payload | _Streamed:
        caller = await self._caller(scope, headers)
        places = self._calls.of(holder_of(caller.principal))
        places.check_one()
        async with self._request(scope, headers, receive, caller) as request:
            with places.one():
                prepared = await self._engine.prepare(request, caller)
                scope["state"][OPERATION] = prepared.operation.name
                streamed = prepared.operation.kind is OperationType.SUBSCRIPTION
                if streamed and not is_named(MediaType.EVENT_STREAM, headers.get("accept")):
                    raise failure(Code.NOT_ACCEPTABLE, STREAM_HINT, 406)
                check_method_of(prepared, scope["method"])
                if streamed:
                    return _Streamed(prepared, caller)
                try:
                    return await self._engine.execute(prepared, caller)
                except asyncio.CancelledError:  # the server cancels calls at the end of its grace period
                    raise failed_by(DeadlineExceeded("the server stopped before the operation ended"), "") from None

    async def _stream(self, scope: Scope, headers: HeaderView, receive: Receive, send: Send, streamed: _Streamed | None) -> None:
        """`streamed` is the request if it was already read, else None."""
        caller = streamed.caller if streamed else await self._caller(scope, headers)
        stream = EventStream(scope, receive, send, caller, headers=headers, clock=self._clock)
        try:
            prepared = streamed.prepared if streamed else await self._prepared(scope, headers, receive, caller)
            with self._body_bytes.of(holder_of(caller.principal)).held(prepared.request.size):
                await stream.run(prepared, self._streamer, self._connections)
        except LimitExceeded as error:
            text, had, allowed = str(error), error.had, error.allowed
            raise failure(Code.LIMIT_EXCEEDED, text, 429, limit=error.limit, had=had, allowed=allowed) from None
        except RequestFailed as failed:
            if not failed.in_document:
                raise
            await stream.refuse(failed)

    async def _caller(self, scope: Scope, headers: HeaderView) -> Caller:
        caller = Caller(await self._authenticate(headers), request_id_of(scope), Origin(Door.HTTP, scope))
        extension(scope, KNOWN)(holder_of(caller.principal))
        return caller

    async def _prepared(self, scope: Scope, headers: HeaderView, receive: Receive, caller: Caller) -> Prepared:
        async with self._request(scope, headers, receive, caller) as request:
            prepared = await self._engine.prepare(request, caller)
            scope["state"][OPERATION] = prepared.operation.name
            check_method_of(prepared, scope["method"])
            return prepared

    @asynccontextmanager
    async def _request(
        self, scope: Scope, headers: HeaderView, receive: Receive, caller: Caller
    ) -> AsyncIterator[GraphQLRequest]:
        """The request's bytes count as in flight until the block ends."""
        if scope["method"] == "GET":
            yield await parse_query_string(scope["query_string"])
            return
        check_content_type(headers.get("content-type"))
        holder = holder_of(caller.principal)
        places, byte_share = self._bodies_received.of(holder), self._body_bytes.of(holder)
        async with self._bodies.read(receive, announced_length(headers), places, byte_share) as body:
            yield await self._parser.parse(body)

    def _check_method(self, method: str) -> None:
        if method not in {"GET", "POST"}:
            failed = failure(Code.METHOD_NOT_ALLOWED, f"{method} is not allowed here: use POST or GET", 405)
            failed.headers = ((b"allow", b"GET, POST"),)
            raise failed


def check_method_of(prepared: Prepared, method: str) -> None:
    """Others on the network path may repeat or prefetch a GET, so a GET never changes or spends anything."""
    if method == "GET" and not prepared.operation.may_be_read_by_get:
        failed = failure(Code.METHOD_NOT_ALLOWED, "this operation spends or changes something: use POST", 405)
        failed.headers = ((b"allow", b"POST"),)
        raise failed


def check_content_type(content_type: str | None) -> None:
    """Accepts only `application/json` in UTF-8. So a form of another site cannot send a request."""
    name, *parameters = (part.strip().lower() for part in (content_type or "").split(";"))
    charsets = [part.removeprefix("charset=").strip('"') for part in parameters if part.startswith("charset=")]
    if name != MediaType.JSON or charsets not in ([], ["utf-8"]):
        raise failure(Code.UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json in UTF-8", 415)


def announced_length(headers: HeaderView) -> int | None:
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None


async def send_json(send: Send, status: int, payload: object, media: MediaType, headers: tuple[Header, ...] = ()) -> None:
    body = msgspec.json.encode(payload)
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", f"{media.value}; charset=utf-8".encode()),
                (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"no-store"),
                (b"vary", b"accept"),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _send_failure(send: Send, failed: RequestFailed, media: MediaType) -> None:
    """`application/json` answers with 200 if the error is inside the document. Every other failure keeps its status."""
    shown = media if media is MediaType.RESPONSE_JSON else MediaType.JSON
    status = 200 if failed.in_document and shown is MediaType.JSON else failed.status
    await send_json(send, status, failed.payload, shown, failed.headers)
