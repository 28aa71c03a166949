"""The private Valkeys: on loopback only, each with a password and a folder in the data directory.

The first has an append-only file. Expired keys stay in the file until it is rewritten, so every start rewrites it. The second is
for the cache of answers: it stores nothing on disk, and evicts what was used longest ago. Eviction is a setting of a whole
server, so the cache never shares one with limits, leases and streams.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.embedded.addresses import CACHE_URL, HOST, REDIS_URL, Address, keep_address, read_address
from app.embedded.child import Child, start_child

COORDINATION_FOLDER = "valkey"
CACHE_FOLDER = "valkey-cache"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Valkey:
    """Create it with `for_coordination` or `for_cache`. `lines` are its own part of the configuration."""

    program: Path
    data_dir: Path
    name: str
    folder: str
    url_file: str
    lines: tuple[str, ...]
    is_durable: bool

    @classmethod
    def for_coordination(cls, program: Path, data_dir: Path, *, volatile: bool = False) -> Valkey:
        """`volatile` stores nothing on disk. Only tests use it."""
        lines = (f"appendonly {'no' if volatile else 'yes'}",)
        return cls(program, data_dir, "Valkey", COORDINATION_FOLDER, REDIS_URL, lines, is_durable=not volatile)

    @classmethod
    def for_cache(cls, program: Path, data_dir: Path, max_bytes: int) -> Valkey:
        lines = ("appendonly no", f"maxmemory {max_bytes}", "maxmemory-policy allkeys-lru")
        return cls(program, data_dir, "the cache's Valkey", CACHE_FOLDER, CACHE_URL, lines, is_durable=False)

    def prepare(self, _lock: int) -> None:
        """Call it only while no server runs in the folder."""
        (self.data_dir / self.folder).mkdir(mode=0o700, exist_ok=True)
        keep_address(self.data_dir / self.url_file)

    def start(self, lock: int) -> Child:
        """Starts a server and returns when it answers. Raises StoreFailed."""
        folder = self.data_dir / self.folder
        address = read_address(self.data_dir / self.url_file)
        lines = [
            f"bind {HOST}",
            f"port {address.port}",
            f"requirepass {address.password}",
            "dir .",
            "pidfile valkey.pid",
            'save ""',
            *self.lines,
        ]
        configuration = folder / "valkey.conf"
        with os.fdopen(os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as output:
            output.write("\n".join(lines) + "\n")
        log = self.data_dir / "log" / f"{self.folder}.log"
        child = start_child([self.program, configuration], folder, log, signal.SIGTERM, lock)
        child.wait_until(lambda: _is_ready(address), _START_SECONDS)
        if self.is_durable:
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
