"""Operations over one WebSocket (graphql-transport-ws).

If an operation fails, the client gets an `error` message and the others continue. The socket is closed only if the client
breaks the protocol or its key is no longer valid. Frames go out through one bounded outbox, flushed by at most one task at a
time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing
from functools import partial
from typing import TypeAlias

import msgspec
from graphql import OperationType
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from app.access.principal import Principal
from app.domain.errors import ForeignOrigin, GreenLangError, LimitExceeded, Overloaded, StoreUnavailable, Unauthenticated
from app.graphql.body import GraphQLRequest, Malformed, check_json_complexity
from app.graphql.broadcast import Subject
from app.graphql.connections import Ending
from app.graphql.engine import Caller, Prepared, Run
from app.graphql.errors import RequestFailed, failed_by
from app.graphql.frames import Frame, ProtocolBroken, decode_frame, fields_of, id_of, pong_to, read_frame, read_head
from app.graphql.operations import Operations, holder_of
from app.web.misuse import Door, Origin
from app.web.protocols import ABORT, HAS_ROOM, RELEASE, TRUST, UTF8, extension
from app.web.request_ids import request_id_of

Parse: TypeAlias = Callable[[msgspec.Raw], Awaitable[GraphQLRequest]]

SUBPROTOCOL = "graphql-transport-ws"
_MAX_WAITING = 256
_WAIT_ABOVE = 8
_WITHOUT_PAUSE = 16
"""A stream may send this many events in a row without waiting. Then other streams get their turn."""
_SILENT_PINGS = 3
_ACK = '{"type":"connection_ack"}'
_PING = '{"type":"ping"}'


class _Member:
    """One operation's part in a broadcast."""

    def __init__(self, session: _Session, id_: str) -> None:
        self._session = session
        self._id = id_
        self._head = next_head(id_)

    async def deliver(self, payload: str) -> None:
        if not await self._session.send_now(self._head, payload):
            self._session.fail(self._id, failed_by(Overloaded(1000), ""))

    def finish(self, failed: RequestFailed | None) -> None:
        if failed is None:
            self._session.finish_operation(self._id)
        else:
            self._session.fail(self._id, failed)


def next_head(id_: str) -> str:
    return f'{{"id":{_text(id_)},"type":"next","payload":'


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


