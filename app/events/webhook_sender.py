"""Sends one signed request to an address that somebody else controls.

Standard Webhooks: the signature covers the id, the time and the body. A name is resolved once, all its addresses are checked,
and the connection goes to one of them. So a name that later points into our own network gains nothing. Redirects are not
followed and answers are not read. After a change of the secret, a request has the signatures of both for a day. If the new one
is not valid, the one before goes on.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from app.domain.errors import GreenLangError, SettingsError
from app.domain.hosts import is_public_host
from app.runtime.clock import Clock
from app.secrets.reference import SecretReference
from app.settings import WebhookSettings

TOTAL_SECONDS = 15.0
BOTH_SIGN = timedelta(days=1)
_PREFIX = "whsec_"
_MIN_KEY_BYTES, _MAX_KEY_BYTES = 24, 64
_GONE = 410


class PrivateAddress(GreenLangError):
    """The address is in a network that is not public."""


@dataclass(frozen=True, slots=True)
class Sent:
    """`failure` is None if the receiver has accepted the event. `gone` is True if it wants no further events."""

    failure: str | None = None
    gone: bool = False


def sign(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header `webhook-signature`."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()}"


def signing_key(reference: SecretReference, text: str | None = None) -> bytes:
    """Reads `whsec_` and 24 to 64 bytes in base64. `text` is the value; None if it is to be read. Raises SettingsError."""
    value = (reference.reveal() if text is None else text).removeprefix(_PREFIX)
    try:
        key = base64.b64decode(value, validate=True)
    except binascii.Error:
        key = b""
    if not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        raise SettingsError(
            reference.name,
            f"is not a webhook secret: expected {_PREFIX} and {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} random bytes in base64",
        )
    return key


class _PublicResolver(AbstractResolver):
    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not all(is_public_host(each["host"]) for each in found):
            raise PrivateAddress
        return found

    async def close(self) -> None:
        await self._resolver.close()


class WebhookSender:
    """Sends the events of one endpoint."""

    def __init__(self, settings: WebhookSettings, clock: Clock, total_seconds: float = TOTAL_SECONDS) -> None:
        self._url = URL(settings.url)
        self._secret = settings.secret
        self._allow_private = settings.allow_private
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=total_seconds)
        self._key: bytes | None = None
        self._former: tuple[bytes, datetime] | None = None
        settings.secret.on_change(self._take)

    def check(self) -> None:
        """Raises SettingsError if the secret was never read and cannot be read."""
        self._keys()

    async def send(self, event: UUID, body: bytes) -> Sent:
        """The id stays the same for all tries of an event. Raises SettingsError if the secret was never read and cannot be
        read."""
        keys = self._keys()
        message_id, timestamp = f"msg_{event.hex}", int(self._clock.now().timestamp())
        headers = {
            "content-type": "application/json",
            "user-agent": "greenlang-webhooks",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(sign(key, message_id, timestamp, body) for key in keys),
        }
        try:
            return await self._post(body, headers)
        except PrivateAddress:
            return Sent("its address is not public")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return Sent(type(error).__name__)

    def _take(self, text: str) -> None:
        key = signing_key(self._secret, text)
        if self._key is not None and key != self._key:
            self._former = self._key, self._clock.now()
        self._key = key

    def _keys(self) -> list[bytes]:
        """The key that signs, and the one before while both do."""
        try:
            self._take(self._secret.reveal())
        except SettingsError:
            if self._key is None:
                raise
        assert self._key is not None
        if self._former is None or self._clock.now() - self._former[1] >= BOTH_SIGN:
            return [self._key]
        return [self._key, self._former[0]]

    async def _post(self, body: bytes, headers: dict[str, str]) -> Sent:
        if not self._allow_private and not is_public_host(self._url.host or ""):
            raise PrivateAddress
        resolver = None if self._allow_private else _PublicResolver()
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=self._timeout) as session,
            session.post(self._url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            status = response.status
            response.close()
        if 200 <= status < 300:
            return Sent()
        return Sent(f"status {status}", gone=status == _GONE)
