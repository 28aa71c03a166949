"""Secrets from HashiCorp Vault or OpenBao: the engine KV, version 2."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, RateLimitExceeded, Unauthorized, VaultDown, VaultError

from app.domain.errors import SettingsError
from app.secret_stores.reader import SecretFault, StoreAway
from app.settings import VaultAuth, VaultSettings

_SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_RENEWED_AFTER: Final = 2 / 3
"""The part of a lease after which it is renewed."""
_REASONS: Final[Mapping[type[Exception], str]] = {
    Forbidden: "permission denied",
    Unauthorized: "permission denied",
    InvalidPath: "there is no such secret",
    InvalidRequest: "the login or the path is refused",
    RateLimitExceeded: "the store asks to slow down",
    VaultDown: "the store is sealed",
}
Result = TypeVar("Result")


class Vault:
    def __init__(self, settings: VaultSettings) -> None:
        """Asks nothing yet."""
        self._settings = settings
        self._renew_at: float | None = None
        self._is_logged_in = False
        self._client: Any = hvac.Client(
            url=settings.address,
            namespace=settings.namespace,
            timeout=settings.timeout.total_seconds(),
            verify=True if settings.ca_file is None else str(settings.ca_file),
            allow_redirects=False,
        )

    def read(self, path: str) -> Mapping[str, object]:
        """Renews the lease of the login first if it is due. Logs in again if the login has ended."""
        was_logged_in = self._is_logged_in
        self._enter()
        try:
            return self._fields(path)
        except SecretFault as fault:
            if str(fault) != _REASONS[Forbidden] or not was_logged_in:
                raise
        self._is_logged_in = False
        self._enter()
        return self._fields(path)

    def _fields(self, path: str) -> Mapping[str, object]:
        def read() -> Mapping[str, object]:
            answer = self._client.secrets.kv.v2.read_secret_version(
                path=path, mount_point=self._settings.mount, raise_on_deleted_version=True
            )
            fields: Mapping[str, object] = answer["data"]["data"]
            return fields

        return _asked(read)

    def _enter(self) -> None:
        if self._is_logged_in and self._renew_at is not None and time.monotonic() >= self._renew_at:
            try:
                self._keep(_asked(lambda: self._client.auth.token.renew_self()["auth"]))
            except StoreAway:
                raise
            except SecretFault:
                self._is_logged_in = False
        if not self._is_logged_in:
            self._log_in()
            self._is_logged_in = True

    def _log_in(self) -> None:
        match self._settings.auth:
            case VaultAuth.TOKEN:
                self._client.token = _revealed(self._settings.token)
                self._keep(_asked(lambda: self._client.auth.token.lookup_self()["data"]), lease="ttl")
            case VaultAuth.APPROLE:
                role, secret = _revealed(self._settings.role_id), _revealed(self._settings.secret_id)
                self._keep(_asked(lambda: self._client.auth.approle.login(role, secret)["auth"]))
            case VaultAuth.KUBERNETES:
                self._keep(_asked(lambda: self._client.auth.kubernetes.login(self._settings.role, _service_account())["auth"]))

    def _keep(self, login: Mapping[str, Any], lease: str = "lease_duration") -> None:
        seconds = float(login.get(lease) or 0)
        lasts = seconds > 0 and bool(login.get("renewable"))
        self._renew_at = time.monotonic() + seconds * _RENEWED_AFTER if lasts else None


def _asked(ask: Callable[[], Result]) -> Result:
    """Raises SecretFault."""
    try:
        return ask()
    except requests.RequestException:
        raise StoreAway from None
    except OSError:
        raise SecretFault("the file secrets.vault.ca_file cannot be read") from None
    except VaultError as error:
        raise SecretFault(_REASONS.get(type(error), "the store failed")) from None
    except (KeyError, TypeError, ValueError):
        raise SecretFault("the store answers in another form") from None


def _revealed(reference: Any) -> str:
    try:
        text: str = reference.reveal()
    except SettingsError as error:
        raise SecretFault(f"the login cannot be read: {error.problem}") from None
    return text


def _service_account() -> str:
    try:
        return _SERVICE_ACCOUNT_TOKEN.read_text(encoding="ascii").strip()
    except OSError:
        raise SecretFault("this pod has no token of a service account") from None
