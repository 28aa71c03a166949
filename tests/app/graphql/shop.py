"""A small schema, and keys for it, to try the transports on: fields that wait, fail, page, nest, stream and count."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import strawberry
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from strawberry.types import Info

from app.access.allowance import Allowance
from app.access.audience import Audience
from app.access.principal import Principal, Scope
from app.domain.errors import DeadlineExceeded, Forbidden, GreenLangError, Refused, StoreUnavailable, Unauthenticated
from app.domain.problems import InvalidInput
from app.graphql.routes import build_graphql_routes, build_operations
from app.runtime.clock import Clock, SystemClock
from app.runtime.drain import Drain
from app.runtime.offload import Offload
from app.settings import Settings
from app.telemetry.read_metrics import ReadMetrics
from app.web.bearer import bearer_token
from app.web.client_address import TrustedProxies
from app.web.misuse import Misuse
from app.web.request_ids import RequestIds
from app.web.security import SecurityHeaders

KEY = "sk-agent"
ADMIN_KEY = "sk-admin"
OTHER_KEY = "sk-other"


@dataclass(slots=True)
class Board:
    """What the tests watch and steer from outside: open sources, made contexts, the topic's subscribers, the gate."""

    contexts: list[ShopContext] = field(default_factory=list)
    opened: int = 0
    open_sources: int = 0
    produced: int = 0
    executed: int = 0
    greeted: int = 0
    topic: list[asyncio.Queue[int | None]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    no_context: GreenLangError | None = None

    def publish(self, number: int | None) -> None:
        for queue in self.topic:
            queue.put_nowait(number)


@dataclass(eq=False, slots=True)
class ShopContext:
    principal: Principal
    request_id: str
    allowance: Allowance
    board: Board


ShopInfo = Info[ShopContext, None]


@strawberry.type
class Row:
    id: int
    name: str

    @strawberry.field
    def rows(self, first: int = 50) -> list[Row]:
        return [Row(id=number, name="nested") for number in range(min(first, 5))]


@strawberry.type
class Rows:
    nodes: list[Row]


@strawberry.input
class Wish:
    words: list[str]
    at: int | None = None


@strawberry.type
class Event:
    number: int

    @strawberry.field
    def context_id(self, info: ShopInfo) -> str:
        info.context.board.executed += 1
        return str(id(info.context))

    @strawberry.field
    def tenant(self, info: ShopInfo) -> str:
        return info.context.principal.tenant

    @strawberry.field
    def pad(self, size: int) -> str:
        return "x" * size


def _search() -> str | None:
    return "found"


@strawberry.type
class Query:
    @strawberry.field
    def hello(self, name: str = "world") -> str | None:
        return f"hello {name}"

    @strawberry.field
    def tenant(self, info: ShopInfo) -> str | None:
        return info.context.principal.tenant

    @strawberry.field
    def remaining(self, info: ShopInfo) -> int | None:
        return info.context.allowance.remaining

    @strawberry.field
    def rows(self, first: int = 50) -> Rows | None:
        return Rows(nodes=[Row(id=number, name=f"row {number}") for number in range(min(first, 3))])

    @strawberry.field
    def count(self, wish: Wish) -> int | None:
        return len(wish.words)

    @strawberry.field
    async def wait(self, seconds: float) -> str | None:
        await asyncio.sleep(seconds)
        return "waited"

    @strawberry.field
    async def held(self, info: ShopInfo) -> str | None:
        await info.context.board.gate.wait()
        return "let go"

    search: str | None = strawberry.field(resolver=_search, metadata={"spends": True})

    @strawberry.field
    def broken(self) -> str | None:
        raise RuntimeError("secret detail")

    @strawberry.field
    def too_large(self) -> int | None:
        return 2**40

    @strawberry.field
    def refused(self) -> str | None:
        raise Refused(InvalidInput("the name is taken", ("input", "name")))

    @strawberry.field
    def forbidden(self) -> str | None:
        raise Forbidden("needs the scope COSTS")

    @strawberry.field
    def store(self) -> str | None:
        raise StoreUnavailable("PostgreSQL")

    @strawberry.field
    def late(self) -> str | None:
        raise DeadlineExceeded("the call ran out of its time")


@strawberry.type
class Mutation:
    @strawberry.mutation
    def rename(self, name: str) -> str | None:
        return name


async def _count(board: Board, to: int, wait: float) -> AsyncGenerator[Event, None]:
    board.opened += 1
    board.open_sources += 1
    try:
        for number in range(to):
            board.produced += 1
            yield Event(number=number)
            if wait:
                await asyncio.sleep(wait)
    finally:
        board.open_sources -= 1


async def _topic(info: ShopInfo) -> AsyncGenerator[Event, None]:
    board = info.context.board
    queue: asyncio.Queue[int | None] = asyncio.Queue()
    board.topic.append(queue)
    board.opened += 1
    board.open_sources += 1
    try:
        while (number := await queue.get()) is not None:
            yield Event(number=number)
    finally:
        board.topic.remove(queue)
        board.open_sources -= 1


def _greet(context: object) -> None:
    assert isinstance(context, ShopContext)
    context.board.greeted += 1


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, info: ShopInfo, to: int = 3, wait: float = 0.0) -> AsyncGenerator[Event, None]:
        async for event in _count(info.context.board, to, wait):
            yield event

    @strawberry.subscription
    async def fails(self, after: int = 1) -> AsyncGenerator[int, None]:
        for number in range(after):
            yield number
        raise RuntimeError("secret sub detail")

    @strawberry.subscription
    async def refuses(self, above: int = 0) -> AsyncGenerator[int, None]:
        if above <= 0:
            raise Forbidden("needs the scope PROVIDERS")
        yield 0

    buy: AsyncGenerator[Event, None] = strawberry.subscription(resolver=_topic, metadata={"spends": True})
    news: AsyncGenerator[Event, None] = strawberry.subscription(
        resolver=_topic, metadata={"broadcast": Audience.EVERYONE, "joined": _greet}
    )
    tenant_news: AsyncGenerator[Event, None] = strawberry.subscription(resolver=_topic, metadata={"broadcast": Audience.TENANT})

    @strawberry.subscription
    async def large(self, info: ShopInfo, size: int = 100_000) -> AsyncGenerator[str, None]:
        board = info.context.board
        board.open_sources += 1
        try:
            while True:
                board.produced += 1
                yield "x" * size
        finally:
            board.open_sources -= 1


