"""What every simulator does as a process: it prints one JSON line with its addresses, and runs until it is asked to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec
import uvicorn
import uvloop

from simulator.connection import Receive, Scope, Send, TransportProtocol

_PARENT_CHECK_SECONDS = 0.25
_BACKLOG = 2048

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def process_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Adds the options that `run` needs."""
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="write the line with the addresses here too")
    parser.add_argument("--parent-pid", type=int, help="exit when this process is gone")
    parser.add_argument("--exit-with-stdin", action="store_true", help="exit when standard input ends")
    return parser


def run(options: argparse.Namespace, create: Callable[[str], Application], addresses: Callable[[str], dict[str, str]]) -> None:
    """Serves `create(address)` until a signal, or the end of the parent or of standard input. `addresses` returns what the line
    says beside `address` and `pid`."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    listening = socket.create_server((options.host, options.port), backlog=_BACKLOG)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    line = msgspec.json.encode({"address": address, **addresses(address), "pid": os.getpid()})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, listening, create(address), lambda: _announce(line, options.ready_file)))


class _Server(uvicorn.Server):
    """Reports when it listens. Stops with exit status 0, also after a signal."""

    def __init__(self, config: uvicorn.Config, listens: Callable[[], None]) -> None:
        super().__init__(config)
        self._listens = listens

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listens()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        yield

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


async def _serve(
    options: argparse.Namespace, listening: socket.socket, application: Application, listens: Callable[[], None]
) -> None:
    server = _Server(
        uvicorn.Config(
            application,
            http=TransportProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            log_level="critical",
            timeout_keep_alive=600,
            timeout_graceful_shutdown=2,
            backlog=_BACKLOG,
        ),
        listens,
    )
    running = asyncio.ensure_future(server.serve(sockets=[listening]))
    watchers = [asyncio.ensure_future(_stop_without_parent(server, options.parent_pid))] if options.parent_pid else []
    if options.exit_with_stdin:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _stop_at_end_of_input, server)
    await running
    for watcher in watchers:
        watcher.cancel()


def _announce(line: bytes, ready_file: Path | None) -> None:
    if ready_file is not None:
        half = ready_file.with_suffix(".half")
        half.write_bytes(line + b"\n")
        half.rename(ready_file)
    sys.stdout.write(line.decode() + "\n")
    sys.stdout.flush()


async def _stop_without_parent(server: _Server, pid: int) -> None:
    """Whether the parent is gone. A child that was adopted has lost its parent, although another process may have its number by
    now."""
    is_child = os.getppid() == pid
    while os.getppid() == pid if is_child else _lives(pid):  # noqa: ASYNC110 -- no event tells of it
        await asyncio.sleep(_PARENT_CHECK_SECONDS)
    server.stop()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stop_at_end_of_input(server: _Server) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        server.stop()
