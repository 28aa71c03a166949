"""The stores that secrets come from, and how one value is read from what a store answers.

No fault repeats a value, nor a text of the store: it may hold one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Final, Protocol

from app.domain.errors import GreenLangError, SettingsError
from app.secrets.reference import SecretReference, SecretSource

MAX_LENGTH: Final = 64 * 1024


class SecretFault(GreenLangError):
    """Why a secret could not be read: a category, such as `permission denied`."""


class StoreAway(SecretFault):
    """The store does not answer, so it is not asked for anything else in the same round."""

    def __init__(self) -> None:
        super().__init__("the store does not answer")


class SecretStore(Protocol):
    def read(self, path: str) -> Mapping[str, object]:
        """Returns the fields at the path. Blocks. Raises SecretFault."""
        ...


_ADAPTERS: Final = {SecretSource.VAULT: ("app.secret_stores.vault", "Vault"), SecretSource.AWS: ("app.secret_stores.aws", "Aws")}


class SecretReader:
    """Reads the values of references. Blocks; for a thread."""

    def __init__(
        self, configured: Mapping[SecretSource, object], opened: Mapping[SecretSource, SecretStore] | None = None
    ) -> None:
        """`configured` has the settings of each store; it is opened at its first use, unless it is in `opened`."""
        self._configured = configured
        self._stores = dict(opened or {})

    def read(self, references: Iterable[SecretReference]) -> dict[str, str | SecretFault]:
        """The value or the fault of each reference, by its name. Each path is read once."""
        paths: dict[tuple[SecretSource, str], Mapping[str, object] | SecretFault] = {}
        away: dict[SecretSource, StoreAway] = {}
        found: dict[str, str | SecretFault] = {}
        for reference in references:
            written = reference.vault or reference.aws
            if written is None:
                found[reference.name] = _local(reference)
                continue
            path, _, field = written.partition("#")
            if (reference.source, path) not in paths:
                paths[reference.source, path] = away.get(reference.source) or self._fields(reference.source, path)
            fields = paths[reference.source, path]
            if isinstance(fields, StoreAway):
                away[reference.source] = fields
            found[reference.name] = fields if isinstance(fields, SecretFault) else _text(fields, field)
        return found

    def _fields(self, source: SecretSource, path: str) -> Mapping[str, object] | SecretFault:
        try:
            if source not in self._stores:
                self._stores[source] = open_store(source, self._configured.get(source))
            return self._stores[source].read(path)
        except SecretFault as fault:
            return fault


def open_store(source: SecretSource, settings: object) -> SecretStore:
    """Raises SecretFault if its settings or its packages are missing, or if the store refuses the login."""
    module, name = _ADAPTERS[source]
    if settings is None:
        raise SecretFault(f"secrets.{source.value} is not configured")
    try:
        adapter: Callable[[Any], SecretStore] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise SecretFault(
            f"the package {error.name} is not installed; the extra brings it: pip install 'greenlang[{source.value}]'"
        ) from None
    return adapter(settings)


def _local(reference: SecretReference) -> str | SecretFault:
    try:
        return reference.reveal()
    except SettingsError as error:
        return SecretFault(error.problem)


def _text(fields: Mapping[str, object], field: str) -> str | SecretFault:
    value = fields.get(field)
    if field not in fields:
        return SecretFault("there is no such field")
    if not isinstance(value, str):
        return SecretFault("the field is not text")
    if len(value) > MAX_LENGTH:
        return SecretFault(f"the field has more than {MAX_LENGTH} characters")
    return value if value.strip() else SecretFault("the field is empty")
