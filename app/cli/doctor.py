"""`greenlang doctor`: checks one by one what a start would need, and prints a line for each."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry

from app.cli.configuration import settings_of
from app.cli.deep_checks import check_deeply
from app.cli.findings import Finding
from app.db.engines import build_engines
from app.db.server_report import ask_server, known_servers, too_many_connections
from app.db.sessions import Sessions
from app.db.urls import DatabaseUrl, check_database_urls
from app.db.vector_extension import vector_extension_schema
from app.domain.errors import FailureKind, GreenLangError, ProviderError, SettingsError, StoreUnavailable
from app.health.checks import Check
from app.health.stores import postgres_checks, redis_check, vector_store_check
from app.llm.providers.registry import build_providers
from app.llm.providers.unusable_settings import doubts
from app.redis.clients import Server, connect_redis
from app.runtime.clock import Clock
from app.secrets.reference import SecretReference
from app.settings import LocalCacheSettings, ProviderSettings, RedisSettings, Settings, SharedCacheSettings
from app.supervisor.content_key import keeps_content_in_clear
from app.supervisor.reachable_stores import reachable_stores
from app.vectors.guarded import GuardedStore
from app.vectors.metrics import VectorMetrics
from app.vectors.registry import PGVECTOR, build_vector_stores

_TIMEOUT_SECONDS = 10.0


def run(options: argparse.Namespace, clock: Clock) -> int:
    well = True
    for finding in _examine(options, clock):
        well = well and finding.ok
        print(f"{finding.mark:<4}  {finding.subject:<24}  {finding.detail}", flush=True)
    return 0 if well else 1


def _examine(options: argparse.Namespace, clock: Clock) -> Iterator[Finding]:
    """The configuration comes first, because nothing else can be checked without it."""
    try:
        settings = settings_of(options)
    except SettingsError as error:
        yield Finding("configuration", False, str(error))
        return
    yield Finding("configuration", True, f"{len(settings.providers)} providers, {len(settings.routes)} routes")
    try:
        check_database_urls(settings.database)
    except SettingsError as error:
        yield Finding("configuration", False, str(error))
        return
    for place, problem in doubts(settings):
        yield Finding("configuration", False, f"{place}: {problem}")
    yield from _stores(settings, clock)
    if keeps_content_in_clear(settings):
        yield Finding("content", True, "answers are stored unencrypted: configure content.encryption_keys", warns=True)
    if not settings.providers:
        yield Finding("providers", True, "none, and no key is set: the simulator will answer")
    for provider in settings.providers:
        yield asyncio.run(_provider(provider, clock))
    if options.deep:
        yield from asyncio.run(check_deeply(settings, clock))


def _stores(settings: Settings, clock: Clock) -> Iterator[Finding]:
    try:
        with reachable_stores(settings, clock, redis=True, vectors=True) as reached:
            postgres = "private, in " + str(settings.server.data_dir) if settings.database.primary is None else "as configured"
            redis = "private, in " + str(settings.server.data_dir) if settings.redis.url is None else "as configured"
            yield from asyncio.run(_postgres(reached, postgres))
            yield asyncio.run(_redis(reached, clock, redis))
            yield from asyncio.run(_vector_stores(reached, clock))
            if reached.cache.enabled:
                yield from _cache(settings, reached, clock)
    except GreenLangError as error:
        yield Finding("stores", False, str(error))


async def _postgres(settings: Settings, where: str) -> list[Finding]:
    assert settings.database.primary is not None
    try:
        engines = build_engines(settings.database.primary.reveal(), (), settings.database)
        try:
            for check in postgres_checks(Sessions(engines), needs_schema=False):  # a start migrates
                await _within(check)
        finally:
            await engines.close()
    except (GreenLangError, TimeoutError) as error:
        return [Finding("PostgreSQL", False, f"{where}: {_reason(error)}")]
    urls = known_servers(settings.database)
    if len(urls) == 1:
        return await _server("PostgreSQL", urls[0], f"{where}: ", settings)
    servers = [await _server(f"PostgreSQL {url.hosts[0]}", url, "", settings) for url in urls]
    return [Finding("PostgreSQL", True, where), *chain.from_iterable(servers)]


async def _server(subject: str, url: DatabaseUrl, where: str, settings: Settings) -> list[Finding]:
    """A server that is away is a warning: another one has answered."""
    try:
        report = await ask_server(url, settings.database.connect_timeout)
    except StoreUnavailable as error:
        return [Finding(subject, True, f"{where}{_reason(error)}", warns=True)]
    found = [Finding(subject, True, f"{where}{report}")]
    warning = too_many_connections(settings.database, settings.server.workers, report)
    return found if warning is None else [*found, Finding(subject, True, warning, warns=True)]


async def _redis(settings: Settings, clock: Clock, where: str) -> Finding:
    assert settings.redis.url is not None
    try:
        client = connect_redis(settings.redis.url.reveal(), settings.redis, clock)
        try:
            await _within(redis_check(client))
        finally:
            await client.close()
    except (GreenLangError, TimeoutError) as error:
        return Finding("Redis", False, f"{where}: {_reason(error)}")
    return Finding("Redis", True, where)


def _cache(settings: Settings, reached: Settings, clock: Clock) -> Iterator[Finding]:
    """Yields a line for each tier, the fastest first."""
    cache = reached.cache
    memory = f"{cache.memory.max_bytes / 2**20:.0f} MiB in each process" if cache.memory.enabled else "not enabled"
    yield Finding("cache.memory", True, memory)
    if not reached.content.store:
        yield Finding("cache", True, "only the memory, because content.store is false")
        return
    for name, tier in (("local", cache.local), ("shared", cache.shared)):
        if not tier.enabled or tier.url is None:
            yield Finding(f"cache.{name}", True, "not configured" if tier.enabled else "not enabled")
        else:
            yield asyncio.run(_cache_tier(name, tier, reached, clock, is_private=tier.url != _configured(settings, name)))
    rows = f"{cache.postgres.max_bytes / 2**20:.0f} MiB, for answers of {cache.postgres.min_saved_usd} USD and more"
    yield Finding("cache.postgres", True, rows if cache.postgres.enabled else "not enabled")


async def _vector_stores(settings: Settings, clock: Clock) -> list[Finding]:
    """A store that is away is a warning: a start needs none."""
    assert settings.database.primary is not None
    engines = build_engines(settings.database.primary.reveal(), (), settings.database)
    sessions = Sessions(engines)
    stores = build_vector_stores(settings.vectors, sessions, clock, VectorMetrics(CollectorRegistry()))
    try:
        return [await _vector_store(store, sessions) for store in stores]
    finally:
        await stores.close()
        await engines.close()


async def _vector_store(store: GuardedStore, sessions: Sessions) -> Finding:
    subject = f"vectors {store.name}"
    try:
        await _within(vector_store_check(store))
        if store.name == PGVECTOR.name:
            async with sessions.read(primary=True) as session:
                has_extension = await vector_extension_schema(session) is not None
            if not has_extension:
                problem = "the database has no extension vector; a superuser can create it, else choose another store"
                return Finding(subject, True, problem, warns=True)
    except (GreenLangError, TimeoutError) as error:
        return Finding(subject, True, _reason(error), warns=True)
    return Finding(subject, True, "answers")


def _configured(settings: Settings, tier: str) -> SecretReference | None:
    return settings.cache.local.url if tier == "local" else settings.cache.shared.url


async def _cache_tier(
    name: str, tier: LocalCacheSettings | SharedCacheSettings, settings: Settings, clock: Clock, *, is_private: bool
) -> Finding:
    """A tier that is away is a warning: a start needs none."""
    assert tier.url is not None
    assert settings.redis.url is not None
    subject, setting = f"cache.{name}", f"cache.{name}.url"
    where = f"private, in {settings.server.data_dir}" if is_private else "as configured"
    own = settings.redis.model_copy(update={"tls_ca": tier.tls_ca})
    try:
        server = await _information(tier.url, own, clock, setting)
    except SettingsError as error:
        return Finding(subject, False, error.problem)
    except (GreenLangError, TimeoutError) as error:
        return Finding(subject, True, f"{where}: {_reason(error)}", warns=True)
    with suppress(GreenLangError, TimeoutError):
        if server["run_id"] == (await _information(settings.redis.url, settings.redis, clock, "redis.url"))["run_id"]:
            problem = "it is the server of redis.url; what it evicts is lost there too, so give the cache a server of its own"
            return Finding(subject, True, problem, warns=True)
    if server["maxmemory_policy"] == "noeviction" or not server["maxmemory"]:
        problem = "it evicts nothing and will be full one day; set maxmemory, and maxmemory-policy to allkeys-lru"
        return Finding(subject, True, f"{where}: {problem}", warns=True)
    return Finding(subject, True, f"{where}, {int(server['maxmemory']) / 2**20:.0f} MiB, {server['maxmemory_policy']}")


async def _information(url: SecretReference, settings: RedisSettings, clock: Clock, setting: str) -> dict[str, Any]:
    client = connect_redis(url.reveal(), settings, clock, setting=setting)
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await client.execute(lambda server: _sections(server, "server", "memory"))
    finally:
        await client.close()


async def _sections(server: Server, *names: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        found |= await server.info(name)
    return found


async def _provider(settings: ProviderSettings, clock: Clock) -> Finding:
    subject = f"provider {settings.name}"
    if not settings.enabled:
        return Finding(subject, True, "not enabled")
    try:
        provider = build_providers([settings], clock)[settings.name]
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await provider.probe()
        finally:
            await provider.close()
    except (GreenLangError, TimeoutError) as error:
        return Finding(subject, False, _reason(error))
    return Finding(subject, True, f"answers, with {_keys(settings)}")


def _keys(settings: ProviderSettings) -> str:
    named = [f"env {key.env}" if key.env else f"file {key.file}" for key in settings.api_keys]
    return f"the key of {', '.join(named)}" if named else "no key"


async def _within(check: Check) -> None:
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        await check.probe()


def _reason(error: BaseException) -> str:
    if isinstance(error, ProviderError):
        return "it refuses the key" if error.kind is FailureKind.KEY_REFUSED else f"it does not answer: {error}"
    return str(error) or "it does not answer in time"
