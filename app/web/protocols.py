"""uvicorn's own protocols, with functions that ASGI lacks and limits that uvicorn lacks.

The application finds the functions in scope["extensions"]. `greenlang.abort` drops the connection at once, because a plain close
waits for a client that may never read again. `greenlang.known` takes the Holder of a valid key that the connection has shown. The
connection then counts in that key's share. If there is no room, the function raises Overloaded, and the connection is closed
after the answer. `greenlang.trust` does the same and lets a WebSocket send messages of full size. Before that, the limits for
unauthenticated callers apply. It also takes the key's Share, in which an incomplete message holds its bytes, and the time for a
message to become complete. `greenlang.has_room` says whether a WebSocket takes a frame at once. `greenlang.alone` claims the last
request of the connection, which is dropped if another comes: uvicorn tells only the last request that the client has gone. A
large text frame arrives as bytes in a message's `greenlang.utf8`, because decoding it takes long. It holds its bytes of the Share
until the application calls the message's `greenlang.release`.

The limits: the head of a request has a maximum size and time, and so has the rest of a body after the answer. A connection whose
client reads nothing for long is dropped, also while it is being closed. Every request ends where a proxy in front would end it
(app/web/framing.py). A refused request gets at most one answer, after those to earlier requests, and nothing after it is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.domain.errors import Overloaded
from app.web.capacity import Holder
from app.web.connection_places import Membership
from app.web.framing import Upgrade, framing_fault, head_without_upgrade, requested_upgrade
from app.web.refusal import refusal
from app.web.write_deadline import WriteDeadline

ABORT = "greenlang.abort"
KNOWN = "greenlang.known"
TRUST = "greenlang.trust"
HAS_ROOM = "greenlang.has_room"
LAST_REQUEST = "greenlang.alone"
UTF8 = "greenlang.utf8"
RELEASE = "greenlang.release"
HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 20.0
STALL_SECONDS = 30.0
LINGER_SECONDS = 2.0
MAX_PIPELINED = 16
_FRAMING_PER_BODY_BYTE = 16
"""With one byte per chunk, each byte of a body has five bytes of framing."""


LAST_ANSWER = (b"connection", b"close")


def extension(scope: MutableMapping[str, Any], name: str) -> Callable[..., object]:
    """Returns the server's function of that name, or, under another server, one that does nothing and returns False."""
    found = scope.get("extensions", {}).get(name)
    return cast("Callable[..., object]", found) if callable(found) else _no


def _no(*_arguments: object) -> bool:
    return False


