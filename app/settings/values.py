"""The types of configuration values. Each error says what is allowed, and never repeats the value."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_network
from typing import Annotated, TypeAlias
from urllib.parse import SplitResult, urlsplit

import idna
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from app.domain.hosts import is_written_in_full
from app.runtime.clock import time_zone
from app.settings.durations import format_duration, parse_duration

_MAX_CACHE_TIME = timedelta(days=30)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*", re.ASCII)
_INDEX_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z0-9_-]{0,63}", re.ASCII)
_FOUR_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+){3}", re.ASCII)
_MAX_HOST = 254
"""The longest host name, with a dot at its end."""


def _positive(length: timedelta) -> timedelta:
    if not length:
        raise ValueError("it must be longer than zero")
    return length


def _cacheable(length: timedelta) -> timedelta:
    if length > _MAX_CACHE_TIME:
        raise ValueError(f"it must not be longer than {_MAX_CACHE_TIME.days} days")
    return length


def _name(text: str) -> str:
    if not _NAME.fullmatch(text) or len(text) > 64:
        raise ValueError("a name has up to 64 of a-z, 0-9, _ and -, and begins with a letter or digit")
    return text


def _tenant(text: str) -> str:
    if not text.isprintable() or text != text.strip() or not 1 <= len(text) <= 128:
        raise ValueError("a tenant has 1 to 128 printable characters and no space at its ends")
    return text


def _model_name(text: str) -> str:
    if not text.isprintable() or not 1 <= len(text) <= 200 or any(letter.isspace() for letter in text):
        raise ValueError("a model's name has 1 to 200 printable characters and no space")
    return text


def _address(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # reading it checks it
    except ValueError as error:
        raise ValueError('an address is "http://host…" or "https://host…", with a port from 1 to 65535 if it has one') from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError('an address is "http://host…" or "https://host…"')
    if not text.isprintable() or " " in text:
        raise ValueError("an address has no blanks and no characters that cannot be printed")
    if parts.port == 0:
        raise ValueError("an address has a port from 1 to 65535, or none")
    if not _is_host(parts.hostname):
        raise ValueError(
            "the host of an address is an IP address or a name; each part of a name has up to 63 letters, digits, - and _"
        )
    return parts


def _is_host(host: str) -> bool:
    """Whether an HTTP client takes it: an address, or a name in ASCII or in the letters of any script (IDNA). A name with an
    empty part is taken, and found by no look-up: the start reports it, and the other targets of a route go on."""
    if ":" in host or _FOUR_NUMBERS.fullmatch(host):
        return is_written_in_full(host.partition("%")[0])
    try:
        name = host if host.isascii() else idna.encode(host.lower()).decode()
    except UnicodeError:
        return False
    return len(name) <= _MAX_HOST and name.strip(".") != "" and all(map(_LABEL.fullmatch, name.split(".")))


def _url(text: str) -> str:
    parts = _address(text)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("an address holds no user, password, query or fragment")
    return text.rstrip("/")


def _webhook_url(text: str) -> str:
    parts = _address(text)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("a webhook's address holds no user, password or fragment")
    return text


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        right = (
            'it should be an address or a network, as "192.0.2.1", "10.0.0.0/8" or "2001:db8::/32", with no bits after its prefix'
        )
        raise ValueError(right) from None


def _index_prefix(text: str) -> str:
    if not _INDEX_PREFIX.fullmatch(text):
        raise ValueError("a prefix has up to 24 of a-z, 0-9 and -, and begins and ends with a letter or digit")
    return text


def _time_zone(text: str) -> str:
    try:
        time_zone(text)
    except ValueError as error:
        raise ValueError('a time zone has its IANA name, as "Europe/Berlin" or "UTC"') from error
    return text


def listed(value: object) -> object:
    """A single value in place of a list becomes a list of one."""
    return value if isinstance(value, (list, tuple)) else [value]


def named(value: object) -> object:
    """A name in place of a table becomes a table with that name."""
    return {"name": value} if isinstance(value, str) else value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("it must be a number")
    return value


_WRITE_DURATION = PlainSerializer(format_duration, return_type=str, when_used="json")

Delay: TypeAlias = Annotated[timedelta, BeforeValidator(parse_duration), _WRITE_DURATION]
Duration: TypeAlias = Annotated[timedelta, AfterValidator(_positive), BeforeValidator(parse_duration), _WRITE_DURATION]
CacheTime: TypeAlias = Annotated[
    timedelta, AfterValidator(_cacheable), AfterValidator(_positive), BeforeValidator(parse_duration), _WRITE_DURATION
]
Flag: TypeAlias = Annotated[bool, Field(strict=True)]
Count: TypeAlias = Annotated[int, Field(strict=True, gt=0, lt=2**63)]
CountOrNone: TypeAlias = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Port: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=65_535)]
Percent: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=1_000)]
Rate: TypeAlias = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Ratio: TypeAlias = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Part: TypeAlias = Annotated[float, Field(strict=True, ge=0, lt=1, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
Usd: TypeAlias = Annotated[Decimal, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False, max_digits=30, decimal_places=12)]
Name: TypeAlias = Annotated[str, AfterValidator(_name)]
Tenant: TypeAlias = Annotated[str, AfterValidator(_tenant)]
ModelName: TypeAlias = Annotated[str, AfterValidator(_model_name)]
Url: TypeAlias = Annotated[str, AfterValidator(_url)]
Network: TypeAlias = Annotated[str, AfterValidator(_network)]
IndexPrefix: TypeAlias = Annotated[str, AfterValidator(_index_prefix)]
TimeZone: TypeAlias = Annotated[str, AfterValidator(_time_zone)]
WebhookUrl: TypeAlias = Annotated[str, AfterValidator(_webhook_url)]
