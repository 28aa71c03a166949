"""What `greenlang doctor --deep` checks in addition: names, connections, certificates, and the clock.

Each endpoint of the configuration is reached from the place where the command runs, so a pod sees what its network policies let
through.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Final

import asyncpg
from cryptography import x509

from app.cli.endpoints import Encryption, Endpoint, configured_endpoints
from app.cli.findings import Finding
from app.db.failures import DATABASE_ERRORS
from app.db.urls import DatabaseUrl, database_urls
from app.domain.errors import SettingsError
from app.runtime.clock import Clock
from app.settings import Settings

TIMEOUT_SECONDS: Final = 5.0
MIN_DAYS: Final = 14
MAX_SKEW_SECONDS: Final = 1.0
_TLS_REQUEST: Final = bytes.fromhex("0000000804d2162f")
_AGREES: Final = b"S"


async def check_deeply(settings: Settings, clock: Clock) -> list[Finding]:
    try:
        endpoints = configured_endpoints(settings)
        databases = dict(database_urls(settings.database))
    except SettingsError as error:
        return [Finding("endpoints", False, str(error))]
    found = list(await asyncio.gather(*(_reach(endpoint, clock) for endpoint in endpoints)))
    if "database.primary" in databases:
        found.append(await _clock_skew(databases["database.primary"], clock))
    return found or [Finding("endpoints", True, "none: everything is on this machine")]


async def _reach(endpoint: Endpoint, clock: Clock) -> Finding:
    begun = clock.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            loop = asyncio.get_running_loop()
            resolved = {entry[4][0] for entry in await loop.getaddrinfo(endpoint.host, endpoint.port)}
            begun = clock.monotonic()
            async with _connected(endpoint) as certificate:
                milliseconds = (clock.monotonic() - begun) * 1000
    except TimeoutError:
        return Finding(endpoint.subject, False, f"no answer in {TIMEOUT_SECONDS:.0f} s: is it let through?")
    except ssl.SSLCertVerificationError as error:
        return Finding(endpoint.subject, False, f"its certificate is refused: {error.verify_message}")
    except OSError as error:
        return Finding(endpoint.subject, False, error.strerror or str(error) or type(error).__name__)
    addresses = "1 address" if len(resolved) == 1 else f"{len(resolved)} addresses"
    reached = f"{addresses}, connects in {milliseconds:.0f} ms"
    if certificate is None:
        return Finding(endpoint.subject, True, f"{reached}, without TLS")
    days = (certificate.not_valid_after_utc - clock.now()).days
    return Finding(endpoint.subject, True, f"{reached}, certificate for {_names(certificate)}: {days} days left", days < MIN_DAYS)


@asynccontextmanager
async def _connected(endpoint: Endpoint) -> AsyncIterator[x509.Certificate | None]:
    """Yields the certificate; None without TLS. Raises OSError, of which the errors of TLS are a part."""
    context = _context(endpoint)
    is_postgresql = endpoint.encryption in {Encryption.POSTGRESQL, Encryption.POSTGRESQL_IF_OFFERED}
    at_once = context if endpoint.encryption is Encryption.TLS else None
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=at_once)
    try:
        if is_postgresql:
            writer.write(_TLS_REQUEST)
            if await reader.read(1) == _AGREES:
                await writer.start_tls(context, server_hostname=endpoint.host)
            elif endpoint.encryption is Encryption.POSTGRESQL:
                raise ConnectionError("the server has no TLS")
        tls = writer.get_extra_info("ssl_object")
        yield None if tls is None else x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=endpoint.authority)
    if not endpoint.verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _names(certificate: x509.Certificate) -> str:
    with suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return ", ".join(str(each.value) for each in list(names)[:3]) + (", …" if len(list(names)) > 3 else "")
    return certificate.subject.rfc4514_string()


async def _clock_skew(url: DatabaseUrl, clock: Clock) -> Finding:
    """The uncertainty is half of the time that the answer took."""
    try:
        connection = await asyncpg.connect(**url.connect_arguments(), timeout=TIMEOUT_SECONDS, command_timeout=TIMEOUT_SECONDS)
        try:
            before = clock.now()
            there: datetime = await connection.fetchval("select clock_timestamp()")
            after = clock.now()
        finally:
            await connection.close(timeout=TIMEOUT_SECONDS)
    except DATABASE_ERRORS as error:
        return Finding("clock", False, f"the database does not say its time: {type(error).__name__}")
    taken = (after - before).total_seconds() / 2
    skew = (there - before).total_seconds() - taken
    return Finding(
        "clock",
        True,
        f"{skew * 1000:+.0f} ms from here to the database, ± {taken * 1000:.0f}",
        abs(skew) - taken > MAX_SKEW_SECONDS,
    )
