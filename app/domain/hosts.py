"""Which hosts of URLs are on the public internet. A host is judged as it is written; names are not resolved.

URL parsers differ, so every spelling counts that one of them reads as an address: full-width digits, percent escapes, invisible
characters, a dot at the end, IPv4 inside IPv6. A host that consists of numbers (`127.1`, `2130706433`, `0x7f.1`) and is not an
address in its usual form is not public, whatever a resolver makes of it.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

Address: TypeAlias = IPv4Address | IPv6Address

_NOT_PUBLIC_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
"""168.63.129.16 is the metadata address of one cloud. Those of other clouds are link-local, shared (100.64.0.0/10) or in
192.0.0.0/24."""
_PUBLIC_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")
_PART = re.compile(r"0x[0-9a-f]*|[0-9]+", re.ASCII)
_DOTS = str.maketrans({"。": ".", "．": ".", "｡": "."})


def is_public_address(address: Address) -> bool:
    """False for every address that is not on the public internet, also inside another kind of address."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    inner = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public_address(inner)
    return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def is_public_host(host: str) -> bool:
    """`host` is written as in a URL, without brackets. Names are public, except `localhost` and names below it.

    A name with an escape, or with anything but letters, digits, `-`, `_` and dots, is not public, because its meaning depends
    on the parser.
    """
    host, is_escaped = _plain(host), "%" in host
    if not host or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return is_public_address(ip_address(host.partition("%")[0]))
    except ValueError:
        return not is_escaped and all(map(_is_of_a_name, host)) and not is_numeric(host)


def is_public_url(url: str) -> bool:
    """False also for a URL that parsers read differently: with a backslash, a blank or a control character, with an escape
    before its path, or with an invalid port."""
    if any(letter == "\\" or letter.isspace() or not letter.isprintable() for letter in url.strip()):
        return False
    try:
        parts = urlsplit(url.strip())
        return "%" not in parts.netloc and parts.port != 0 and is_public_host(parts.hostname or "")
    except ValueError:
        return False


def is_numeric(host: str) -> bool:
    """Whether the host consists of numbers, so that parsers read it as an IPv4 address or reject it."""
    return _PART.fullmatch(_plain(host).rpartition(".")[2]) is not None


def is_written_in_full(host: str) -> bool:
    """Whether the host is an address in its usual form: four decimal numbers, or IPv6."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_of_a_name(letter: str) -> bool:
    return letter in "-_." or unicodedata.category(letter)[0] in "LM" or unicodedata.category(letter) == "Nd"


def _plain(host: str) -> str:
    """The host as a browser reads it: escapes, compatibility forms and invisible characters are resolved."""
    text = unicodedata.normalize("NFKC", unquote(host)).translate(_DOTS).casefold()
    return "".join(letter for letter in text if unicodedata.category(letter) not in {"Cf", "Mn"}).rstrip(".")
