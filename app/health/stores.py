"""The checks of the stores."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

from sqlalchemy import text

from app.db.sessions import Sessions
from app.health.checks import Check
from app.redis.clients import RedisClient, Server


def postgres_check(sessions: Sessions) -> Check:
    async def probe() -> None:
        async with sessions.read(primary=True) as session:
            await session.execute(text("select 1"))

    return Check("postgresql", probe, required=True)


def redis_check(client: RedisClient, name: str = "redis") -> Check:
    async def probe() -> None:
        await client.execute(_ping)

    return Check(name, probe)


def _ping(server: Server) -> Awaitable[bool]:
    return cast(Awaitable[bool], server.execute_command("PING"))
