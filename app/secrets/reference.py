"""A secret is a reference, `{ env = "NAME" }` or `{ file = "PATH" }`. Its value is read where it is used and shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, model_validator

from app.domain.errors import SettingsError

_BYTE_ORDER_MARK: Final = "\ufeff"


_REFERENCE: Final = 'a secret is { env = "NAME" } or { file = "PATH" }'


class SecretReference(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_plain_text(cls, value: object) -> object:
        if isinstance(value, (str, bytes)):
            raise ValueError(f"{_REFERENCE}, never its own text")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretReference:
        if (self.env is None) == (self.file is None) or self.env == "":
            raise ValueError(_REFERENCE)
        return self

    def reveal(self) -> str:
        """Returns the secret's value without blanks or a byte order mark around it. Raises SettingsError if there is none."""
        if self.env is not None:
            return _not_empty(os.environ.get(self.env, ""), f"env {self.env}", "is not set")
        assert self.file is not None
        try:
            text = self.file.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"file {self.file}", error.strerror or "cannot be read") from None
        except UnicodeDecodeError:
            raise SettingsError(f"file {self.file}", "is not UTF-8 text") from None
        return _not_empty(text, f"file {self.file}", "is empty")


def _not_empty(text: str, where: str, problem: str) -> str:
    value = text.strip().strip(_BYTE_ORDER_MARK).strip()
    if not value:
        raise SettingsError(where, problem)
    return value
