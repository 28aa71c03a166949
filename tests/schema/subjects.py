"""Whose things mutations are about, and what the database holds before and after one."""

from __future__ import annotations

import json

from sqlalchemy import text

from app.access.principal import Principal, Scope
from app.domain.errors import Forbidden
from tests.app.access.principals import principal
from tests.schema.api import EVERYTHING, Api

READER = principal(Scope.BUDGETS_READ, tenant="acme", key=6)
SALES = principal(*EVERYTHING, tenant="acme", agent="sales", key=7)
GLOBEX_BOUND = principal(*EVERYTHING, tenant="globex", agent="research", key=8)
FORBIDDEN = "FORBIDDEN"

_TABLES = text(
    "select table_name from information_schema.columns"
    " where table_schema = 'public' and column_name = 'tenant' and table_name in (select tablename from pg_tables)"
    " and table_name <> 'outbox' order by 1"
)
"""The relay places the outbox's rows in the background."""
_PERIODS = (
    "select to_jsonb(p) from budget_periods p join budgets b on b.key = p.budget"
    " where cast(:tenant as text) is null or b.tenant = :tenant order by 1"
)


async def outcome(api: Api, document: str, caller: Principal, **variables: object) -> str:
    """The type that a mutation gave back, or FORBIDDEN."""
    result = await api.run(document, caller, **variables)
    if result.errors is None:
        assert result.data is not None
        [answer] = result.data.values()
        return str(answer["__typename"])
    [error] = result.errors
    assert isinstance(error.original_error, Forbidden), error
    return FORBIDDEN


async def state(api: Api, tenant: str | None = None) -> list[str]:
    """Every row of a tenant, with its budgets' periods; None is all rows."""
    found: list[str] = []
    async with api.services.sessions.read(primary=True) as session:
        for table in (await session.execute(_TABLES)).scalars().all():
            rows = f"select to_jsonb(t) from {table} t where cast(:tenant as text) is null or t.tenant = :tenant order by 1"
            found += [f"{table} {json.dumps(row)}" for row in await session.scalars(text(rows), {"tenant": tenant})]
        found += [f"budget_periods {json.dumps(row)}" for row in await session.scalars(text(_PERIODS), {"tenant": tenant})]
    return found
