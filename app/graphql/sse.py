"""Streams as server-sent events, one connection per operation (graphql-sse, distinct connections mode).

A task watches whether the client leaves and then cancels the stream itself. So nothing continues for a client that has gone,
not even a source that never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager, nullcontext

import msgspec
from graphql import OperationType
from starlette.types import Receive, Scope, Send

from app.access.principal import Principal
from app.domain.errors import Overloaded
from app.graphql.connections import Connections, Ending
from app.graphql.engine import Caller, Prepared, Run
from app.graphql.errors import Code, RequestFailed, failed_by, failure
from app.graphql.operations import Operations, holder_of
from app.runtime.clock import Clock
from app.web.protocols import ABORT, LAST_REQUEST, extension

_MAX_WAITING = 256
_COMPLETE = b"event: complete\ndata:\n\n"
_PING = b":\n\n"


class _Queue:
    """A member's queue in a broadcast. If the client falls behind, the stream ends."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[str | None] = asyncio.Queue()
        self._failed: RequestFailed | None = None
        self._ended = False

    async def deliver(self, payload: str) -> None:
        if self._ended:
            return
        if self._waiting.qsize() >= _MAX_WAITING:
            self.finish(failed_by(Overloaded(1000), ""))
        else:
            self._waiting.put_nowait(payload)

    def finish(self, failed: RequestFailed | None) -> None:
        if not self._ended:
            self._ended = True
            self._failed = failed
            self._waiting.put_nowait(None)

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        while (payload := await self._waiting.get()) is not None:
            yield payload
        if self._failed is not None:
            raise self._failed


def encode(payload: object) -> str:
    return msgspec.json.encode(payload).decode()


class EventStream:
    """One operation's answer as a stream. It is a Connection while it is open."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, *, headers: Mapping[str, str], clock: Clock
    ) -> None:
        self.principal: Principal = caller.principal
        self.credentials: Mapping[str, str] = {"authorization": headers.get("authorization", "")}
        self._caller = caller
        self._receive = receive
        self._send_message = send
        self._abort = extension(scope, ABORT)
        self._claim_last_request = extension(scope, LAST_REQUEST)
        self._clock = clock
        self._sending_since: float | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._ending: Ending | None = None
        self._completed = False
        self._answers_once = False
        self._pings: set[asyncio.Task[None]] = set()

    def end(self, ending: Ending) -> None:
        if ending is Ending.STOPPING and self._answers_once:
            return
        self._ending = ending
        if self._pumping is not None:
            self._pumping.cancel()

    def sending_since(self) -> float | None:
        return self._sending_since

    def ping(self) -> None:
        if self._sending_since is None:
            task = asyncio.create_task(self._send(_PING))
            self._pings.add(task)
            task.add_done_callback(self._pings.discard)

    async def run(self, prepared: Prepared, streamer: Streamer, connections: Connections) -> None:
        """Sends every result as an event until the source or the client ends it. Raises RequestFailed, LimitExceeded and
        Overloaded before anything is sent."""
        self._answers_once = prepared.operation.kind is not OperationType.SUBSCRIPTION
        with connections.joined(self), nullcontext() if self._answers_once else connections.subscribed():
            if not self._claim_last_request():
                raise failure(Code.BAD_USER_INPUT, "a request that is answered by a stream is the last of its connection", 400)
            async with streamer.open(prepared, self._caller) as texts:
                await self._start()
                await self._until_one_ends(asyncio.create_task(self._pump(texts)), asyncio.create_task(self._watch()))
        await self._close()

    async def refuse(self, failed: RequestFailed) -> None:
        """Sends an error in the document as an event, as the protocol requires."""
        await self._start()
        await self._send(_event(encode(failed.payload)) + _COMPLETE)
        await self._close()

    async def _until_one_ends(self, pump: asyncio.Task[None], watcher: asyncio.Task[None]) -> None:
        self._pumping = pump
        if self._ending is not None:
            pump.cancel()
        try:
            await asyncio.wait((pump, watcher), return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = (pump, watcher, *self._pings)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self) -> None:
        if self._ending is Ending.NOT_READING:
            self._abort()
            await asyncio.sleep(0)  # lets the server notice
            return
        if self._ending is Ending.KEY_GONE and not self._completed:
            failed = failure(Code.UNAUTHENTICATED, Ending.KEY_GONE.value, 401)
            await self._send(_event(encode(failed.payload)) + _COMPLETE)
        await self._send_message({"type": "http.response.body", "body": b""})

    async def _start(self) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            (b"vary", b"accept"),
        ]
        await self._send_message({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(_PING)

    async def _pump(self, texts: AsyncIterator[str]) -> None:
        try:
            async for text in texts:
                await self._send(_event(text))
                await asyncio.sleep(0)
        except RequestFailed as failed:
            await self._send(_event(encode(failed.payload)))
        await self._send(_COMPLETE)
        self._completed = True

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _send(self, body: bytes) -> None:
        self._sending_since = self._clock.monotonic()
        await self._send_message({"type": "http.response.body", "body": body, "more_body": True})
        self._sending_since = None


def _event(text: str) -> bytes:
    return f"event: next\ndata: {text}\n\n".encode()


class Streamer:
    """Turns a prepared operation into its texts. They are shared if its field is broadcast."""

    def __init__(self, operations: Operations) -> None:
        self._engine = operations.engine
        self._broadcasts = operations.broadcasts
        self._calls = operations.calls

    @asynccontextmanager
    async def open(self, prepared: Prepared, caller: Caller) -> AsyncIterator[AsyncIterator[str]]:
        """The source is open inside the block and closed after it. Raises RequestFailed, Overloaded."""
        if prepared.operation.kind is not OperationType.SUBSCRIPTION:
            with ExitStack() as slot:
                slot.enter_context(self._calls.of(holder_of(caller.principal)).one())
                run = await self._engine.admit_operation(prepared, caller)
                yield self._result(run, prepared, caller, slot)
            return
        run = await self._engine.admit_operation(prepared, caller)
        if prepared.audience is None:
            async with aclosing(await self._engine.subscribe(run, caller)) as payloads:
                yield (encode(payload) async for payload in payloads)
            return
        queue = _Queue()
        subject = await self._broadcasts.join(queue, prepared, run, caller)
        try:
            yield aiter(queue)
        finally:
            self._broadcasts.leave(queue, subject)

    async def _result(self, run: Run, prepared: Prepared, caller: Caller, slot: ExitStack) -> AsyncGenerator[str, None]:
        """Yields the one result. The call's `slot` is free before it is sent."""
        try:
            payload = await self._engine.execute_admitted(run, prepared, caller)
        except RequestFailed:
            raise
        except Exception as error:  # noqa: BLE001 (every surprise becomes one masked sentence and a log entry)
            raise failed_by(error, caller.request_id) from None
        slot.close()
        yield encode(payload)
