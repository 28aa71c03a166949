"""What a process owns: opened here, in one place, and closed in reverse order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Histogram

from app.access.keys import KeyStore
from app.access.limits import KeyLimits
from app.access.limits_shared import SharedKeyLimits
from app.cache.build import DELETE_EVERY, BuiltCache, build_cache
from app.cache.origins import Origins
from app.cache.tiered import TieredCache
from app.costs.alert_events import TOPIC as ALERTS
from app.costs.alert_events import BudgetAlertEvents
from app.costs.alerts import AlertStore
from app.costs.budgets import BudgetStore
from app.costs.cost_updates import CostUpdates
from app.costs.estimate import Estimator
from app.costs.export import CostExports
from app.costs.forecast import Forecasts
from app.costs.fresh_reads import FreshReads
from app.costs.label_rollups import FILL_EVERY, LabelRollups
from app.costs.ledger import PostgresLedger
from app.costs.maintenance import Maintenance
from app.costs.prices import PriceBook
from app.costs.reports import CostReports
from app.db.engines import Engines, build_engines
from app.db.metrics import DatabaseMetrics
from app.db.own_writes import OwnWrites
from app.db.pools import fill_pool
from app.db.sessions import Sessions
from app.domain.errors import SettingsError
from app.events.backlog import Backlog
from app.events.redis_streams import BLOCKING_MARGIN, RedisStreams
from app.events.relay import Relay
from app.events.stream_log import FORGOTTEN_AFTER, LIFETIME, StreamLog
from app.events.webhooks import Webhooks
from app.gateway.cached_answers import CachedAnswers, build_cached_answers
from app.gateway.cached_completions import Made
from app.gateway.gateway import Gateway
from app.gateway.leases import Leases
from app.gateway.planning import CallPlanner
from app.gateway.stored_completions import CompletionReader, StoredCompletions
from app.gateway.streams.seals import StreamSeals
from app.gateway.streams.streams import CompletionStreams
from app.health.checks import Check, Down, Health
from app.health.stores import postgres_checks, redis_check, vector_store_check
from app.llm.fleet import Fleet, build_fleet
from app.llm.output_limits import OutputLimits
from app.llm.probes import HealthStatus
from app.llm.provider_events import ProviderEvents
from app.llm.providers.registry import build_providers
from app.redis.clients import RedisClient, connect_redis
from app.redis.own_positions import OwnPositions
from app.retrieval.build import VectorParts, Vectors, build_vectors
from app.retrieval.passages import PassageMarks
from app.runtime.clock import Clock
from app.runtime.drain import Drain
from app.runtime.offload import Offload
from app.runtime.tasks import end_tasks
from app.secret_stores.watch import SecretWatch
from app.secrets.sealing import build_sealer
from app.settings import DatabaseSettings, ServerSettings, Settings, TelemetrySettings
from app.telemetry.call_ended import CallEnded, CallListener
from app.telemetry.loop_lag import LoopLag
from app.telemetry.read_metrics import ReadMetrics
from app.telemetry.tenant_metrics import TenantMetrics
from app.telemetry.traces import open_traces
from app.web.client_address import TrustedProxies
from app.web.misuse import Misuse

_SECRET_BYTES = 32
_REDIS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    clock: Clock
    offload: Offload
    watch: ReadMetrics
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
    leases: Leases
    gateway: Gateway
    cache: TieredCache
    vectors: Vectors
    health: Health
    drain: Drain
    secrets: SecretWatch

    @property
    def metrics(self) -> CollectorRegistry:
        return self.watch.registry


@asynccontextmanager
async def build_services(
    settings: Settings, clock: Clock, estimator: Estimator, prices: PriceBook, *, stream_secret: bytes = b""
) -> AsyncIterator[Services]:
    """Connects at the first use. `stream_secret` is that of StreamSeals. Raises SettingsError."""
    async with AsyncExitStack() as stack:
        offload, secrets, drain = Offload(), SecretWatch(settings, clock), _drain(settings.server, clock)
        sessions, redis, relay = _connect(settings, clock, stack)
        metrics, watch, misuse = _open_metrics(settings, clock, sessions, secrets, stack)
        fleet = _open_fleet(settings, clock, redis, metrics, stack)
        keys = await _open_keys(settings, sessions, redis, clock, stack)
        cache = build_cache(settings, sessions, redis, relay, clock=clock, registry=metrics, stack=stack)
        ledger = _open_ledger(settings, sessions, prices, clock, cache=cache, stack=stack)
        planner = _plan_calls(settings, clock, fleet, prices, estimator, offload=offload)
        documents, seals, completions, log, leases = _content(settings, sessions, redis, ledger, clock, secret=stream_secret)
        streams = CompletionStreams(clock, log, seals, leases, router=fleet.router, completions=completions)
        gateway = Gateway(
            clock=clock,
            fleet=fleet,
            ledger=ledger,
            keys=keys,
            planner=planner,
            leases=leases,
            completions=completions,
            streams=streams,
            drain=drain,
            cached=_cached_answers(settings, cache, redis, planner, ledger, documents=documents),
            on_end=await _open_call_listeners(settings.telemetry, metrics, stack),
        )
        given = VectorParts(gateway, ledger, fleet.router, estimator, offload, metrics, _passage_marks(documents, stream_secret))
        vectors = build_vectors(settings.vectors, sessions, clock, given, stack)
        _start_maintenance(stack, leases, seals, streams, vectors.indexing, ends_with=gateway.close)
        events = _start_events(stack, settings, clock, sessions, relay=relay, cache=cache, fleet=fleet, watch=watch)
        yield Services(
            settings=settings,
            clock=clock,
            offload=offload,
            watch=_watch(watch, fleet, ledger, redis, relay),
            misuse=misuse,
            sessions=sessions,
            keys=keys,
            prices=prices,
            ledger=ledger,
            budgets=BudgetStore(sessions, settings.limits.budgets_per_tenant),
            alerts=AlertStore(sessions),
            alert_events=events.alerts,
            cost_updates=CostUpdates(CostReports(sessions), clock),
            provider_events=events.providers,
            exports=CostExports(sessions, clock, settings.server.public_url or ""),
            reports=CostReports(sessions, cache.reads),
            forecasts=Forecasts(sessions, CostReports(sessions), clock, cache.reads),
            fleet=fleet,
            planner=planner,
            leases=leases,
            gateway=gateway,
            cache=cache.tiered,
            vectors=vectors,
            health=Health([*_store_checks(sessions, redis, cache, vectors), *_further_checks(fleet, secrets)], clock, drain),
            drain=drain,
            secrets=secrets,
        )


def _drain(server: ServerSettings, clock: Clock) -> Drain:
    return Drain(server.shutdown_grace.total_seconds(), clock.monotonic)


class _Events(NamedTuple):
    alerts: BudgetAlertEvents
    providers: ProviderEvents


def _start_events(
    stack: AsyncExitStack,
    settings: Settings,
    clock: Clock,
    sessions: Sessions,
    *,
    relay: Relay,
    cache: BuiltCache,
    fleet: Fleet,
    watch: ReadMetrics,
) -> _Events:
    """Reads the outbox, sends the webhooks and probes the providers until the stack is closed."""
    alerts = BudgetAlertEvents(AlertStore(sessions), relay, clock)
    webhooks = Webhooks(settings.webhooks, ALERTS, alerts.payloads, sessions=sessions, relay=relay, clock=clock)
    providers = ProviderEvents(fleet, sessions, relay, clock)
    backlog = Backlog(sessions, clock, webhooks.endpoints)
    backlog.show(watch)
    watch.counter(
        "greenlang_budget_alerts",
        "Budget alerts that this process has seen, whichever process raised them.",
        lambda: [((), alerts.published)],
    )
    fresh = () if cache.reads is None else (FreshReads(cache.reads, alerts, clock),)
    parts = (relay, webhooks, backlog, providers, cache.invalidations, cache.figures, cache.tiered, *fresh)
    stack.push_async_callback(end_tasks, [asyncio.create_task(each.run()) for each in parts])
    fleet.start()
    return _Events(alerts, providers)


def _open_fleet(settings: Settings, clock: Clock, redis: RedisClient, metrics: CollectorRegistry, stack: AsyncExitStack) -> Fleet:
    fleet = build_fleet(settings, build_providers(settings.providers, clock), clock, redis=redis, registry=metrics)
    stack.push_async_callback(fleet.close)
    return fleet


def _open_ledger(
    settings: Settings, sessions: Sessions, prices: PriceBook, clock: Clock, *, cache: BuiltCache, stack: AsyncExitStack
) -> PostgresLedger:
    ledger = PostgresLedger(sessions, clock, settings, prices)
    stack.push_async_callback(ledger.close)
    further = (("cache", DELETE_EVERY, cache.delete_excess), ("labels", FILL_EVERY, LabelRollups(sessions, clock).fill))
    _start_maintenance(stack, ledger, Maintenance(sessions, clock, settings.content.ttl, further))
    return ledger


def _further_checks(fleet: Fleet, secrets: SecretWatch) -> list[Check]:
    """What is known already, at no cost. It makes the process degraded, and never not ready."""

    async def probe(name: str) -> None:
        status = fleet.provider(name)
        if status is not None and status.health is HealthStatus.DOWN:
            raise Down

    async def read_secrets() -> None:
        if secrets.faults:
            raise Down("a secret cannot be renewed")

    providers = [Check(f"provider_{status.name}", partial(probe, status.name)) for status in fleet.providers()]
    return [*providers, Check("secrets", read_secrets)]


def _store_checks(sessions: Sessions, redis: RedisClient, cache: BuiltCache, vectors: Vectors) -> list[Check]:
    of_the_cache = [redis_check(client, f"cache_{tier.value.lower()}") for tier, client in cache.redis.items()]
    of_vectors = [vector_store_check(store) for store in vectors.stores]
    return [*postgres_checks(sessions), redis_check(redis), *of_the_cache, *of_vectors]


def _cached_answers(
    settings: Settings,
    cache: BuiltCache,
    redis: RedisClient,
    planner: CallPlanner,
    ledger: PostgresLedger,
    *,
    documents: StoredCompletions,
) -> CachedAnswers | None:
    if not settings.cache.enabled:
        return None
    origins: Origins[Made] = Origins(cache.invalidations, redis, cache.clock, written=cache.tiered.written)
    return build_cached_answers(
        cache.tiered,
        origins,
        planner,
        ledger,
        clock=cache.clock,
        documents=documents,
        default_ttl=settings.cache.default_ttl,
    )


class _Maintained(Protocol):
    async def run_maintenance(self) -> None: ...


def _start_maintenance(
    stack: AsyncExitStack, *maintained: _Maintained, ends_with: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Each runs as a task until the stack is closed. `ends_with` is awaited before the tasks end."""
    stack.push_async_callback(end_tasks, [asyncio.create_task(each.run_maintenance()) for each in maintained])
    if ends_with is not None:
        stack.push_async_callback(ends_with)


