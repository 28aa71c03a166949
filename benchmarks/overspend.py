"""A thousand callers in four processes want to spend what one budget can pay for a hundred of.

Each caller asks for a call at its full worst case, uses all of what it was given, settles, and asks again; one that is refused
tries again for as long as anything is held. Run: python -m benchmarks.overspend [--processes 4] [--callers 1000] [--calls 100]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import text

from app.costs.budgets import BudgetExceeded, BudgetScope, BudgetStore, NewBudget
from app.costs.holds import AdmissionRequest, Admitted, Estimate, Payer, Settlement
from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.db.engines import build_engines
from app.db.migrate import migrate
from app.db.sessions import Sessions
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import Refused
from app.domain.usage import Operation, TokenUsage
from app.embedded.stores import PrivateStores
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, Settings

INPUT_USD, TOKEN_USD, CAP, MIN_CAP = Decimal("0.0013"), Decimal("0.00001"), 1000, 10
WORST = INPUT_USD + CAP * TOKEN_USD
PAYER = Payer("acme", "benchmark", "caller")
ESTIMATE = Estimate("openai", "gpt-4o", 500, CAP, MIN_CAP, INPUT_USD, TOKEN_USD)
PAUSE_SECONDS = 0.01
RESULT_SECONDS = 300
PROVIDER_SECONDS = 0.05


@dataclass
class Seen:
    """What one process saw; times in seconds."""

    calls: int = 0
    refusals: int = 0
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    admit: list[float] = field(default_factory=list)
    settle: list[float] = field(default_factory=list)


@contextmanager
def private_database() -> Iterator[str]:
    """The URL of its owner, who may also empty tables."""
    with tempfile.TemporaryDirectory(prefix="greenlang-bench-") as directory:
        stores = PrivateStores.launch(Path(directory) / "data", valkey=False)
        try:
            stores.wait()
            url = stores.owner.reveal()
            asyncio.run(migrate(url))
            yield url
        finally:
            stores.stop()


async def caller(ledger: PostgresLedger, seen: Seen) -> None:
    while True:
        call, started = uuid4(), time.perf_counter()
        try:
            admitted = await ledger.admit(AdmissionRequest(call, Operation.COMPLETION, PAYER, ESTIMATE))
        except Refused as refused:
            seen.refusals += 1
            if isinstance(refused.reason, BudgetExceeded) and refused.reason.budget.held_usd == 0:
                return
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        assert isinstance(admitted, Admitted)
        seen.admit.append(time.perf_counter() - started)
        await asyncio.sleep(PROVIDER_SECONDS)
        used = Attempt(
            uuid4(),
            ESTIMATE.provider,
            ESTIMATE.model,
            AttemptOutcome.SUCCEEDED,
            datetime.now(UTC),
            PROVIDER_SECONDS * 1000,
            usage=TokenUsage(uncached_input_tokens=500, visible_output_tokens=admitted.output_cap_tokens),
            cost_usd=INPUT_USD + admitted.output_cap_tokens * TOKEN_USD,
        )
        started = time.perf_counter()
        await ledger.settle(Settlement(call, Operation.COMPLETION, PAYER, (used,), "FINISHED", b"{}", used.started_at))
        seen.settle.append(time.perf_counter() - started)
        seen.calls += 1


def process(url: str, callers: int, results: multiprocessing.Queue[Seen]) -> None:
    async def work() -> Seen:
        engines, settings, seen = build_engines(url, [], DatabaseSettings()), Settings(), Seen()
        prices = PriceBook(settings)
        prices.rates(ESTIMATE.provider, ESTIMATE.model, datetime.now(UTC))
        async with PostgresLedger(Sessions(engines), SystemClock(), settings, prices) as ledger:
            seen.began = time.time()
            await asyncio.gather(*(caller(ledger, seen) for _ in range(callers)))
            seen.ended = time.time()
        await engines.close()
        return seen

    results.put(asyncio.run(work()))


async def create_budget(url: str, calls: int) -> UUID:
    engines = build_engines(url, [], DatabaseSettings())
    made = await BudgetStore(Sessions(engines)).create(NewBudget("benchmark", BudgetScope(tenant="acme"), WORST * calls))
    await engines.close()
    return made.key


async def look(url: str, budget: UUID) -> tuple[Decimal, Decimal, Decimal, int]:
    """Spent, held, the records' own sum, and the statements that callers' processes committed."""
    engines = build_engines(url, [], DatabaseSettings())
    async with engines.primary.connect() as connection:
        row = (
            await connection.execute(
                text(
                    "select b.spent_usd, b.held_usd, (select coalesce(sum(cost_usd), 0) from usage_records) as records,"
                    " (select xact_commit from pg_stat_database where datname = current_database()) as commits"
                    " from budget_now b where key = :key"
                ),
                {"key": budget},
            )
        ).one()
    await engines.close()
    return row.spent_usd, row.held_usd, row.records, row.commits


def p95(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.95)] * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    with private_database() as url:
        budget = asyncio.run(create_budget(url, options.calls))
        before = asyncio.run(look(url, budget))
        context = multiprocessing.get_context("spawn")
        results: multiprocessing.Queue[Seen] = context.Queue()
        workers = [
            context.Process(target=process, args=(url, options.callers // options.processes, results))
            for _ in range(options.processes)
        ]
        for worker in workers:
            worker.start()
        seen = [results.get(timeout=RESULT_SECONDS) for _ in workers]
        for worker in workers:
            worker.join()
        seconds = max(one.ended for one in seen) - min(one.began for one in seen)
        spent, held, records, commits = asyncio.run(look(url, budget))
    limit, calls = WORST * options.calls, sum(one.calls for one in seen)
    decisions = calls + sum(one.refusals for one in seen)
    print(f"limit {limit} spent {spent} held {held} records {records}")
    print(f"overspend {max(spent - limit, Decimal(0)):.2f} USD, used {100 * spent / limit:.2f} %")
    print(f"{calls} calls, {decisions - calls} refusals in {seconds:.1f} s")
    print(f"{calls / seconds:.0f} calls/s, {decisions / seconds:.0f} decisions/s")
    statements = commits - before[3]
    print(f"{statements / calls:.2f} statements a call, {statements / (decisions + calls):.3f} a decision or settlement")
    admit, settle = ([t for one in seen for t in getattr(one, name)] for name in ("admit", "settle"))
    print(f"p95 admission {p95(admit):.1f} ms, settlement {p95(settle):.1f} ms")
    return 0 if spent <= limit and spent >= limit * Decimal("0.95") and spent == records and held == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
