"""Reads the URL of every Redis before anything is started. If one has a wrong form, the start stops with its place in the
configuration. Whether a server answers there does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from app.redis.clients import connect_redis
from app.runtime.clock import Clock
from app.secrets.reference import SecretReference
from app.settings import Settings


def check_redis_urls(settings: Settings, clock: Clock) -> None:
    """Raises SettingsError."""
    for place, url, tls_ca in _urls(settings):
        if url is not None:
            connect_redis(url.reveal(), settings.redis.model_copy(update={"tls_ca": tls_ca}), clock, setting=place)


def _urls(settings: Settings) -> Iterator[tuple[str, SecretReference | None, Path | None]]:
    yield "redis.url", settings.redis.url, settings.redis.tls_ca
    for name, tier in (("local", settings.cache.local), ("shared", settings.cache.shared)):
        if settings.cache.enabled and tier.enabled:
            yield f"cache.{name}.url", tier.url, tier.tls_ca
