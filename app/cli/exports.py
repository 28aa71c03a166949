"""`greenlang exports rotate-secret`."""

from __future__ import annotations

import argparse
import asyncio

from app.cli.configuration import settings_of
from app.costs.export import rotate_export_secret
from app.db.engines import build_engines
from app.db.migrate import prepare_database
from app.db.sessions import Sessions
from app.runtime.clock import Clock
from app.settings import Settings
from app.supervisor.reachable_stores import reachable_stores


def run(options: argparse.Namespace, clock: Clock) -> int:
    with reachable_stores(settings_of(options), clock, redis=False) as settings:
        version = asyncio.run(_rotate(settings))
    print(f"Links to exports are signed with secret {version} from now on; all earlier links have ended.")
    return 0


async def _rotate(settings: Settings) -> int:
    assert settings.database.primary is not None
    await prepare_database(settings.database)
    engines = build_engines(settings.database.primary.reveal(), (), settings.database)
    try:
        return await rotate_export_secret(Sessions(engines))
    finally:
        await engines.close()
