"""`greenlang serve`: one parent process that owns the stores, the simulator and the sockets, and forks the server processes.

The parent has only one thread; otherwise its forks would not be safe. It answers no request itself. Heavy modules are imported
before the first fork, while the stores start, so that the server processes share that memory. Server processes stop first, then
the simulator, then the stores, so a call that is being settled still finds its database.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType
from typing import NoReturn

from starlette.types import ASGIApp
from uvicorn.importer import import_from_string

from app.db.urls import check_database_urls
from app.domain.errors import GreenLangError
from app.llm.providers.registry import load_adapters
from app.llm.providers.unusable_settings import doubts
from app.runtime.clock import Clock
from app.settings import Settings
from app.settings.defaults import SIMULATOR_KEY, needs_simulator, simulated_providers, with_simulator
from app.supervisor.content_key import keeps_content_in_clear, with_content_key
from app.supervisor.heartbeat import Heartbeat
from app.supervisor.listening import bind, listen
from app.supervisor.ownership import owned
from app.supervisor.preparation import LatePreparation, Preparation, Prepared
from app.supervisor.private_stores import NeededStores, with_private_stores
from app.supervisor.redis_urls import check_redis_urls
from app.supervisor.required_secrets import require_secrets
from app.supervisor.restart_counts import RestartCounts
from app.supervisor.simulator import SimulatorProcess
from app.supervisor.supervised_parts import Part, Server, Simulator, Stores, SupervisedParts
from app.supervisor.worker import Supervised, fork_worker

OPEN_FILES = 1 << 18
_TICK_SECONDS = 0.5
_MARGIN_SECONDS = 5.0
_WAIT_SECONDS = 0.1
_POLLS = (
    "database.statement_cache is false and database.direct is not set, so the server polls: changes of keys and events arrive "
    "later. Set database.direct to the address of PostgreSQL without the pooler."
)
_log = logging.getLogger(__name__)


class NotServing(GreenLangError):
    """A server process ended before it answered. Its own log lines say why."""


@dataclass(frozen=True, slots=True)
class Started:
    """What a start announces. `first_key` is the administrator's secret. It is set only if there never was a key."""

    address: str
    data_dir: Path
    settings: Settings
    first_key: str | None = field(repr=False)


