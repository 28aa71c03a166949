from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.domain.errors import Unauthenticated
from app.web.bearer import bearer_token
from app.web.client_address import TrustedProxies
from app.web.request_ids import RequestIds, request_id_of
from app.web.security import SecurityHeaders

pytestmark = pytest.mark.anyio


async def answer_headers(
    app: object, sent: list[tuple[bytes, bytes]], connection: Scope | None = None
) -> tuple[dict[str, str], Scope]:
    scope: Scope = {"type": "http", **(connection or {}), "headers": sent}
    found: dict[str, str] = {}

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        found.update({name.decode(): value.decode() for name, value in message["headers"]})

    await app(scope, receive, send)  # type: ignore[operator]  # an ASGI application
    return found, scope


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"SAMEORIGIN")]})


class TestRequestIds:
    async def test_a_sane_one_is_taken_over(self) -> None:
        headers, scope = await answer_headers(RequestIds(plain), [(b"x-request-id", b"job-7:a.b_c")])
        assert headers["x-request-id"] == request_id_of(scope) == "job-7:a.b_c"

    @pytest.mark.parametrize("given", [b"", b"a b", b"x" * 65, b"\xff", b"a\r\nset-cookie: b", b"-a"])
    async def test_any_other_is_replaced(self, given: bytes) -> None:
        headers, scope = await answer_headers(RequestIds(plain), [(b"x-request-id", given)])
        assert headers["x-request-id"] == request_id_of(scope)
        assert len(headers["x-request-id"]) == 32

    def test_without_the_middleware_one_is_made_once(self) -> None:
        scope: Scope = {"type": "http"}
        assert request_id_of(scope) == request_id_of(scope)


class TestSecurityHeaders:
    async def test_only_over_tls_a_browser_is_asked_to_keep_to_it(self) -> None:
        secure = SecurityHeaders(plain, TrustedProxies(("10.0.0.0/8",)).is_https)
        scope: Scope = {"type": "http", "client": ("10.0.0.1", 1), "headers": []}
        assert "strict-transport-security" not in (await answer_headers(secure, [], scope))[0]
        headers, _ = await answer_headers(secure, [(b"x-forwarded-proto", b"https")], scope)
        assert headers["strict-transport-security"] == "max-age=63072000"

    async def test_subdomains_are_included_if_configured(self) -> None:
        headers, _ = await answer_headers(SecurityHeaders(plain, lambda _: True, include_subdomains=True), [])
        assert headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"

    async def test_each_is_there_and_an_answers_own_is_kept(self) -> None:
        headers, _ = await answer_headers(SecurityHeaders(plain), [])
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["x-content-type-options"] == "nosniff"
        assert "strict-transport-security" not in headers
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"


class TestBearer:
    @pytest.mark.parametrize("header", ["Bearer sk-1", "bearer sk-1", " Bearer   sk-1 "])
    def test_the_token(self, header: str) -> None:
        assert bearer_token({"authorization": header}) == "sk-1"

    @pytest.mark.parametrize(
        "headers", [{}, {"authorization": ""}, {"authorization": "Bearer "}, {"authorization": "Basic sk-1"}]
    )
    def test_nothing_else_is_a_key(self, headers: dict[str, str]) -> None:
        with pytest.raises(Unauthenticated):
            bearer_token(headers)
