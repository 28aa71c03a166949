"""Finds settings of a provider that no request can use: a key that is no valid header, a host name with an empty part.

A server starts with them all the same, because the other targets of a route can answer. Calls to such a provider fail with a
typed error, and nothing is sent. The start and `doctor` report where each one is.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from app.domain.errors import SettingsError
from app.settings import ProviderSettings, Settings


def is_header_value(secret: str) -> bool:
    """Whether the key is one line of printable ASCII, as a header requires."""
    return all(" " <= letter <= "~" for letter in secret)


def doubts(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each finding names its place in the configuration and what is allowed. It repeats no secret."""
    for index, provider in enumerate(settings.providers):
        if provider.enabled:
            for place, problem in provider_doubts(provider):
                yield f"providers[{index}].{place}", problem


def provider_doubts(provider: ProviderSettings) -> Iterator[tuple[str, str]]:
    host = urlsplit(provider.base_url or "").hostname or ""
    if not all(host.removesuffix(".").split(".")) and provider.base_url is not None:
        yield "base_url", "its host has an empty part between two dots, so it cannot be looked up"
    for number, reference in enumerate(provider.api_keys):
        try:
            secret = reference.reveal()
        except SettingsError:
            continue
        if not is_header_value(secret):
            yield f"api_keys[{number}]", "a key must be one line of printable ASCII characters"
