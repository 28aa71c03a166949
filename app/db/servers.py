"""The servers of one cluster by role, as their answers show them.

The primary is the one server that is not in recovery on the highest timeline that was ever seen. A server on a lower timeline
that is not in recovery is an old primary: it is never written to. Two primaries on one timeline: nothing is written.
A replica is as old as the newest moment of the primary whose position it has replayed. That moment is never later than what it
shows, also while it stands still.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.direct_reads import DirectReads
from app.db.openings import Openings
from app.db.server_state import ServerState
from app.db.stall_detector import StallDetector
from app.db.urls import DatabaseUrl
from app.domain.errors import StoreUnavailable

PRIMARY = "the primary of PostgreSQL"
NOWHERE = sys.maxsize
"""A position that no replica has replayed."""
_KEPT_SAMPLES = 900
_SURE = 2
"""After so many answers in a row, all on the present timeline, a standby that is connected follows it."""
_log = logging.getLogger(__name__)


class ServerRole(Enum):
    """ALIAS: the primary under another name. OLD_PRIMARY: it takes writes on a timeline that was left. CONFLICTING: another
    server takes writes on the same timeline. DIVERGED: a standby that has replayed what the present primary does not have.
    FOREIGN: a server of another cluster or database."""

    GONE = "gone"
    PRIMARY = "primary"
    REPLICA = "replica"
    ALIAS = "another name of the primary"
    OLD_PRIMARY = "old primary"
    CONFLICTING = "conflicting primary"
    DIVERGED = "diverged"
    FOREIGN = "foreign"


_WRONG = frozenset({ServerRole.OLD_PRIMARY, ServerRole.CONFLICTING, ServerRole.DIVERGED, ServerRole.FOREIGN})


@dataclass(eq=False)
class Server:
    """One host. `state` is its last answer; None if it did not answer. `is_doubtful`: it has failed a statement or takes long to
    answer, and is not chosen until it answers. `as_of` is the moment up to which it shows every commit, and
    `lag_seconds` is how far that is behind what is known of the primary. `replayed` is the
    newest position that it is known to show. `follows` is the newest timeline that it is known to be on. `reads` counts those
    that are under way, `answered` the sessions that read and that it has answered, by its role then."""

    url: DatabaseUrl
    engine: AsyncEngine
    stall_detector: StallDetector
    openings: Openings
    role: ServerRole = ServerRole.GONE
    state: ServerState | None = None
    was_asked: bool = False
    is_doubtful: bool = False
    as_of: datetime | None = None
    lag_seconds: float = math.inf
    replayed: int = 0
    follows: int | None = None
    answers_connected: int = 0
    reads: int = 0
    last_read: int = 0
    answered: Counter[ServerRole] = field(default_factory=Counter)
    reason: str = ""
    values: DirectReads = field(init=False)

    def __post_init__(self) -> None:
        self.values = DirectReads(self.engine, self.openings)

    @property
    def name(self) -> str:
        return str(self.url.hosts[0])

    def end_connections(self) -> None:
        """Ends every connection at once, also those in use, because the server answers no more or may not be written to."""
        self.openings.terminate()

    def renew_connections(self) -> None:
        """New sessions get new connections. What runs on the old ones ends by itself."""
        self.openings.retire()

    def change_login(self, url: DatabaseUrl) -> None:
        """New connections are opened with the login of `url`; old ones are let go as they come back."""
        self.openings.logins.change(url.login)
        self.renew_connections()

    async def close(self) -> None:
        await self.values.close()
        await self.stall_detector.close()
        await self.engine.dispose()
        await self.openings.close()


@dataclass(frozen=True, slots=True)
class _Sample:
    at: datetime
    position: int


@dataclass
class Servers:
    """`changed` is called when the primary or the role of a server has changed."""

    every: Sequence[Server]
    changed: Callable[[Collection[Server]], None] = lambda _: None
    primary: Server | None = None
    failovers: int = 0
    _highest_timeline: int = 0
    _identity: tuple[int, int] | None = None
    _forked_at: int | None = None
    _led_timeline: int = 0
    _samples: deque[_Sample] = field(default_factory=lambda: deque(maxlen=_KEPT_SAMPLES))
    _turn: int = 0

    @property
    def newest(self) -> datetime | None:
        """The newest moment of the primary that is known. It stands still while there is no primary."""
        return self._samples[-1].at if self._samples else None

    @property
    def timeline(self) -> int:
        return self._highest_timeline

    @property
    def forked_at(self) -> int | None:
        """Where the present timeline has left the one before; None if that is not known."""
        return self._forked_at

    @property
    def were_asked(self) -> bool:
        """Whether each server has answered or failed once. Before that, a primary that answers may be an old one."""
        return all(server.was_asked for server in self.every)

    @property
    def is_settled(self) -> bool:
        """Whether there is a primary, and the age of each replica is known."""
        return self.primary is not None and all(
            server.as_of is not None for server in self.every if server.role is ServerRole.REPLICA
        )

    def known_primary(self) -> Server:
        """Raises StoreUnavailable while there is none."""
        if self.primary is None:
            raise StoreUnavailable(PRIMARY)
        return self.primary

    def answered(self, server: Server, state: ServerState) -> None:
        server.answers_connected = server.answers_connected + 1 if state.receives else 0
        server.state, server.was_asked, server.is_doubtful = state, True, False
        server.replayed = state.position
        self._find_roles()
        self._find_ages()

    def failed(self, server: Server, reason: str) -> None:
        server.reason = reason
        server.state, server.was_asked, server.is_doubtful = None, True, False
        self._find_roles()

    def lag(self, server: Server) -> timedelta | None:
        """How far a server is behind the newest known moment of the primary. None if that is not known."""
        if server is self.primary:
            return timedelta(0)
        newest = self.newest
        return None if newest is None or server.as_of is None else max(timedelta(0), newest - server.as_of)

    def lag_bytes(self, server: Server) -> int | None:
        if server.state is None or not self._samples:
            return None
        return max(0, self._samples[-1].position - server.state.position)

    def replicas(self) -> Iterable[Server]:
        return (server for server in self.every if server.role is ServerRole.REPLICA)

    def choose_reader(
        self, max_staleness: timedelta, position: int | None = None, avoided: Collection[Server] = ()
    ) -> Server | None:
        """The replica with the least to do that is fresh enough and has replayed `position`; else the one that has replayed most,
        because it may have done so meanwhile. The primary if no replica is fresh enough. Without a primary, the replica that
        has replayed most, however old it is. None if no server is left."""
        chosen, best = None, (0, 0)
        seconds, needed = max_staleness.total_seconds(), position or 0
        fresh = []
        for server in self.every:
            if server.lag_seconds > seconds or server.is_doubtful or server.role is not ServerRole.REPLICA or server in avoided:
                continue
            fresh.append(server)
            if server.replayed >= needed:
                rank = (server.reads + 1) * (1 + int(server.lag_seconds)), server.last_read
                if chosen is None or rank < best:
                    chosen, best = server, rank
        if chosen is None:
            chosen = self._choose_other(fresh, avoided, is_anywhere=position != NOWHERE)
        if chosen is not None:
            self._turn += 1
            chosen.last_read = self._turn
        return chosen

    def _choose_other(self, fresh: Sequence[Server], avoided: Collection[Server], *, is_anywhere: bool) -> Server | None:
        if fresh and is_anywhere:
            return max(fresh, key=_replayed)
        if self.primary is not None and self.primary not in avoided:
            return self.primary
        return max((each for each in self.replicas() if each not in avoided), key=_replayed, default=None) or self._any(avoided)

    def _any(self, avoided: Collection[Server]) -> Server | None:
        """One of two primaries, for reads."""
        return next((each for each in self.every if each.role is ServerRole.CONFLICTING and each not in avoided), None)

    def _find_roles(self) -> None:
        before = {server: server.role for server in self.every}
        old = self.primary
        ours = [server for server in self.every if server.state is not None and self._is_ours(server)]
        self._highest_timeline = max([self._highest_timeline, *(server.state.timeline for server in ours if server.state)])
        writable = _different([each for each in ours if each.state and self._may_lead(each.state)])
        for server in self.every:
            server.role = self._role(server, ours, writable)
        found = writable[0] if len(writable) == 1 and self.were_asked else None
        if found is not old:
            self.primary = found
            self._log_primary(old, found)
            self._begin(found)
        for server in ours:
            if server.role is ServerRole.REPLICA and self._has_diverged(server):
                server.role = ServerRole.DIVERGED
        changed = {server for server in self.every if server.role is not before[server]}
        for server in changed:
            _log_role(server, before[server])
        if changed or found is not old:
            self.changed(changed)

    def _is_ours(self, server: Server) -> bool:
        assert server.state is not None
        identity = server.state.cluster, server.state.database
        if self._identity is None:
            self._identity = identity
        return identity == self._identity

    def _may_lead(self, state: ServerState) -> bool:
        return not state.is_standby and state.timeline == self._highest_timeline

    def _role(self, server: Server, ours: Sequence[Server], writable: Sequence[Server]) -> ServerRole:
        if server.state is None:
            return ServerRole.GONE
        if server not in ours:
            return ServerRole.FOREIGN
        if server.state.is_standby:
            return ServerRole.REPLICA
        if server.state.timeline < self._highest_timeline:
            return ServerRole.OLD_PRIMARY
        if len(writable) > 1:
            return ServerRole.CONFLICTING
        return ServerRole.PRIMARY if server in writable else ServerRole.ALIAS

    def _begin(self, primary: Server | None) -> None:
        """A new timeline: positions of the timeline before say nothing of it after the point where it began."""
        if primary is None:
            return
        assert primary.state is not None
        if self._led_timeline != self._highest_timeline:
            self.failovers += self._led_timeline > 0
            self._led_timeline = self._highest_timeline
            self._samples.clear()
            self._forked_at = primary.state.forked_at
            for server in self.every:
                server.answers_connected = 0

    def _has_diverged(self, server: Server) -> bool:
        """A standby does not tell every role which timeline it follows before its next checkpoint. Before the point where the
        primary's timeline began, it shows nothing else. After it, it follows the primary if it is connected to a server and no
        old primary answers. One that has diverged is refused by the primary again and again. A standby cannot go back to an
        old primary."""
        state = server.state
        if state is None or self.primary is None:
            return False
        is_behind_the_fork = self._forked_at is None or state.position <= self._forked_at
        if state.timeline == self._highest_timeline:
            server.follows = self._highest_timeline
        elif not is_behind_the_fork and server.follows != self._highest_timeline:
            if not state.receives or any(other.role is ServerRole.OLD_PRIMARY for other in self.every):
                return True
            if server.answers_connected >= _SURE:
                server.follows = self._highest_timeline
        return False

    def _find_ages(self) -> None:
        primary = self.primary
        if primary is not None and primary.state is not None:
            sample = _Sample(primary.state.at, primary.state.position)
            if not self._samples or sample.at > self._samples[-1].at:
                self._samples.append(sample)
        for server in self.replicas():
            assert server.state is not None
            for sample in reversed(self._samples):
                if sample.position <= server.state.position:
                    server.as_of = max(sample.at, server.as_of or sample.at)
                    break
            lag = self.lag(server)
            server.lag_seconds = math.inf if lag is None else lag.total_seconds()

    def _log_primary(self, old: Server | None, found: Server | None) -> None:
        names = {"was": None if old is None else old.name, "is": None if found is None else found.name}
        if found is None:
            _log.warning("PostgreSQL has no primary; reads go on", extra=names)
        else:
            _log.warning("PostgreSQL has a primary", extra=names | {"timeline": self._highest_timeline})


def _replayed(server: Server) -> int:
    return server.replayed


def _different(servers: Sequence[Server]) -> list[Server]:
    """The same server may be there under two names."""
    found: dict[datetime, Server] = {}
    for server in servers:
        assert server.state is not None
        found.setdefault(server.state.started_at, server)
    return list(found.values())


def _log_role(server: Server, before: ServerRole) -> None:
    names = {"server": server.name, "was": before.value, "is": server.role.value}
    if server.role is ServerRole.CONFLICTING:
        _log.error("two primaries take writes on one timeline; nothing is written until one of them is gone", extra=names)
    elif server.role in _WRONG:
        _log.error("a PostgreSQL server is not used", extra=names)
    elif server.role is ServerRole.GONE:
        _log.warning("a PostgreSQL server does not answer", extra=names | {"reason": server.reason})
    else:
        _log.info("a PostgreSQL server has a role", extra=names)
