"""Whatever several processes do to one database at the same time: no hold passes a limit in force, the sums are the rows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from app.costs.budgets import (
    BudgetAuthority,
    BudgetChange,
    BudgetEnforcement,
    BudgetPeriod,
    BudgetScope,
    BudgetStore,
    NewBudget,
)
from app.costs.holds import AdmissionRequest, Admitted
from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.db.engines import Engines, build_engines
from app.db.sessions import Sessions
from app.domain.errors import Refused
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, Settings
from tests.app.costs.calls import asked, attempt, estimate, payer, settlement, sums

T = TypeVar("T")
CENT = Decimal("0.01")

targets = st.sampled_from([("openai", "gpt-4o"), ("anthropic", "claude-sonnet-5")])
agents = st.sampled_from(["writer", "reader", None])
limits = st.integers(0, 30).map(Decimal)
scopes = st.builds(
    BudgetScope,
    tenant=st.sampled_from(["acme", None]),
    agent=agents,
    provider=st.sampled_from(["openai", None, None]),
)
crowds = st.lists(st.tuples(agents, targets, st.integers(1, 60)), min_size=1, max_size=8)
picks = st.integers(0, 999)
"""A pick among what there is: which calls were admitted is the database's choice, so no strategy may depend on it."""
ends = st.lists(
    st.tuples(picks, st.sampled_from(["settle", "settle", "top up", "release", "settle twice"]), targets, st.integers(0, 4)),
    min_size=1,
    max_size=6,
)
Ends: TypeAlias = list[tuple[int, str, tuple[str, str], int]]
Crowd: TypeAlias = list[tuple[str | None, tuple[str, str], int]]


@dataclass
class Open:
    """A running call: its ledger, the most it may still cost, and whether it was swept."""

    request: AdmissionRequest
    ledger: PostgresLedger
    worst: list[tuple[str, str, Decimal]]
    swept: bool = False


@dataclass
class Known:
    """A budget: the limits in force since the last look, and the calls that it never held for, which may cost it more."""

    version: int
    limits: list[Decimal]
    enforcement: BudgetEnforcement
    unheld: set[UUID] = field(default_factory=set)
    used: Decimal = Decimal(0)
    loose: bool = True


