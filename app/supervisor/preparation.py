"""What a start does to the database before anything is served: the newest schema, and a first key where there never was one.

It runs in a process of its own, beside the imports of the supervisor, which keeps nothing of it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess

from uvicorn.importer import import_from_string

from app.clock import Clock
from app.embedded.stores import PrivateStores
from app.embedded.tether import following
from app.errors import GreenLangError, StoreUnavailable
from app.settings import Settings

_STEPS = "app.supervisor.first_steps:take_first_steps"


class NotPrepared(GreenLangError):
    """The stores do not start, or the database cannot be brought to the newest schema; the message says why."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """Start by `begin`."""

    process: ForkProcess
    answer: Connection[None, tuple[str | None, str | None]]

    @classmethod
    def begin(cls, settings: Settings, stores: PrivateStores | None, clock: Clock) -> Preparation:
        """`settings` know where the database is, or will be once `stores` answer."""
        answer, tell = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_prepare, args=(settings, stores, clock, tell, following(signal.SIGKILL)))
        process.start()
        tell.close()
        return cls(process, answer)

    def result(self) -> str | None:
        """The first administrator's secret where this start has made it; raises NotPrepared."""
        try:
            secret, problem = self.answer.recv()
        except EOFError:
            raise NotPrepared("the database was not prepared; the messages above say why") from None
        finally:
            self.process.join()
            self.answer.close()
        if problem is not None:
            raise NotPrepared(problem)
        return secret


def _prepare(
    settings: Settings,
    stores: PrivateStores | None,
    clock: Clock,
    tell: Connection[tuple[str | None, str | None], None],
    follow: Callable[[], None],
) -> None:
    follow()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    take_first_steps: Callable[[Settings, Clock], Coroutine[None, None, str | None]] = import_from_string(_STEPS)
    try:
        if stores is not None:
            stores.wait()
        tell.send((asyncio.run(take_first_steps(settings, clock)), None))
    except StoreUnavailable as error:
        tell.send((None, f"{error} at the address that database.primary gives"))
    except GreenLangError as error:
        tell.send((None, str(error)))
