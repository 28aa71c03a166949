"""A server between a client and the simulator, which keeps every request that comes by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

_KEPT = {"authorization", "anthropic-version", "content-type", "x-api-key"}


@dataclass
class Recorder:
    """`url` takes the place of the recorded server's own."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    versions: list[str | None] = field(default_factory=list)


@asynccontextmanager
async def recording(server: str) -> AsyncIterator[Recorder]:
    recorder = Recorder()

    async def forward(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        recorder.bodies.append(msgspec.json.decode(raw))
        recorder.versions.append(request.headers.get("anthropic-version"))
        headers = {name: value for name, value in request.headers.items() if name.lower() in _KEPT}
        async with session.post(f"{server}{request.rel_url}", data=raw, headers=headers) as answer:
            body = await answer.read()
            return web.Response(body=body, status=answer.status, headers={"content-type": answer.headers["content-type"]})

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/{path:.*}", forward)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        recorder.url = f"http://{host}:{port}"
        try:
            yield recorder
        finally:
            await runner.cleanup()
