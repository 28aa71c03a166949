from __future__ import annotations

import asyncio
from contextlib import suppress
from fcntl import ioctl
from struct import Struct
from termios import TIOCOUTQ

_SIZE = Struct("@i")


class WriteDeadline:
    """Drops a connection if its client reads nothing for `seconds` while data waits for it."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds
        self._left = 0
        self._nothing_follows = False
        self._timer: asyncio.TimerHandle | None = None

    def paused(self) -> None:
        self._begin()

    def resumed(self) -> None:
        if self._nothing_follows:
            self._begin()
        else:
            self.end()

    def last_was_written(self) -> None:
        self._nothing_follows = True
        self._begin()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self.end()
        if self._transport.get_write_buffer_size():
            self._left = self._waiting()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def _look(self) -> None:
        if self._waiting() >= self._left:
            self._transport.abort()
        else:
            self._begin()

    def _waiting(self) -> int:
        """The waiting bytes, including those in the system's buffer, which accepts more only when a large part of it is empty."""
        size, given = self._transport.get_write_buffer_size(), self._transport.get_extra_info("socket")
        with suppress(AttributeError, OSError, ValueError):  # if there is no socket any more, or it does not say
            size += _SIZE.unpack(ioctl(given.fileno(), TIOCOUTQ, bytes(_SIZE.size)))[0]
        return size
