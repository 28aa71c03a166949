"""What every door does before and after its own work: the key, the body and a place among the calls, under the limits that
GraphQL has too, and failures in the door's form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from app.access.principal import Principal
from app.access.principal import Scope as AccessScope
from app.db.own_writes import CALLER, Caller
from app.domain.errors import DeadlineExceeded, Forbidden
from app.doors.failures import Failure, failure_of
from app.doors.headers import with_bearer
from app.graphql.body import BodyReader
from app.graphql.http import Header, HeaderView, announced_length, check_content_type
from app.graphql.operations import Operations, holder_of
from app.web.misuse import Door, Origin
from app.web.protocols import KNOWN, extension
from app.web.request_ids import request_id_of


@dataclass(frozen=True, slots=True)
class Answer:
    payload: object
    headers: list[Header]


@dataclass(frozen=True, slots=True)
class Entrance:
    operations: Operations
    bodies: BodyReader
    door: Door

    async def principal(self, scope: Scope, headers: Mapping[str, str]) -> Principal:
        """Raises Unauthenticated, StoreUnavailable, Overloaded; Forbidden if the key may not ask models."""
        principal = await self.operations.authenticate(with_bearer(headers))
        extension(scope, KNOWN)(holder_of(principal))
        if not principal.may(AccessScope.COMPLETIONS):
            raise Forbidden("the key needs the scope COMPLETIONS")
        CALLER.set(Caller(str(principal.key_id), principal.may_write))
        return principal

    @asynccontextmanager
    async def call(
        self, scope: Scope, headers: HeaderView, receive: Receive
    ) -> AsyncIterator[tuple[Principal, dict[str, object]]]:
        """Yields the caller and the object in the body, and holds a place among the calls until the block ends."""
        principal = await self.principal(scope, headers)
        check_content_type(headers.get("content-type"))
        operations, holder = self.operations, holder_of(principal)
        places = operations.calls.of(holder)
        places.check_one()
        shares = operations.bodies.of(holder), operations.body_bytes.of(holder)
        async with self.bodies.read(receive, announced_length(headers), *shares) as body:
            asked = await operations.parser.parse_object(body)
            with places.one():
                yield principal, asked

    async def answer(
        self, scope: Scope, send: Send, work: Callable[[Send], Awaitable[Answer | None]], write: Callable[[Failure], object]
    ) -> None:
        """Sends what `work` returns; None if it has sent its answer itself. A failure is written by `write`. If something was
        sent before it, the answer stays incomplete, and the connection is closed."""
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        async def refuse(failure: Failure) -> None:
            if not begun:
                await send_answer(send, failure.status, write(failure), failure.headers)

        try:
            found = await work(sending)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            await refuse(failure_of(DeadlineExceeded("The server stopped before the call ended."), ""))
            raise
        except Exception as error:  # noqa: BLE001 (every surprise becomes one masked sentence and a log entry)
            self.operations.misuse.note(error, Origin(self.door, scope))
            await refuse(failure_of(error, request_id_of(scope)))
            return
        if found is not None:
            await send_answer(send, 200, found.payload, found.headers)


async def send_answer(send: Send, status: int, payload: object, headers: list[Header]) -> None:
    body = msgspec.json.encode(payload)
    length = str(len(body)).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", length), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
