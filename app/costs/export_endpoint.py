"""Serves the file of an export link.

If a file breaks off, its last line has no total, and its HTTP response does not end properly.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from app.costs.export import PATH, CostExports, Ticket
from app.domain.errors import Overloaded, Refused, StoreUnavailable, Unauthenticated
from app.settings import Settings
from app.web.capacity import Capacity, Holder, Shares
from app.web.error_body import error_response
from app.web.misuse import Door, Misuse, Origin
from app.web.protocols import ABORT, KNOWN, extension

SEND_SECONDS = 30.0
_RETRY_AFTER = timedelta(seconds=5)
_PART_OF_A_TENANT = 0.5
_PART_OF_THE_CONNECTIONS = 2
"""Each file holds a database connection. At least half of the connections are left to calls."""


class ExportEndpoint:
    """A file holds one of `places`, which tenants share. The response is broken off if its reader has not read it all within
    `timeout`."""

    def __init__(self, exports: CostExports, misuse: Misuse, places: Capacity, timeout: timedelta) -> None:
        self._exports = exports
        self._misuse = misuse
        self._places = places
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            ticket = await self._exports.ticket(scope["path_params"]["token"])
            holder = _holder(ticket)
            extension(scope, KNOWN)(holder)
            with self._places.of(holder).one():
                await self._send_file(ticket, scope, receive, send)
        except Refused:
            self._misuse.note(Unauthenticated("no such link"), Origin(Door.EXPORT, scope))
            await _refusal(404, "NOT_FOUND")(scope, receive, send)
        except StoreUnavailable:
            await _refusal(503, "STORE_UNAVAILABLE")(scope, receive, send)
        except Overloaded as error:
            await _refusal(503, "OVERLOADED", retryAfterMs=error.retry_after_ms)(scope, receive, send)

    async def _send_file(self, ticket: Ticket, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.create_task(_left(receive))
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                await self._write(ticket, leaving, send)
        except TimeoutError:
            extension(scope, ABORT)()
            await asyncio.sleep(0)  # lets the server notice
        finally:
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


def _holder(ticket: Ticket) -> Holder:
    """Only administrators get links to the costs of several tenants."""
    tenants = ticket.filter.tenants or ()
    return Holder(tenants, tenants[0]) if len(tenants) == 1 else Holder(tenants, "", is_admin=True)


def _refusal(status: int, code: str, **extensions: object) -> JSONResponse:
    headers = {"Retry-After": str(round(_RETRY_AFTER.total_seconds()))} if status == 503 else None
    return error_response(status, code, headers=headers, extensions=extensions)


def build_export_routes(exports: CostExports, misuse: Misuse, settings: Settings) -> list[BaseRoute]:
    connections = settings.database.pool_size + settings.database.max_overflow
    limit = max(1, min(settings.limits.exports_in_flight, connections // _PART_OF_THE_CONNECTIONS))
    shares = Shares(_PART_OF_A_TENANT, _PART_OF_A_TENANT, settings.server.share_for_admin)
    endpoint = ExportEndpoint(exports, misuse, Capacity(limit, _RETRY_AFTER, shares), settings.limits.export_timeout)
    return [Route(PATH + "/{token}", endpoint, methods=["GET"])]
