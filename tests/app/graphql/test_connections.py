from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from app.access.principal import Principal
from app.domain.errors import LimitExceeded, StoreUnavailable, Unauthenticated
from app.graphql.connections import Connections, Ending
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

ONE = Principal(UUID(int=1), "one", "acme", frozenset())
TWO = Principal(UUID(int=2), "two", "acme", frozenset())


class Stream:
    """A connection that writes down what is done to it."""

    def __init__(self, principal: Principal = ONE) -> None:
        self.principal = principal
        self.credentials: Mapping[str, str] = {"authorization": principal.key_name}
        self.ended: list[Ending] = []
        self.pings = 0
        self.since: float | None = None

    def end(self, ending: Ending) -> None:
        self.ended.append(ending)

    def sending_since(self) -> float | None:
        return self.since

    def ping(self) -> None:
        self.pings += 1


class Watched:
    def __init__(self, per_key: int = 10) -> None:
        self.clock = ManualClock()
        self.known: dict[str, Principal] = {"one": ONE, "two": TWO}
        self.asked = 0
        self.away = False
        self.hangs: asyncio.Event | None = None
        self.connections = Connections(self.authenticate, self.clock, per_key=per_key, send_timeout=timedelta(seconds=30))

    async def authenticate(self, headers: Mapping[str, str]) -> Principal:
        self.asked += 1
        if self.hangs is not None:
            await self.hangs.wait()
        if self.away:
            raise StoreUnavailable("PostgreSQL")
        found = self.known.get(headers["authorization"])
        if found is None:
            raise Unauthenticated
        return found


class TestSweep:
    async def test_each_key_is_looked_up_once_however_many_streams_it_has(self) -> None:
        watched, streams = Watched(), [Stream() for _ in range(5)]
        with watched.connections.joined(streams[0]), watched.connections.joined(streams[1]):
            await watched.connections.check_keys()
        assert watched.asked == 1

    async def test_quiet_streams_are_pinged_every_twelve_seconds(self) -> None:
        watched, stream = Watched(), Stream()
        with watched.connections.joined(stream):
            for _ in range(3):
                await watched.clock.advance(12.5)
                watched.connections.sweep_open()
        assert stream.pings == 3

    async def test_a_send_that_takes_too_long_ends_the_stream(self) -> None:
        watched, stream = Watched(), Stream()
        with watched.connections.joined(stream):
            stream.since = watched.clock.monotonic()
            await watched.clock.advance(29)
            watched.connections.sweep_open()
            assert stream.ended == []
            await watched.clock.advance(2)
            watched.connections.sweep_open()
        assert Ending.NOT_READING in stream.ended

    async def test_a_key_that_cannot_be_checked_keeps_its_streams(self) -> None:
        watched, stream = Watched(), Stream()
        watched.away = True
        with watched.connections.joined(stream):
            await watched.connections.check_keys()
        assert stream.ended == []

    async def test_a_revoked_key_ends_its_own_streams_alone(self) -> None:
        watched, stream, other = Watched(), Stream(), Stream(TWO)
        with watched.connections.joined(stream), watched.connections.joined(other):
            del watched.known["one"]
            await watched.connections.check_keys()
        assert (stream.ended, other.ended) == ([Ending.KEY_GONE], [])

    async def test_a_store_that_hangs_keeps_nothing_else_waiting(self) -> None:
        watched = Watched()
        watched.known["two"] = replace(TWO, expires_at=watched.clock.now() + timedelta(seconds=5))
        watched.hangs = asyncio.Event()
        quiet, expiring, stuck = Stream(), Stream(watched.known["two"]), Stream()
        with watched.connections.joined(quiet), watched.connections.joined(expiring), watched.connections.joined(stuck):
            stuck.since = watched.clock.monotonic()
            await watched.clock.advance(0)
            for _ in range(35):
                await watched.clock.advance(1)
        assert quiet.pings == 2
        assert expiring.ended[0] is Ending.KEY_GONE
        assert stuck.ended[0] is Ending.NOT_READING
        assert watched.asked == 2

    async def test_it_runs_by_itself_while_a_stream_is_open(self) -> None:
        watched, stream = Watched(), Stream()
        with watched.connections.joined(stream):
            await watched.clock.advance(0)
            for _ in range(4):
                await watched.clock.advance(1)
            assert watched.asked >= 3
        for _ in range(3):
            await watched.clock.advance(1)
        asked = watched.asked
        await watched.clock.advance(5)
        assert watched.asked == asked


class TestCaps:
    async def test_a_key_has_so_many_and_gets_the_place_back(self) -> None:
        watched = Watched(per_key=1)
        with watched.connections.joined(Stream()):
            with pytest.raises(LimitExceeded), watched.connections.joined(Stream()):
                pass
            with watched.connections.joined(Stream(TWO)):
                assert len(watched.connections) == 2
        with watched.connections.joined(Stream()):
            assert len(watched.connections) == 1
