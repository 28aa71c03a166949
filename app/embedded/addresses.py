"""Where a private store listens and its password: one URL in a file of the data directory, mode 0600, made once.

The port is kept over restarts and only changes when another program has taken it.
"""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DATABASE_URL = "database.url"
REDIS_URL = "redis.url"
HOST = "127.0.0.1"
_FORMS = {
    DATABASE_URL: "postgresql://greenlang:{password}@127.0.0.1:{port}/postgres",
    REDIS_URL: "redis://:{password}@127.0.0.1:{port}/0",
}


@dataclass(frozen=True, slots=True)
class Address:
    port: int
    password: str


def keep_address(file: Path) -> Address:
    """The file's address, made where there is none; a port that is taken by now is replaced. Only while the store is down."""
    if not file.is_file():
        return _write(file, Address(_free_port(), secrets.token_urlsafe(32)))
    address = read_address(file)
    return address if _is_free(address.port) else _write(file, Address(_free_port(), address.password))


def read_address(file: Path) -> Address:
    """Raises FileNotFoundError."""
    kept = urlsplit(file.read_text(encoding="utf-8").strip())
    return Address(kept.port or 0, kept.password or "")


def _write(file: Path, address: Address) -> Address:
    fresh = file.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as output:
        output.write(_FORMS[file.name].format(password=address.password, port=address.port) + "\n")
    fresh.replace(file)
    return address


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
