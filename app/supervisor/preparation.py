"""What a start does to the database: the newest schema before anything is served, and a first key if there never was one.

Each step runs in a separate process, so the supervisor keeps nothing of it. If no server of PostgreSQL answers, the start goes
on, and the first step is repeated until one does. The first key is made last, when it only has to be
printed. If a key were made and never printed, it would be lost, and no later start would make another.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Generic, TypeVar

from uvicorn.importer import import_from_string

from app.domain.errors import GreenLangError, StoreUnavailable
from app.embedded.parent_death import parent_death_setter
from app.embedded.stores import PrivateStores
from app.runtime.clock import Clock
from app.settings import Settings

_SCHEMA = "app.supervisor.bootstrap:prepare_schema"
_FIRST_KEY = "app.supervisor.bootstrap:create_first_key"
_AGAIN_SECONDS = 2.0
Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


class Prepared(Enum):
    """What the first step found. WAITS: no server of PostgreSQL answers, so nothing was done."""

    WITH_KEYS = "with keys"
    WITHOUT_KEYS = "without keys"
    WAITS = "waits"


class NotPrepared(GreenLangError):
    """The stores do not start, or the database cannot be brought to the newest schema. The message says why."""


@dataclass(frozen=True, slots=True)
class Preparation(Generic[Answer]):
    """Create it with `newest_schema` or `first_key`."""

    process: ForkProcess
    answer: Connection[None, tuple[Answer | None, str | None]]

    @classmethod
    def newest_schema(cls, settings: Settings, stores: PrivateStores | None, clock: Clock) -> Preparation[Prepared]:
        """Its result is whether there ever was a key, or that PostgreSQL does not answer. `settings` say where the database is,
        or where it will be when `stores` answer."""
        return _begin(_SCHEMA, settings, stores, clock)

    @classmethod
    def first_key(cls, settings: Settings, clock: Clock) -> Preparation[str]:
        """Its result is the secret of the first administrator."""
        return _begin(_FIRST_KEY, settings, None, clock)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()

    def result(self) -> Answer:
        """Raises NotPrepared. If a signal interrupts it, the process still runs, and the caller must stop it."""
        found: Answer | None = None
        problem: str | None = "the database was not prepared; the messages above say why"
        with suppress(EOFError):
            found, problem = self.answer.recv()
        self.process.join()
        self.answer.close()
        if problem is not None:
            raise NotPrepared(problem)
        assert found is not None
        return found


class LatePreparation:
    """Repeats the first step while the server processes already run, until PostgreSQL answers."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._running: Preparation[Prepared] | None = None
        self._due_at = clock.monotonic() + _AGAIN_SECONDS
        _log.warning("PostgreSQL does not answer; it is prepared when it does, and nothing is served until then")

    def step(self) -> Prepared | None:
        """Returns what was found once the database is prepared. Never waits. A fault of the database is logged, and it is tried
        again."""
        if self._running is None:
            if self._clock.monotonic() >= self._due_at:
                self._running = Preparation.newest_schema(self._settings, None, self._clock)
            return None
        if not self._running.answer.poll():
            return None
        prepared, self._running = self._running, None
        self._due_at = self._clock.monotonic() + _AGAIN_SECONDS
        try:
            found = prepared.result()
        except NotPrepared as error:
            _log.error("PostgreSQL answers, but cannot be prepared", extra={"reason": str(error)})
            return None
        return None if found is Prepared.WAITS else found

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()


def _begin(work: str, settings: Settings, stores: PrivateStores | None, clock: Clock) -> Preparation[Answer]:
    async def prepare() -> Answer:
        take: Callable[[Settings, Clock], Coroutine[None, None, Answer]] = import_from_string(work)
        if stores is None:
            return await take(settings, clock)
        stores.wait()
        try:
            return await take(settings, clock)
        except BaseException:
            stores.set_up_roles_again()
            raise

    answer, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_prepare, args=(prepare, sender, parent_death_setter(signal.SIGKILL)))
    process.start()
    sender.close()
    return Preparation(process, answer)


def _prepare(
    prepare: Callable[[], Coroutine[None, None, Answer]],
    sender: Connection[tuple[Answer | None, str | None], None],
    set_parent_death_signal: Callable[[], None],
) -> None:
    """Ctrl-C reaches this process too, but the supervisor ends it."""
    set_parent_death_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        sender.send((asyncio.run(prepare()), None))
    except StoreUnavailable as error:
        sender.send((None, f"{error} at the address that database.primary gives"))
    except GreenLangError as error:
        sender.send((None, str(error)))
