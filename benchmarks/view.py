"""CPU of the view itself: ours against stock `strawberry.asgi.GraphQL`, on the product's own schema, in one interleaved run.

    python -m benchmarks.view

Every request goes through the whole application in this process, without a network; records come from memory. Ours also checks
the key, guards, counts the cost and sets the security headers; stock does none of it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import strawberry
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.extensions import ParserCache, ValidationCache

from app.access.allowance import Allowance
from app.access.principal import Principal
from app.access.principal import Scope as Right
from app.context import OperationContext
from app.costs.reports import UsageRecord
from app.domain.attempts import AttemptOutcome
from app.domain.ids import new_uuid
from app.domain.paging import Edge, Page, PageInfo
from app.domain.usage import Operation, TokenUsage
from app.graphql.routes import build_graphql_routes, build_operations
from app.loaders import Loaders
from app.runtime.clock import SystemClock
from app.runtime.drain import Drain
from app.runtime.offload import Offload
from app.services import Services
from app.settings import Settings
from app.web.bearer import bearer_token
from app.web.client_address import TrustedProxies
from app.web.misuse import Misuse
from app.web.request_ids import RequestIds
from app.web.security import SecurityHeaders
from schema.build import build_schema

ROUNDS = 7
ROWS = 1000
PRINCIPAL = Principal(UUID(int=1), "bench", "acme", frozenset({Right.ADMIN}))
VIEWER = "{ viewer { tenant keyName scopes allowance { remaining } } }"
RECORDS = """query($filter: CostFilter!) {
  usageRecords(filter: $filter, first: 100) { nodes { id at provider model costUsd latencyMs } }
}"""
PERIOD = {"filter": {"period": {"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"}}}


class RecordsInMemory:
    """A page of 1,000 whatever is asked, so that rows are what is measured."""

    def __init__(self) -> None:
        at = datetime(2026, 11, 22, 12, tzinfo=UTC)
        usage = TokenUsage(uncached_input_tokens=100, visible_output_tokens=50)
        records = [
            UsageRecord(
                key=new_uuid(at),
                at=at,
                operation=Operation.COMPLETION,
                tenant="acme",
                provider="openai",
                model="gpt-5",
                outcome=AttemptOutcome.SUCCEEDED,
                usage=usage,
                latency_ms=number * 1.5,
                cost_usd=Decimal(number) / 10_000,
            )
            for number in range(ROWS)
        ]
        edges = tuple(Edge(record, str(number)) for number, record in enumerate(records))
        self._page = Page(edges, PageInfo(has_next_page=False, has_previous_page=False, start_cursor=None, end_cursor=None))

    async def records(self, _where: object, _page: object) -> Page[UsageRecord]:
        return self._page


SERVICES = cast("Services", SimpleNamespace(reports=RecordsInMemory(), clock=SystemClock(), settings=Settings()))


def make_context(principal: Principal, request_id: str, allowance: Allowance) -> OperationContext:
    return OperationContext(SERVICES, principal, Loaders(SERVICES, principal), request_id, SystemClock(), allowance)


def ours() -> ASGIApp:
    async def authenticate(headers: Mapping[str, str]) -> Principal:
        bearer_token(headers)
        return PRINCIPAL

    settings = Settings()
    unlimited = settings.model_copy(update={"limits": settings.limits.model_copy(update={"allowance_capacity": 10**9})})
    schema = build_schema()
    operations = build_operations(
        schema,
        settings=unlimited,
        authenticate=authenticate,
        make_context=make_context,
        clock=SystemClock(),
        offload=Offload(),
        misuse=Misuse(CollectorRegistry(), TrustedProxies(), SystemClock()),
        drain=Drain(1, SystemClock().monotonic),
    )
    routes = build_graphql_routes(schema, operations, settings.server)
    return Starlette(routes=routes, middleware=[Middleware(RequestIds), Middleware(SecurityHeaders)])


class Stock(GraphQL[OperationContext, None]):
    async def get_context(self, request: HTTPConnection, response: Response | WebSocket) -> OperationContext:  # noqa: ARG002 (its names)
        return make_context(PRINCIPAL, "", Allowance(1, 1, 1.0))


def stock(*, cached: bool) -> ASGIApp:
    schema: strawberry.Schema = build_schema()
    if cached:
        schema.extensions = (ParserCache, ValidationCache)
    return Starlette(routes=[Route("/graphql", Stock(schema, graphql_ide=None), methods=None)])


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    body: bytes
    times: int


CALLS = [
    Call("viewer", json.dumps({"query": VIEWER}).encode(), 300),
    Call(f"usageRecords, {ROWS} rows x 6 fields", json.dumps({"query": RECORDS, "variables": PERIOD}).encode(), 8),
]


async def ask(app: ASGIApp, body: bytes) -> bytes:
    sent: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"accept", b"application/json"),
        (b"authorization", b"Bearer sk-bench"),
    ]
    path: dict[str, Any] = {"path": "/graphql", "raw_path": b"/graphql", "root_path": "", "query_string": b""}
    scope: Scope = {"type": "http", "method": "POST", "http_version": "1.1", "scheme": "http", "headers": headers, **path}
    await app({**scope, "server": ("localhost", 80), "client": ("localhost", 1)}, receive, send)
    return b"".join(sent)


async def cpu_ms(app: ASGIApp, call: Call) -> float:
    started = time.process_time()
    for _ in range(call.times):
        await ask(app, call.body)
    return (time.process_time() - started) * 1000 / call.times


async def main() -> None:
    apps = {"ours": ours(), "stock": stock(cached=False), "stock with parser and validation caches": stock(cached=True)}
    for call in CALLS:
        answers = [json.loads(await ask(app, call.body)) for app in apps.values()]
        assert all("errors" not in answer for answer in answers), answers
        assert len({len(json.dumps(answer["data"])) // 10_000 for answer in answers}) == 1
        seen: dict[str, list[float]] = {name: [] for name in apps}
        for _ in range(ROUNDS):
            for name, app in apps.items():
                seen[name].append(await cpu_ms(app, call))
        medians = {name: statistics.median(times) for name, times in seen.items()}
        print(call.name)
        for name, median in medians.items():
            print(f"  {name:40} {median:8.3f} ms CPU   {median / medians['ours']:6.2f} x ours")


if __name__ == "__main__":
    asyncio.run(main())
