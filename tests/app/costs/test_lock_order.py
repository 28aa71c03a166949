"""Admissions, settlements, sweeps, renewals and changes of budgets lock in one order: they wait, and never in a circle."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text

from app.costs.budgets import BudgetAuthority, BudgetChange, BudgetScope, BudgetStore, NewBudget
from app.costs.holds import Admitted, IdempotencyKey
from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, Settings
from tests.app.costs.calls import asked, attempt, estimate, payer, settlement, sums

pytestmark = pytest.mark.anyio

AGENTS, TARGETS = ("a", "b", "c"), (("openai", "gpt-4o"), ("anthropic", "claude-sonnet-5"))
PROCESSES, CALLERS, CALLS = 4, 40, 6
DWELL = """create or replace function dwell() returns trigger language plpgsql as $$
begin perform pg_sleep(0.002); return null; end $$"""
DWELLS = (
    "insert on completions",
    "update on completions",
    "insert on usage_records",
    "update on budget_periods",
    "insert on usage_rollups",
)
"""Each transaction dwells between its locks, so that a wrong order shows."""


class Crowd:
    def __init__(self, url: str) -> None:
        self.chance = random.Random(7)
        self.engines = build_engines(url, [], DatabaseSettings())
        self.sessions = Sessions(self.engines)
        self.budgets = BudgetStore(self.sessions)
        prices = PriceBook(Settings())
        self.ledgers = [PostgresLedger(self.sessions, SystemClock(), Settings(), prices) for _ in range(PROCESSES)]

    async def call(self, number: int) -> None:
        """One from beginning to end, in its turn swept, joined, topped up, released or settled late and twice."""
        chance, ledger = self.chance, self.ledgers[number % PROCESSES]
        who, target = payer(agent=chance.choice(AGENTS)), chance.choice(TARGETS)
        key = IdempotencyKey(f"k{chance.randrange(20)}", b"h" * 32) if chance.random() < 0.3 else None
        worst = estimate(provider=target[0], model=target[1])
        request = asked(who, worst, key)
        admitted = await ledger.admit(request)
        if not isinstance(admitted, Admitted):
            return
        request = asked(who, worst, key, admitted.call)
        if chance.random() < 0.4:
            await ledger.top_up(request.call, who, worst)
        if chance.random() < 0.2:
            await self.die()
        used = attempt("1", provider=target[0], model=target[1])
        if chance.random() < 0.1:
            await ledger.release(request.call)
        else:
            await asyncio.gather(*(ledger.settle(settlement(request, used)) for _ in range(chance.randint(1, 2))))

    async def die(self) -> None:
        async with self.sessions.write() as session:
            await session.execute(
                text(
                    "update completions set lease_until = now() - interval '1 hour' where key in (select key from completions"
                    " where status = 'RUNNING' order by key limit 5 for update skip locked)"
                )
            )
        await asyncio.gather(*(ledger.sweep() for ledger in self.ledgers))

    async def caller(self, number: int) -> None:
        for _ in range(CALLS):
            await self.call(number)

    async def keep(self, ledger: PostgresLedger) -> None:
        while True:
            await ledger.renew(after=timedelta(0))
            await asyncio.sleep(0.005)

    async def change(self) -> None:
        while True:
            for budget in (await self.budgets.by_keys(self.made, None)).values():
                change = BudgetChange(budget.version, limit_usd=Decimal(self.chance.randint(10_000, 20_000)))
                await self.budgets.update(budget.key, change, BudgetAuthority())
            await asyncio.sleep(0.01)

    async def run(self) -> None:
        scopes = [BudgetScope(tenant="acme"), BudgetScope(), *(BudgetScope(tenant="acme", agent=agent) for agent in AGENTS)]
        scopes += [BudgetScope(provider=provider) for provider, _ in TARGETS]
        self.made = [
            (await self.budgets.create(NewBudget(str(number), scope, Decimal(15_000)))).key for number, scope in enumerate(scopes)
        ]
        others = [asyncio.create_task(self.change()), *(asyncio.create_task(self.keep(ledger)) for ledger in self.ledgers)]
        await asyncio.gather(*(self.caller(number) for number in range(CALLERS)))
        for other in others:
            other.cancel()
        for ended in await asyncio.gather(*others, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended

    async def close(self) -> None:
        for ledger in self.ledgers:
            await ledger.close()
        await self.engines.close()


async def test_no_one_waits_in_a_circle(database_url: str, sessions: Sessions, owner: Sessions) -> None:
    async with owner.write() as session:
        await session.execute(text("select make_usage_partition(now())"))
        await session.execute(text(DWELL))
        for number, when in enumerate(DWELLS):
            await session.execute(text(f"create trigger dwell{number} after {when} for each statement execute function dwell()"))
    await owner.engines.close()
    crowd = Crowd(database_url)
    await crowd.run()
    found = [await sums(sessions, budget) for budget in crowd.made]
    await crowd.close()
    assert [(one.spent, one.held) for one in found] == [(one.records, one.hold_rows) for one in found]
    await sessions.engines.close()
    deadline = time.monotonic() + 10
    while await _count(sessions, "select count(*) from pg_stat_activity where datname = current_database()") > 1:
        assert time.monotonic() < deadline, "a connection stays, and with it what it has not counted yet"
        await asyncio.sleep(0.05)
    assert await _count(sessions, "select deadlocks from pg_stat_database where datname = current_database()") == 0


async def _count(sessions: Sessions, statement: str) -> int:
    async with sessions.read() as session:
        counted: int = (await session.execute(text(statement))).scalar_one()
        return counted
