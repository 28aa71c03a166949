"""A secret is a reference to its value: `{ env = "NAME" }`, `{ file = "PATH" }`, `{ vault = "path#field" }` or
`{ aws = "name#field" }`. The value is read where it is used and shown nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator

from app.domain.errors import SettingsError

_BYTE_ORDER_MARK: Final = "\ufeff"
_REFERENCE: Final = 'a secret is { env = "NAME" }, { file = "PATH" }, { vault = "path#field" } or { aws = "name#field" }'
_IN_A_STORE: Final = re.compile(r"[^#\s][^#\n]*#[^#\s]+")

SecondStep: TypeAlias = Callable[[], None]
Listener: TypeAlias = Callable[[str], SecondStep | None]
"""Gets the new value. What it returns is called when every other process has had the time to read the value too. Raises
SettingsError if the value cannot be used."""


class SecretSource(Enum):
    ENVIRONMENT = "environment"
    FILE = "file"
    VAULT = "vault"
    AWS = "aws"


class Values(Protocol):
    """What a process knows of the values of its references."""

    def text(self, reference: SecretReference) -> str | None:
        """None if it was never read."""
        ...

    def listen(self, reference: SecretReference, listener: Listener) -> None: ...


class SecretReference(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    env: str | None = None
    file: Path | None = None
    vault: str | None = None
    aws: str | None = None
    _values: Values | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _no_plain_text(cls, value: object) -> object:
        if isinstance(value, (str, bytes)):
            raise ValueError(f"{_REFERENCE}, never its own text")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretReference:
        given = [each for each in (self.env, self.file, self.vault, self.aws) if each is not None]
        in_store = self.vault if self.vault is not None else self.aws
        if len(given) != 1 or self.env == "" or (in_store is not None and not _IN_A_STORE.fullmatch(in_store)):
            raise ValueError(_REFERENCE)
        return self

    @property
    def source(self) -> SecretSource:
        if self.env is not None:
            return SecretSource.ENVIRONMENT
        if self.file is not None:
            return SecretSource.FILE
        return SecretSource.AWS if self.vault is None else SecretSource.VAULT

    @property
    def name(self) -> str:
        """What the reference says, for messages."""
        given = next(each for each in (self.env, self.file, self.vault, self.aws) if each is not None)
        return f"{'env' if self.env is not None else self.source.value} {given}"

    @property
    def values(self) -> Values | None:
        return self._values

    def bind(self, values: Values) -> None:
        """From now on `values` knows the value of a reference into a store, and says when a value changes."""
        self._values = values

    def on_change(self, listener: Listener) -> None:
        """Calls `listener` with each new value. A reference that is not bound never changes."""
        if self._values is not None:
            self._values.listen(self, listener)

    def reveal(self) -> str:
        """Returns the secret's value without blanks or a byte order mark around it. Raises SettingsError if there is none."""
        if self.env is not None:
            return _not_empty(os.environ.get(self.env, ""), self.name, "is not set")
        if self.file is None:
            return _not_empty((self._values and self._values.text(self)) or "", self.name, "was not read")
        try:
            text = self.file.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(self.name, error.strerror or "cannot be read") from None
        except UnicodeDecodeError:
            raise SettingsError(self.name, "is not UTF-8 text") from None
        return _not_empty(text, self.name, "is empty")


def _not_empty(text: str, where: str, problem: str) -> str:
    value = text.strip().strip(_BYTE_ORDER_MARK).strip()
    if not value:
        raise SettingsError(where, problem)
    return value
