"""The whole service below its transports: the real schema over real stores and the simulator."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import strawberry
from sqlalchemy import event
from strawberry.schema.schema import SubscriptionResult

from app.access.allowance import Allowance
from app.access.principal import Principal, Scope
from app.context import OperationContext
from app.loaders import Loaders
from app.runtime.clock import SystemClock
from app.services import Services
from tests.app.access.principals import principal

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

EVERYTHING = [scope for scope in Scope if scope is not Scope.ADMIN]
ACME = principal(*EVERYTHING, tenant="acme", key=1)
GLOBEX = principal(*EVERYTHING, tenant="globex", key=2)
ADMIN = principal(Scope.ADMIN, tenant="operations", key=3)
BOUND = principal(*EVERYTHING, tenant="acme", agent="research", key=4)
POWERLESS = principal(tenant="acme", key=5)


@dataclass(frozen=True)
class Api:
    schema: strawberry.Schema
    services: Services

    async def run(self, document: str, caller: Principal = ACME, **variables: object) -> strawberry.types.ExecutionResult:
        result = await self.schema.execute(document, variables, context_value=self.context(caller))
        assert isinstance(result, strawberry.types.ExecutionResult), result.errors
        return result

    async def data(self, document: str, caller: Principal = ACME, **variables: object) -> Data:
        """Of an operation without errors."""
        result = await self.run(document, caller, **variables)
        assert result.errors is None, result.errors
        assert result.data is not None
        return result.data

    async def raised(self, document: str, caller: Principal = ACME, **variables: object) -> BaseException | None:
        """What the one failing field of an operation, or its subscription, raised."""
        if document.startswith("subscription"):
            return await self._raised_by_subscribing(document, caller, variables)
        result = await self.run(document, caller, **variables)
        assert result.errors is not None
        assert len(result.errors) == 1
        return result.errors[0].original_error

    async def events(self, document: str, caller: Principal = ACME, **variables: object) -> AsyncGenerator[Data, None]:
        """The data of each event of a subscription without errors."""
        async with aclosing(await self._subscribe(document, caller, variables)) as results:
            async for result in results:
                assert result.errors is None, result.errors
                assert result.data is not None
                yield result.data

    async def _raised_by_subscribing(self, document: str, caller: Principal, variables: Data) -> BaseException | None:
        async with aclosing(await self._subscribe(document, caller, variables)) as results:
            result = await anext(results)
        assert result.errors is not None
        return result.errors[0].original_error

    async def _subscribe(self, document: str, caller: Principal, variables: Data) -> SubscriptionResult:
        return await self.schema.subscribe(document, variables, context_value=self.context(caller))

    def context(self, caller: Principal) -> OperationContext:
        allowance = Allowance(1000, 900, 10.0)
        return OperationContext(self.services, caller, Loaders(self.services, caller), "request", SystemClock(), allowance)

    @classmethod
    def without_services(cls, schema: strawberry.Schema) -> Api:
        """For operations that are refused before they reach any."""
        return cls(schema, cast("Services", None))


@dataclass
class Statements:
    texts: list[str] = field(default_factory=list)


_COUNTING: ContextVar[Statements | None] = ContextVar("counting", default=None)


@contextmanager
def counted(services: Services) -> Iterator[Statements]:
    """Every SQL statement that sessions send for what is done inside, not for what runs in the background."""
    seen = Statements()
    engine = services.sessions.engines.primary.sync_engine

    def remember(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if _COUNTING.get() is seen:
            seen.texts.append(statement)

    token = _COUNTING.set(seen)
    event.listen(engine, "before_cursor_execute", remember)
    try:
        yield seen
    finally:
        _COUNTING.reset(token)
        event.remove(engine, "before_cursor_execute", remember)
