"""The identity of a process, as a text. With it another process on the same machine can see whether the process is still alive.

A process id can be used again, so the start time is part of the identity. In another container, or without /proc, no process
counts as dead.
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
_ENDED = frozenset({"Z", "X"})


def identity(proc: Path = PROC) -> str:
    """The identity of this process: its machine, its process id and its start time. "" if it cannot be known."""
    machine, seen = _machine(proc), _look(proc, os.getpid())
    return f"{machine} {os.getpid()} {seen[1]}" if machine and seen is not None else ""


def has_died(named: str, proc: Path = PROC) -> bool:
    """Whether the process is known to be dead. `named` is an `identity`."""
    machine, _, process = named.rpartition(" ")[0].rpartition(" ")
    if not machine or not process.isdecimal() or machine != _machine(proc):
        return False
    if not _exists(int(process)):
        return True
    seen = _look(proc, int(process))
    return seen is not None and (seen[0] in _ENDED or seen[1] != named.rpartition(" ")[2])


def _machine(proc: Path) -> str:
    """The machine since its last start, and the namespace of its process ids. "" if there is no such information."""
    try:
        started = (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{started} {(proc / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _exists(process: int) -> bool:
    """Whether the process exists, even if /proc hides processes of other users or no file can be opened."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _look(proc: Path, process: int) -> tuple[str, str] | None:
    """Returns state and start time; None if they cannot be read."""
    try:
        status = (proc / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()
    return fields[0], fields[19]
