"""What leaves for an address that somebody else controls, and what does not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.domain.errors import SettingsError
from app.events.webhook_sender import BOTH_SIGN, Sent, WebhookSender, sign, signing_key
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.settings import WebhookSettings
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
EVENT = UUID(int=7)
BODY = b'{"type":"budget.alert"}'


class Receiver:
    """Keeps what it got, and answers with `status`."""

    def __init__(self) -> None:
        self.status = 204
        self.headers: dict[str, str] = {}
        self.seconds = 0.0
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        await asyncio.sleep(self.seconds)
        return web.Response(status=self.status, headers=self.headers)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        made.url = str(server.make_url("/hook"))
        yield made


@pytest.fixture
def secret(tmp_path: Path) -> SecretReference:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return SecretReference(file=file)


class TestSignature:
    def test_is_that_of_the_standards_own_example(self) -> None:
        key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        made = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    async def test_covers_id_time_and_body(self, receiver: Receiver, secret: SecretReference) -> None:
        clock = ManualClock()
        sender = WebhookSender(WebhookSettings(url=receiver.url, secret=secret, allow_private=True), clock)
        assert await sender.send(EVENT, BODY) == Sent()
        [(headers, body)] = receiver.got
        assert body == BODY
        assert headers["webhook-id"] == f"msg_{EVENT.hex}"
        assert headers["webhook-timestamp"] == str(int(clock.now().timestamp()))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"

    @pytest.mark.parametrize("text", ["whsec_", "whsec_c2hvcnQ=", "no base64!", "whsec_" + base64.b64encode(bytes(65)).decode()])
    def test_needs_a_secret_of_24_to_64_bytes(self, text: str, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text(text)
        with pytest.raises(SettingsError) as raised:
            signing_key(SecretReference(file=file))
        assert text not in str(raised.value).replace("whsec_ and", "")


class TestAddresses:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "127.0.0.1.", "1.2.3.4.5", "[::ffff:127.0.0.1]"]
    )
    async def test_of_our_own_network_are_refused_however_they_are_written(
        self, receiver: Receiver, secret: SecretReference, host: str
    ) -> None:
        port = receiver.url.rpartition(":")[2]
        sender = WebhookSender(WebhookSettings(url=f"http://{host}:{port}", secret=secret), SystemClock())
        sent = await sender.send(EVENT, BODY)
        assert sent.failure is not None
        assert receiver.got == []

    async def test_are_checked_where_the_connection_goes(
        self, receiver: Receiver, secret: SecretReference, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name that is public at first and private when it is asked for again gains nothing: it is asked for once."""
        asked: list[str] = []
        answers = iter([("93.184.215.14", 9), ("127.0.0.1", 9)])

        async def resolve(_loop: object, host: str, _port: int, **_options: object) -> list[object]:
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", next(answers))]

        monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", resolve)
        sender = WebhookSender(WebhookSettings(url="http://rebind.example:9/", secret=secret), SystemClock(), total_seconds=0.3)
        assert (await sender.send(EVENT, BODY)).failure is not None
        assert asked == ["rebind.example"]

    async def test_are_refused_where_one_of_several_is_private(
        self, receiver: Receiver, secret: SecretReference, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def resolve(_loop: object, _host: str, _port: int, **_options: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 9)) for each in ("93.184.215.14", "10.0.0.1")]

        monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", resolve)
        sender = WebhookSender(WebhookSettings(url="http://both.example:9/", secret=secret), SystemClock())
        assert await sender.send(EVENT, BODY) == Sent("its address is not public")


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "sent"),
        [(200, Sent()), (302, Sent("status 302")), (410, Sent("status 410", gone=True)), (500, Sent("status 500"))],
    )
    async def test_other_than_2xx_are_failures(
        self, receiver: Receiver, secret: SecretReference, status: int, sent: Sent
    ) -> None:
        receiver.status, receiver.headers = status, {"location": receiver.url}
        sender = WebhookSender(WebhookSettings(url=receiver.url, secret=secret, allow_private=True), SystemClock())
        assert await sender.send(EVENT, BODY) == sent
        assert len(receiver.got) == 1

    async def test_that_do_not_come_are_failures(self, receiver: Receiver, secret: SecretReference) -> None:
        receiver.seconds = 5
        settings = WebhookSettings(url=receiver.url, secret=secret, allow_private=True)
        assert (await WebhookSender(settings, SystemClock(), total_seconds=0.1).send(EVENT, BODY)).failure == "TimeoutError"

    async def test_of_no_one_are_failures(self, secret: SecretReference, free_tcp_port: int) -> None:
        settings = WebhookSettings(url=f"http://127.0.0.1:{free_tcp_port}/", secret=secret, allow_private=True)
        assert (await WebhookSender(settings, SystemClock()).send(EVENT, BODY)).failure is not None


class TestSecretThatChanges:
    async def test_signs_beside_the_one_before_for_a_day(self, receiver: Receiver, secret: SecretReference) -> None:
        clock, other = ManualClock(), bytes(range(1, 33))
        sender = WebhookSender(WebhookSettings(url=receiver.url, secret=secret, allow_private=True), clock)
        await sender.send(EVENT, BODY)
        assert secret.file is not None
        secret.file.write_text(f"whsec_{base64.b64encode(other).decode()}")
        await sender.send(EVENT, BODY)
        clock.move(BOTH_SIGN.total_seconds())
        await sender.send(EVENT, BODY)
        secret.file.write_text("whsec_wrong")
        await sender.send(EVENT, BODY)
        expected = [[KEY], [other, KEY], [other], [other]]
        for (headers, body), keys in zip(receiver.got, expected, strict=True):
            timestamp = int(headers["webhook-timestamp"])
            assert headers["webhook-signature"] == " ".join(sign(key, f"msg_{EVENT.hex}", timestamp, body) for key in keys)
