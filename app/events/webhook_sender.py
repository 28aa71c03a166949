"""Sends one signed request to an address that somebody else controls.

Standard Webhooks: the signature covers the id, the time and the body. A name is resolved once, all its addresses are checked,
and the connection goes to one of them. So a name that later points into our own network gains nothing. Redirects are not
followed and answers are not read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import socket
from dataclasses import dataclass
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


def signing_key(reference: SecretReference) -> bytes:
    """Reads `whsec_` and 24 to 64 bytes in base64. Raises SettingsError."""
    text = reference.reveal().removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        where = f"env {reference.env}" if reference.env is not None else f"file {reference.file}"
        raise SettingsError(
            where, f"is not a webhook secret: expected {_PREFIX} and {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES} random bytes in base64"
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

    def check(self) -> None:
        """Raises SettingsError if the secret cannot be read any more."""
        signing_key(self._secret)

    async def send(self, event: UUID, body: bytes) -> Sent:
        """The id stays the same for all tries of an event. Raises SettingsError if the secret cannot be read any more."""
        key = signing_key(self._secret)
        message_id, timestamp = f"msg_{event.hex}", int(self._clock.now().timestamp())
        headers = {
            "content-type": "application/json",
            "user-agent": "greenlang-webhooks",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(key, message_id, timestamp, body),
        }
        try:
            return await self._post(body, headers)
        except PrivateAddress:
            return Sent("its address is not public")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return Sent(type(error).__name__)

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