def _content(
    settings: Settings,
    sessions: Sessions,
    redis: RedisClient,
    ledger: PostgresLedger,
    clock: Clock,
    *,
    secret: bytes,
) -> tuple[StoredCompletions, StreamSeals, CompletionReader, StreamLog, Leases]:
    """Creates what seals and reads answers and stream entries, the log of those entries, and the leases of calls."""
    content = settings.content
    sealer, keep_content = build_sealer(content.encryption_keys), content.store
    seals = StreamSeals(sessions, clock, sealer, keep_content=keep_content, memory_secret=secret)
    log = StreamLog(redis, min(LIFETIME, content.ttl) if keep_content else FORGOTTEN_AFTER)
    documents = StoredCompletions(sealer, keep_content)
    return documents, seals, CompletionReader(ledger, documents), log, Leases(clock, log, ledger)


def _passage_marks(documents: StoredCompletions, stream_secret: bytes) -> PassageMarks:
    """The key of stored content is the one secret that all processes share. Without it, only the processes of one server, or
    this process alone, repeat a mark."""
    return PassageMarks(documents.sealer.secret(b"passage marks") or stream_secret or os.urandom(_SECRET_BYTES))


def _plan_calls(
    settings: Settings, clock: Clock, fleet: Fleet, prices: PriceBook, estimator: Estimator, *, offload: Offload
) -> CallPlanner:
    timeouts = {each.name: each.timeouts.total for each in settings.providers}
    limits = OutputLimits(settings, prices.context_tokens)
    return CallPlanner(clock, fleet, prices, estimator, timeouts, offload=offload, output_limits=limits)


