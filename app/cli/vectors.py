"""`greenlang vectors repair`: compares every vector store with the database, and puts right what differs."""

from __future__ import annotations

import argparse
import asyncio

from prometheus_client import CollectorRegistry

from app.cli.configuration import settings_of
from app.db.engines import build_engines
from app.db.migrate import prepare_database
from app.db.sessions import Sessions
from app.domain.errors import StoreUnavailable
from app.runtime.clock import Clock
from app.settings import Settings
from app.supervisor.reachable_stores import reachable_stores
from app.vectors.collections import Collection, Collections
from app.vectors.documents import Documents
from app.vectors.metrics import VectorMetrics
from app.vectors.registry import build_vector_stores
from app.vectors.repair import Drift, Repair


def run(options: argparse.Namespace, clock: Clock) -> int:
    """Returns 1 if something differs and was not put right."""
    with reachable_stores(settings_of(options), clock, redis=False, vectors=True) as settings:
        return asyncio.run(_run(settings, clock, check=options.check))


async def _run(settings: Settings, clock: Clock, *, check: bool) -> int:
    assert settings.database.primary is not None
    await prepare_database(settings.database)
    engines = build_engines(settings.database.primary.reveal(), (), settings.database)
    sessions = Sessions(engines)
    stores = build_vector_stores(settings.vectors, sessions, clock, VectorMetrics(CollectorRegistry()))
    repair = Repair(sessions, stores, Collections(sessions, clock), Documents(sessions))
    wrong = 0
    try:
        for collection in await repair.collections():
            wrong += not await _one(repair, collection, check=check)
    finally:
        await stores.close()
        await engines.close()
    return 1 if wrong else 0


async def _one(repair: Repair, collection: Collection, *, check: bool) -> bool:
    """Returns whether the store has what it should have now."""
    try:
        drift = await repair.compare(collection)
        if drift.count and not check:
            await repair.repair(collection, drift)
    except StoreUnavailable as error:
        print(f"FAIL  {_described(collection)}  {error}", flush=True)
        return False
    mark = "ok" if not drift.count else "FAIL" if check else "repaired"
    print(f"{mark:<8}  {_described(collection)}  {_figures(drift)}", flush=True)
    return not (drift.count and check)


def _described(collection: Collection) -> str:
    return f"{collection.store:<12}  {collection.tenant}/{collection.name}  {collection.id}"


def _figures(drift: Drift) -> str:
    return f"{len(drift.missing)} missing, {len(drift.changed)} changed, {len(drift.foreign)} foreign"
