"""A data directory has one owner. The owner's server processes also hold the lock. So if the owner dies suddenly, the next
owner waits until they have finished their answers."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.domain.errors import GreenLangError, SettingsError
from app.runtime.clock import Clock

_LOCK = "serve.lock"
_POLL_SECONDS = 0.05


class DataDirectoryInUse(GreenLangError):
    """`pid` is the process that owns it."""

    def __init__(self, data_dir: Path, pid: int) -> None:
        super().__init__(
            f"GreenLang already runs on the data directory {data_dir}: process {pid}. Stop it, or choose another --data-dir."
        )
        self.pid = pid


@contextmanager
def owned(data_dir: Path, clock: Clock, wait_seconds: float = 0.0) -> Iterator[Path]:
    """Owns the directory, which is made if there is none. It is absolute and only this process uses it. Waits at most
    `wait_seconds` for the processes of an owner that is gone. Raises DataDirectoryInUse and SettingsError."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError("server.data_dir", f"{data_dir} cannot be used: {error.strerror}") from error
    try:
        _take(lock, data_dir, clock.monotonic() + wait_seconds, clock)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield data_dir.resolve()
    finally:
        os.close(lock)


def _take(lock: int, data_dir: Path, deadline: float, clock: Clock) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = int(os.pread(lock, 32, 0) or b"0")
            if clock.monotonic() >= deadline or _lives(owner):
                raise DataDirectoryInUse(data_dir, owner) from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _lives(pid: int) -> bool:
    """A process that has ended and is still a zombie counts as dead."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
