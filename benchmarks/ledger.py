"""How fast the ledger writes, beside the floor and the naive way in the same run.

`settlements` is the whole transaction: usage rows, sums, roll-ups at three grains, alerts and the calls' ends, one statement at a
time on one connection. The floor writes the same usage rows and nothing else: `insert … select unnest(…)` in batches as large,
into a table with the same indexes, on one connection too. The naive way commits one call at a time through SQLAlchemy Core.

Run: python -m benchmarks.ledger [--rows 20000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import asyncpg
from sqlalchemy import insert, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.costs.holds import AdmissionRequest, Settlement
from app.costs.ledger import PostgresLedger
from app.costs.maintenance import tidy
from app.costs.prices import PriceBook
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.db.tables.usage import usage_records
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.ids import new_uuid
from app.domain.usage import Operation, TokenUsage
from app.runtime.batcher import MAX_BATCH
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings, Settings
from benchmarks.overspend import ESTIMATE, PAYER, private_database

CALLERS = 2000
NAIVE_ROWS = 500
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types here
ABSENT = {"agent", "saved_usd", "cache_tier"}
COLUMNS = {
    column.name: f"{column.type.compile(dialect=DIALECT)}[]" for column in usage_records.columns if column.name not in ABSENT
}


@dataclass
class Measured:
    """Wall and client CPU seconds of each round, and the rows of one."""

    rows: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def round(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    @property
    def rows_a_second(self) -> float:
        return self.rows / statistics.median(self.wall)

    @property
    def cpu_us(self) -> float:
        return statistics.median(self.cpu) / self.rows * 1e6

    def show(self, name: str) -> None:
        print(f"{name}: {self.rows_a_second:.0f} rows/s on one connection, client CPU {self.cpu_us:.1f} us a row")


def requests_and_settlements(count: int) -> tuple[list[AdmissionRequest], list[Settlement]]:
    now = datetime.now(UTC)
    requests = [AdmissionRequest(new_uuid(now), Operation.COMPLETION, PAYER, ESTIMATE) for _ in range(count)]
    return requests, [
        Settlement(request.call, request.operation, request.payer, (used(now),), "FINISHED", b"x" * 500, now)
        for request in requests
    ]


def used(now: datetime) -> Attempt:
    return Attempt(
        new_uuid(now),
        ESTIMATE.provider,
        ESTIMATE.model,
        AttemptOutcome.SUCCEEDED,
        now,
        50.0,
        provider_request_id="req-0123456789",
        usage=TokenUsage(500, visible_output_tokens=100),
        cost_usd=Decimal("0.00225"),
    )


async def callers(work: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """So many at a time that the next batch always waits, as under load."""

    async def caller(mine: Iterable[Callable[[], Awaitable[object]]]) -> None:
        for one in mine:
            await one()

    await asyncio.gather(*(caller(work[start::CALLERS]) for start in range(CALLERS)))


def usage_rows(settlements: Sequence[Settlement], at: datetime) -> list[dict[str, object]]:
    return [
        {
            "key": new_uuid(at),
            "at": at,
            "completion": settlement.call,
            "operation": settlement.operation.value,
            "tenant": settlement.payer.tenant,
            "labels": "{}",
            "key_name": settlement.payer.key_name,
            "provider": ESTIMATE.provider,
            "model": ESTIMATE.model,
            "outcome": "SUCCEEDED",
            "provider_request_id": "req-0123456789",
            "uncached_input_tokens": 500,
            "cached_input_tokens": 0,
            "cache_write_5m_tokens": 0,
            "cache_write_1h_tokens": 0,
            "visible_output_tokens": 100,
            "reasoning_tokens": 0,
            "cost_usd": Decimal("0.00225"),
            "price_input_usd": Decimal("2.5"),
            "price_output_usd": Decimal(10),
            "price_cache_read_usd": Decimal("1.25"),
            "price_cache_write_usd": None,
            "price_source": "genai-prices openai/gpt-4o",
            "latency_ms": 50.0,
            "confirmed": True,
        }
        for settlement in settlements
    ]


async def write_floor(driver: asyncpg.Connection[asyncpg.Record], rows: Sequence[dict[str, object]], measured: Measured) -> None:
    casts = ", ".join(f"${place}::{COLUMNS[name]}" for place, name in enumerate(COLUMNS, 1))
    statement = (
        f"insert into floor ({', '.join(COLUMNS)}) select * from unnest({casts}) u ({', '.join(COLUMNS)}) on conflict do nothing"
    )
    values = [[row[name] for name in COLUMNS] for row in rows]
    await driver.fetch(statement, *([] for _ in COLUMNS))
    with measured.round():
        for start in range(0, len(values), MAX_BATCH):
            await driver.fetch(statement, *map(list, zip(*values[start : start + MAX_BATCH], strict=True)))


async def write_naively(connection: AsyncConnection, rows: Sequence[dict[str, object]], measured: Measured) -> None:
    with measured.round():
        for row in rows:
            async with connection.begin():
                await connection.execute(insert(usage_records), row | {"labels": {}})


async def measure(sessions: Sessions, count: int, rounds: int) -> None:
    settings = Settings()
    prices = PriceBook(settings)
    prices.rates(ESTIMATE.provider, ESTIMATE.model, datetime.now(UTC))
    admitted, settled, floor, naive = Measured(count), Measured(count), Measured(count), Measured(NAIVE_ROWS)
    await tidy(sessions, Settings().content.ttl)
    async with sessions.engines.primary.connect() as connection:
        await connection.execute(text("create table floor (like usage_records including all)"))
        await connection.commit()
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        for _ in range(rounds):
            requests, settlements = requests_and_settlements(count)
            ledger = PostgresLedger(sessions, SystemClock(), settings, prices)
            gc.freeze()
            with admitted.round():
                await callers([partial(ledger.admit, one) for one in requests])
            with settled.round():
                await callers([partial(ledger.settle, one) for one in settlements])
            await ledger.close()
            rows = usage_rows(settlements, datetime.now(UTC))
            await write_floor(driver, rows, floor)
            await write_naively(connection, rows[:NAIVE_ROWS], naive)
    admitted.show("admissions")
    settled.show("settlements")
    floor.show("floor, usage rows alone")
    naive.show("one commit a call")
    for name, other in (("the floor", floor), ("one commit a call", naive)):
        rate, cpu = settled.rows_a_second / other.rows_a_second, settled.cpu_us / other.cpu_us
        print(f"settlements to {name}: {rate:.2f} of its rows/s, {cpu:.2f} of its client CPU")


async def run(url: str, rows: int, rounds: int) -> None:
    engines = build_engines(url, [], DatabaseSettings())
    await measure(Sessions(engines), rows, rounds)
    await engines.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with private_database() as url:
        asyncio.run(run(url, options.rows, options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
