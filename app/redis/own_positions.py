"""The positions of PostgreSQL's log up to which keys have written, for the processes that read for them."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from typing import cast

from app.redis.clients import RedisClient, Script, Server

_PUT = Script("own_position")


class OwnPositions:
    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def put(self, key: str, timeline: int, position: int, life: timedelta) -> None:
        """Keeps the highest. Raises StoreUnavailable."""
        await self._redis.evaluate(_PUT, _name(key), f"{timeline:08x}{position:016x}", life // timedelta(milliseconds=1))

    async def get(self, key: str) -> tuple[int, int] | None:
        """Returns the timeline and the position. Raises StoreUnavailable."""

        def ask(server: Server) -> Awaitable[bytes | None]:
            return cast("Awaitable[bytes | None]", server.get(_name(key)))

        kept = await self._redis.execute(ask)
        return None if kept is None else (int(kept[:8], 16), int(kept[8:], 16))


def _name(key: str) -> str:
    return f"greenlang:own_position:{key}"
