"""What waits, read from real PostgreSQL."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.events.backlog import Backlog
from app.events.relay import Relay
from app.events.webhooks import Webhooks
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings, WebhookSettings
from app.telemetry.read_metrics import ReadMetrics
from tests.app.events.test_relay import TOPIC, Connection, put
from tests.app.events.test_webhook_sender import secret
from tests.app.events.test_webhooks import bodies, connection, sessions
from tests.clocks import ManualClock

__all__ = ["connection", "secret", "sessions"]

pytestmark = pytest.mark.anyio


@pytest.fixture
async def away() -> AsyncIterator[Sessions]:
    """The sessions of a PostgreSQL that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    engines = build_engines(f"postgresql://none:none@127.0.0.1:{port}/none", [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


async def test_events_without_a_position_are_counted_with_the_age_of_the_oldest(
    sessions: Sessions, connection: Connection
) -> None:
    relay, backlog, registry = Relay(sessions, SystemClock()), Backlog(sessions, ManualClock(), ()), CollectorRegistry()
    backlog.show(ReadMetrics(registry))
    await relay.catch_up()
    await backlog.read()
    assert registry.get_sample_value("greenlang_outbox_unsequenced") == 0
    assert registry.get_sample_value("greenlang_outbox_oldest_seconds") == 0
    await put(connection)
    late = await put(connection)
    await connection.execute("update outbox set created_at = now() - $2::interval where key = $1", late, timedelta(minutes=5))
    await backlog.read()
    assert registry.get_sample_value("greenlang_outbox_unsequenced") == 2
    assert 300 <= (registry.get_sample_value("greenlang_outbox_oldest_seconds") or 0) < 330


async def test_deliveries_are_due_of_the_configured_webhooks_only(
    sessions: Sessions, connection: Connection, secret: SecretReference
) -> None:
    relay = Relay(sessions, SystemClock())
    settings = [WebhookSettings(url=f"https://{name}.example/", secret=secret) for name in ("one", "two")]
    webhooks = Webhooks(settings, TOPIC, bodies, sessions=sessions, relay=relay, clock=SystemClock())
    event = await put(connection)
    for endpoint in (*webhooks.endpoints, "an earlier one"):
        await connection.execute("insert into webhook_deliveries (endpoint, event) values ($1, $2)", endpoint, event)
    later, _ = webhooks.endpoints
    await connection.execute("update webhook_deliveries set next_at = now() + interval '1 hour' where endpoint = $1", later)
    backlog = Backlog(sessions, ManualClock(), webhooks.endpoints)
    await backlog.read()
    assert backlog.figures is not None
    assert backlog.figures.due == 1


async def test_budgets_count_that_passed_ninety_percent_within_the_last_hour(sessions: Sessions, connection: Connection) -> None:
    raised = [(95, "30 minutes"), (100, "20 minutes"), (90, "2 hours"), (80, "1 minute")]
    for budget, thresholds in (("one", raised[:2]), ("two", raised[2:3]), ("three", raised[3:])):
        key = await connection.fetchval(
            "insert into budgets (key, name, limit_usd, period, time_zone, thresholds, enforcement)"
            " values (gen_random_uuid(), $1, 1, 'MONTH', 'UTC', '{80}', 'BLOCK') returning key",
            budget,
        )
        for threshold, ago in thresholds:
            await connection.execute(
                "insert into budget_alerts"
                " (key, budget, period_start, threshold, budget_name, tenant, spent_usd, limit_usd, raised_at)"
                " values (gen_random_uuid(), $1, now(), $2, $3, '', 1, 1, now() - $4::text::interval)",
                key,
                threshold,
                budget,
                ago,
            )
    backlog = Backlog(sessions, ManualClock(), ())
    await backlog.read()
    assert backlog.figures is not None
    assert backlog.figures.near_limit == 1


async def test_nothing_is_shown_while_postgresql_does_not_answer(away: Sessions) -> None:
    registry = CollectorRegistry()
    backlog = Backlog(away, ManualClock(), ())
    backlog.show(ReadMetrics(registry))
    await backlog.read()
    assert registry.get_sample_value("greenlang_webhooks_due") is None
