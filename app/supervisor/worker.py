"""A server process: uvicorn on one of the supervisor's sockets, forked after all imports."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.context import ForkProcess

import uvicorn
from starlette.types import ASGIApp

from app.embedded.parent_death import parent_death_setter
from app.runtime.tasks import Grace
from app.settings import Settings
from app.web.protocols import HttpProtocol, WebSocketProtocol

KEEP_ALIVE_SECONDS = 75
GARBAGE_THRESHOLDS = (10_000, 10, 20)
"""Thousands of streams are a million objects, and hardly any of them are garbage. With Python's default thresholds, garbage
collection takes a fifth of the time and pauses everything for half a second at a time."""

SWITCH_SECONDS = 0.001
"""A thread that parses a large body returns the interpreter to the event loop after this time, because the loop needs it
several times per request."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: int) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        os.write(self._ready, b"1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """When the connections are closed, the application gets the rest of the grace period to end its own work."""
        grace = self.lifespan.state.get("grace")
        if isinstance(grace, Grace):
            grace.begin()
        await super().shutdown(sockets)


def fork_worker(app: ASGIApp, settings: Settings, listening: socket.socket, ready: int) -> ForkProcess:
    """Writes one byte to `ready` when the server answers. On SIGTERM it finishes what is in flight, for at most
    `shutdown_grace`."""
    set_parent_death_signal = parent_death_setter(signal.SIGTERM)
    arguments = (app, settings, listening, ready, set_parent_death_signal)
    process = multiprocessing.get_context("fork").Process(target=_serve, args=arguments, name="greenlang server")
    process.start()
    return process


def _serve(
    app: ASGIApp,
    settings: Settings,
    listening: socket.socket,
    ready: int,
    set_parent_death_signal: Callable[[], None],
) -> None:
    signal.set_wakeup_fd(-1)
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(sign, signal.SIG_DFL)
    set_parent_death_signal()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=settings.limits.body_bytes,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=4096,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.server.shutdown_grace.total_seconds())),
    )
    _Server(config, ready).run(sockets=[listening])
