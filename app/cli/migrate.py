"""`greenlang migrate`."""

from __future__ import annotations

import argparse
import asyncio

from app.cli.configuration import settings_of
from app.db.migrate import prepare_database
from app.runtime.clock import Clock
from app.supervisor.reachable_stores import reachable_stores


def run(options: argparse.Namespace, clock: Clock) -> int:
    with reachable_stores(settings_of(options), clock, redis=False) as settings:
        print(f"The database is at revision {asyncio.run(prepare_database(settings.database))}.")
    return 0
