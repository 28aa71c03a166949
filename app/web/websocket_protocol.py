"""The WebSocket protocol with its limits. Its functions for the application are described in app/web/protocols.py."""

from __future__ import annotations

import asyncio
from asyncio import BaseTransport
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from app.domain.errors import Overloaded
from app.web.capacity import Share
from app.web.connection_places import Membership
from app.web.protocols import ABORT, HAS_ROOM, RELEASE, STALL_SECONDS, TRUST, UTF8
from app.web.refusal import refusal
from app.web.write_deadline import WriteDeadline

_MAX_FRAGMENTS = 10_000
_PIECE = 16 * 1024
MAX_FRAMES_PER_READ = 1_000
LARGE_TEXT_BYTES = 64 * 1024
UNAUTHENTICATED_FRAME_BYTES = 16 * 1024


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class WebSocketProtocol(WebSocketsSansIOProtocol):
    stall_seconds = STALL_SECONDS
    _stall: WriteDeadline
    _membership: Membership
    _capacity: Share | None = None
    _message_seconds = 0.0
    _held = 0
    _fragments = 0
    _message_timer: asyncio.TimerHandle | None = None
    _frames_at_once = 0
    _pong = b""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._stall = WriteDeadline(self.transport, self.stall_seconds)
        self._membership = Membership(self.app_state, self.transport)
        self._handed_over: set[ExitStack] = set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._membership.leave()
        self._stall.end()
        self._capacity, held = None, self._capacity
        self._hold(held, 0)
        super().connection_lost(exc)

    # ------------------------------------------------------------------ a message that is not complete yet
    def data_received(self, data: bytes) -> None:
        """Parses in pieces. One read may hold tens of thousands of frames, and the parser processes everything that it gets."""
        self._frames_at_once = 0
        for start in range(0, len(data), _PIECE):
            self._take(data[start : start + _PIECE])
            if self.transport.is_closing():
                return

    def _take(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self._refuse_handshake()
            return
        try:
            self._hold(self._capacity, self._fragments + len(self.conn.reader.buffer))
        except Overloaded:
            self._break(1013, "too much is being sent at once; try again later")
        if len(self.frames) > _MAX_FRAGMENTS:
            self._break(1009, "too many fragments")

    def handle_events(self) -> None:
        self._frames_at_once += len(self.conn.events)
        if self._frames_at_once > MAX_FRAMES_PER_READ:
            self._break(1008, "too many frames at once")
        else:
            super().handle_events()

    def handle_ping(self) -> None:
        """If a client does not read, only its latest ping is answered, as soon as it reads again."""
        pongs = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif pongs:
            self._pong = pongs[-1]

    def handle_text(self, event: Frame) -> None:
        self._fragments = len(event.data)
        super().handle_text(event)
        event.data = b""  # the parser keeps the frame until the next one

    def handle_bytes(self, event: Frame) -> None:
        self._fragments = len(event.data)
        super().handle_bytes(event)
        event.data = b""

    def handle_cont(self, event: Frame) -> None:
        self._fragments += len(event.data)
        super().handle_cont(event)
        event.data = b""

    def send_receive_event_to_app(self) -> None:
        self._fragments = 0
        self._end_timer()
        if self.curr_msg_data_type != "text" or self.close_sent:
            super().send_receive_event_to_app()
        elif sum(map(len, self.frames)) > LARGE_TEXT_BYTES:
            self._hand_over(b"".join(self.frames))
        elif _is_utf8(b"".join(self.frames)):
            super().send_receive_event_to_app()
        else:
            self._break(1007, "a text that is not UTF-8")

    def _hand_over(self, text: bytes) -> None:
        self.frames = []
        self._hold(self._capacity, 0)
        held = ExitStack()
        if self._capacity is not None:
            try:
                held.enter_context(self._capacity.held(len(text)))
            except Overloaded:
                self._break(1013, "too much is being sent at once; try again later")
                return
        self._handed_over.add(held)
        self.queue.put_nowait(cast("Any", {"type": "websocket.receive", UTF8: text, RELEASE: partial(self._release, held)}))
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _release(self, held: ExitStack) -> None:
        self._handed_over.discard(held)
        held.close()

    def _hold(self, capacity: Share | None, count: int) -> None:
        """Raises Overloaded."""
        if capacity is None:
            return
        if not count:
            self._end_timer()
        elif self._message_timer is None:
            late = partial(self._break, 1008, "a message was not complete in time")
            self._message_timer = self.loop.call_later(self._message_seconds, late)
        if count != self._held:
            capacity.take(count - self._held)
            self._held = count

    def _end_timer(self) -> None:
        if self._message_timer is not None:
            self._message_timer.cancel()
            self._message_timer = None

    def _refuse_handshake(self) -> None:
        """Refuses what the parser did not accept as a handshake, such as one with a body. No other code answers it."""
        self.transport.write(refusal("400 Bad Request", "BAD_USER_INPUT", "this is not a WebSocket handshake"))
        self.transport.close()
        self._stall.last_was_written()

    def shutdown(self) -> None:
        """A socket whose key has been checked ends itself when its operations are answered."""
        if self._capacity is None:
            super().shutdown()

    def _break(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.resumed()
        if self._pong:
            self.transport.write(self._pong)
            self._pong = b""

    async def run_asgi(self) -> None:
        self.app = partial(self._run_app, self.app)
        try:
            await super().run_asgi()
        finally:
            for held in tuple(self._handed_over):
                self._release(held)
        if not self.disconnected:
            self._stall.last_was_written()

    async def _run_app(self, app: ASGI3Application, scope: Any, receive: Any, send: Any) -> None:
        """A handshake that was refused is complete too. Otherwise uvicorn would log an error for each."""
        await app(scope, receive, send)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def handle_connect(self, event: Request) -> None:
        allowed = self.conn.max_message_size
        super().handle_connect(event)
        scope = cast("dict[str, Any] | None", getattr(self, "scope", None))
        if scope is None:
            return
        self.conn.max_message_size = UNAUTHENTICATED_FRAME_BYTES

        def trust(capacity: Share, within: timedelta) -> None:
            self._membership.authenticated(capacity.holder)
            self.conn.max_message_size = allowed
            self._capacity = capacity
            self._message_seconds = within.total_seconds()

        given = {ABORT: self.transport.abort, TRUST: trust, HAS_ROOM: self.writable.is_set}
        scope["extensions"] = {**scope["extensions"], **given}
