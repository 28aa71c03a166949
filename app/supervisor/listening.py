"""The sockets that clients connect to. The supervisor holds them, so connections wait while a server process restarts."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

from app.domain.errors import GreenLangError

BACKLOG = 4096


class PortInUse(GreenLangError):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"port {port} on {host} is taken by another program. Stop it, or choose another: --port {port % 60000 + 100} "
            "or GREENLANG_SERVER__PORT."
        )
        self.port = port


class NotListening(GreenLangError):
    """The address does not belong to this machine, or its port needs additional rights."""


def bind(host: str, port: int, processes: int) -> tuple[socket.socket, ...]:
    """Returns one socket per process. All are bound to the same port and do not listen yet; the system spreads connections over
    them. Raises PortInUse and NotListening."""
    first = _bind(host, port, shared=False)
    if processes == 1:
        return (first,)
    actual: int = first.getsockname()[1]
    first.close()
    return tuple(_bind(host, actual, shared=True) for _ in range(processes))


def listen(sockets: tuple[socket.socket, ...]) -> None:
    """Raises PortInUse if another program was faster."""
    for each in sockets:
        try:
            each.listen(BACKLOG)
        except OSError as error:
            raise PortInUse(*each.getsockname()[:2]) from error


def _bind(host: str, port: int, *, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with ExitStack() as unless_bound:
            bound = unless_bound.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
            unless_bound.pop_all()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(host, port) from error
        raise NotListening(f"cannot listen on {host}, port {port}: {error.strerror}. Choose another --host or --port.") from error
    return bound
