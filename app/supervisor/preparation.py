"""What a start does to the database: the newest schema before anything is served, and a first key if there never was one.

Each step runs in a separate process, so the supervisor keeps nothing of it. The first key is made last, when it only has to be
printed. If a key were made and never printed, it would be lost, and no later start would make another.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
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
Answer = TypeVar("Answer")


class NotPrepared(GreenLangError):
    """The stores do not start, or the database cannot be brought to the newest schema. The message says why."""


@dataclass(frozen=True, slots=True)
class Preparation(Generic[Answer]):
    """Create it with `newest_schema` or `first_key`."""

    process: ForkProcess
    answer: Connection[None, tuple[Answer | None, str | None]]

    @classmethod
    def newest_schema(cls, settings: Settings, stores: PrivateStores | None, clock: Clock) -> Preparation[bool]:
        """Its result is whether there ever was a key. `settings` say where the database is, or where it will be when `stores`
        answer."""
        return _begin(_SCHEMA, settings, stores, clock)

    @classmethod
    def first_key(cls, settings: Settings, clock: Clock) -> Preparation[str]:
        """Its result is the secret of the first administrator."""
        return _begin(_FIRST_KEY, settings, None, clock)

    def result(self) -> Answer:
        """Raises NotPrepared."""
        try:
            found, problem = self.answer.recv()
        except EOFError:
            raise NotPrepared("the database was not prepared; the messages above say why") from None
        finally:
            self.process.join()
            self.answer.close()
        if problem is not None:
            raise NotPrepared(problem)
        assert found is not None
        return found


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
