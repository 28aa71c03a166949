"""The shared log of a running stream, in Redis: entries by number, the owner's lease, and the wish to cancel it.

An entry is in the log before anybody is shown it, so whoever watches from another process sees the same entries in the same
order. The log is a copy that can be lost: while Redis is away a stream goes on for those who watch it where it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast
from uuid import UUID

from app.redis.clients import RedisClient, Script, Server

LEASE = timedelta(seconds=5)
LIFETIME = timedelta(hours=1)
LONGEST = 20_000
"""Entries kept of one stream."""
_CANCEL_LIFETIME = timedelta(minutes=10)
_FIELD = b"e"
_APPEND = Script("append")


@dataclass(frozen=True, slots=True)
class LogPage:
    """`lost` where entries that were asked for are no longer kept."""

    entries: tuple[tuple[int, bytes], ...]
    lost: bool = False


class StreamLog:
    """Every method raises StoreUnavailable while Redis is away."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def append(self, key: UUID, entries: Sequence[tuple[int, bytes]]) -> None:
        """Numbers ascend; one that is there already keeps the entry it has."""
        arguments: list[int | bytes] = [round(LIFETIME.total_seconds()), LONGEST]
        for entry in entries:
            arguments += entry
        await self._redis.evaluate(_APPEND, _log(key), *arguments)

    async def read(self, key: UUID, after: int, most: int = 500) -> LogPage:
        """What comes after the number `after`; nothing where the log has no more, or is not there."""

        async def act(server: Server) -> list[tuple[bytes, dict[bytes, bytes]]]:
            found = await server.xrange(_log(key), min=f"({after}-0", max="+", count=most)
            return cast("list[tuple[bytes, dict[bytes, bytes]]]", found)

        entries = tuple((int(place.partition(b"-")[0]), fields[_FIELD]) for place, fields in await self._redis.run(act))
        return LogPage(entries, lost=bool(entries) and entries[0][0] != after + 1)

    async def renew(self, keys: Collection[UUID]) -> set[UUID]:
        """Renews the leases of the streams that run here; gives those that somebody wants cancelled."""
        ordered = list(keys)

        async def act(server: Server) -> list[object]:
            pipeline = server.pipeline(transaction=False)
            for key in ordered:
                pipeline.set(_lease(key), b"1", px=LEASE)
                pipeline.exists(_cancel(key))
            return cast("list[object]", await pipeline.execute())

        answers = await self._redis.run(act)
        return {key for key, wanted in zip(ordered, answers[1::2], strict=True) if wanted}

    async def end(self, key: UUID) -> None:
        """Nobody renews this stream any more, because it has ended."""

        async def act(server: Server) -> None:
            await server.delete(_lease(key))

        await self._redis.run(act)

    async def is_owned(self, key: UUID) -> bool:
        async def act(server: Server) -> bool:
            return bool(await server.exists(_lease(key)))

        return await self._redis.run(act)

    async def cancel(self, key: UUID) -> None:
        """Its owner learns of it with the next renewal."""

        async def act(server: Server) -> None:
            await server.set(_cancel(key), b"1", ex=_CANCEL_LIFETIME)

        await self._redis.run(act)


def _log(key: UUID) -> str:
    return f"greenlang:stream:{{{key.hex}}}"


def _lease(key: UUID) -> str:
    return f"greenlang:stream:{{{key.hex}}}:lease"


def _cancel(key: UUID) -> str:
    return f"greenlang:stream:{{{key.hex}}}:cancel"
