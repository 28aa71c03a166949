"""The three addresses, as a load balancer sees them."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.types import Message, Scope

from app.domain.errors import StoreUnavailable
from app.health.checks import Check, Health
from app.health.endpoints import build_health_routes
from app.runtime.drain import Drain
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


async def _well() -> None:
    return


async def _away() -> None:
    raise StoreUnavailable("PostgreSQL")


async def _never() -> None:
    await asyncio.Event().wait()


async def get(path: str, *checks: Check, drain: Drain | None = None) -> tuple[int, bytes]:
    drain = drain or Drain(20, ManualClock().monotonic)
    app = Starlette(routes=build_health_routes(Health(checks, ManualClock(), drain)))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "http_version": "1.1"}
    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


class TestHealthz:
    async def test_it_needs_nothing_but_the_process(self) -> None:
        assert await get("/healthz", Check("postgresql", _never, required=True)) == (200, b'{"status":"ok"}')


@pytest.mark.parametrize("path", ["/ready", "/startup"])
class TestReadyAndStartup:
    async def test_all_well(self, path: str) -> None:
        status, body = await get(path, Check("postgresql", _well, required=True))
        assert (status, b'"status":"ok"' in body, b'"postgresql"' in body) == (200, True, True)

    async def test_without_postgresql(self, path: str) -> None:
        status, body = await get(path, Check("postgresql", _away, required=True))
        assert (status, b'"status":"unavailable"' in body) == (503, True)


class TestWithoutRedis:
    async def test_it_is_ready_and_says_degraded(self) -> None:
        status, body = await get("/ready", Check("postgresql", _well, required=True), Check("redis", _away))
        assert (status, b'"status":"degraded"' in body) == (200, True)


class TestAskedToStop:
    async def test_it_is_not_ready_and_says_why_without_asking_a_store(self) -> None:
        drain = Drain(20, ManualClock().monotonic)
        drain.begin()
        asked = [await get(path, Check("postgresql", _never, required=True), drain=drain) for path in ("/ready", "/healthz")]
        assert asked == [(503, b'{"status":"draining","checks":{}}'), (200, b'{"status":"ok"}')]
