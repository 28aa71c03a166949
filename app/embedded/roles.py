"""The roles of the embedded PostgreSQL. The owner role owns the schema and migrates it. The service role serves; it can neither
change the schema nor make roles. The superuser that `initdb` makes has no password, so no connection can use it.

A cluster of an earlier version, in which one superuser did everything, gets the same roles, and its objects get the new owner.
The extension `vector`, if it is installed, is created here too, because only a superuser can create it. The statements run in
PostgreSQL's single-user mode, before the server starts, either all of them or none.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from app.embedded.addresses import OWNER_ROLE
from app.embedded.child import StoreFailed

DATABASE = "postgres"
_MARKER = "greenlang.roles"
_TEMPLATE_DATABASE = "template1"
_STATEMENTS = Template(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
_EXTENSION = Template(Path(__file__).with_name("vector_extension.sql").read_text(encoding="utf-8")).substitute()


@dataclass(frozen=True, slots=True)
class Passwords:
    owner: str
    service: str


def set_up_roles(
    program: Path, cluster: Path, passwords: Passwords, *, extensions: Sequence[str] = (), volatile: bool, lock: int
) -> None:
    """Call it only while no server runs on the cluster. Does nothing if it was already done with the same passwords and
    statements, and with the same version of the extension. `extensions` are further ones that only a superuser can create. With
    `volatile` the owner may make databases, which get the vector extension too, and end connections, which tests do. Raises
    StoreFailed."""
    owner_rights = "createdb" if volatile else "nocreatedb"
    statements = _STATEMENTS.substitute(
        owner_password=passwords.owner, service_password=passwords.service, owner_rights=owner_rights
    )
    statements += "".join(f"create extension if not exists {each} with schema public;\n" for each in extensions)
    if volatile:
        statements += f"grant pg_signal_backend to {OWNER_ROLE};\n"
    statements += _EXTENSION
    done, marker = hashlib.sha256((statements + _installed_extension(program)).encode()).hexdigest(), cluster / _MARKER
    if marker.is_file() and marker.read_text(encoding="ascii") == done:
        return
    _run(program, cluster, statements, lock)
    if volatile:
        _run(program, cluster, _EXTENSION, lock, _TEMPLATE_DATABASE)
    marker.write_text(done, encoding="ascii")


def set_up_again(cluster: Path) -> None:
    """Sets up the roles again at the next start, because a role can change its own password and settings."""
    (cluster / _MARKER).unlink(missing_ok=True)


def _installed_extension(program: Path) -> str:
    """Returns what the installation says about the extension, such as its version; empty if it is not installed."""
    version = program.parent.parent
    for folder in (version / "share" / "extension", Path("/usr/share/postgresql") / version.name / "extension"):
        control = folder / "vector.control"
        if control.is_file():
            return control.read_text(encoding="utf-8")
    return ""


def _run(program: Path, cluster: Path, statements: str, lock: int, database: str = DATABASE) -> None:
    """With `-j` the statements are one command, and so one transaction."""
    command: list[str | Path] = [
        program,
        "--single",
        "-j",
        "-D",
        cluster,
        "-c",
        "exit_on_error=on",
        "-c",
        "log_min_error_statement=panic",
        database,
    ]
    ran = subprocess.run(  # noqa: S603 - a program that this package found
        command, input=statements, text=True, capture_output=True, check=False, pass_fds=(lock,)
    )
    if ran.returncode != 0:
        raise StoreFailed(f"its roles were not set up: {' | '.join(ran.stderr.strip().splitlines()[-5:])}")
