"""Usage records of hits: in batches, soon, and all of them when the process stops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from app.costs.holds import Payer, Settlement
from app.domain.ids import new_uuid
from app.domain.usage import Operation
from app.gateway.hit_records import DELAY_SECONDS, MAX_DELAY_SECONDS, MAX_WAITING, HitRecords
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 11, 30, tzinfo=UTC)


class Written:
    """What the ledger was given, batch by batch. While `gate` is closed it does not answer."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Settlement]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def settle_all(self, batch: Sequence[Settlement]) -> int:
        await self.gate.wait()
        self.batches.append(batch)
        return 0


def a_record() -> Settlement:
    return Settlement(new_uuid(NOW), Operation.COMPLETION, Payer("acme", "key"), (), "FINISHED", None, NOW)


class TestRecords:
    async def test_of_half_a_second_are_one_batch(self) -> None:
        written, clock = Written(), ManualClock()
        records, given = HitRecords(written.settle_all, clock), [a_record() for _ in range(3)]
        for record in given:
            records.add(record)
            await clock.advance(DELAY_SECONDS / 4)
        assert written.batches == []
        await clock.advance(DELAY_SECONDS / 4)
        assert written.batches == [given]
        records.add(late := a_record())
        await clock.advance(MAX_DELAY_SECONDS)
        assert written.batches == [given, [late]]
        assert clock.sleeping == 0

    async def test_that_are_many_do_not_wait(self) -> None:
        written, clock = Written(), ManualClock()
        records, given = HitRecords(written.settle_all, clock), [a_record() for _ in range(MAX_WAITING + 1)]
        for record in given:
            records.add(record)
        await settle()
        assert written.batches == [given[:-1]]
        await clock.advance(DELAY_SECONDS)
        assert written.batches == [given[:-1], given[-1:]]

    async def test_are_all_written_when_the_process_stops(self) -> None:
        written, clock = Written(), ManualClock()
        records, first, second = HitRecords(written.settle_all, clock), a_record(), a_record()
        written.gate.clear()
        records.add(first)
        await clock.advance(DELAY_SECONDS)
        records.add(second)
        flushing = asyncio.create_task(records.flush())
        await settle()
        assert not flushing.done()
        written.gate.set()
        await flushing
        assert written.batches == [[first], [second]]

    async def test_that_were_lost_are_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        async def settle_all(batch: Sequence[Settlement]) -> int:
            return len(batch)

        records = HitRecords(settle_all, ManualClock())
        for _ in range(3):
            records.add(a_record())
        await records.flush()
        assert [record.message for record in caplog.records] == ["usage records of cached answers were not written"]
