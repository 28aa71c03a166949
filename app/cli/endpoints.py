"""Every address to which a configuration makes a server connect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from app.db.urls import DatabaseUrl, database_urls
from app.redis.addresses import parse_address
from app.secrets.reference import SecretReference
from app.settings import Settings
from app.settings.defaults import PUBLIC_URLS

_PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}
_UNENCRYPTED = frozenset({"disable", "allow"})


class Encryption(Enum):
    NONE = "none"
    TLS = "TLS from the first byte"
    POSTGRESQL = "TLS after PostgreSQL's own request"
    POSTGRESQL_IF_OFFERED = "TLS if PostgreSQL has it"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`authority`: a PEM file; only what it has is trusted then. With `verifies`, the certificate must be valid for the host."""

    setting: str
    host: str
    port: int
    encryption: Encryption = Encryption.NONE
    authority: str | None = None
    verifies: bool = True

    @property
    def subject(self) -> str:
        return f"{self.setting} {self.host}:{self.port}"


def configured_endpoints(settings: Settings) -> list[Endpoint]:
    """Each once. Sockets of this machine and private stores are left out. Raises SettingsError."""
    found = [
        *(endpoint for setting, url in database_urls(settings.database) for endpoint in _database(setting, url)),
        *_redis("redis.url", settings.redis.url, settings.redis.tls_ca),
        *_redis("cache.local.url", settings.cache.local.url, settings.cache.local.tls_ca),
        *_redis("cache.shared.url", settings.cache.shared.url, settings.cache.shared.tls_ca),
        *_http_endpoints(settings),
    ]
    return list({(endpoint.host, endpoint.port): endpoint for endpoint in reversed(found)}.values())[::-1]


def _database(setting: str, url: DatabaseUrl) -> Iterator[Endpoint]:
    mode = url.tls.get("sslmode", "prefer")
    encryption = Encryption.POSTGRESQL_IF_OFFERED if mode == "prefer" else Encryption.POSTGRESQL
    if mode in _UNENCRYPTED:
        encryption = Encryption.NONE
    for host in url.hosts:
        if not host.name.startswith("/"):
            yield Endpoint(
                setting,
                host.name,
                host.port,
                encryption,
                url.tls.get("sslrootcert"),
                verifies=mode in {"verify-ca", "verify-full"},
            )


def _redis(setting: str, reference: SecretReference | None, authority: Path | None) -> Iterator[Endpoint]:
    if reference is None:
        return
    address = parse_address(reference.reveal(), setting)
    hosts = address.hosts
    if not hosts:
        parts = urlsplit(address.url)
        hosts = ((parts.hostname, parts.port or _PORTS[parts.scheme]),) if parts.hostname else ()
    encryption = Encryption.TLS if address.uses_tls else Encryption.NONE
    for host, port in hosts:
        yield Endpoint(setting, host, port, encryption, str(authority) if authority else None)


def _http_endpoints(settings: Settings) -> Iterator[Endpoint]:
    for provider in settings.providers:
        if provider.enabled:
            yield from _http(f"provider {provider.name}", provider.base_url or PUBLIC_URLS.get(provider.kind))
    for store in settings.vectors.stores:
        if store.url is not None:
            yield from _http(f"vectors {store.name}", store.url.reveal())
        elif store.api_key is not None:
            yield from _http(f"vectors {store.name}", store.host)
    for place, webhook in enumerate(settings.webhooks):
        yield from _http(f"webhooks[{place}]", webhook.url)
    yield from _http("telemetry.otlp_endpoint", settings.telemetry.otlp_endpoint)
    vault, aws = settings.secrets.vault, settings.secrets.aws
    if vault is not None:
        yield from _http("secrets.vault", vault.address, vault.ca_file)
    if aws is not None:
        yield from _http("secrets.aws", aws.endpoint or f"https://secretsmanager.{aws.region}.amazonaws.com")


def _http(setting: str, url: str | None, authority: Path | None = None) -> Iterator[Endpoint]:
    parts = urlsplit(url or "")
    if parts.hostname:
        encryption = Encryption.TLS if parts.scheme == "https" else Encryption.NONE
        port = parts.port or _PORTS[parts.scheme]
        yield Endpoint(setting, parts.hostname, port, encryption, str(authority) if authority else None)
