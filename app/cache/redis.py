"""A tier in Redis: one key per entry, and one sorted set per tenant that lists the names by their expiry.

Invalidations use the list to count and remove entries. It may have lost a name, and a name whose entry was evicted does not
count. Whether an entry is returned is decided by the entry's own times, never by the list. All keys of a tenant have the same
hash tag, so they are in one slot of a cluster. A pipeline of a cluster has no `exists` and no `unlink`, so these are sent as
commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from app.cache.entries import Entry, EntryCodec
from app.cache.keys import EntryKey, tenant_label
from app.cache.tier import TierSize
from app.domain.usage import CacheTier
from app.redis.clients import RedisClient, Server
from app.runtime.clock import Clock

_BETWEEN = "\0"
_NAMES_AT_ONCE = 500


class RedisTier:
    def __init__(
        self, name: CacheTier, redis: RedisClient, codec: EntryCodec, clock: Clock, *, max_seconds: float, is_alone: bool
    ) -> None:
        """No entry is kept longer than `max_seconds`. If `is_alone` is true, the server has no other content, so its size is
        that of the tier."""
        self.name = name
        self._redis = redis
        self._codec = codec
        self._clock = clock
        self._max_seconds = max_seconds
        self._is_alone = is_alone

    @property
    def available(self) -> bool:
        return self._redis.available

    async def get(self, key: EntryKey) -> Entry | None:
        """Removes a damaged entry."""
        place = _place(key.tenant, key.name)

        async def read(server: Server) -> bytes | None:
            return cast("bytes | None", await server.get(place))

        async def unlink(server: Server) -> None:
            await server.unlink(place)

        stored = await self._redis.execute(read)
        if stored is None:
            return None
        entry = self._codec.decode(key, stored)
        if entry is None:
            await self._redis.execute(unlink)
        return entry

    async def put(self, key: EntryKey, entry: Entry, seconds: float) -> None:
        now = self._clock.now().timestamp()
        until = now + min(seconds, self._max_seconds)
        member = _BETWEEN.join((key.name, *entry.tags))
        encoded, names = self._codec.encode(key, entry), _names(key.tenant)

        async def act(server: Server) -> None:
            async with server.pipeline(transaction=False) as pipeline:
                pipeline.set(_place(key.tenant, key.name), encoded, px=max(1, int((until - now) * 1000)))
                pipeline.zremrangebyscore(names, "-inf", now)
                pipeline.zadd(names, {member: until})
                pipeline.pexpire(names, int(self._max_seconds * 1000) + 1000)
                await pipeline.execute()

        await self._redis.execute(act, writes=True)

    async def remove(self, tenant: str, names: Sequence[str]) -> None:
        wanted = set(names)
        members = [member for member in await self._members(tenant) if member.partition(_BETWEEN)[0] in wanted]
        for start in range(0, len(members), _NAMES_AT_ONCE):
            piece = members[start : start + _NAMES_AT_ONCE]
            places = [_place(tenant, member.partition(_BETWEEN)[0]) for member in piece]

            async def act(server: Server, places: Sequence[str] = places, piece: Sequence[str] = piece) -> None:
                async with server.pipeline(transaction=False) as pipeline:
                    pipeline.execute_command("UNLINK", *places)
                    pipeline.zrem(_names(tenant), *piece)
                    await pipeline.execute()

            await self._redis.execute(act)

    async def tags_by_name(self, tenant: str) -> Mapping[str, Sequence[str]]:
        found: dict[str, Sequence[str]] = {}
        for member in await self._members(tenant):
            name, *tags = member.split(_BETWEEN)
            found[name] = [*found.get(name, ()), *tags]
        are_there = await self._are_there(tenant, list(found))
        return {name: tags for (name, tags), is_there in zip(found.items(), are_there, strict=True) if is_there}

    async def size(self) -> TierSize:
        async def act(server: Server) -> tuple[int, Mapping[str, object], Mapping[str, object]]:
            return await server.dbsize(), await server.info("memory"), await server.info("stats")

        keys, memory, stats = await self._redis.execute(act)
        evictions = _figure(stats, "evicted_keys")
        return TierSize(keys, _figure(memory, "used_memory"), evictions) if self._is_alone else TierSize(None, None, evictions)

    async def _are_there(self, tenant: str, names: Sequence[str]) -> list[bool]:
        """Whether the server has evicted the entries, name by name."""
        found: list[bool] = []
        for start in range(0, len(names), _NAMES_AT_ONCE):
            places = [_place(tenant, name) for name in names[start : start + _NAMES_AT_ONCE]]

            async def act(server: Server, places: Sequence[str] = places) -> list[int]:
                async with server.pipeline(transaction=False) as pipeline:
                    for place in places:
                        pipeline.execute_command("EXISTS", place)
                    return cast("list[int]", await pipeline.execute())

            found += map(bool, await self._redis.execute(act))
        return found

    async def _members(self, tenant: str) -> Sequence[str]:
        now = self._clock.now().timestamp()

        async def act(server: Server) -> Sequence[bytes]:
            return cast("Sequence[bytes]", await server.zrange(_names(tenant), now, "+inf", byscore=True))

        return [member.decode() for member in await self._redis.execute(act)]


def _place(tenant: str, name: str) -> str:
    return f"cache:{{{tenant_label(tenant)}}}:{name}"


def _names(tenant: str) -> str:
    return f"cache:{{{tenant_label(tenant)}}}"


def _figure(section: Mapping[str, object], name: str) -> int:
    value = section.get(name)
    return value if isinstance(value, int) else 0