class MoneyMachine(RuleBasedStateMachine):
    def __init__(self, database_url: str, owner_url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.engines: Engines = build_engines(database_url, [], DatabaseSettings())
        self.sessions = Sessions(self.engines)
        self.owner_url = owner_url
        self.budgets = BudgetStore(self.sessions)
        self.ledgers = [PostgresLedger(self.sessions, SystemClock(), Settings(), PriceBook(Settings())) for _ in range(3)]
        self.open: dict[UUID, Open] = {}
        self.known: dict[UUID, Known] = {}
        self.created: list[UUID] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def empty(self) -> None:
        self.run(self._empty())

    async def _empty(self) -> None:
        owner = build_engines(self.owner_url, [], DatabaseSettings())
        async with Sessions(owner).write() as session:
            for statement in _SLOWED:
                await session.execute(text(statement))
            await session.execute(
                text("truncate completions, budgets, budget_periods, budget_alerts, outbox, usage_records, usage_rollups")
            )
        await owner.close()

    @rule(scope=scopes, limit=limits, crowd=crowds, chosen=ends, enforcement=st.sampled_from(BudgetEnforcement))
    def create_budget(
        self, scope: BudgetScope, limit: Decimal, crowd: Crowd, chosen: Ends, enforcement: BudgetEnforcement
    ) -> None:
        if len(self.known) >= 4:
            return
        new = NewBudget(f"b{len(self.known)}", scope, limit, BudgetPeriod.MONTH, enforcement=enforcement)

        async def create() -> None:
            key = (await self.budgets.create(new)).key
            self.created.append(key)
            self.known[key] = Known(1, [limit], enforcement)

        self.run(self._together([create(), *self._work(chosen, crowd)]))
        self.known[self.created[-1]].unheld = set(self.open)

    @rule(crowd=crowds, chosen=ends)
    def calls_come_and_go(self, crowd: Crowd, chosen: Ends) -> None:
        self.run(self._together(self._work(chosen, crowd)))

    @rule(pick=picks, limit=limits, crowd=crowds, chosen=ends)
    def change_a_limit(self, pick: int, limit: Decimal, crowd: Crowd, chosen: Ends) -> None:
        if not self.created:
            return
        key = self.created[pick % len(self.created)]
        known = self.known[key]
        known.limits.append(limit)
        change = self.budgets.update(key, BudgetChange(known.version, limit_usd=limit), BudgetAuthority())
        known.version += 1
        self.run(self._together([change, *self._work(chosen, crowd)]))

    @rule(chosen=st.lists(picks, min_size=1, max_size=5))
    def owners_die_and_are_swept(self, chosen: list[int]) -> None:
        dead = sorted({call for pick in chosen if (call := self._pick(pick)) is not None})
        self.run(self._sweep(dead))
        for call in dead:
            self.open[call].swept = True

    @invariant()
    def sums_are_rows_and_limits_hold(self) -> None:
        for key, known in self.known.items():
            found = self.run(sums(self.sessions, key))
            assert found.spent == found.records
            assert found.held == found.hold_rows
            used = found.spent + found.held
            if known.enforcement is BudgetEnforcement.BLOCK and not known.loose:
                assert used <= max(*known.limits, known.used), (found, known)
            known.limits, known.used, known.loose = known.limits[-1:], used, bool(known.unheld)
            assert found.held >= 0

    def _work(self, chosen: Ends, crowd: Crowd) -> list[Awaitable[None]]:
        work: list[Awaitable[None]] = [self._admit(self.ledgers[n % 3], *one) for n, one in enumerate(crowd)]
        busy: set[UUID] = set()
        for pick, end, target, share in chosen:
            call = self._pick(pick)
            if call is None or call in busy:
                continue
            busy.add(call)
            if end == "top up" and not self.open[call].swept:
                work.append(self._top_up(call, target))
            else:
                work.append(self._end(call, end, share))
        return work

    def _pick(self, pick: int) -> UUID | None:
        return sorted(self.open)[pick % len(self.open)] if self.open else None

    def teardown(self) -> None:
        try:
            self.run(self._finish())
        finally:
            self.run(self._close())
            self.runner.close()

    async def _finish(self) -> None:
        await self._together([self._end(call, "settle", 4) for call in list(self.open)])
        for key in self.known:
            found = await sums(self.sessions, key)
            assert found.held == found.hold_rows == 0
            assert found.spent == found.records
        async with self.sessions.read(primary=True) as session:
            agree = (await session.execute(_LEDGER_AGREES)).one()
        assert len(set(agree)) == 1

    async def _close(self) -> None:
        for ledger in self.ledgers:
            await ledger.close()
        await self.engines.close()

    async def _together(self, work: list[Awaitable[Any]]) -> None:
        await asyncio.gather(*work)

    async def _admit(self, ledger: PostgresLedger, agent: str | None, target: tuple[str, str], most: int) -> None:
        worst = estimate(
            input_usd="0.5", token_usd="0.1", most=most, least=max(1, most // 4), provider=target[0], model=target[1]
        )
        request = asked(payer(agent=agent), worst)
        try:
            admitted = await ledger.admit(request)
        except Refused:
            return
        assert isinstance(admitted, Admitted)
        assert max(1, most // 4) <= admitted.output_cap_tokens <= most
        self.open[request.call] = Open(request, ledger, [(*target, Decimal("0.5") + admitted.output_cap_tokens * Decimal("0.1"))])

    async def _top_up(self, call: UUID, target: tuple[str, str]) -> None:
        opened = self.open[call]
        worst = estimate(input_usd="0.5", token_usd="0.1", most=10, least=2, provider=target[0], model=target[1])
        cap = await opened.ledger.top_up(call, opened.request.payer, worst)
        if cap is not None:
            opened.worst.append((*target, Decimal("0.5") + cap * Decimal("0.1")))

    async def _end(self, call: UUID, end: str, quarters: int) -> None:
        opened = self.open.pop(call)
        if end == "release":
            await opened.ledger.release(call)
        else:
            costs = [
                attempt(str((usd * quarters / 4).quantize(CENT)), provider=provider, model=model)
                for provider, model, usd in opened.worst
            ]
            done = settlement(opened.request, *costs)
            await opened.ledger.settle(done)
            if end == "settle twice":
                await opened.ledger.settle(done)
        for known in self.known.values():
            known.unheld.discard(call)

    async def _sweep(self, dead: list[UUID]) -> None:
        async with self.sessions.write() as session:
            await session.execute(
                text(
                    "update completions set lease_until = now() - interval '1 hour' where key = any(:dead) and status = 'RUNNING'"
                ),
                {"dead": dead},
            )
        await asyncio.gather(*(ledger.sweep() for ledger in self.ledgers))


_DWELL = (
    "create or replace function dwell() returns trigger language plpgsql as $$ begin perform pg_sleep(0.003); return null; end $$"
)
_SLOWED = (
    _DWELL,
    *(
        f"create or replace trigger dwell before insert on {table} for each statement execute function dwell()"
        for table in ("completions", "usage_records", "budget_periods")
    ),
)
"""Each transaction dwells between what it read and what it writes, so that a lock that is missing shows."""

_LEDGER_AGREES = text("""
    select (select coalesce(sum(cost_usd), 0) from usage_records),
        (select coalesce(sum(cost_usd), 0) from usage_rollups where grain = 15),
        (select coalesce(sum(cost_usd), 0) from usage_rollups where grain = 60),
        (select coalesce(sum(cost_usd), 0) from usage_rollups where grain = 1440)
""")


def test_no_interleaving_breaks_the_money(database_url: str, owner_url: str) -> None:
    class OnThisDatabase(MoneyMachine):
        def __init__(self) -> None:
            super().__init__(database_url, owner_url)

    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            database=None,
        ),
    )
