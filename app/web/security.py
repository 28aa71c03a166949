"""The headers that protect a browser. An answer that sets one of them itself keeps its own.

`strict-transport-security` is sent only if the client's connection is encrypted. For a host without TLS it would lock browsers
out.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_TWO_YEARS = b"max-age=63072000"


class SecurityHeaders:
    def __init__(
        self, app: ASGIApp, is_https: Callable[[Scope], bool] = lambda _scope: False, *, include_subdomains: bool = False
    ) -> None:
        self._app = app
        self._is_https = is_https
        self._strict_transport = (b"strict-transport-security", _TWO_YEARS + b"; includeSubDomains" * include_subdomains)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added = (*_HEADERS, self._strict_transport) if self._is_https(scope) else _HEADERS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", ())
                own = {name for name, _ in given}
                message["headers"] = [*given, *(pair for pair in added if pair[0] not in own)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
