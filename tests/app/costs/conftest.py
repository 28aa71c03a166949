from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from app.costs.budgets import BudgetStore
from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, Settings

LedgerMaker = Callable[..., PostgresLedger]


@pytest.fixture
async def owner(owner_url: str) -> AsyncIterator[Sessions]:
    """Of the role that owns the schema, for what serving may not do."""
    engines = build_engines(owner_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


@pytest.fixture
async def new_ledger(sessions: Sessions) -> AsyncIterator[LedgerMaker]:
    """Each call makes another process's ledger on the same database."""
    made: list[PostgresLedger] = []

    def make(settings: Settings | None = None) -> PostgresLedger:
        settings = settings or Settings()
        made.append(PostgresLedger(sessions, SystemClock(), settings, PriceBook(settings)))
        return made[-1]

    yield make
    for ledger in made:
        await ledger.close()


@pytest.fixture
def ledger(new_ledger: LedgerMaker) -> PostgresLedger:
    return new_ledger()


@pytest.fixture
def budgets(sessions: Sessions) -> BudgetStore:
    return BudgetStore(sessions)
