from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from app.telemetry.loop_lag import LoopLag
from tests.clocks import ManualClock, settle

pytestmark = pytest.mark.anyio


async def test_a_timer_that_fires_late_is_seen() -> None:
    clock, registry = ManualClock(), CollectorRegistry()
    measuring = asyncio.create_task(LoopLag(clock, registry).run_maintenance())
    await settle()
    clock.move(2)
    await clock.advance(0)
    measuring.cancel()
    assert registry.get_sample_value("greenlang_event_loop_lag_seconds_count") == 1
    assert registry.get_sample_value("greenlang_event_loop_lag_seconds_sum") == pytest.approx(1.75)
