"""The address of the client behind a connection, and whether the client uses TLS.

Only proxies in `server.trusted_proxies` are believed. Anyone can write `x-forwarded-for`, so the list is read from its right
end, where the nearest proxy wrote, and only as long as each address that is passed belongs to a trusted proxy. uvicorn's
`proxy_headers` stays off, because it would replace the peer's address by its own rules and environment variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias

from starlette.types import Scope

MAX_PROXIES: Final = 16
_Address: TypeAlias = IPv4Address | IPv6Address
_FORWARDED_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*"?([^";]*)"?\s*(?=;|$)', re.IGNORECASE)


class TrustedProxies:
    """Addresses and networks in the form of `server.trusted_proxies`."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(ip_network(network) for network in networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: str | None) -> bool:
        """Whether this is the address of a trusted proxy. For a connection whose headers have not arrived yet."""
        return self._trusts(_parse(address or ""))

    def client_address(self, scope: Scope) -> str | None:
        """Returns the client's address in its canonical form; None if the peer has no address, as on a UNIX socket.

        It is the peer's own address unless the peer is a trusted proxy. If both `x-forwarded-for` and `forwarded` are present,
        the first is used. An entry that is no address ends the search: the address of the proxy that wrote it is returned.
        """
        peer = scope.get("client")
        found = _parse(peer[0]) if peer else None
        if found is None or not self._trusts(found):
            return None if found is None else str(found)
        for _, entry in zip(range(MAX_PROXIES), _forwarded_for(scope), strict=False):
            before = _parse(_without_port(entry))
            if before is None:
                break
            found = before
            if not self._trusts(found):
                break
        return str(found)

    def is_https(self, scope: Scope) -> bool:
        """Whether the client's own connection is encrypted: our connection is, or a trusted proxy says that its connection is."""
        if scope.get("scheme") in {"https", "wss"}:
            return True
        peer = scope.get("client")
        if not peer or not self.trusts(peer[0]):
            return False
        return next(_from_the_right(scope, b"x-forwarded-proto"), "").lower() in {"https", "wss"}

    def _trusts(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _forwarded_for(scope: Scope) -> Iterator[str]:
    """Yields the entries, the nearest proxy's first."""
    if any(name == b"x-forwarded-for" for name, _ in scope["headers"]):
        yield from _from_the_right(scope, b"x-forwarded-for")
    else:
        for element in _from_the_right(scope, b"forwarded"):
            found = _FORWARDED_FOR.search(element)
            yield found[1].strip() if found else ""


def _from_the_right(scope: Scope, header: bytes) -> Iterator[str]:
    """Yields the elements of a list that may be spread over several header lines, the last one first."""
    for name, value in reversed(scope["headers"]):
        if name == header:
            yield from (element.strip() for element in reversed(value.decode("latin-1").split(",")))


def _without_port(entry: str) -> str:
    """Removes the port from `192.0.2.1:4711`, `[2001:db8::1]` and `[2001:db8::1]:4711`, the forms that proxies write."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    host, colon, _ = entry.partition(":")
    return host if colon and entry.count(":") == 1 else entry


def _parse(text: str) -> _Address | None:
    """Parses an address. An IPv4 address that came over an IPv6 socket becomes an IPv4 address."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
