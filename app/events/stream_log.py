"""The shared log of a running stream, in Redis: entries by number, the owner's lease, and requests to cancel it.

An entry is in the log before it is shown, so watchers in other processes see the same entries in the same order. The log is a
copy that can be lost. While Redis is away, a stream continues for the watchers in its own process.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast
from uuid import UUID

from app.domain.errors import StoreUnavailable
from app.redis.clients import RedisClient, Script, Server
from app.runtime.process_identity import has_died, identity

LEASE = timedelta(seconds=5)
LIFETIME = timedelta(hours=1)
FORGOTTEN_AFTER = timedelta(minutes=1)
"""How long watchers can read the end of a stream if its content is not to be kept."""
MAX_ENTRIES = 20_000
"""The number of entries that are kept of one stream."""
_CANCEL_LIFETIME = timedelta(minutes=10)
_FIELD = b"e"
_PER_PROLONGATION = 64
_THERE_ALREADY = "equal or smaller"
_DISOWN = Script("disown")


@dataclass(frozen=True, slots=True)
class LogWrite:
    """Entries of one stream, in the order of their numbers. `begins` takes the lease and deletes what an earlier run left.
    `ends` gives up the lease."""

    key: UUID
    entries: Sequence[tuple[int, bytes]] = ()
    begins: bool = False
    ends: bool = False


@dataclass(frozen=True, slots=True)
class LogPage:
    """Entries without a gap. `lost` is True if the first requested entry is no longer kept but later ones are."""

    entries: tuple[tuple[int, bytes], ...]
    lost: bool = False


class StreamLog:
    """Every method raises StoreUnavailable while Redis is away. `lifetime` is how long a log is kept after its end. `owner` is
    the process whose leases are written here."""

    def __init__(self, redis: RedisClient, lifetime: timedelta = LIFETIME, *, owner: str | None = None) -> None:
        self._redis = redis
        self._lifetime = lifetime
        self._owner = (identity() if owner is None else owner).encode()

    async def write(self, batch: Sequence[LogWrite]) -> Sequence[None]:
        """Writes everything in one round trip. An entry whose number is not above the last one changes nothing."""

        async def act(server: Server) -> list[object]:
            pipeline = server.pipeline(transaction=False)
            for write in batch:
                log, lease = _log(write.key), _lease(write.key)
                if write.begins:
                    pipeline.delete(log, _cancel(write.key))
                    pipeline.set(lease, self._owner, px=LEASE)
                for number, entry in write.entries:
                    pipeline.xadd(log, {_FIELD: entry}, id=f"{number}-0", maxlen=MAX_ENTRIES, approximate=True)
                    if number % _PER_PROLONGATION == 1:
                        pipeline.expire(log, LIFETIME)
                if write.ends:
                    pipeline.expire(log, self._lifetime)
                    pipeline.delete(lease)
            return cast("list[object]", await pipeline.execute(raise_on_error=False))

        for answer in await self._redis.execute(act):
            if isinstance(answer, Exception) and _THERE_ALREADY not in str(answer):
                raise StoreUnavailable("Redis") from answer
        return [None] * len(batch)

    async def read(self, batch: Sequence[tuple[UUID, int]], most: int = 500) -> Sequence[LogPage]:
        """Returns, for each stream, the entries after the number. Empty if there are none, or no log."""

        async def act(server: Server) -> list[list[tuple[bytes, dict[bytes, bytes]]]]:
            pipeline = server.pipeline(transaction=False)
            for key, after in batch:
                pipeline.xrange(_log(key), min=f"({after}-0", max="+", count=most)
            return cast("list[list[tuple[bytes, dict[bytes, bytes]]]]", await pipeline.execute())

        found = await self._redis.execute(act)
        return [_page(entries, after) for (_, after), entries in zip(batch, found, strict=True)]

    async def newest(self, key: UUID) -> tuple[int, bytes] | None:
        """Returns the entry with the highest number; None if there is no log."""

        async def act(server: Server) -> list[tuple[bytes, dict[bytes, bytes]]]:
            return cast("list[tuple[bytes, dict[bytes, bytes]]]", await server.xrevrange(_log(key), count=1))

        found = await self._redis.execute(act)
        return _entry(*found[0]) if found else None

    async def renew(self, keys: Collection[UUID]) -> set[UUID]:
        """Renews the leases of the streams that run here. Returns those that are to be cancelled."""
        ordered = list(keys)

        async def act(server: Server) -> list[object]:
            pipeline = server.pipeline(transaction=False)
            for key in ordered:
                pipeline.set(_lease(key), self._owner, px=LEASE)
                pipeline.exists(_cancel(key))
            return cast("list[object]", await pipeline.execute())

        answers = await self._redis.execute(act)
        return {key for key, wanted in zip(ordered, answers[1::2], strict=True) if wanted}

    async def owner(self, key: UUID) -> str | None:
        """The process that holds the lease, dead or alive; None if no process holds it."""

        async def act(server: Server) -> bytes | None:
            return cast("bytes | None", await server.get(_lease(key)))

        found = await self._redis.execute(act)
        return None if found is None else found.decode()

    async def is_free(self, key: UUID) -> bool:
        """Whether no process holds the lease. This is tested with a write: if Redis takes no writes, no owner can renew its
        lease either."""

        async def act(server: Server) -> bool:
            return bool(await server.set(_lease(key), self._owner, nx=True, px=1))

        return await self._redis.execute(act)

    async def is_owned(self, key: UUID) -> bool:
        """Whether a process holds the lease that is not known to be dead."""
        owner = await self.owner(key)
        return owner is not None and not has_died(owner)

    async def take_lease_of_dead_owner(self, key: UUID) -> bool:
        """Takes the lease of an owner that is known to be dead. Returns True for the one process that got it. A later process
        finds no lease, or the lease of the next run, which may begin at once."""
        owner = await self.owner(key)
        if owner is None or not has_died(owner):
            return False
        return bool(await self._redis.evaluate(_DISOWN, _lease(key), owner))

    async def cancel(self, key: UUID) -> None:
        """Asks the owner to stop the call. The owner learns of it with its next renewal."""

        async def act(server: Server) -> None:
            await server.set(_cancel(key), b"1", ex=_CANCEL_LIFETIME)

        await self._redis.execute(act)


def _page(found: Sequence[tuple[bytes, dict[bytes, bytes]]], after: int) -> LogPage:
    entries: list[tuple[int, bytes]] = []
    for place, fields in found:
        number, entry = _entry(place, fields)
        if number != after + len(entries) + 1:
            break
        entries.append((number, entry))
    return LogPage(tuple(entries), lost=bool(found) and not entries)


def _entry(place: bytes, fields: dict[bytes, bytes]) -> tuple[int, bytes]:
    return int(place.partition(b"-")[0]), fields[_FIELD]


def _log(key: UUID) -> str:
    return f"greenlang:stream:{{{key.hex}}}"


def _lease(key: UUID) -> str:
    return f"greenlang:stream:{{{key.hex}}}:lease"


def _cancel(key: UUID) -> str:
    return f"greenlang:stream:{{{key.hex}}}:cancel"
