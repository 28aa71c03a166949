"""The configurations that docs/behind-a-proxy.md shows, run as they stand but for ports, names and the certificate."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.client_address import TrustedProxies
from app.web.security import SecurityHeaders
from tests.app.graphql.serving import eventually, serving, socket_client, stream_client
from tests.app.graphql.shop import KEY, Shop
from tests.app.web.recording import answers
from tests.proxies import documented, start_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

PROXIES = TrustedProxies(("127.0.0.1",))


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of the loopback address, and its key; the first file has both."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "both.pem").write_bytes(made.public_bytes(Encoding.PEM) + secret)
    (folder / "key.pem").write_bytes(secret)
    return folder / "both.pem", folder / "key.pem"


def configuration(name: str, port: int, both: Path, key: Path) -> str:
    text = documented(name).replace("127.0.0.1:8400", f"127.0.0.1:{port}")
    for shown, used in (
        ("listen 443 ", "listen 127.0.0.1:LISTEN "),
        ("bind :443 ", "bind 127.0.0.1:LISTEN "),
        ("/etc/ssl/greenlang.pem", str(both)),
        ("/etc/ssl/greenlang.key", str(key)),
        ("/etc/ssl/greenlang-with-key.pem", str(both)),
        ("greenlang.example.com {", f":LISTEN {{\n    tls {both} {key}"),
    ):
        text = text.replace(shown, used)
    assert "LISTEN" in text
    return text


class Addressed:
    """Answers with what it knows of the client; the API is below `/graphql`."""

    def __init__(self, api: ASGIApp) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/graphql":
            await self._api(scope, receive, send)
        else:
            await JSONResponse({"address": PROXIES.client_address(scope)})(scope, receive, send)


@pytest.fixture(params=["nginx", "haproxy", "caddy"])
async def behind(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Shop, int, ssl.SSLContext]]:
    """The application, the port of the proxy, and who trusts its certificate."""
    both, key = certificate(tmp_path)
    shop = Shop()
    async with serving(SecurityHeaders(Addressed(shop.app()), PROXIES.is_https)) as server:
        with start_proxy(request.param, tmp_path, configuration(request.param, server, both, key)) as port:
            yield shop, port, ssl.create_default_context(cafile=both)


@asynccontextmanager
async def connection(port: int, tls: ssl.SSLContext) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """From an address that is no trusted proxy's."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, local_addr=("127.0.0.2", 0))
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.transport.abort()


async def test_report_the_clients_own_address_and_tls(behind: tuple[Shop, int, ssl.SSLContext]) -> None:
    _, port, tls = behind
    forged = b"x-forwarded-for: 203.0.113.9\r\nforwarded: for=203.0.113.9\r\nx-forwarded-proto: http\r\n"
    async with connection(port, tls) as (reader, writer):
        writer.write(b"GET /address HTTP/1.1\r\nhost: 127.0.0.1\r\n" + forged + b"connection: close\r\n\r\n")
        said = await reader.read()
    assert answers(said) == [(200, {"address": "127.0.0.2"})]
    assert b"strict-transport-security: max-age=" in said.lower()


async def test_pass_requests_websockets_and_events(behind: tuple[Shop, int, ssl.SSLContext]) -> None:
    shop, port, tls = behind
    body = json.dumps({"query": "{ hello }", "variables": {"pad": "x" * 200_000}}).encode()
    head = (
        b"POST /graphql HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nauthorization: Bearer %b\r\n"
        % KEY.encode()
    )
    async with connection(port, tls) as (reader, writer):
        for _ in range(2):
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            assert b" 200" in await reader.readuntil(b"\r\n")
            assert b"hello world" in await reader.readuntil(b"}}")
    async with socket_client(port, ssl=tls) as socket, stream_client(port, tls) as stream:
        await socket.init()
        await socket.subscribe("a", "subscription { buy { number } }")
        await stream.start("subscription { buy { number } }")
        await eventually(lambda: len(shop.board.topic) == 2)
        for number in range(3):
            shop.board.publish(number)
            assert await socket.receive() == {"id": "a", "type": "next", "payload": {"data": {"buy": {"number": number}}}}
            assert await stream.event() == ("next", {"data": {"buy": {"number": number}}})
