"""A copy of the latest events in Redis Streams, so that one process reads PostgreSQL for all.

One process at a time is the leader. It holds a lease and writes what it reads from PostgreSQL to its own stream. The next
leader begins a new stream. Positions have no gaps. If a follower finds that one is missing, or gets no answer, it reads
PostgreSQL. So events here may be lost or late, but never wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast
from uuid import uuid4

from app.redis.clients import RedisClient, Script, Server

LEASE = timedelta(seconds=3)
MAX_EVENTS = 10_000
"""The number of events that one stream keeps."""
LIFETIME = timedelta(minutes=10)
"""How long a stream is kept after its last event."""
WAIT = timedelta(milliseconds=500)
"""How long a read waits for new events."""
BLOCKING_MARGIN = timedelta(seconds=1)
"""The client must wait this much longer than the server, because an idle server checks its clock only ten times a second."""
PAGE = 500
_LEADER = Script("leader")


@dataclass(frozen=True, slots=True)
class Copy:
    """`event` is the encoded event of its topic. It is empty if it is not to be published."""

    position: int
    topic: str
    tenant: str
    event: bytes


@dataclass(frozen=True, slots=True)
class Leader:
    """The leader has published at least up to `position`. `is_self` is True if this process is the leader."""

    name: str
    position: int
    is_self: bool


class RedisStreams:
    """Every method raises StoreUnavailable while Redis is away."""

    def __init__(self, redis: RedisClient, blocking: RedisClient) -> None:
        self._redis = redis
        self._blocking = blocking
        self._name = uuid4().hex

    async def acquire_lease(self, log: str, position: int) -> Leader:
        """Renews our lease, or acquires a free one. Returns the leader."""
        milliseconds = int(LEASE.total_seconds() * 1000)
        found = await self._redis.evaluate(_LEADER, f"greenlang:events:{{{log}}}", self._name, milliseconds, position)
        name, reached = cast("tuple[bytes, bytes]", found)
        return Leader(name.decode(), int(reached), name.decode() == self._name)

    def resign(self) -> None:
        """Makes others stop following what we wrote: from now on we have another name and write another stream."""
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
                    maxlen=MAX_EVENTS,
                    approximate=True,
                )
            pipeline.expire(key, LIFETIME)
            await pipeline.execute()

        await self._redis.execute(act)

    async def read(self, log: str, leader: Leader, after: int) -> Sequence[Copy]:
        """Returns what comes after the position, as soon as there is something; nothing after a while without news."""
        key = _key(log, leader.name)

        async def act(server: Server) -> object:
            return await server.xread({key: f"{after}-0"}, count=PAGE, block=int(WAIT.total_seconds() * 1000))

        found = cast("Sequence[tuple[bytes, Sequence[tuple[bytes, dict[bytes, bytes]]]]]", await self._blocking.execute(act))
        return [_copy(place, fields) for _, entries in found or () for place, fields in entries]


def _key(log: str, leader: str) -> str:
    return f"greenlang:events:{{{log}}}:{leader}"


def _copy(place: bytes, fields: dict[bytes, bytes]) -> Copy:
    position = int(place.partition(b"-")[0])
    return Copy(position, fields[b"topic"].decode(), fields[b"tenant"].decode(), fields[b"event"])
