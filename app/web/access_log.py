"""What is measured of every request: its count and duration in the metrics, and, if the operator asks for it, a line in the log.
Never its query string, headers or body."""

from __future__ import annotations

import logging
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.runtime.clock import Clock

STATE: Final = "request_metrics"
"""The name in the state of the server's lifespan."""

OPERATION: Final = "operation_name"
"""The name in the state of a request: what its GraphQL operation is called."""

_ROUTES: Final = frozenset({"/graphql", "/metrics", "/healthz", "/ready", "/startup"})
_MAX_PATH: Final = 256
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_log = logging.getLogger(__name__)


class RequestMetrics:
    """Counts of 0 exist from the start for the statuses that error rates are computed from."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["route", "status"]
        self._count = Counter("greenlang_http_requests", "Requests that were answered.", labels, registry=registry)
        self._seconds = Histogram(
            "greenlang_http_request_seconds",
            "Time until the answer was sent. Event streams and WebSockets are not in it.",
            labels,
            registry=registry,
            buckets=_SECONDS,
        )
        for status in ("200", "500", "503"):
            self._count.labels("/graphql", status)
            self._seconds.labels("/graphql", status)

    def ended(self, path: str, status: int, seconds: float | None) -> None:
        """`seconds` is None for a stream."""
        route = path if path in _ROUTES else "/exports" if path.startswith("/exports/") else "other"
        self._count.labels(route, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(route, str(status)).observe(seconds)


class _Answer:
    """What is sent for one request. `status` is 0 if nothing was sent."""

    __slots__ = ("_send", "bytes", "is_stream", "status")

    def __init__(self, send: Send, *, is_stream: bool) -> None:
        self._send = send
        self.bytes = 0
        self.is_stream = is_stream
        self.status = 0

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.body":
                self.bytes += len(message.get("body", b""))
            case "websocket.send":
                self.bytes += len(message.get("text") or message.get("bytes") or b"")
            case "http.response.start":
                self.status = message["status"]
                self.is_stream = any(
                    name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"]
                )
            case "websocket.accept":
                self.status = 101
        await self._send(message)


class AccessLog:
    def __init__(self, app: ASGIApp, clock: Clock, *, is_logged: bool) -> None:
        self._app = app
        self._clock = clock
        self._is_logged = is_logged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        begun = self._clock.monotonic()
        answer = _Answer(send, is_stream=scope["type"] == "websocket")
        try:
            await self._app(scope, receive, answer.send)
        finally:
            seconds = self._clock.monotonic() - begun
            metrics = scope.get("state", {}).get(STATE)
            if isinstance(metrics, RequestMetrics) and answer.status:
                metrics.ended(scope["path"], answer.status, None if answer.is_stream else seconds)
            if self._is_logged:
                _write(scope, answer, seconds)


def _write(scope: Scope, answer: _Answer, seconds: float) -> None:
    line = {
        "method": scope.get("method", "WEBSOCKET"),
        "path": scope["path"][:_MAX_PATH],
        "status": answer.status,
        "bytes": answer.bytes,
        "ms": round(seconds * 1000, 1),
    }
    operation = scope.get("state", {}).get(OPERATION)
    if operation is not None:
        line["operation"] = operation
    _log.info("request", extra=line)
