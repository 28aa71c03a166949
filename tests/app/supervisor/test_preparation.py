"""A step of the start that takes long does not keep the supervisor from a stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import pytest

from app.supervisor.preparation import NotPrepared, Preparation, Prepared
from app.supervisor.serve import Interrupted

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def interrupted() -> Iterator[None]:
    """SIGUSR1 interrupts, as a stop signal does while the server starts."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


def interrupt_parent_and_stay() -> None:
    time.sleep(0.2)
    os.kill(os.getppid(), signal.SIGUSR1)
    time.sleep(20)


@pytest.mark.usefixtures("interrupted")
def test_a_signal_ends_the_wait_for_a_step_that_goes_on() -> None:
    answer, sender = multiprocessing.Pipe(duplex=False)
    preparation: Preparation[Prepared] = Preparation(FORK.Process(target=interrupt_parent_and_stay), answer)
    preparation.process.start()
    with pytest.raises(Interrupted):
        preparation.result()
    assert preparation.process.is_alive()
    preparation.stop()
    assert not preparation.process.is_alive()
    answer.close()
    sender.close()


def test_a_step_that_ends_without_an_answer_is_a_fault() -> None:
    answer, sender = multiprocessing.Pipe(duplex=False)
    preparation: Preparation[Prepared] = Preparation(FORK.Process(target=sender.close), answer)
    preparation.process.start()
    sender.close()
    with pytest.raises(NotPrepared, match="the database was not prepared"):
        preparation.result()
