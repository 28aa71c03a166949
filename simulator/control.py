"""The simulator's own endpoints under `/_simulator/`: scenarios, the log, totals, limits, the cache."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

import msgspec

from simulator.attempts import Entry
from simulator.connection import Connection, Scope
from simulator.exchange import Desk
from simulator.faults import PRESETS, Step, UnknownFault, preset
from simulator.limits import Limits
from simulator.models import ProviderName
from simulator.structured import Json

_LOG_PAGE = 10_000


class _Steps(msgspec.Struct, forbid_unknown_fields=True):
    """Each step is an object, or the name of a preset."""

    steps: list[Step | str]
    replace: bool = False


class _LimitsOf(msgspec.Struct, forbid_unknown_fields=True):
    provider: ProviderName
    limits: Limits


class _Page(msgspec.Struct):
    entries: list[Entry]
    last: int


class Control:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._routes: dict[tuple[str, str], Callable[[bytes, dict[str, list[str]]], object]] = {
            ("POST", "scenario"): self._post_steps,
            ("GET", "scenario"): lambda _body, _query: {"steps": desk.scenario.waiting()},
            ("DELETE", "scenario"): self._clear_steps,
            ("GET", "presets"): lambda _body, _query: PRESETS,
            ("GET", "log"): self._log,
            ("DELETE", "log"): self._clear_log,
            ("GET", "usage"): lambda _body, _query: desk.log.totals(),
            ("GET", "limits"): lambda _body, _query: desk.counters.configured(),
            ("PUT", "limits"): self._limits,
            ("DELETE", "cache"): self._clear_cache,
            ("GET", "health"): lambda _body, _query: {"status": "ok"},
        }

    async def serve(self, scope: Scope, connection: Connection) -> None:
        body = await connection.body(32 * 1024 * 1024) or b""
        route = self._routes.get((scope["method"], scope["path"].removeprefix("/_simulator/")))
        status = 404
        answer: object = _problem(f"no such control; there are: {', '.join(f'{verb} {name}' for verb, name in self._routes)}")
        if route is not None:
            try:
                status, answer = 200, route(body, parse_qs(scope["query_string"].decode("latin-1")))
            except (msgspec.DecodeError, UnknownFault, ValueError) as error:
                status, answer = 400, _problem(str(error))
        data = msgspec.json.encode(answer)
        await connection.start(status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))])
        await connection.write(data, more=False)

    def _post_steps(self, body: bytes, _query: dict[str, list[str]]) -> object:
        posted = msgspec.json.decode(body, type=_Steps)
        steps = [preset(step) if isinstance(step, str) else step for step in posted.steps]
        if posted.replace:
            self._desk.scenario.clear()
        self._desk.scenario.post(steps)
        return {"steps": self._desk.scenario.waiting()}

    def _clear_steps(self, _body: bytes, query: dict[str, list[str]]) -> object:
        self._desk.scenario.clear(query.get("provider", [None])[0])
        return {"steps": self._desk.scenario.waiting()}

    def _log(self, _body: bytes, query: dict[str, list[str]]) -> object:
        after = int(query.get("after", ["0"])[0])
        entries = self._desk.log.after(after, int(query.get("limit", [str(_LOG_PAGE)])[0]))
        return _Page(entries, entries[-1].sequence if entries else after)

    def _clear_log(self, _body: bytes, _query: dict[str, list[str]]) -> object:
        self._desk.log.clear()
        return {}

    def _limits(self, body: bytes, _query: dict[str, list[str]]) -> object:
        given = msgspec.json.decode(body, type=_LimitsOf)
        self._desk.counters.configure(given.provider, given.limits)
        return self._desk.counters.configured()

    def _clear_cache(self, _body: bytes, _query: dict[str, list[str]]) -> object:
        self._desk.cache.clear()
        return {}


def _problem(text: str) -> Json:
    return {"error": text}
