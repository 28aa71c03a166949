"""Where a private store listens, and its password: one URL in a file of the data directory, mode 0600, made once.

The port stays the same over restarts. It changes only if another program has taken it. PostgreSQL has one file for each of its
roles. Chroma has no password.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DATABASE_URL = "database.url"
OWNER_URL = "database.owner.url"
REDIS_URL = "redis.url"
CACHE_URL = "cache.url"
CHROMA_URL = "chroma.url"
HOST = "127.0.0.1"
SERVICE_ROLE = "greenlang_service"
OWNER_ROLE = "greenlang_owner"
_FORMS = {
    DATABASE_URL: f"postgresql://{SERVICE_ROLE}:{{password}}@127.0.0.1:{{port}}/postgres",
    OWNER_URL: f"postgresql://{OWNER_ROLE}:{{password}}@127.0.0.1:{{port}}/postgres",
    REDIS_URL: "redis://:{password}@127.0.0.1:{port}/0",
    CACHE_URL: "redis://:{password}@127.0.0.1:{port}/0",
    CHROMA_URL: "http://127.0.0.1:{port}",
}


@dataclass(frozen=True, slots=True)
class Address:
    port: int
    password: str


def keep_address(file: Path) -> Address:
    """Returns the address in the file. Makes the file if there is none, and replaces a port that is in use. Call it only while
    the store is down."""
    address = read_address(file) if file.is_file() else None
    port = address.port if address is not None and _is_free(address.port) else _free_port()
    return keep_password(file, port)


def keep_password(file: Path, port: int) -> Address:
    """Returns the address with `port` and the password in the file, which is made if there is none. The file is rewritten if it
    has anything else, such as a role of an earlier version."""
    address = Address(port, read_address(file).password if file.is_file() else secrets.token_urlsafe(32))
    if not file.is_file() or file.read_text(encoding="utf-8") != _text(file, address):
        _write(file, address)
    return address


def read_address(file: Path) -> Address:
    """Raises FileNotFoundError."""
    kept = urlsplit(file.read_text(encoding="utf-8").strip())
    return Address(kept.port or 0, kept.password or "")


def _text(file: Path, address: Address) -> str:
    return _FORMS[file.name].format(password=address.password, port=address.port) + "\n"


def _write(file: Path, address: Address) -> None:
    fresh = file.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as output:
        output.write(_text(file, address))
    fresh.replace(file)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
