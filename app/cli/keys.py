"""`greenlang keys create|list|revoke`. Only a secret goes to standard output by `create`, so that it can be piped on."""

from __future__ import annotations

import argparse
import asyncio
import sys

from app.access.key_rows import ApiKey, NewKey
from app.access.keys import KeyStore
from app.access.principal import Scope
from app.cli.configuration import settings_of
from app.clock import Clock
from app.db.engines import build_engines
from app.db.migrate import migrate
from app.db.sessions import Sessions
from app.settings import Settings
from app.supervisor.first_steps import FIRST_TENANT
from app.supervisor.reach import reachable_stores


def run(options: argparse.Namespace, clock: Clock) -> int:
    with reachable_stores(settings_of(options), clock, redis=False) as settings:
        asyncio.run(_with_keys(options, settings, clock))
    return 0


async def _with_keys(options: argparse.Namespace, settings: Settings, clock: Clock) -> None:
    assert settings.database.primary is not None
    url = settings.database.primary.reveal()
    await migrate(url)
    engines = build_engines(url, (), settings.database)
    try:
        await _ACTIONS[options.action](KeyStore(Sessions(engines), clock), options)
    finally:
        await engines.close()


async def _create_key(keys: KeyStore, options: argparse.Namespace) -> None:
    new = NewKey(
        name=options.name,
        tenant=options.tenant or FIRST_TENANT,
        scopes=frozenset(options.scope or [Scope.ADMIN]),
        agent=options.agent,
        expires_at=options.expires,
        requests_per_minute=options.requests_per_minute,
        max_concurrent=options.max_concurrent,
    )
    created = await keys.create(new)
    print(created.secret)
    print(f"{_described(created.key)}; the secret is shown this once", file=sys.stderr)


async def _list_keys(keys: KeyStore, options: argparse.Namespace) -> None:
    for key in await keys.list(options.tenant):
        print(_described(key))


async def _revoke_key(keys: KeyStore, options: argparse.Namespace) -> None:
    print(_described(await keys.revoke(options.key, options.tenant)))


def _described(key: ApiKey) -> str:
    scopes = ",".join(sorted(scope.value for scope in key.scopes))
    facts = [key.id, f"name={key.name}", f"tenant={key.tenant}", f"scopes={scopes}"]
    facts += [f"agent={key.agent}"] if key.agent else []
    facts += [f"expires={key.expires_at.isoformat()}"] if key.expires_at else []
    facts += [f"revoked={key.revoked_at.isoformat()}"] if key.revoked_at else []
    return "  ".join(facts)


_ACTIONS = {"create": _create_key, "list": _list_keys, "revoke": _revoke_key}
