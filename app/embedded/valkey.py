"""The private Valkey: append-only file in the data directory, loopback only, a password.

Expired keys stay in the file until it is rewritten, so every start rewrites it.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.embedded.addresses import HOST, REDIS_URL, Address, keep_address, read_address
from app.embedded.child import Child, start_child

_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Valkey:
    """`volatile` stores nothing on disk. Only tests use it."""

    program: Path
    data_dir: Path
    volatile: bool = False

    @property
    def name(self) -> str:
        return "Valkey"

    def prepare(self, _lock: int) -> None:
        """Call it only while no server runs in the folder."""
        (self.data_dir / "valkey").mkdir(mode=0o700, exist_ok=True)
        keep_address(self.data_dir / REDIS_URL)

    def start(self, lock: int) -> Child:
        """Starts a server and returns when it answers. Raises StoreFailed."""
        folder = self.data_dir / "valkey"
        address = read_address(self.data_dir / REDIS_URL)
        lines = [
            f"bind {HOST}",
            f"port {address.port}",
            f"requirepass {address.password}",
            "dir .",
            "pidfile valkey.pid",
            f"appendonly {'no' if self.volatile else 'yes'}",
            'save ""',
        ]
        configuration = folder / "valkey.conf"
        with os.fdopen(os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as output:
            output.write("\n".join(lines) + "\n")
        child = start_child([self.program, configuration], folder, self.data_dir / "log" / "valkey.log", signal.SIGTERM, lock)
        child.wait_until(lambda: _is_ready(address), _START_SECONDS)
        if not self.volatile:
            _ask(address, "BGREWRITEAOF")
        return child


def _is_ready(address: Address) -> bool:
    """Whether it answers, and no longer with -LOADING."""
    return _ask(address, "PING") == b"+OK\r\n+PONG\r\n"


def _ask(address: Address, command: str) -> bytes:
    """Returns both lines of the answer; nothing if there is no answer."""
    answer = b""
    with suppress(OSError), socket.create_connection((HOST, address.port), timeout=1) as connection:
        connection.sendall(f"AUTH {address.password}\r\n{command}\r\n".encode())
        while answer.count(b"\r\n") < 2 and (more := connection.recv(256)):
            answer += more
    return answer
