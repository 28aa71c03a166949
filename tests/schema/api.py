"""The whole service below its transports: the real schema over real stores and the simulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import strawberry
from graphql import GraphQLError
from sqlalchemy import event

from app.access.allowance import Allowance
from app.access.principal import Principal, Scope
from app.clock import SystemClock
from app.context import OperationContext
from app.loaders import Loaders
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
        allowance = Allowance(1000, 900, 10.0)
        context = OperationContext(self.services, caller, Loaders(self.services, caller), "request", SystemClock(), allowance)
        result = await self.schema.execute(document, variables, context_value=context)
        assert isinstance(result, strawberry.types.ExecutionResult), result.errors
        return result

    async def data(self, document: str, caller: Principal = ACME, **variables: object) -> Data:
        """Of an operation without errors."""
        result = await self.run(document, caller, **variables)
        assert result.errors is None, result.errors
        assert result.data is not None
        return result.data

    async def refusal(self, document: str, caller: Principal = ACME, **variables: object) -> BaseException | None:
        """What the one failing field of an operation raised."""
        result = await self.run(document, caller, **variables)
        assert result.errors is not None
        assert len(result.errors) == 1
        error: GraphQLError = result.errors[0]
        return error.original_error


@dataclass
class Statements:
    texts: list[str] = field(default_factory=list)


@contextmanager
def counted(services: Services) -> Iterator[Statements]:
    """Every SQL statement that sessions send meanwhile."""
    seen = Statements()
    engine = services.sessions.engines.primary.sync_engine

    def remember(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.texts.append(statement)

    event.listen(engine, "before_cursor_execute", remember)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", remember)
