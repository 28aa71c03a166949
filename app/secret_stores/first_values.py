"""The values of secrets in Vault and AWS before a start or a command. They are read by a process of its own: the clients start
threads, and the supervisor must have none when it forks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TypeAlias

from app.domain.errors import SettingsError
from app.secret_stores.reader import SecretReader
from app.secret_stores.values import SecretValues
from app.secrets.reference import SecretReference, SecretSource
from app.settings import Settings
from app.settings.secret_places import secret_places

_Found: TypeAlias = "dict[str, tuple[str | None, str | None]]"
_LOCAL = (SecretSource.ENVIRONMENT, SecretSource.FILE)


def with_first_values(settings: Settings) -> Settings:
    """The same settings; their references into stores have values now. Raises SettingsError with the first place whose secret
    cannot be read."""
    stored = [(place, reference) for place, reference in secret_places(settings) if reference.source not in _LOCAL]
    if not stored:
        return settings
    found = _read_apart(settings, [reference for _, reference in stored])
    for place, reference in stored:
        _, fault = found[reference.name]
        if fault is not None:
            raise SettingsError(place, f"{reference.name}: {fault}")
    values = SecretValues({name: text for name, (text, _) in found.items() if text is not None})
    for _, reference in stored:
        reference.bind(values)
    return settings


def _read_apart(settings: Settings, references: Sequence[SecretReference]) -> _Found:
    answer, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_read, args=(settings, references, sender))
    process.start()
    sender.close()
    try:
        found: _Found = answer.recv()
    except EOFError:
        raise SettingsError("secrets", "the stores of secrets could not be asked; the messages above say why") from None
    finally:
        process.join()
        answer.close()
    return found


def _read(settings: Settings, references: Sequence[SecretReference], sender: Connection[_Found, None]) -> None:
    reader = SecretReader({SecretSource.VAULT: settings.secrets.vault, SecretSource.AWS: settings.secrets.aws})
    found = reader.read(references)
    sender.send({name: (value, None) if isinstance(value, str) else (None, str(value)) for name, value in found.items()})
