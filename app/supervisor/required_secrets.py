"""Reads every secret that a start will need before anything is started. If one is missing, the start stops with its place in
the configuration."""

from __future__ import annotations

from app.domain.errors import SettingsError
from app.settings import Settings
from app.settings.secret_places import secret_places, store_logins


def require_secrets(settings: Settings) -> None:
    """Raises SettingsError."""
    for place, reference in (*secret_places(settings), *store_logins(settings)):
        try:
            reference.reveal()
        except SettingsError as error:
            raise SettingsError(place, str(error)) from None
