"""`python -m tests.app.supervisor.standin DATA_DIR WORKERS APPLICATION CONFIG`: the supervisor over a small application, to be
asked and killed. It prints its address once it serves."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.runtime.clock import SystemClock
from app.settings import Settings
from app.settings.load import load_settings
from app.supervisor.serve import Started, serve


def create_app(settings: Settings) -> Starlette:
    async def facts(_: Request) -> JSONResponse:
        return JSONResponse({"pid": os.getpid(), "simulated": [each.base_url for each in settings.providers if each.simulated]})

    async def slow(request: Request) -> JSONResponse:
        await asyncio.sleep(float(request.query_params["seconds"]))
        return JSONResponse({"keys": await _count_keys(settings)})

    async def block(_: Request) -> JSONResponse:
        time.sleep(60)  # noqa: ASYNC251 (the event loop is to be stuck)
        return JSONResponse({})

    async def crawl(_: Request) -> JSONResponse:
        for _turn in range(10):
            time.sleep(0.5)  # noqa: ASYNC251 (each turn of the event loop is to be long)
            await asyncio.sleep(0)
        return JSONResponse({})

    routes = [Route("/", facts), Route("/slow", slow), Route("/block", block), Route("/crawl", crawl)]
    return Starlette(routes=routes)


async def _count_keys(settings: Settings) -> int:
    assert settings.database.primary is not None
    connection = await asyncpg.connect(settings.database.primary.reveal(), timeout=5)
    try:
        count: int = await connection.fetchval("select count(*) from api_keys")
    finally:
        await connection.close()
    return count


def create_broken_app(_: Settings) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.missing.use()
        yield

    return Starlette(lifespan=lifespan)


def main(data_dir: str, workers: str, application: str, config: str) -> None:
    overrides = {"server.port": 0, "server.data_dir": data_dir, "server.workers": int(workers)}
    environ = {"TOKEN": "x"}
    settings = load_settings(Path(config), environ, overrides)
    serve(settings, SystemClock(), f"{__spec__.name}:{application}", _announce)


def _announce(started: Started) -> None:
    sys.stdout.write(f"{started.address} {started.first_key}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
