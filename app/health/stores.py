"""The checks of the stores."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

from sqlalchemy import text

from app.db.schema_revision import has_schema
from app.db.sessions import ReadSession, Sessions
from app.health.checks import Check, Down
from app.redis.clients import RedisClient, Server
from app.vectors.guarded import GuardedStore


def postgres_checks(sessions: Sessions, *, needs_schema: bool = True) -> list[Check]:
    """One server that answers is required. With `needs_schema`, it must have the schema of this version or a newer one. With
    several servers, the lack of a primary is a check of its own: it would not help to take the process out of service, because it
    still answers reads."""
    schema = _Schema()

    async def probe() -> None:
        async with sessions.read() as session:
            if needs_schema:
                await schema.check(session)
            await session.execute(text("select /* health.postgresql */ 1"))

    async def find_primary() -> None:
        await sessions.engines.writer()

    checks = [Check("postgresql", probe, required=True)]
    return checks if sessions.engines.watch is None else [*checks, Check("postgresql_primary", find_primary)]


class _Schema:
    """A schema only becomes newer, so it is not asked for again once it has been seen."""

    def __init__(self) -> None:
        self._is_seen = False

    async def check(self, session: ReadSession) -> None:
        """Raises Down."""
        if not self._is_seen and not await has_schema(session):
            raise Down("needs a migration")
        self._is_seen = True


def redis_check(client: RedisClient, name: str = "redis") -> Check:
    async def probe() -> None:
        await client.execute(_ping)

    return Check(name, probe)


def vector_store_check(store: GuardedStore) -> Check:
    return Check(f"vectors_{store.name}", store.check)


def _ping(server: Server) -> Awaitable[bool]:
    return cast(Awaitable[bool], server.execute_command("PING"))
