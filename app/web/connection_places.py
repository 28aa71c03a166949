"""Connections that have shown a valid key. The number per key is limited, so one key cannot use up the open files.

A connection takes a place in the share of the last key that it showed, and gives it back when it ends. A proxy's connection
carries the requests of many keys; it counts for the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from app.web.capacity import Capacity, Holder
from app.web.unauthenticated import Connection, unauthenticated_of

STATE = "connection_places"
"""The name in the lifespan's state, where the server's protocols find it."""
MAX_CONNECTIONS = 1_000_000
_PART_OF_OPEN_FILES = 4
_MAX_OWN_FILES = 4096


class ConnectionPlaces:
    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._holders: dict[Connection, Holder] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def take(self, connection: Connection, holder: Holder) -> None:
        """Raises Overloaded. A connection that already has a place in this share keeps it."""
        if self._holders.get(connection) == holder:
            return
        self.leave(connection)
        self._capacity.take(holder, 1)
        self._holders[connection] = holder

    def leave(self, connection: Connection) -> None:
        holder = self._holders.pop(connection, None)
        if holder is not None:
            self._capacity.give_back(holder, 1)


class Membership:
    """The state of one connection: without a valid key from `join` until `authenticated`, then in its key's share."""

    def __init__(self, state: Mapping[str, object], connection: Connection) -> None:
        """Under a server without such state, as in a test, the connection is the only one."""
        places = state.get(STATE)
        self._connection = connection
        self._unauthenticated = unauthenticated_of(state)
        self._places = places if isinstance(places, ConnectionPlaces) else ConnectionPlaces(Capacity(1, timedelta(seconds=1)))

    def join(self, address: str) -> None:
        self._unauthenticated.join(self._connection, address)

    def heard(self) -> None:
        """The connection has sent a whole request or handshake."""
        self._unauthenticated.heard(self._connection)

    def authenticated(self, holder: Holder) -> None:
        """The connection has shown a valid key. Raises Overloaded if the key has its maximum of connections; this one must then
        be closed."""
        self._places.take(self._connection, holder)
        self._unauthenticated.leave(self._connection)

    def leave(self) -> None:
        """The connection has ended."""
        self._unauthenticated.leave(self._connection)
        self._places.leave(self._connection)


def limits_of(open_files: int | None, max_unauthenticated: int) -> tuple[int, int]:
    """Divides the open files (None: no limit). Returns how many are for connections without a valid key, and how many for those
    with one.

    The first get at most half. A quarter is reserved for the stores, the providers and the process itself, up to a maximum.
    """
    if open_files is None:
        return max_unauthenticated, MAX_CONNECTIONS
    unauthenticated = max(1, min(max_unauthenticated, open_files // 2))
    own = min(_MAX_OWN_FILES, open_files // _PART_OF_OPEN_FILES)
    return unauthenticated, max(1, min(MAX_CONNECTIONS, open_files - unauthenticated - own))