class _Asked:
    """Counts stop signals. The first asks to stop, the second to stop at once."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.times += 1


class _Supervisor:
    def __init__(self, settings: Settings, data_dir: Path, clock: Clock) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._clock = clock
        self._stores: Stores | None = None
        self._simulator: Simulator | None = None
        self._preparation: Preparation[Prepared] | None = None
        self._late: LatePreparation | None = None
        self._has_keys = True
        self._servers: list[Server] = []
        self._ready, self._ready_end = os.pipe()
        self._restarts = RestartCounts()

    def start(self, target: str, sockets: tuple[socket.socket, ...]) -> None:
        """Returns when the server answers. Raises GreenLangError and KeyboardInterrupt. The caller must call `stop` in every
        case."""
        self._launch()
        self._preparation = Preparation.newest_schema(self._settings, self._stores.running if self._stores else None, self._clock)
        create_app = self._import(target)
        if self._simulator is not None:
            self._settings = with_simulator(self._settings, self._simulator.wait())
        prepared = self._preparation.result()
        self._has_keys = prepared is not Prepared.WITHOUT_KEYS
        if prepared is Prepared.WAITS:
            self._late = LatePreparation(self._settings, self._clock)
        app = create_app(_reached_at(_address(sockets), self._settings))
        listen(sockets)
        gc.freeze()
        gc.enable()
        for number, each in enumerate(sockets, start=1):
            fork = partial(self._fork, app, each)
            self._servers.append(Server(number, fork, self._restarts, self._settings.server.stuck_after.total_seconds()))
        self._await_servers()

    def _fork(self, app: ASGIApp, listening: socket.socket, heartbeat: Heartbeat) -> ForkProcess:
        return fork_worker(app, self._settings, listening, Supervised(self._ready_end, heartbeat, self._restarts))

    def started(self, sockets: tuple[socket.socket, ...]) -> Started:
        """Returns what to announce. Raises GreenLangError. The caller must show it, because a first key is made here and is
        stored nowhere else."""
        first_key = None if self._has_keys else Preparation.first_key(self._settings, self._clock).result()
        return Started(_address(sockets), self._data_dir, self._settings, first_key)

    def run(self, asked: _Asked, wakeup: int, announce: Callable[[], None]) -> None:
        """Runs until a signal asks to stop. Announces again if a first key is made meanwhile."""
        parts: list[Part] = [part for part in (self._stores, self._simulator) if part is not None]
        supervised = SupervisedParts([*parts, *self._servers], self._clock)
        looked_at = time.monotonic()
        while not asked.times:
            readable, _, _ = select.select([wakeup, self._ready], [], [], _TICK_SECONDS)
            for descriptor in readable:
                os.read(descriptor, 4096)
            now = time.monotonic()
            for server in self._servers:
                server.kill_if_stuck(now - looked_at)
            looked_at = now
            supervised.restart_dead()
            self._prepare_late(announce)

    def _prepare_late(self, announce: Callable[[], None]) -> None:
        prepared = self._late.step() if self._late is not None else None
        if prepared is None:
            return
        self._late = None
        _log.info("PostgreSQL answers and is prepared")
        if prepared is Prepared.WITHOUT_KEYS:
            self._has_keys = False
            announce()

    def stop(self, asked: _Asked) -> None:
        """Stops everything, in order. The server processes get the second signal too, which ends their waiting. A third kills
        them."""
        self._stop_servers(asked)
        for preparation in (self._preparation, self._late):
            if preparation is not None:
                preparation.stop()
        if self._simulator is not None:
            self._simulator.running.stop()
        if self._stores is not None:
            self._stores.running.stop()

    def _stop_servers(self, asked: _Asked) -> None:
        heard = max(asked.times, 1)
        deadline = time.monotonic() + stop_seconds(self._settings)
        for server in self._servers:
            server.running.terminate()
        while (alive := [server.running for server in self._servers if server.running.is_alive()]) and asked.times <= 2:
            if time.monotonic() >= deadline:
                break
            if asked.times > heard:
                heard = asked.times
                deadline = min(deadline, time.monotonic() + _MARGIN_SECONDS)
                for process in alive:
                    process.terminate()
            wait([process.sentinel for process in alive], _WAIT_SECONDS)
        for server in self._servers:
            server.running.kill()
            server.running.join()

    def _launch(self) -> None:
        """Starts what takes long, and completes the settings with the content key and the addresses of the stores."""
        if keeps_content_in_clear(self._settings):
            _log.warning(
                "answers are stored unencrypted: configure content.encryption_keys to encrypt them, or content.store = false"
            )
        self._settings = with_content_key(self._settings, self._data_dir)
        needed = NeededStores.of(self._settings).without_cache_if_impossible(self._data_dir)
        if needed:
            self._stores = Stores(partial(needed.launch, self._data_dir))
            cache = needed.cache_bytes is not None
            self._settings = with_private_stores(self._settings, self._stores.running, cache=cache)
        if needs_simulator(self._settings):
            os.environ[SIMULATOR_KEY] = "sk-simulator"
            self._simulator = Simulator(partial(SimulatorProcess.launch, self._data_dir / "simulator.jsonl"))

    def _import(self, target: str) -> Callable[[Settings], ASGIApp]:
        create_app: Callable[[Settings], ASGIApp] = import_from_string(target)
        load_adapters(self._settings.providers or simulated_providers("http://127.0.0.1"))
        return create_app

    def _await_servers(self) -> None:
        missing = len(self._servers)
        while missing:
            readable, _, _ = select.select([self._ready, *(server.running.sentinel for server in self._servers)], [], [])
            if self._ready in readable:
                missing -= len(os.read(self._ready, missing))
            elif death := next((death for server in self._servers if (death := server.death())), None):
                raise NotServing(f"a server process ended before it answered ({death}); its messages above say why")


def serve(settings: Settings, clock: Clock, target: str, announce: Callable[[Started], None]) -> None:
    """Returns when a signal has stopped the server and none of its processes is left. Raises GreenLangError if it cannot start,
    SettingsError before it has started anything."""
    require_secrets(settings)
    check_database_urls(settings.database)
    check_redis_urls(settings, clock)
    if settings.database.pooled and settings.database.direct is None:
        _log.warning(_POLLS)
    for place, problem in doubts(settings):
        _log.warning("a provider cannot be used", extra={"place": place, "problem": problem})
    raise_open_file_limit()
    forbid_core_dumps()
    with owned(settings.server.data_dir, clock, wait_seconds=stop_seconds(settings)) as data_dir:
        sockets = bind(settings.server.host, settings.server.port, settings.server.workers)
        supervisor = _Supervisor(settings, data_dir, clock)
        asked = _Asked()
        try:
            with interrupted_by_signals():
                supervisor.start(target, sockets)
            with _signals(asked) as wakeup:
                announce(supervisor.started(sockets))
                supervisor.run(asked, wakeup, lambda: announce(supervisor.started(sockets)))
        except KeyboardInterrupt:
            _log.info("stopped while it started")
        finally:
            with _signals(asked):
                supervisor.stop(asked)
            for each in sockets:
                each.close()


def stop_seconds(settings: Settings) -> float:
    """How long a stop takes at most, before what still runs is killed."""
    server = settings.server
    return server.drain_delay.total_seconds() + server.shutdown_grace.total_seconds() + _MARGIN_SECONDS


def raise_open_file_limit() -> None:
    """Every connection is an open file, so the soft limit is raised towards the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def forbid_core_dumps() -> None:
    """A dump would hold prompts and answers, and the stores would write theirs to the data directory."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _heard_signals() -> Iterator[signal.Signals]:
    """Under nohup the server does not end with its terminal."""
    yield signal.SIGINT
    yield signal.SIGTERM
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP


class Interrupted(KeyboardInterrupt):
    """If a program catches KeyboardInterrupt itself, CPython replaces its exit code, also if it was raised in code that was
    compiled from text, such as dataclasses. With a subclass the exit code stays."""


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    def interrupt(*_: object) -> NoReturn:
        raise Interrupted

    for sign in _heard_signals():
        signal.signal(sign, interrupt)
    yield


@contextmanager
def _signals(asked: _Asked) -> Iterator[int]:
    """Counts signals. Yields the descriptor that becomes readable with each of them, and when a child ends."""
    wakeup, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    for sign in _heard_signals():
        signal.signal(sign, asked)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield wakeup
    finally:
        signal.set_wakeup_fd(-1)
        os.close(wakeup)
        os.close(alarm)


def _address(sockets: tuple[socket.socket, ...]) -> str:
    host, port = sockets[0].getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _reached_at(address: str, settings: Settings) -> Settings:
    """Links in answers lead to the listening address, unless the configuration has another."""
    if settings.server.public_url is not None:
        return settings
    return settings.model_copy(update={"server": settings.server.model_copy(update={"public_url": address})})