def _connect(settings: Settings, clock: Clock, stack: AsyncExitStack) -> tuple[Sessions, RedisClient, Relay]:
    if settings.database.primary is None or settings.redis.url is None:
        raise SettingsError("database.primary and redis.url", "are needed if no embedded stores run")
    engines = build_engines(
        settings.database.primary.reveal(), [replica.reveal() for replica in settings.database.replicas], settings.database
    )
    settings.database.primary.on_change(partial(engines.take_url, "database.primary"))
    for index, replica in enumerate(settings.database.replicas):
        replica.on_change(partial(engines.take_url, f"database.replicas[{index}]"))
    if settings.database.direct is not None:
        settings.database.direct.on_change(engines.take_direct_url)
    stack.push_async_callback(engines.close)
    filling = [asyncio.create_task(fill_pool(each, settings.database.pool_min)) for each in engines.by_name().values()]
    stack.push_async_callback(end_tasks, filling)
    blocking_settings = settings.redis.model_copy(update={"socket_timeout": settings.redis.socket_timeout + BLOCKING_MARGIN})
    redis, blocking = (connect_redis(settings.redis.url.reveal(), each, clock) for each in (settings.redis, blocking_settings))
    for client in (redis, blocking):
        settings.redis.url.on_change(client.take_url)
        stack.push_async_callback(client.close)
    sessions = _build_sessions(engines, settings.database, redis, clock)
    return sessions, redis, Relay(sessions, clock, streams=RedisStreams(redis, blocking))


