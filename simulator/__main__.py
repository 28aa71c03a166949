"""`python -m simulator`: prints one JSON line with its addresses when it listens, and runs until it is asked to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import uvicorn
import uvloop

from simulator.attempts import AttemptLog
from simulator.connection import TransportProtocol
from simulator.exchange import Desk, Pace
from simulator.limits import Counters, Limits
from simulator.prefix_cache import PrefixCache
from simulator.server import Simulator

_PARENT_CHECK_SECONDS = 0.25
_BACKLOG = 2048


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


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    listening = socket.create_server((options.host, options.port), backlog=_BACKLOG)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    log = AttemptLog(options.log)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(options, listening, log))
    finally:
        log.close()


async def _serve(options: argparse.Namespace, listening: socket.socket, log: AttemptLog) -> None:
    limits = Limits(
        **{name: value for name in ("requests_per_minute", "tokens_per_minute") if (value := getattr(options, name))},
        enforce=options.enforce_limits,
    )
    desk = Desk.opened(
        log,
        Pace(options.latency_ms, options.latency_spread, options.tokens_per_second),
        Counters(limits),
        PrefixCache(options.cache_minimum_tokens),
        options.seed,
    )
    server = _Server(
        uvicorn.Config(
            Simulator(desk),
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
        lambda: _announce(listening, options.ready_file),
    )
    running = asyncio.ensure_future(server.serve(sockets=[listening]))
    watchers = [asyncio.ensure_future(_stop_without_parent(server, options.parent_pid))] if options.parent_pid else []
    if options.exit_with_stdin:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _stop_at_end_of_input, server)
    await running
    for watcher in watchers:
        watcher.cancel()


def _announce(listening: socket.socket, ready_file: Path | None) -> None:
    host, port = listening.getsockname()[:2]
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    line = msgspec.json.encode({"address": base, "anthropic": f"{base}/anthropic", "openai": f"{base}/v1", "pid": os.getpid()})
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulator", description="A stand-in for Anthropic and OpenAI over real HTTP.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--log", type=Path, help="append every attempt to this file, a JSON line each")
    parser.add_argument("--ready-file", type=Path, help="write the line with the addresses here too")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="time before an answer's headers, a median")
    parser.add_argument("--latency-spread", type=float, default=0.0, help="sigma of the latency's logarithm")
    parser.add_argument("--tokens-per-second", type=float, default=0.0, help="0: as fast as it goes")
    parser.add_argument("--cache-minimum-tokens", type=int, default=1024, help="shorter prefixes are not cached")
    parser.add_argument("--requests-per-minute", type=int, help="of each key, shown in the rate-limit headers")
    parser.add_argument("--tokens-per-minute", type=int, help="of each key, shown in the rate-limit headers")
    parser.add_argument("--enforce-limits", action="store_true", help="answer 429 where a limit is passed")
    parser.add_argument("--seed", type=int, default=1, help="of latencies and of faults with a share")
    parser.add_argument("--parent-pid", type=int, help="exit when this process is gone")
    parser.add_argument("--exit-with-stdin", action="store_true", help="exit when standard input ends")
    return parser


if __name__ == "__main__":
    main()
