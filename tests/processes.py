"""Real processes, watched from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Fails where `holds()` is still false when the time is up."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def family(pid: int) -> list[psutil.Process]:
    """The process with everything that descends from it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def named(processes: list[psutil.Process], part: str) -> list[psutil.Process]:
    """Those whose program has this in its name; short-lived ones may end while they are looked at."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += [process] if part in process.name() else []
    return found


def command(process: psutil.Process) -> list[str]:
    """What it was started with; nothing where it has just died."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def folder(process: psutil.Process) -> str:
    """The name of its working directory; nothing where it has just died."""
    try:
        return Path(process.cwd()).name
    except psutil.Error:
        return ""


def kill_all(processes: list[psutil.Process]) -> None:
    """Those that are still there; some end by themselves when another dies."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """They stand still meanwhile, with their connections open."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def wait_gone(processes: list[psutil.Process], seconds: float = 30.0) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    left = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert left == []
