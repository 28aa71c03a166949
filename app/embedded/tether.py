"""A child that does not outlive its parent, however that ends: the system sends the child a signal of its choice. Linux only;
elsewhere a child notices by the pipes that it shares with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

_PR_SET_PDEATHSIG = 1


def following(farewell: signal.Signals) -> Callable[[], None]:
    """What a new child of this process calls first, between fork and exec too. The parent must not end the thread that forks."""
    return partial(_follow, os.getpid(), farewell, ctypes.CDLL(None) if sys.platform == "linux" else None)


def follow_parent(farewell: signal.Signals) -> None:
    """For a process that was started without it."""
    _follow(os.getppid(), farewell, ctypes.CDLL(None) if sys.platform == "linux" else None)


def _follow(parent: int, farewell: signal.Signals, libc: ctypes.CDLL | None) -> None:
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, int(farewell), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
