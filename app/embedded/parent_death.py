"""The parent-death signal: when a process dies, for any reason, the system sends its child a signal of the child's choice.

Linux only. Elsewhere a child notices by the pipes that it shares with its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

_PR_SET_PDEATHSIG = 1


def parent_death_setter(stop_signal: signal.Signals) -> Callable[[], None]:
    """The first call of a new child of this process, also between fork and exec. The thread of the parent that forks must not
    end."""
    return partial(_set_parent_death_signal, os.getpid(), stop_signal, ctypes.CDLL(None) if sys.platform == "linux" else None)


def die_with_parent(stop_signal: signal.Signals) -> None:
    """For a process whose parent has not set the signal."""
    _set_parent_death_signal(os.getppid(), stop_signal, ctypes.CDLL(None) if sys.platform == "linux" else None)


def _set_parent_death_signal(parent: int, stop_signal: signal.Signals, libc: ctypes.CDLL | None) -> None:
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
