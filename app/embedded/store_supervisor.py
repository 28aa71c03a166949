"""`python -m app.embedded.store_supervisor`: the one parent of the private stores.

It starts them, restarts a store that died, and stops them in order when its standard input ends. That also happens when its own
parent is killed. It reports `ready` or one line `failed: …` on standard output. It ignores the signals of a terminal or a service
manager: its parent acts on them.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from app.domain.errors import GreenLangError
from app.embedded.binaries import find_postgres, find_valkey
from app.embedded.child import Child, StoreFailed
from app.embedded.chroma import Chroma
from app.embedded.postgres import Postgres, made_by_major
from app.embedded.valkey import Valkey

_STOP_SECONDS = 20.0
_RESTART_SECONDS = 1.0


class Store(Protocol):
    @property
    def name(self) -> str: ...

    def prepare(self, lock: int, /) -> None: ...

    def start(self, lock: int) -> Child: ...


class StoreSupervisor:
    def __init__(self, stores: Sequence[Store], lock: int) -> None:
        self._stores = stores
        self._lock = lock
        self._children: dict[str, Child] = {}

    def start(self) -> None:
        """Starts all stores or none. Raises GreenLangError."""
        try:
            for store in self._stores:
                store.prepare(self._lock)
                self._children[store.name] = store.start(self._lock)
        except StoreFailed as failure:
            self.stop()
            raise StoreFailed(f"{store.name} does not start: {failure}") from failure

    def restart_dead(self) -> None:
        """Restarts the stores that died. A store that does not start is tried again at the next call."""
        for store in self._stores:
            if self._children[store.name].process.poll() is None:
                continue
            try:
                self._children[store.name] = store.start(self._lock)
            except StoreFailed as failure:
                sys.stderr.write(f"{store.name} does not start again: {failure}\n")

    def stop(self) -> None:
        for store in reversed(self._stores):
            if (child := self._children.get(store.name)) is not None:
                child.stop(_STOP_SECONDS)


def watch_signals() -> int:
    """Returns a descriptor that becomes readable when a child ends. SIGCHLD gets a handler instead of being ignored, because a
    child would inherit that."""
    wakeup, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(sign, lambda *_: None)
    return wakeup


def serve(store_supervisor: StoreSupervisor, lifeline: int, wakeup: int) -> None:
    """Runs until `lifeline` ends."""
    while True:
        readable, _, _ = select.select([lifeline, wakeup], [], [], _RESTART_SECONDS)
        if lifeline in readable and not os.read(lifeline, 1024):
            return
        if wakeup in readable:
            os.read(wakeup, 1024)
        store_supervisor.restart_dead()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m app.embedded.store_supervisor")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--lock", type=int, required=True, help="descriptor of the locked file, held by every store")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--valkey", action="store_true")
    parser.add_argument("--cache-bytes", type=int, help="runs a second Valkey, for the cache, with this maximum")
    parser.add_argument("--chroma", action="store_true")
    parser.add_argument("--volatile", action="store_true")
    given = parser.parse_args()
    os.umask(0o077)
    wakeup = watch_signals()
    stores: list[Store] = []
    try:
        if given.postgres:
            stores.append(Postgres(find_postgres(made_by_major(given.data_dir)), given.data_dir, given.volatile))
        if given.valkey:
            stores.append(Valkey.for_coordination(find_valkey(), given.data_dir, volatile=given.volatile))
        if given.cache_bytes is not None:
            stores.append(Valkey.for_cache(find_valkey(), given.data_dir, given.cache_bytes))
        if given.chroma:
            stores.append(Chroma(given.data_dir))
        store_supervisor = StoreSupervisor(stores, given.lock)
        store_supervisor.start()
    except GreenLangError as failure:
        sys.stdout.write(f"failed: {failure}\n")
        return 1
    with suppress(BrokenPipeError):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    serve(store_supervisor, sys.stdin.fileno(), wakeup)
    store_supervisor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
