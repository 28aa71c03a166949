"""Breakers whose changes reach all processes, through one hash in Redis.

Every process decides with its own copy, which is at most a quarter of a second old. Changes are compare-and-set by Redis' time,
and a probe is a lease that only one process holds. A process adopts the OPEN of another one only if it has a reason to doubt
the target too: failures of its own, or no recent success. So one machine's broken network does not stop the others. An open
breaker whose probe is long overdue is ignored. Without Redis each process decides alone.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict, cast
from uuid import uuid4

from app.domain.errors import StoreUnavailable
from app.llm.resilience.breaker import PROBE_LEASE_SECONDS, Breaker, BreakerState, BreakerStatus, Permit
from app.redis.clients import RedisClient, Script

_RECENT_SECONDS = 10.0
_STALE_SECONDS = 60.0

Change: TypeAlias = Literal["open", "probe", "close", "release", "reset"]


class Circuit(TypedDict):
    """One breaker as stored in Redis. Times are in milliseconds of its clock."""

    status: str
    version: int
    opened: int
    probe_at: float
    lease_until: float
    owner: str


@dataclass(frozen=True, slots=True)
class _Post:
    change: Change
    target: str
    owner: str
    milliseconds: float


class BreakerBoard:
    """Where breakers post their changes and read those of others. Call `sync` a few times a second."""

    def __init__(self, redis: RedisClient, *, namespace: str) -> None:
        self._redis = redis
        self.key = f"{namespace}:breakers"
        self._script = Script("breakers")
        self._posts: dict[str, _Post] = {}
        self._breakers: dict[str, SharedBreaker] = {}

    def join(self, target: str, breaker: SharedBreaker) -> None:
        self._breakers[target] = breaker

    def leave(self, target: str) -> None:
        self._breakers.pop(target, None)

    def post(self, change: Change, target: str, owner: str, seconds: float) -> None:
        """Sends the change with the next sync. A later change of the same breaker replaces it."""
        self._posts[target] = _Post(change, target, owner, seconds * 1000)

    def withdraw(self, target: str) -> None:
        """Drops a posted change that was not sent yet."""
        self._posts.pop(target, None)

    async def change(self, change: Change, target: str, owner: str, seconds: float) -> tuple[bool, float, Circuit]:
        """Returns whether the change was made, Redis' time in milliseconds, and the breaker as it is now. Raises
        StoreUnavailable."""
        answer = await self._redis.evaluate(self._script, self.key, change, target, owner, seconds * 1000)
        now, done, text = cast(tuple[int, int, bytes], answer)
        return bool(done), float(now), cast(Circuit, json.loads(text))

    async def sync(self) -> None:
        """Sends the posted changes, then updates every breaker's copy. Raises nothing."""
        if not self._redis.available:
            return
        try:
            await self._send()
            answer = cast(list[bytes], await self._redis.evaluate(self._script, self.key, "read"))
        except StoreUnavailable:
            return
        now = float(answer[0])
        for name, text in zip(answer[1::2], answer[2::2], strict=True):
            breaker = self._breakers.get(name.decode())
            if breaker is not None:
                breaker.learn(cast(Circuit, json.loads(text)), now)

    async def _send(self) -> None:
        while self._posts:
            target = next(iter(self._posts))
            post = self._posts[target]
            await self.change(post.change, target, post.owner, post.milliseconds / 1000)
            if self._posts.get(target) is post:
                del self._posts[target]


class SharedBreaker:
    """A Breaker that posts its changes to the board, if there is one, and learns of the changes of other processes."""

    def __init__(self, breaker: Breaker, target: str, board: BreakerBoard | None, probe_after: float) -> None:
        self._breaker = breaker
        self._target = target
        self._board = board
        self._probe_after = probe_after
        self._owner = uuid4().hex
        self._version = 0
        if board is not None:
            board.join(target, self)

    @property
    def state(self) -> BreakerState:
        return self._breaker.state

    @property
    def seconds_to_probe(self) -> float:
        return self._breaker.seconds_to_probe

    async def enter(self, earlier: Permit | None = None) -> Permit | None:
        """Enters like Breaker.enter. A probe first needs a lease from the board, which only one process gets."""
        breaker = self._breaker
        if self._board is None or breaker.status is BreakerStatus.CLOSED or breaker.seconds_to_probe > 0:
            return breaker.enter(earlier)
        try:
            done, now, circuit = await self._board.change("probe", self._target, self._owner, PROBE_LEASE_SECONDS)
        except StoreUnavailable:
            return breaker.enter(earlier)
        except asyncio.CancelledError:
            if breaker.status is BreakerStatus.OPEN:
                self._post("release")  # the lease may have been given all the same
            raise
        self._version = circuit["version"]
        if not done:
            if self._is_mine(circuit):
                return None
            self._follow(circuit, now)
        return breaker.enter(earlier)

    def alive(self, permit: Permit) -> None:
        before = self._breaker.status
        self._breaker.alive(permit)
        if self._breaker.status is not before:
            self._post("close")

    def succeeded(self, permit: Permit) -> None:
        before = self._breaker.status
        self._breaker.succeeded(permit)
        if self._breaker.status is not before:
            self._post("close")

    def failed(self, permit: Permit, prompt: int | None = None) -> None:
        before = self._breaker.status
        self._breaker.failed(permit, prompt)
        if self._breaker.status is not before:
            self._post("open")

    def released(self, permit: Permit) -> None:
        before = self._breaker.status
        self._breaker.released(permit)
        if self._breaker.status is not before:
            self._post("release")

    async def reset(self) -> None:
        """Closes it here and everywhere."""
        self._breaker.close()
        if self._board is not None:
            self._board.withdraw(self._target)
            try:
                _, _, circuit = await self._board.change("reset", self._target, self._owner, 0.0)
                self._version = circuit["version"]
            except StoreUnavailable:
                self._post("reset")

    def learn(self, circuit: Circuit, now: float) -> None:
        """Updates the copy with what the others know. `now` is Redis' time in milliseconds."""
        is_closed = self._breaker.status is BreakerStatus.CLOSED
        is_news = circuit["version"] > self._version
        if circuit["status"] == BreakerStatus.CLOSED.value and is_closed:
            self._version = max(self._version, circuit["version"])
            return
        if circuit["status"] == BreakerStatus.CLOSED.value or not is_closed:
            wanted = is_news and not self._is_mine(circuit)
        else:
            due = circuit["probe_at"] if circuit["status"] == BreakerStatus.OPEN.value else circuit["lease_until"]
            is_old = now - due > _STALE_SECONDS * 1000
            wanted = not is_old and self._breaker.has_reason_to_doubt(_RECENT_SECONDS)
        if wanted:
            self._follow(circuit, now)
            self._version = circuit["version"]

    def _is_mine(self, circuit: Circuit) -> bool:
        return circuit["status"] == BreakerStatus.HALF_OPEN.value and circuit["owner"] == self._owner

    def _follow(self, circuit: Circuit, now: float) -> None:
        if circuit["status"] == BreakerStatus.CLOSED.value:
            self._breaker.close()
        elif circuit["status"] == BreakerStatus.OPEN.value:
            self._breaker.adopt_open(max(0.0, circuit["probe_at"] - now) / 1000, circuit["opened"])
        else:
            self._breaker.adopt_half_open(max(0.0, circuit["lease_until"] - now) / 1000, circuit["opened"])

    def _post(self, change: Change) -> None:
        if self._board is not None:
            self._board.post(change, self._target, self._owner, self._probe_after)
