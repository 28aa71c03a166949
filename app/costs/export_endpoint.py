"""The file behind an export's link. A file that breaks off has no total in its last line, and no end as HTTP."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from app.costs.export import PATH, CostExports, Ticket
from app.errors import Refused, StoreUnavailable, Unauthenticated
from app.web.misuse import Door, Misuse, Origin

MOST_AT_ONCE = 4
"""Files that one process writes at the same time; each holds a connection to the database."""
SEND_SECONDS = 30.0


class ExportEndpoint:
    def __init__(self, exports: CostExports, misuse: Misuse) -> None:
        self._exports = exports
        self._misuse = misuse
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            ticket = await self._exports.ticket(scope["path_params"]["token"])
        except Refused:
            self._misuse.note(Unauthenticated("no such link"), Origin(Door.EXPORT, scope))
            await _refusal(404, "NOT_FOUND")(scope, receive, send)
            return
        except StoreUnavailable:
            await _refusal(503, "STORE_UNAVAILABLE")(scope, receive, send)
            return
        if self._open >= MOST_AT_ONCE:
            await _refusal(503, "OVERLOADED")(scope, receive, send)
            return
        self._open += 1
        leaving = asyncio.create_task(_left(receive))
        try:
            await self._write(ticket, leaving, send)
        finally:
            self._open -= 1
            leaving.cancel()

    async def _write(self, ticket: Ticket, leaving: asyncio.Task[None], send: Send) -> None:
        headers = [
            (b"content-type", ticket.media_type.encode()),
            (b"content-disposition", f'attachment; filename="{ticket.file_name}"'.encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._exports.content(ticket)) as pieces:
            async for piece in pieces:
                if leaving.done():
                    return
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refusal(status: int, code: str) -> JSONResponse:
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse({"errors": [{"message": code, "extensions": {"code": code}}]}, status, headers)


def build_export_routes(exports: CostExports, misuse: Misuse) -> list[BaseRoute]:
    return [Route(PATH + "/{token}", ExportEndpoint(exports, misuse), methods=["GET"])]