SCHEMA = strawberry.Schema(Query, Mutation, Subscription)


@dataclass(slots=True)
class Keys:
    """Keys by their text. `away` makes the store fail; revoking is taking a key out."""

    known: dict[str, Principal] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    async def authenticate(self, headers: Mapping[str, str]) -> Principal:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("PostgreSQL")
        principal = self.known.get(bearer_token(headers))
        if principal is None:
            raise Unauthenticated("the key is wrong, expired or revoked")
        return principal


def numbers(to: int, wait: float = 0) -> str:
    return f"subscription {{ count(to: {to}, wait: {wait}) {{ number }} }}"


def new_keys() -> Keys:
    agent = Principal(UUID(int=1), "agent", "acme", frozenset({Scope.COMPLETIONS}))
    admin = Principal(UUID(int=2), "admin", "acme", frozenset({Scope.ADMIN}))
    other = Principal(UUID(int=3), "other", "globex", frozenset({Scope.COMPLETIONS}))
    return Keys({KEY: agent, ADMIN_KEY: admin, OTHER_KEY: other})


@dataclass(slots=True)
class Shop:
    settings: Settings = field(default_factory=Settings)
    schema: strawberry.Schema = SCHEMA
    clock: Clock = field(default_factory=SystemClock)
    simulated: bool = False
    keys: Keys = field(default_factory=new_keys)
    board: Board = field(default_factory=Board)
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    watch: ReadMetrics = field(init=False)
    misuse: Misuse = field(init=False)
    drain: Drain = field(init=False)

    def __post_init__(self) -> None:
        self.watch = ReadMetrics(self.metrics)
        self.misuse = Misuse(self.metrics, TrustedProxies(self.settings.server.trusted_proxies), self.clock)
        self.drain = Drain(1, self.clock.monotonic)

    def make_context(self, principal: Principal, request_id: str, allowance: Allowance) -> ShopContext:
        if self.board.no_context is not None:
            raise self.board.no_context
        context = ShopContext(principal, request_id, allowance, self.board)
        self.board.contexts.append(context)
        return context

    def app(self) -> Starlette:
        operations = build_operations(
            self.schema,
            settings=self.settings,
            authenticate=self.keys.authenticate,
            make_context=self.make_context,
            clock=self.clock,
            offload=Offload(),
            misuse=self.misuse,
            drain=self.drain,
        )
        if self.watch is not None:
            operations.show(self.watch)
        routes = build_graphql_routes(self.schema, operations, self.settings.server, simulated=self.simulated)
        return Starlette(routes=routes, middleware=[Middleware(RequestIds), Middleware(SecurityHeaders)])


def with_limits(**limits: object) -> Settings:
    settings = Settings()
    return settings.model_copy(update={"limits": settings.limits.model_copy(update=limits)})


def with_server(**server: object) -> Settings:
    settings = Settings()
    return settings.model_copy(update={"server": settings.server.model_copy(update=server)})


def changed(principal: Principal, **changes: object) -> Principal:
    return dataclasses.replace(principal, **changes)  # type: ignore[arg-type]  # the fields are those of Principal
