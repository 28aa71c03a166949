from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.runtime.tasks import create_shared_task
from app.telemetry.logging import JsonFormatter
from app.telemetry.request_id import RequestIdFilter
from app.web.access_log import OPERATION, STATE, AccessLog, RequestMetrics
from app.web.request_ids import RequestIds
from tests.app.graphql.asgi import Client
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio
_log = logging.getLogger("app.tests.access")


@pytest.fixture
def lines() -> Iterator[StringIO]:
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RequestIdFilter())
    logger = logging.getLogger("app")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield written
    logger.removeHandler(handler)
    logger.setLevel(level)


def logged(lines: StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


class Served:
    def __init__(self, *, is_logged: bool = True) -> None:
        self.clock = ManualClock()
        self.registry = CollectorRegistry()
        self.metrics = RequestMetrics(self.registry)

        async def answer(request: Request) -> JSONResponse:
            request.scope["state"][STATE] = self.metrics
            request.scope["state"][OPERATION] = "Costs"
            self.clock.move(0.25)
            _log.warning("inside")
            await create_shared_task(self.shared())
            return JSONResponse({"a": 1})

        middleware = [Middleware(RequestIds), Middleware(AccessLog, self.clock, is_logged=is_logged)]
        self.app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])], middleware=middleware)

    async def shared(self) -> None:
        _log.warning("for all")

    async def get(self, path: str, status: int = 200, request_id: str = "") -> None:
        headers = {"x-request-id": request_id}
        answer = await Client(self.app, "sk-secret", accept=None, headers=headers).send(method="GET", path=path)
        assert answer.status == status


class TestALine:
    async def test_says_what_was_asked_and_how_it_was_answered(self, lines: StringIO) -> None:
        await Served().get("/graphql", request_id="abc")
        line = logged(lines)[-1]
        assert {key: line[key] for key in ("method", "path", "status", "bytes", "ms", "request_id", "operation")} == {
            "method": "GET",
            "path": "/graphql",
            "status": 200,
            "bytes": 7,
            "ms": 250.0,
            "request_id": "abc",
            "operation": "Costs",
        }
        assert "sk-secret" not in lines.getvalue()

    async def test_is_written_only_if_it_is_asked_for(self, lines: StringIO) -> None:
        await Served(is_logged=False).get("/graphql")
        assert [line["message"] for line in logged(lines)] == ["inside", "for all"]

    async def test_of_an_odd_path_stays_one_line_of_json(self, lines: StringIO) -> None:
        await Served().get("/a\r\n{}\x00\u2028" + "b" * 10_000, 404)
        (*_, line) = logged(lines)
        assert str(line["path"]).startswith("/a\r\n{}\x00\u2028b")
        assert len(str(line["path"])) == 256


class TestTheRequestId:
    async def test_is_in_every_line_that_the_request_causes_but_not_in_those_of_shared_work(self, lines: StringIO) -> None:
        await Served().get("/graphql", request_id="abc")
        assert [(line["message"], line.get("request_id")) for line in logged(lines)] == [
            ("inside", "abc"),
            ("for all", None),
            ("request", "abc"),
        ]


class TestMetrics:
    async def test_count_by_route_and_never_by_a_path_of_the_caller(self) -> None:
        served = Served(is_logged=False)
        for path in ("/graphql", "/exports/secret", "/anything/else"):
            await served.get(path)
        counts = {
            route: served.registry.get_sample_value("greenlang_http_requests_total", {"route": route, "status": "200"})
            for route in ("/graphql", "/exports", "other")
        }
        seconds = served.registry.get_sample_value("greenlang_http_request_seconds_sum", {"route": "/graphql", "status": "200"})
        assert (counts, seconds) == ({"/graphql": 1, "/exports": 1, "other": 1}, 0.25)

    def test_of_errors_are_0_from_the_start(self) -> None:
        served = Served()
        assert served.registry.get_sample_value("greenlang_http_requests_total", {"route": "/graphql", "status": "500"}) == 0
