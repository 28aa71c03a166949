"""The identity of a process, as a text by which another process on the same machine can see whether it still lives.

A process id alone is used again: its start time tells two of them apart. Elsewhere, in another container, or where there is no
/proc, no process is known to be dead.
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
_ENDED = frozenset({"Z", "X"})


def identity(proc: Path = PROC) -> str:
    """Of this process: its machine, its id there, and its start time; "" if that cannot be known."""
    machine, seen = _machine(proc), _look(proc, os.getpid())
    return f"{machine} {os.getpid()} {seen[1]}" if machine and seen is not None else ""


def has_died(named: str, proc: Path = PROC) -> bool:
    """True only where it is known. `named` is an `identity`."""
    machine, _, process = named.rpartition(" ")[0].rpartition(" ")
    if not machine or not process.isdecimal() or machine != _machine(proc):
        return False
    if not _exists(int(process)):
        return True
    seen = _look(proc, int(process))
    return seen is not None and (seen[0] in _ENDED or seen[1] != named.rpartition(" ")[2])


def _machine(proc: Path) -> str:
    """Since its last start, and as far as its process ids reach; "" where there is no such thing."""
    try:
        started = (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{started} {(proc / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _exists(process: int) -> bool:
    """Also where /proc hides another user's, or no file can be opened."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _look(proc: Path, process: int) -> tuple[str, str] | None:
    """State and start time; None if it cannot be read."""
    try:
        status = (proc / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()
    return fields[0], fields[19]
