"""`greenlang keys create|list|revoke`. `create` writes only the secret to standard output, so it can be piped."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from app.access.key_rows import ApiKey, NewKey
from app.access.keys import KeyStore
from app.access.principal import Scope
from app.cli.configuration import settings_of
from app.db.engines import build_engines
from app.db.migrate import prepare_database
from app.db.sessions import Sessions
from app.domain.errors import Refused
from app.domain.problems import InvalidInput
from app.runtime.clock import Clock
from app.settings import Settings
from app.settings.durations import parse_duration
from app.supervisor.bootstrap import FIRST_TENANT
from app.supervisor.reachable_stores import reachable_stores

DEFAULT_LIFETIME = timedelta(days=365)
_UNITS = frozenset("smhd")
"""A number without a unit is not accepted, because `2027` would mean seconds."""

Action: TypeAlias = Callable[[KeyStore], Awaitable[None]]


def run(options: argparse.Namespace, clock: Clock) -> int:
    """Refuses an invalid key before a store is started or a database is changed."""
    action = _ACTIONS[options.action](options, clock)
    with reachable_stores(settings_of(options), clock, redis=False) as settings:
        asyncio.run(_with_keys(action, settings, clock))
    return 0


async def _with_keys(action: Action, settings: Settings, clock: Clock) -> None:
    assert settings.database.primary is not None
    await prepare_database(settings.database)
    engines = build_engines(settings.database.primary.reveal(), (), settings.database)
    try:
        await action(KeyStore(Sessions(engines), clock))
    finally:
        await engines.close()


def _create_key(options: argparse.Namespace, clock: Clock) -> Action:
    new = _new_key(options, clock)

    async def create(keys: KeyStore) -> None:
        created = await keys.create(new)
        print(created.secret)
        print(f"{_described(created.key)}; the secret is shown this once", file=sys.stderr)
        if options.expires is None:
            print(f"It expires in {DEFAULT_LIFETIME.days} days: --expires sets another time, or never", file=sys.stderr)

    return create


def _new_key(options: argparse.Namespace, clock: Clock) -> NewKey:
    """Raises Refused(InvalidInput)."""
    scopes = frozenset[Scope](options.scope or ())
    if not scopes:
        names = ", ".join(scope.value for scope in Scope)
        raise Refused(InvalidInput(f"say what the key may do: --scope with one of {names}; repeat it for several", ("scopes",)))
    if Scope.ADMIN in scopes and options.tenant is not None:
        raise Refused(InvalidInput("ADMIN reaches every tenant: name other scopes, or leave --tenant out", ("scopes",)))
    return NewKey(
        name=options.name,
        tenant=options.tenant if options.tenant is not None else FIRST_TENANT,
        scopes=scopes,
        agent=options.agent,
        expires_at=_expiry(options.expires, clock.now()),
        requests_per_minute=options.requests_per_minute,
        max_concurrent=options.max_concurrent,
    )


def _expiry(text: str | None, now: datetime) -> datetime | None:
    """Returns None for never. Raises Refused(InvalidInput)."""
    if text is None:
        return now + DEFAULT_LIFETIME
    if text.lower() == "never":
        return None
    try:
        end = now + parse_duration(text) if text[-1:] in _UNITS else datetime.fromisoformat(text)
        past = end.tzinfo is not None and end.astimezone(UTC) <= now
    except (ValueError, OverflowError):
        problem = f"{text} is no time: write it as 2027-01-31T00:00:00+00:00, 90d or never"
        raise Refused(InvalidInput(problem, ("expiresAt",))) from None
    if past:
        raise Refused(InvalidInput("the key would have expired already", ("expiresAt",)))
    return end


def _list_keys(options: argparse.Namespace, _clock: Clock) -> Action:
    async def show(keys: KeyStore) -> None:
        for key in await keys.list(options.tenant):
            print(_described(key))

    return show


def _revoke_key(options: argparse.Namespace, _clock: Clock) -> Action:
    async def revoke(keys: KeyStore) -> None:
        print(_described(await keys.revoke(options.key, options.tenant, cancel_calls=options.cancel)))
        if options.cancel:
            print("Every server process now cancels the calls that run with it", file=sys.stderr)

    return revoke


def _described(key: ApiKey) -> str:
    scopes = ",".join(sorted(scope.value for scope in key.scopes))
    facts = [key.id, f"name={key.name}", f"tenant={key.tenant}", f"scopes={scopes}"]
    facts += [f"agent={key.agent}"] if key.agent else []
    facts += [f"hint={key.hint}"]
    facts += [f"expires={key.expires_at.isoformat() if key.expires_at else 'never'}"]
    facts += [f"revoked={key.revoked_at.isoformat()}"] if key.revoked_at else []
    return "  ".join(facts)


_ACTIONS: Mapping[str, Callable[[argparse.Namespace, Clock], Action]] = {
    "create": _create_key,
    "list": _list_keys,
    "revoke": _revoke_key,
}
