"""uvicorn's own protocols with three things ASGI has no words for, given to the application as functions in scope["extensions"].

`greenlang.abort` drops the connection at once: a plain close waits for a reader that may never read again.
`greenlang.trust` lets a WebSocket send frames of the full size; until then they are bounded as for a stranger.
`greenlang.has_room` says whether a WebSocket takes a frame at once, without waiting for its reader.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

ABORT = "greenlang.abort"
TRUST = "greenlang.trust"
HAS_ROOM = "greenlang.has_room"
STRANGERS_FRAME_BYTES = 16 * 1024


def extension(scope: MutableMapping[str, Any], name: str) -> Callable[[], object]:
    """The function the server gave us under that name; under a server that is not ours one that does nothing and says no."""
    found = scope.get("extensions", {}).get(name)
    return cast("Callable[[], object]", found) if callable(found) else _no


def _no() -> bool:
    return False


class HttpProtocol(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {**scope.get("extensions", {}), ABORT: self.transport.abort}


class WebSocketProtocol(WebSocketsSansIOProtocol):
    def handle_connect(self, event: Request) -> None:
        allowed = self.conn.max_message_size
        super().handle_connect(event)
        scope = cast("dict[str, Any] | None", getattr(self, "scope", None))
        if scope is None:
            return
        self.conn.max_message_size = STRANGERS_FRAME_BYTES

        def trust() -> None:
            self.conn.max_message_size = allowed

        given = {ABORT: self.transport.abort, TRUST: trust, HAS_ROOM: self.writable.is_set}
        scope["extensions"] = {**scope["extensions"], **given}
