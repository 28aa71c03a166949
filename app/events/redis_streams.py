"""The latest events as a copy in Redis Streams, so that one process asks PostgreSQL for all.

One process at a time is the teller: it has a lease and writes what it reads from PostgreSQL to a stream that nobody else writes
to; the next teller begins another. Positions count without gaps, so whoever finds one missing, or no answer, reads PostgreSQL:
what is here may be lost or late, and is never wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast
from uuid import uuid4

from app.redis.clients import RedisClient, Script, Server

LEASE = timedelta(seconds=3)
LONGEST = 10_000
"""Events kept in one stream."""
LIFETIME = timedelta(minutes=10)
"""Of a stream that grows no more."""
WAIT = timedelta(milliseconds=500)
"""For something new."""
PATIENCE = timedelta(seconds=1)
"""By so much longer must the client that waits be ready to wait: an idle server looks at its clock ten times a second."""
PAGE = 500
_TELLER = Script("teller")


@dataclass(frozen=True, slots=True)
class Copy:
    """`event` is what its topic makes of it; empty for one that is not to be told."""

    position: int
    topic: str
    tenant: str
    event: bytes


@dataclass(frozen=True, slots=True)
class Teller:
    """`position` is how far it has told, at least; `is_self`: it is us."""

    name: str
    position: int
    is_self: bool


class RedisStreams:
    """Every method raises StoreUnavailable while Redis is away."""

    def __init__(self, redis: RedisClient, patient: RedisClient) -> None:
        self._redis = redis
        self._patient = patient
        self._name = uuid4().hex

    async def claim(self, log: str, position: int) -> Teller:
        """Renews our office, or takes it where it is vacant; gives whoever has it."""
        milliseconds = int(LEASE.total_seconds() * 1000)
        found = await self._redis.evaluate(_TELLER, f"greenlang:events:{{{log}}}", self._name, milliseconds, position)
        name, told = cast("tuple[bytes, bytes]", found)
        return Teller(name.decode(), int(told), name.decode() == self._name)

    def resign(self) -> None:
        """What we wrote is no longer to be followed: we are another one from now on, and write another stream."""
        self._name = uuid4().hex

    async def write(self, log: str, copies: Sequence[Copy]) -> None:
        key = _key(log, self._name)

        async def act(server: Server) -> None:
            pipeline = server.pipeline(transaction=False)
            for copy in copies:
                pipeline.xadd(
                    key,
                    {b"topic": copy.topic, b"tenant": copy.tenant, b"event": copy.event},
                    id=f"{copy.position}-0",
                    maxlen=LONGEST,
                    approximate=True,
                )
            pipeline.expire(key, LIFETIME)
            await pipeline.execute()

        await self._redis.run(act)

    async def read(self, log: str, teller: Teller, after: int) -> Sequence[Copy]:
        """What comes after the position, as soon as there is something; nothing after a while without."""
        key = _key(log, teller.name)

        async def act(server: Server) -> object:
            return await server.xread({key: f"{after}-0"}, count=PAGE, block=int(WAIT.total_seconds() * 1000))

        found = cast("Sequence[tuple[bytes, Sequence[tuple[bytes, dict[bytes, bytes]]]]]", await self._patient.run(act))
        return [_copy(place, fields) for _, entries in found or () for place, fields in entries]


def _key(log: str, teller: str) -> str:
    return f"greenlang:events:{{{log}}}:{teller}"


def _copy(place: bytes, fields: dict[bytes, bytes]) -> Copy:
    position = int(place.partition(b"-")[0])
    return Copy(position, fields[b"topic"].decode(), fields[b"tenant"].decode(), fields[b"event"])
