"""A secret is a reference, `{ env = "NAME" }` or `{ file = "PATH" }`; its value is read where it is used and shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from app.errors import SettingsError


class SecretReference(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretReference:
        if (self.env is None) == (self.file is None):
            raise ValueError('a secret is { env = "NAME" } or { file = "PATH" }')
        return self

    def reveal(self) -> str:
        """The secret's value; raises SettingsError where there is none."""
        if self.env is not None:
            value = os.environ.get(self.env, "").strip()
            if not value:
                raise SettingsError(f"env {self.env}", "is not set")
            return value
        assert self.file is not None
        try:
            return self.file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"file {self.file}", error.strerror or "cannot be read") from error
