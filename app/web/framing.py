"""Where a request ends, decided from the parsed fields of its head.

A proxy in front of the server and the parser in it must agree on that. If they do not, the rest of one request runs as the next
request on the connection, and the next client of a shared connection gets the wrong answer. So a head that can be read in two
ways is refused, and its connection is closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Final, TypeAlias

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names in lower case, with their values."""

_VERSIONS: Final = frozenset({"1.0", "1.1"})
_IGNORED_PROTOCOLS: Final = frozenset({b"h2c"})


class Upgrade(Enum):
    IGNORED = auto()
    WEBSOCKET = auto()
    REFUSED = auto()


def framing_fault(method: bytes, version: str, fields: Fields) -> str | None:
    """Returns why the end of this request is uncertain; None if it is not. The parser has already refused invalid syntax."""
    if method == b"CONNECT":
        return "CONNECT is not served here"
    if version not in _VERSIONS:
        return "the version of HTTP is neither 1.0 nor 1.1"
    codings = [value.strip().lower() for name, value in fields if name == b"transfer-encoding"]
    if codings and codings != [b"chunked"]:
        return "the only supported transfer-encoding is chunked"
    if codings and version == "1.0":
        return "HTTP/1.0 has no transfer-encoding"
    if sum(name == b"host" for name, _ in fields) > 1:
        return "there is more than one host field"
    return None


def requested_upgrade(fields: Fields) -> Upgrade:
    """What to do with an `upgrade` field. An offer of HTTP/2 may be ignored, because no client waits for it. Without `upgrade`
    in `connection` the field requests nothing."""
    protocols = list(_elements(fields, b"upgrade"))
    if b"upgrade" not in _elements(fields, b"connection") or _IGNORED_PROTOCOLS.issuperset(protocols):
        return Upgrade.IGNORED
    return Upgrade.WEBSOCKET if protocols == [b"websocket"] else Upgrade.REFUSED


def head_without_upgrade(method: bytes, url: bytes, version: str, fields: Fields) -> bytes:
    """The head again, for a parser that skips the body of a request with an `upgrade` field."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode("ascii"))]
    lines += [b"%b: %b" % field for field in fields if field[0] != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _elements(fields: Fields, wanted: bytes) -> Iterator[bytes]:
    """The elements of a list, in lower case, from all lines with this name."""
    for name, value in fields:
        if name == wanted:
            yield from filter(None, (element.strip().lower() for element in value.split(b",")))