class _Operation:
    """A running operation: its task, or the broadcast that it has joined, with the bytes of its request."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.membership: tuple[_Member, Subject] | None = None
        self.kept = ExitStack()
        self.is_subscription = False


class _Session:
    """A socket whose key has been checked. It is a Connection until it closes."""

    def __init__(
        self, operations: Operations, scope: Scope, send: Send, principal: Principal, credentials: Mapping[str, str]
    ) -> None:
        self.principal = principal
        self._holder = holder_of(principal)
        self.credentials = credentials
        self.ending: Ending | None = None
        self.gone = False
        self._reader: asyncio.Task[object] | None = None
        self._operations = operations
        self._engine = operations.engine
        self._request_id = request_id_of(scope)
        self._origin = Origin(Door.WEBSOCKET, scope)
        self._send_message = send
        self._has_room = extension(scope, HAS_ROOM)
        self._running: dict[str, _Operation] = {}
        self._outbox: deque[tuple[str, str]] = deque()
        self._room = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self._sending_since: float | None = None
        self._unanswered_pings = 0

    # ------------------------------------------------------------------ as a Connection
    def end(self, ending: Ending) -> None:
        self.ending = self.ending or ending
        if ending is Ending.STOPPING:
            self._stop_when_idle()
        elif self._reader is not None:
            self._reader.cancel()

    def _stop_when_idle(self) -> None:
        """Ends the subscriptions, and the socket when the other operations are answered and their answers are sent."""
        for id_ in [id_ for id_, operation in self._running.items() if operation.is_subscription]:
            self._forget(id_)
        if not self._running and self._flusher is None and self._reader is not None:
            self._reader.cancel()

    def sending_since(self) -> float | None:
        return self._sending_since

    def ping(self) -> None:
        if self._unanswered_pings >= _SILENT_PINGS:
            self.end(Ending.SILENT)
        self._unanswered_pings += 1
        self.post(_PING, "")

    async def read(self, receive: Receive) -> ProtocolBroken | None:
        """Handles what the client sends. Returns why the socket is to be closed, None if the client has closed it."""
        self._reader = asyncio.current_task()
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                self._unanswered_pings = 0
                if UTF8 in message:
                    try:
                        await self._take_large(message[UTF8])
                    finally:
                        message[RELEASE]()
                else:
                    await self._take(read_frame(message), self._parse)
                del message  # otherwise the last frame stays in memory while the socket is quiet
        except ProtocolBroken as broken:
            return broken
        except asyncio.CancelledError:
            if self.ending is None or self._reader is None:
                raise
            self._reader.uncancel()
            return ProtocolBroken(1012 if self.ending is Ending.STOPPING else 4403, self.ending.value)
        finally:
            self._reader = None
        return None

    async def _take_large(self, raw: bytes) -> None:
        """Checks the JSON complexity of a large frame first, then parses it in a thread."""
        try:
            await check_json_complexity(raw)
            frame = await self._operations.offload.run_in_thread(len(raw), partial(decode_frame, raw))
            await self._take(frame, self._operations.parser.parse_checked)
        except RequestFailed as failed:
            head = read_head(raw)
            await self._until_room(_MAX_WAITING)
            self._begin(id_of(head))
            self.fail(id_of(head), failed)
        except ValueError:
            raise ProtocolBroken(4400, "Invalid message received") from None

    async def _take(self, frame: Frame, parse: Parse) -> None:
        match frame.type:
            case "subscribe":
                await self._until_room(_MAX_WAITING)
                await self.subscribe(frame, parse)
            case "complete":
                self._forget(id_of(frame))
            case "ping":
                if not self.post(pong_to(frame), ""):
                    raise ProtocolBroken(4429, "too many pings")
            case "pong":
                pass
            case "connection_init":
                raise ProtocolBroken(4429, "Too many initialisation requests")
            case _:
                raise ProtocolBroken(4400, "unknown message type")

    # ------------------------------------------------------------------ sending
    def post(self, head: str, payload: str) -> bool:
        """Queues a frame; its head and payload are joined only when it is sent. Returns False if the reader is too far behind."""
        if len(self._outbox) >= _MAX_WAITING:
            return False
        self._put(head, payload)
        return True

    async def send_now(self, head: str, payload: str) -> bool:
        """Sends an event as `post` does, without waiting for the reader. Needs no task if the transport can take the frame
        now."""
        if self._flusher is not None or self.gone or not self._has_room():
            return self.post(head, payload)
        try:
            await self._send_message({"type": "websocket.send", "text": f"{head}{payload}}}"})
        except Exception:  # noqa: BLE001 (a send to a client that has gone; receive says so too)
            self.gone = True
        return True

    def _put(self, head: str, payload: str) -> None:
        if self.gone:
            return
        self._outbox.append((head, payload))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())

    async def _send(self, head: str, payload: str) -> None:
        """Sends a frame. If the transport cannot take it now, queues it and waits until the reader has caught up."""
        if self._flusher is None and self._has_room():
            await self.send_now(head, payload)
            return
        self._put(head, payload)
        await self._until_room(_WAIT_ABOVE)

    async def _until_room(self, above: int) -> None:
        """Waits until the reader has caught up, if more than `above` frames are queued."""
        if len(self._outbox) > above:
            while len(self._outbox) > _WAIT_ABOVE:
                self._room.clear()
                await self._room.wait()

    async def _flush(self) -> None:
        now = self._operations.clock.monotonic
        try:
            while self._outbox:
                head, payload = self._outbox.popleft()
                self._sending_since = now()
                await self._send_message({"type": "websocket.send", "text": f"{head}{payload}}}" if payload else head})
                self._sending_since = None
                if len(self._outbox) <= _WAIT_ABOVE:
                    self._room.set()
        except Exception:  # noqa: BLE001 (a send to a client that has gone; receive says so too)
            self.gone = True
            self._outbox.clear()
            self._room.set()
        finally:
            self._flusher = None
            if self.ending is Ending.STOPPING:
                self._stop_when_idle()

    def finish_operation(self, id_: str) -> None:
        """The operation has ended by itself."""
        if self._forget(id_):
            self._put(f'{{"id":{_text(id_)},"type":"complete"}}', "")

    def fail(self, id_: str, failed: RequestFailed) -> None:
        if self._forget(id_):
            self._put(f'{{"id":{_text(id_)},"type":"error","payload":{_text(failed.errors)}}}', "")

    # ------------------------------------------------------------------ operations
    async def subscribe(self, frame: Frame, parse: Parse) -> None:
        id_ = id_of(frame)
        operation = self._begin(id_)
        limits = self._operations.limits
        if self.ending is Ending.STOPPING:
            self.fail(id_, failed_by(Overloaded(1000), ""))
            return
        try:
            request = await parse(frame.payload)
        except Malformed:
            raise ProtocolBroken(4400, "the payload is not a GraphQL request") from None
        except RequestFailed as failed:
            self.fail(id_, failed)
            return
        allowed = limits.operations_per_socket
        if len(self._running) > allowed:
            self.fail(id_, failed_by(LimitExceeded("operations of one socket", len(self._running), allowed), ""))
            return
        operation.task = asyncio.create_task(self._run(id_, operation, request))

    async def _parse(self, payload: msgspec.Raw) -> GraphQLRequest:
        return await self._operations.parser.parse(bytes(payload))

    def _begin(self, id_: str) -> _Operation:
        """Raises ProtocolBroken if there is an operation with that id."""
        if id_ in self._running:
            raise ProtocolBroken(4409, "Subscriber for this id already exists")
        operation = self._running[id_] = _Operation()
        return operation

    def _forget(self, id_: str) -> bool:
        operation = self._running.pop(id_, None)
        if operation is None:
            return False
        if operation.membership is not None:
            self._operations.broadcasts.leave(*operation.membership)
        operation.kept.close()
        task, operation.task = operation.task, None  # otherwise its traceback keeps it and the request in memory
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        if self.ending is Ending.STOPPING and not operation.is_subscription:
            asyncio.get_running_loop().call_soon(self._stop_when_idle)
        return True

    async def _run(self, id_: str, operation: _Operation, request: GraphQLRequest) -> None:
        caller = Caller(self.principal, self._request_id, self._origin)
        try:
            with ExitStack() as kept:
                kept.enter_context(self._operations.body_bytes.of(self._holder).held(request.size))
                prepared = await self._engine.prepare(request, caller)
                if prepared.operation.kind is not OperationType.SUBSCRIPTION:
                    with self._operations.calls.of(self._holder).one():
                        payload = await self._engine.execute(prepared, caller)
                    await self._send(next_head(id_), _text(payload))
                    self.finish_operation(id_)
                    return
                operation.is_subscription = True
                if self.ending is Ending.STOPPING:
                    self._stop_when_idle()
                    return
                kept.enter_context(self._operations.connections.subscribed())
                run = await self._engine.admit_operation(prepared, caller)
                if prepared.audience is None:
                    await self._stream(id_, run, caller)
                    self.finish_operation(id_)
                else:
                    await self._join(id_, operation, prepared, run, caller)
                    operation.kept = kept.pop_all()
        except RequestFailed as failed:
            self.fail(id_, failed)
        except Exception as error:  # noqa: BLE001 (every surprise becomes one masked sentence and a log entry)
            self.fail(id_, failed_by(error, caller.request_id))

    async def _stream(self, id_: str, run: Run, caller: Caller) -> None:
        head = next_head(id_)
        count = 0
        async with aclosing(await self._engine.subscribe(run, caller)) as events:
            async for payload in events:
                await self._send(head, _text(payload))
                count += 1
                if count % _WITHOUT_PAUSE == 0:
                    await asyncio.sleep(0)

    async def _join(self, id_: str, operation: _Operation, prepared: Prepared, run: Run, caller: Caller) -> None:
        """A member needs no task of its own, because the broadcast posts to the outbox."""
        member = _Member(self, id_)
        subject = await self._operations.broadcasts.join(member, prepared, run, caller)
        operation.membership = (member, subject)
        operation.task = None

    async def close(self) -> None:
        """Ends every operation and releases everything."""
        tasks = [operation.task for operation in self._running.values() if operation.task is not None]
        for id_ in list(self._running):
            self._forget(id_)
        if self._flusher is not None:
            self._flusher.cancel()
            tasks.append(self._flusher)
        await asyncio.gather(*tasks, return_exceptions=True)


class WebSocketEndpoint:
    def __init__(self, operations: Operations, allowed_origins: tuple[str, ...]) -> None:
        self._operations = operations
        self._allowed_origins = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._origin_allowed(headers):
            refusal = ForeignOrigin("pages of this Origin may not connect: see server.allowed_origins")
            self._operations.misuse.note(refusal, Origin(Door.WEBSOCKET, scope))
            await _refusal(failed_by(refusal, ""))(scope, receive, send)
            return
        if SUBPROTOCOL not in scope["subprotocols"]:
            await send({"type": "websocket.accept"})
            await _close(send, 4406, "Subprotocol not acceptable: use graphql-transport-ws")
            return
        session = await self._accept(scope, headers, receive, send)
        if session is not None:
            await self._serve(session, scope, receive, send)

    async def _accept(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> _Session | None:
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        try:
            return await self._initialised(scope, headers, receive, send)
        except ProtocolBroken as broken:
            await _close(send, broken.code, broken.reason)
            return None

    def _origin_allowed(self, headers: Mapping[str, str]) -> bool:
        """Other programs than browsers send no Origin. A browser's must be ours or in the configured list."""
        origin = headers.get("origin")
        return origin is None or origin in self._allowed_origins or origin.partition("://")[2] == headers.get("host")

    async def _initialised(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> _Session | None:
        """Returns the session when the key has been checked; None if the client has gone. Raises ProtocolBroken."""
        try:
            async with asyncio.timeout(self._operations.limits.connection_init_timeout.total_seconds()):
                while True:
                    message = await receive()
                    if message["type"] == "websocket.disconnect":
                        return None
                    frame = read_frame(message)
                    if frame.type == "connection_init":
                        break
                    if frame.type == "ping":
                        await send({"type": "websocket.send", "text": pong_to(frame)})
                    elif frame.type != "pong":
                        raise ProtocolBroken(4401, "Unauthorized")
                credentials = _credentials(headers, fields_of(frame))
                principal = await self._operations.authenticate(credentials)
            byte_share = self._operations.body_bytes.of(holder_of(principal))
            extension(scope, TRUST)(byte_share, self._operations.limits.send_timeout)
        except TimeoutError:
            raise ProtocolBroken(4408, "Connection initialisation timeout") from None
        except Unauthenticated as error:
            self._operations.misuse.note(error, Origin(Door.WEBSOCKET, scope))
            raise ProtocolBroken(4403, "Forbidden: the key is missing, wrong, expired or revoked") from None
        except (Overloaded, StoreUnavailable) as error:
            raise ProtocolBroken(1013, str(error)) from None
        return _Session(self._operations, scope, send, principal, credentials)

    async def _serve(self, session: _Session, scope: Scope, receive: Receive, send: Send) -> None:
        closing: ProtocolBroken | None = None
        try:
            with self._operations.connections.joined(session):
                await send({"type": "websocket.send", "text": _ACK})
                closing = await session.read(receive)
        except LimitExceeded as error:
            closing = ProtocolBroken(4429, str(error))
        except GreenLangError as error:
            closing = ProtocolBroken(1011, type(error).__name__)
        finally:
            await session.close()
        if session.ending is Ending.NOT_READING or session.ending is Ending.SILENT:
            extension(scope, ABORT)()
        elif closing is not None:
            await _close(send, closing.code, closing.reason)


def _credentials(headers: Mapping[str, str], fields: Mapping[str, object]) -> Mapping[str, str]:
    """Returns the key of connection_init, in a field `authorization` in any case; else that of the handshake."""
    given = headers.get("authorization", "")
    for name, value in fields.items():
        if name.lower() == "authorization" and isinstance(value, str):
            given = value
    return {"authorization": given}


def _refusal(failed: RequestFailed) -> JSONResponse:
    """The response that refuses a handshake, before there is a WebSocket."""
    headers = {name.decode("ascii"): value.decode("ascii") for name, value in failed.headers}
    return JSONResponse(failed.payload, failed.status, headers)


async def _close(send: Send, code: int, reason: str) -> None:
    """A reason has at most 123 bytes."""
    await send({"type": "websocket.close", "code": code, "reason": reason[:120]})
