"""A server process: uvicorn on one of the supervisor's sockets, forked after all imports."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from types import FrameType

import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from app.embedded.parent_death import parent_death_setter
from app.runtime.drain import Drain
from app.runtime.lifespan_state import DRAIN, METRICS
from app.settings import Settings
from app.supervisor.heartbeat import Heartbeat
from app.supervisor.restart_counts import RestartCounts
from app.web.protocols import LAST_ANSWER, HttpProtocol
from app.web.websocket_protocol import WebSocketProtocol

KEEP_ALIVE_SECONDS = 75

GARBAGE_THRESHOLDS = (10_000, 10, 20)
"""Thousands of streams are a million objects, and hardly any of them are garbage. With Python's default thresholds, garbage
collection takes a fifth of the time and pauses everything for half a second at a time."""

SWITCH_SECONDS = 0.001
"""A thread that parses a large body returns the interpreter to the event loop after this time, because the loop needs it
several times per request."""


@dataclass(frozen=True, slots=True)
class Supervised:
    """What a server process shares with its supervisor. `ready`: a descriptor that gets one byte when the server answers."""

    ready: int
    heartbeat: Heartbeat
    restarts: RestartCounts


class _Server(uvicorn.Server):
    """Stops in steps: from the first signal it is not ready but still accepts connections for `drain_delay`, then it closes its
    listener and has `shutdown_grace` for what is in flight. A second signal ends both."""

    def __init__(self, config: uvicorn.Config, supervised: Supervised, drain_delay: float) -> None:
        super().__init__(config)
        self._supervised = supervised
        self._drain_delay = drain_delay
        self._asked = 0
        self._asked_again = asyncio.Event()
        self._close_at = 0.0
        self._drain: Drain | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        state = self.lifespan.state
        drain, metrics = state.get(DRAIN), state.get(METRICS)
        if isinstance(drain, Drain):
            self._drain = drain
        if isinstance(metrics, CollectorRegistry):
            metrics.register(self._supervised.restarts)
        os.write(self._supervised.ready, b"1")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the signature of uvicorn)
        self._captured_signals.append(sig)
        self._asked += 1
        self.should_exit = not self.started
        if self._asked > 1:
            asyncio.get_running_loop().call_soon_threadsafe(self._asked_again.set)

    async def on_tick(self, counter: int) -> bool:
        self._supervised.heartbeat.beat()
        if await super().on_tick(counter):
            return True
        if not self._asked:
            return False
        if self._drain is None or self._asked > 1:
            return True
        now = time.monotonic()
        if not self._drain.begun:
            self._drain.begin()
            self._close_at = now + self._drain_delay
            self.config.encoded_headers.append(LAST_ANSWER)
            self.server_state.default_headers = [*self.server_state.default_headers, LAST_ANSWER]
        return now >= self._close_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain is not None:
            self._drain.close()
        watching = asyncio.ensure_future(self._cut_short())
        try:
            await super().shutdown(sockets)
        finally:
            watching.cancel()

    async def _cut_short(self) -> None:
        """At the second signal, running requests end and are settled with what was received."""
        await self._asked_again.wait()
        if self._drain is not None:
            self._drain.cut_short()
        for task in self.server_state.tasks:
            task.cancel(msg="a second signal ended the grace period")


def fork_worker(app: ASGIApp, settings: Settings, listening: socket.socket, supervised: Supervised) -> ForkProcess:
    """On SIGTERM the process finishes what is in flight, for at most `drain_delay` and `shutdown_grace`."""
    set_parent_death_signal = parent_death_setter(signal.SIGTERM)
    arguments = (app, settings, listening, supervised, set_parent_death_signal)
    process = multiprocessing.get_context("fork").Process(target=_serve, args=arguments, name="greenlang server")
    process.start()
    return process


def _serve(
    app: ASGIApp,
    settings: Settings,
    listening: socket.socket,
    supervised: Supervised,
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
    _Server(config, supervised, settings.server.drain_delay.total_seconds()).run(sockets=[listening])