async def _open_call_listeners(settings: TelemetrySettings, registry: CollectorRegistry, stack: AsyncExitStack) -> CallListener:
    counts, traced = TenantMetrics(registry, settings.metrics_tenants), await stack.enter_async_context(open_traces(settings))
    if traced is None:
        return counts.add

    def listen(ended: CallEnded) -> None:
        counts.add(ended)
        traced(ended)

    return listen


def _watch(metrics: ReadMetrics, fleet: Fleet, ledger: PostgresLedger, redis: RedisClient, relay: Relay) -> ReadMetrics:
    fleet.show(metrics)
    metrics.counter(
        "greenlang_budget_refusals",
        "Calls that a budget refused.",
        lambda: [([tenant], count) for tenant, count in ledger.refused_by_budgets.items()],
        ["tenant"],
    )
    seconds = Histogram(
        "greenlang_redis_seconds",
        "How long calls to Redis took, with the time that they waited for a connection.",
        buckets=_REDIS_SECONDS,
        registry=metrics.registry,
    )
    redis.observe_with(seconds.observe)
    metrics.gauge("greenlang_redis_up", "1 while Redis answers.", lambda: [((), redis.available)])
    metrics.gauge(
        "greenlang_event_position",
        "The position of the last event that this process has published.",
        lambda: [((), relay.position)],
    )
    return metrics


def _build_sessions(engines: Engines, settings: DatabaseSettings, redis: RedisClient, clock: Clock) -> Sessions:
    own_writes = None
    if engines.watch is not None:
        own_writes = OwnWrites(engines.servers, OwnPositions(redis), clock, settings.max_staleness)
    return Sessions(engines, settings.max_staleness, settings.own_write_wait, own_writes)


def _open_metrics(
    settings: Settings, clock: Clock, sessions: Sessions, secrets: SecretWatch, stack: AsyncExitStack
) -> tuple[CollectorRegistry, ReadMetrics, Misuse]:
    metrics = CollectorRegistry()
    secrets.expose(metrics)
    _start_maintenance(stack, secrets, LoopLag(clock, metrics))
    metrics.register(DatabaseMetrics(sessions.engines))
    misuse = Misuse(metrics, TrustedProxies(settings.server.trusted_proxies), clock)
    stack.push_async_callback(misuse.close)
    return metrics, ReadMetrics(metrics), misuse


async def _open_keys(settings: Settings, sessions: Sessions, redis: RedisClient, clock: Clock, stack: AsyncExitStack) -> KeyStore:
    limits = SharedKeyLimits(KeyLimits(clock, 1 / settings.server.workers), redis, clock)
    return await stack.enter_async_context(KeyStore(sessions, clock, await stack.enter_async_context(limits)))
