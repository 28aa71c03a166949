"""The first key if standard output is no terminal. It is written to a file that only its owner can read, so it gets into no
log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from app.domain.errors import GreenLangError

FILE_NAME: Final = "first-key"


class FirstKeyNotWritten(GreenLangError):
    def __init__(self, path: Path, reason: str | None) -> None:
        super().__init__(
            f"the first key cannot be written to {path}: {reason}. Make another: greenlang keys create NAME --scope ADMIN"
        )


def write_first_key(data_dir: Path, secret: str) -> Path:
    """Writes the file with mode 0600 and replaces an older one. Raises FirstKeyNotWritten."""
    path = data_dir / FILE_NAME
    unfinished = data_dir / f".{FILE_NAME}.{os.getpid()}"
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{secret}\n")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FirstKeyNotWritten(path, error.strerror) from error
    return path
