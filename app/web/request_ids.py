"""Every request has an id: the caller's own if it is valid, else a new one. Logs, errors and the answer all carry it."""

from __future__ import annotations

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry.request_id import REQUEST_ID

HEADER = b"x-request-id"
_SANE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def request_id_of(scope: Scope) -> str:
    """Returns the id from the middleware, or a new one if the middleware does not run."""
    state: dict[str, object] = scope.setdefault("state", {})
    found = state.get("request_id")
    if isinstance(found, str):
        return found
    made = uuid.uuid4().hex
    state["request_id"] = made
    return made


def _asked_for(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == HEADER:
            return value.decode("ascii") if _SANE.fullmatch(value) else None
    return None


class RequestIds:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = _asked_for(scope) or uuid.uuid4().hex
        REQUEST_ID.set(request_id)
        scope.setdefault("state", {})["request_id"] = request_id
        header = (HEADER, request_id.encode("ascii"))

        async def send_with_id(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self._app(scope, receive, send_with_id)
