"""Connections that have not shown a valid key yet: how many are allowed, and which are dropped if there are more.

The one that has been silent longest is dropped first. So a client that sends its key at once gets in, however many others wait.
If an address opens more than its share, only its connections that have been silent for a while are dropped. After a restart,
many connections of one client are all unauthenticated for a moment. A connection that showed a valid key does not count any
more and is never dropped here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from time import monotonic
from typing import Protocol

STATE = "unauthenticated"
"""The name in the lifespan's state, where the server's protocols find it."""
MAX_UNAUTHENTICATED = 10_000
MAX_PER_ADDRESS = 1000
SILENT_SECONDS = 1.0
_NETWORK_BYTES = 8


class Connection(Protocol):
    def abort(self) -> None: ...


@dataclass(slots=True)
class _Unauthenticated:
    network: str
    silent_since: float


def network_of(address: str) -> str:
    """The address itself; for IPv6 its network of 64 bits, which is what one client gets."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.packed[:_NETWORK_BYTES].hex()


def _no_proxy(_address: str) -> bool:
    return False


class UnauthenticatedConnections:
    """Allows `limit` connections in all, and `per_address` from one address, unless it is a proxy that many clients use."""

    def __init__(
        self,
        limit: int = MAX_UNAUTHENTICATED,
        per_address: int = MAX_PER_ADDRESS,
        *,
        is_proxy: Callable[[str], bool] = _no_proxy,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._limit = limit
        self._per_address = per_address
        self._is_proxy = is_proxy
        self._now = now
        self._all: OrderedDict[Connection, _Unauthenticated] = OrderedDict()
        self._by_network: dict[str, OrderedDict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def join(self, connection: Connection, address: str) -> None:
        """Adds a new connection. Drops others if there are too many."""
        network = network_of(address)
        self._all[connection] = _Unauthenticated(network, self._now())
        members = self._by_network.setdefault(network, OrderedDict())
        members[connection] = None
        if not self._is_proxy(address):
            self._drop_silent(members)
        if len(self._all) > self._limit:
            self._drop(next(iter(self._all)))

    def heard(self, connection: Connection) -> None:
        """The connection has sent a whole request or handshake, still without a valid key as far as is known."""
        member = self._all.get(connection)
        if member is not None:
            member.silent_since = self._now()
            self._all.move_to_end(connection)
            self._by_network[member.network].move_to_end(connection)

    def leave(self, connection: Connection) -> None:
        """The connection has shown a valid key, or has ended."""
        member = self._all.pop(connection, None)
        if member is None:
            return
        members = self._by_network[member.network]
        del members[connection]
        if not members:
            del self._by_network[member.network]

    def _drop_silent(self, members: OrderedDict[Connection, None]) -> None:
        while len(members) > self._per_address:
            first = next(iter(members))
            if self._now() - self._all[first].silent_since < SILENT_SECONDS:
                return
            self._drop(first)

    def _drop(self, connection: Connection) -> None:
        self.leave(connection)
        connection.abort()


def unauthenticated_of(state: Mapping[str, object]) -> UnauthenticatedConnections:
    """Returns those of the process. Under a server without them, as in a test, a new object for this connection."""
    found = state.get(STATE)
    return found if isinstance(found, UnauthenticatedConnections) else UnauthenticatedConnections()
