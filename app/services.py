"""What a process owns: opened here, in one place, and closed in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry

from app.access.keys import KeyStore
from app.access.limits import KeyLimits
from app.access.limits_shared import SharedKeyLimits
from app.aside import Aside
from app.calls import CallPlanner
from app.clock import Clock
from app.completion_documents import CompletionDocuments
from app.costs.alert_events import TOPIC as ALERTS
from app.costs.alert_events import BudgetAlertEvents
from app.costs.alerts import AlertStore
from app.costs.budgets import BudgetStore
from app.costs.cost_updates import CostUpdates
from app.costs.estimate import Estimator
from app.costs.export import CostExports
from app.costs.forecast import Forecasts
from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.costs.reports import CostReports
from app.costs.upkeep import Upkeep
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.errors import SettingsError
from app.events.redis_streams import PATIENCE, RedisStreams
from app.events.relay import Relay
from app.events.stream_log import FORGOTTEN_AFTER, LIFETIME, StreamLog
from app.events.webhooks import Webhooks
from app.gateway import Gateway
from app.health.checks import Health
from app.health.stores import postgres_check, redis_check
from app.leases import Leases
from app.llm.fleet import Fleet, build_fleet
from app.llm.output_limits import OutputLimits
from app.llm.provider_events import ProviderEvents
from app.llm.registry import build_providers
from app.redis.clients import RedisClient, connect_redis
from app.secrets import build_sealer
from app.settings import ContentSettings, Settings
from app.stream_seals import StreamSeals
from app.streams import CompletionStreams
from app.tasks import Grace, end_tasks
from app.traces import open_traces
from app.web.client_address import TrustedProxies
from app.web.misuse import Misuse


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    clock: Clock
    aside: Aside
    metrics: CollectorRegistry
    misuse: Misuse
    sessions: Sessions
    keys: KeyStore
    prices: PriceBook
    ledger: PostgresLedger
    budgets: BudgetStore
    alerts: AlertStore
    alert_events: BudgetAlertEvents
    cost_updates: CostUpdates
    provider_events: ProviderEvents
    exports: CostExports
    reports: CostReports
    forecasts: Forecasts
    fleet: Fleet
    planner: CallPlanner
    gateway: Gateway
    streams: CompletionStreams
    health: Health
    grace: Grace
    """Of the calls that run when the process is told to stop."""


@asynccontextmanager
async def build_services(
    settings: Settings, clock: Clock, estimator: Estimator, prices: PriceBook, *, stream_secret: bytes = b""
) -> AsyncIterator[Services]:
    """Connects lazily: a store that is away is no reason not to start. `stream_secret` is that of StreamSeals. SettingsError."""
    async with AsyncExitStack() as stack:
        sessions, redis, event_streams = _connect(settings, clock, stack)
        metrics, misuse = _open_metrics(settings, clock, stack)
        tell = await stack.enter_async_context(open_traces(settings.telemetry))
        fleet = build_fleet(settings, build_providers(settings.providers, clock), clock, redis=redis, registry=metrics)
        stack.push_async_callback(fleet.close)
        keys = await _open_keys(settings, sessions, redis, clock, stack)
        ledger = PostgresLedger(sessions, clock, settings, prices)
        stack.push_async_callback(ledger.close)
        _keep(stack, ledger, Upkeep(sessions, clock, settings.content.ttl))
        aside = Aside()
        planner = _plan_calls(settings, clock, fleet, prices, estimator, aside=aside)
        documents, seals, log = _content(settings.content, sessions, redis, clock, stream_secret)
        leases = Leases(clock, log, ledger)
        _keep(stack, leases, seals)
        gateway = Gateway(
            clock=clock, fleet=fleet, ledger=ledger, keys=keys, planner=planner, documents=documents, leases=leases, tell=tell
        )
        grace = Grace(settings.server.shutdown_grace.total_seconds(), clock.monotonic)
        stack.push_async_callback(gateway.close, grace)
        streams = CompletionStreams(
            clock=clock, fleet=fleet, gateway=gateway, planner=planner, seals=seals, leases=leases, log=log
        )
        _keep(stack, streams)
        stack.push_async_callback(streams.close, grace)
        relay, alerts = Relay(sessions, clock, streams=event_streams), AlertStore(sessions)
        alert_events = BudgetAlertEvents(alerts, relay, clock)
        webhooks = Webhooks(settings.webhooks, ALERTS, alert_events.payloads, sessions=sessions, relay=relay, clock=clock)
        provider_events = ProviderEvents(fleet, sessions, relay, clock)
        stack.push_async_callback(end_tasks, [asyncio.create_task(each.run()) for each in (relay, webhooks, provider_events)])
        fleet.start()
        yield Services(
            settings=settings,
            clock=clock,
            aside=aside,
            metrics=metrics,
            misuse=misuse,
            sessions=sessions,
            keys=keys,
            prices=prices,
            ledger=ledger,
            budgets=BudgetStore(sessions),
            alerts=alerts,
            alert_events=alert_events,
            cost_updates=CostUpdates(CostReports(sessions), clock),
            provider_events=provider_events,
            exports=CostExports(sessions, clock, settings.server.public_url or ""),
            reports=CostReports(sessions),
            forecasts=Forecasts(sessions, CostReports(sessions), clock),
            fleet=fleet,
            planner=planner,
            gateway=gateway,
            streams=streams,
            health=Health([postgres_check(sessions), redis_check(redis)], clock),
            grace=grace,
        )


class _Keeper(Protocol):
    async def keep(self) -> None: ...


def _keep(stack: AsyncExitStack, *keepers: _Keeper) -> None:
    """Each has a task until the stack is left."""
    stack.push_async_callback(end_tasks, [asyncio.create_task(each.keep()) for each in keepers])


def _content(
    content: ContentSettings, sessions: Sessions, redis: RedisClient, clock: Clock, stream_secret: bytes
) -> tuple[CompletionDocuments, StreamSeals, StreamLog]:
    """What seals the answer of a call and the entries of its stream, and the log of those."""
    sealer, keep = build_sealer(content.encryption_keys), content.store
    seals = StreamSeals(sessions, clock, sealer, keep_content=keep, memory_secret=stream_secret)
    log = StreamLog(redis, min(LIFETIME, content.ttl) if keep else FORGOTTEN_AFTER)
    return CompletionDocuments(sealer, keep), seals, log


def _plan_calls(
    settings: Settings, clock: Clock, fleet: Fleet, prices: PriceBook, estimator: Estimator, *, aside: Aside
) -> CallPlanner:
    timeouts = {each.name: each.timeouts.total for each in settings.providers}
    limits = OutputLimits(settings, prices.context_tokens)
    return CallPlanner(clock, fleet, prices, estimator, timeouts, aside=aside, output_limits=limits)


def _connect(settings: Settings, clock: Clock, stack: AsyncExitStack) -> tuple[Sessions, RedisClient, RedisStreams]:
    if settings.database.primary is None or settings.redis.url is None:
        raise SettingsError("database.primary and redis.url", "are needed where no embedded stores run")
    engines = build_engines(
        settings.database.primary.reveal(), [replica.reveal() for replica in settings.database.replicas], settings.database
    )
    stack.push_async_callback(engines.close)
    patience = settings.redis.model_copy(update={"socket_timeout": settings.redis.socket_timeout + PATIENCE})
    redis, patient = (connect_redis(settings.redis.url.reveal(), each, clock) for each in (settings.redis, patience))
    for client in (redis, patient):
        stack.push_async_callback(client.close)
    return Sessions(engines), redis, RedisStreams(redis, patient)


def _open_metrics(settings: Settings, clock: Clock, stack: AsyncExitStack) -> tuple[CollectorRegistry, Misuse]:
    metrics = CollectorRegistry()
    misuse = Misuse(metrics, TrustedProxies(settings.server.trusted_proxies), clock)
    stack.push_async_callback(misuse.close)
    return metrics, misuse


async def _open_keys(settings: Settings, sessions: Sessions, redis: RedisClient, clock: Clock, stack: AsyncExitStack) -> KeyStore:
    limits = SharedKeyLimits(KeyLimits(clock, 1 / settings.server.workers), redis, clock)
    return await stack.enter_async_context(KeyStore(sessions, clock, await stack.enter_async_context(limits)))