class HttpProtocol(HttpToolsProtocol):
    """Refuses what is not HTTP, or has endless headers, with a JSON answer, before the application sees it."""

    head_seconds = HEAD_SECONDS
    stall_seconds = STALL_SECONDS
    _stall: WriteDeadline
    _membership: Membership
    _head_bytes: int | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _head_fits = True
    _fault: str | None = None
    _body_bytes = 0
    _framing_bytes = 0
    _refused: bytes | None = None
    _linger_timer: asyncio.TimerHandle | None = None
    _rest_timer: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None
    _alone = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._stall = WriteDeadline(transport, self.stall_seconds)
        self._membership = Membership(self.app_state, transport)
        self._membership.join(self.client[0] if self.client else "")
        self._head_begins()

    def connection_lost(self, exc: Exception | None) -> None:
        self._membership.leave()
        self._head_ends()
        self._rest_ends()
        self._stall.end()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        self.pipeline.clear()
        super().connection_lost(exc)
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.resumed()

    def on_response_complete(self) -> None:
        self._alone = False
        super().on_response_complete()
        if self.transport.is_closing():
            self._stall.last_was_written()
        elif self._refused is not None:
            self._send_refusal_in_turn()
        elif self.cycle.response_complete and self.cycle.more_body:
            self._rest_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self.cycle.more_body = False
        if self._rest_timer is not None:
            self._rest_ends()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _rest_ends(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._stall.last_was_written()

    def data_received(self, data: bytes) -> None:
        """Only the next request ends the idle time, not any byte."""
        if self._refused is not None:
            return
        within, in_body, body_bytes = self._head_bytes is not None, self._in_body(), self._body_bytes
        self._parse(data)
        if self.transport.is_closing() or self._refused is not None:
            return
        if within and self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse_head()
        elif in_body and self._in_body():
            self._framing_bytes += len(data) - (self._body_bytes - body_bytes)
            if self._framing_bytes > HEAD_BYTES + _FRAMING_PER_BODY_BYTE * self._body_bytes:
                self._refuse("400 Bad Request", "BAD_USER_INPUT", "the body has more framing than content")

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as stop:
                data = self._upgrade(data[stop.args[0] :])
            except HttpParserError:
                self.send_400_response(self._fault or "Invalid HTTP request received.")
                return
            else:
                return

    def _upgrade(self, following: bytes) -> bytes:
        """Handles a request whose body the parser has skipped. Returns what is to be parsed instead."""
        upgrade = requested_upgrade(self.headers)
        if upgrade is Upgrade.IGNORED:
            method, version = self.parser.get_method(), self.parser.get_http_version()
            self.parser = HttpRequestParser(self)  # the old parser stops if the connection is to be closed
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            return head_without_upgrade(method, self.url, version, self.headers) + following
        if upgrade is Upgrade.REFUSED:
            self.send_400_response("the only protocol to upgrade to is websocket")
        elif following or self._unanswered():
            self.send_400_response("nothing may follow a WebSocket handshake until it is answered")
        else:
            self.handle_websocket_upgrade()
        return b""

    def _in_body(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return self._head_bytes is None and cycle is not None and cycle.more_body

    def _unanswered(self) -> bool:
        return self._answering is not None and not (self._answering.response_complete or self._answering.disconnected)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        scope = cast("dict[str, Any]", self.scope)
        given = {ABORT: self.transport.abort, KNOWN: self._authenticated, LAST_REQUEST: self._claim_last_request}
        scope["extensions"] = {**scope.get("extensions", {}), **given}
        if self._head_bytes is None:
            self._head_begins()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Ignores fields after the body, because the request may already be answered."""
        if self._head_bytes is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_ends()
        self._membership.heard()
        self._body_bytes = self._framing_bytes = 0
        self._head_fits = len(self.url) + sum(len(name) + len(value) for name, value in self.headers) <= HEAD_BYTES
        self._fault = framing_fault(self.parser.get_method(), self.parser.get_http_version(), self.headers)
        if not self._head_fits or self._fault:
            raise ValueError  # makes the parser stop and call send_400_response
        if self._alone:
            self.transport.abort()
            raise ValueError
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            return
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()
            raise ValueError

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if cycle.waiting_for_100_continue:
            cycle.send = partial(self._send_to_one_who_waits, cycle, cycle.send)  # type: ignore[method-assign]
        super()._start_asgi_task(cycle, app)

    @staticmethod
    async def _send_to_one_who_waits(
        cycle: RequestResponseCycle, send: Callable[[ASGISendEvent], Awaitable[None]], message: ASGISendEvent
    ) -> None:
        """A client that was not asked for its body may send it or leave it out, so the bytes that follow are ambiguous."""
        if cycle.waiting_for_100_continue and cycle.more_body:
            cycle.keep_alive = False
        await send(message)

    def _authenticated(self, holder: Holder) -> None:
        try:
            self._membership.authenticated(holder)
        except Overloaded:
            if self._answering is not None:
                self._answering.keep_alive = False
            raise

    def _claim_last_request(self) -> bool:
        self._alone = not self.pipeline
        return self._alone

    def shutdown(self) -> None:
        """An answer that has not begun says that it is the last of its connection."""
        super().shutdown()
        for cycle in (self.cycle, self._answering):
            if cycle is not None and not cycle.response_started:
                cycle.default_headers = [*cycle.default_headers, LAST_ANSWER]

    def send_400_response(self, msg: str) -> None:
        if self.transport.is_closing():
            return
        if self._head_fits:
            self._refuse("400 Bad Request", "BAD_USER_INPUT", msg)
        else:
            self._refuse_head()

    def _refuse_head(self) -> None:
        message = f"line and headers are over {HEAD_BYTES} bytes"
        self._refuse("431 Request Header Fields Too Large", "LIMIT_EXCEEDED", message)

    def _head_begins(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _head_ends(self) -> None:
        self._head_bytes = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: str, code: str, message: str) -> None:
        """Sends the last answer on this connection. A request whose answer has begun gets no second one."""
        broken = self.cycle if self._in_body() else None
        self._head_ends()
        self._refused = refusal(status, code, message)
        if broken is not None and broken is self._answering:
            if broken.response_started:
                self._refused = b""
            broken.disconnected = True
            broken.message_event.set()
        elif broken is not None:
            self.pipeline.popleft()
        self._send_refusal_in_turn()

    def _send_refusal_in_turn(self) -> None:
        """Then reads on for a while: closing while data arrives resets the connection, and the answer may be lost."""
        if self._unanswered() or self._linger_timer is not None:
            return
        if self._refused:
            self.transport.write(self._refused)
        self.transport.write_eof()
        self._linger_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        self._stall.last_was_written()
