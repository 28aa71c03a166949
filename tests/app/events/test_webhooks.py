"""Deliveries on real PostgreSQL: at least once, by one process at a time, tried again, and given up in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.events.relay import Relay
from app.events.webhook_sender import Sent, WebhookSender
from app.events.webhooks import DELAYS, Webhooks
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings, WebhookSettings
from tests.app.events.test_relay import TOPIC, Connection, put
from tests.app.events.test_webhook_sender import SECRET, Receiver, receiver, secret
from tests.app.graphql.serving import eventually

__all__ = ["receiver", "secret"]

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[Sessions]:
    engines = build_engines(database_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


async def bodies(keys: Collection[UUID]) -> Mapping[UUID, bytes]:
    return {key: key.hex.encode() for key in keys}


@asynccontextmanager
async def process(sessions: Sessions, *settings: WebhookSettings) -> AsyncIterator[None]:
    relay = Relay(sessions, SystemClock())
    webhooks = Webhooks(settings, TOPIC, bodies, sessions=sessions, relay=relay, clock=SystemClock())
    running = [asyncio.create_task(relay.run()), asyncio.create_task(webhooks.run())]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def until(connection: Connection, condition: str, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await connection.fetchval(f"select {condition}"):  # noqa: ASYNC110 (the condition is the database's)
            await asyncio.sleep(0.01)


async def known(connection: Connection, endpoints: int = 1) -> None:
    """Waits until the webhooks' place in the log is kept."""
    await until(connection, f"count(*) = {endpoints} from webhook_endpoints")


async def reported(connection: Connection) -> UUID:
    key = await put(connection)
    await connection.execute("select pg_notify('greenlang_outbox', '')")
    return key


async def delivery(connection: Connection) -> asyncpg.Record:
    found = await connection.fetchrow("select * from webhook_deliveries")
    assert found is not None
    return found


class TestDelivery:
    async def test_is_made_once_by_several_processes(
        self, sessions: Sessions, connection: Connection, receiver: Receiver, secret: SecretReference
    ) -> None:
        settings = WebhookSettings(url=receiver.url, secret=secret, allow_private=True)
        await put(connection)
        async with process(sessions, settings), process(sessions, settings):
            await known(connection)
            before = await connection.fetchval("select count(*) from webhook_deliveries")
            keys = {await reported(connection) for _ in range(30)}
            await eventually(lambda: len(receiver.got) >= 30, 20)
            await asyncio.sleep(0.1)
        assert before <= 1
        assert {body for _, body in receiver.got} >= {key.hex.encode() for key in keys}
        assert len(receiver.got) == len({body for _, body in receiver.got})

    async def test_goes_on_where_a_process_left_off(
        self, sessions: Sessions, connection: Connection, receiver: Receiver, secret: SecretReference
    ) -> None:
        settings = WebhookSettings(url=receiver.url, secret=secret, allow_private=True)
        async with process(sessions, settings):
            await known(connection)
        key = await put(connection)
        async with process(sessions, settings):
            await eventually(lambda: receiver.got, 20)
        assert [body for _, body in receiver.got] == [key.hex.encode()]

    async def test_of_one_endpoint_does_not_wait_for_another(
        self, sessions: Sessions, connection: Connection, receiver: Receiver, secret: SecretReference, free_tcp_port: int
    ) -> None:
        kept: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _, writer: kept.append(writer), "127.0.0.1", free_tcp_port)
        stuck = WebhookSettings(url=f"http://127.0.0.1:{free_tcp_port}/", secret=secret, allow_private=True)
        settings = WebhookSettings(url=receiver.url, secret=secret, allow_private=True)
        async with process(sessions, stuck, settings):
            await known(connection, 2)
            for _ in range(25):
                await reported(connection)
            await eventually(lambda: len(receiver.got) == 25, 10)
        silent.close()
        for writer in kept:
            writer.close()
            await writer.wait_closed()
        assert kept


class TestAStop:
    async def test_ends_every_delivery(
        self, sessions: Sessions, connection: Connection, receiver: Receiver, secret: SecretReference
    ) -> None:
        receiver.seconds = 30
        settings = WebhookSettings(url=receiver.url, secret=secret, allow_private=True)
        before = asyncio.all_tasks()
        async with process(sessions, settings):
            await known(connection)
            await reported(connection)
            await eventually(lambda: receiver.got, 10)
        left = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks() - before]
        assert not [name for name in left if name.startswith("_Endpoint")]


class TestFailures:
    async def test_of_one_delivery_leave_the_others_alone(
        self,
        sessions: Sessions,
        connection: Connection,
        receiver: Receiver,
        secret: SecretReference,
        *,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        broken: list[UUID] = []
        send = WebhookSender.send

        async def break_the_first(self: WebhookSender, event: UUID, body: bytes) -> Sent:
            if not broken or event in broken:
                broken.append(event)
                raise RuntimeError("a bug")
            return await send(self, event, body)

        monkeypatch.setattr(WebhookSender, "send", break_the_first)
        settings = WebhookSettings(url=receiver.url, secret=secret, allow_private=True)
        async with process(sessions, settings):
            await known(connection)
            for _ in range(3):
                await reported(connection)
            await until(connection, "count(*) filter (where outcome = 'DELIVERED') = 2 from webhook_deliveries")
            await reported(connection)
            await until(connection, "count(*) filter (where outcome = 'DELIVERED') = 3 from webhook_deliveries")
        assert "a webhook could not be sent" in caplog.text

    async def test_a_secret_that_is_wrong_leaves_the_one_before_in_use(
        self, sessions: Sessions, connection: Connection, receiver: Receiver, tmp_path: Path
    ) -> None:
        file = tmp_path / "changed"
        file.write_text(SECRET)
        settings = WebhookSettings(url=receiver.url, secret=SecretReference(file=file), allow_private=True)
        async with process(sessions, settings):
            await known(connection)
            file.write_text("none")
            await reported(connection)
            await until(connection, "count(*) filter (where outcome = 'DELIVERED') = 1 from webhook_deliveries")

    async def test_are_tried_again_under_the_same_id(
        self, sessions: Sessions, connection: Connection, receiver: Receiver, secret: SecretReference
    ) -> None:
        receiver.status = 503
        settings = WebhookSettings(url=receiver.url, secret=secret, allow_private=True)
        async with process(sessions, settings):
            await known(connection)
            await reported(connection)
            await eventually(lambda: receiver.got, 10)
            await until(connection, "next_at < now() + interval '6 seconds' from webhook_deliveries")
            failed = await delivery(connection)
            receiver.status = 200
            await connection.execute("update webhook_deliveries set next_at = now()")
            await eventually(lambda: len(receiver.got) == 2, 10)
            await until(connection, "outcome = 'DELIVERED' from webhook_deliveries")
        assert failed["outcome"] is None
        assert failed["attempts"] == 1
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1

    @pytest.mark.parametrize(("status", "attempts"), [(410, 0), (500, len(DELAYS))])
    async def test_are_given_up_when_the_receiver_is_gone_or_after_the_last_try(
        self,
        sessions: Sessions,
        connection: Connection,
        receiver: Receiver,
        secret: SecretReference,
        *,
        status: int,
        attempts: int,
    ) -> None:
        receiver.status = status
        settings = WebhookSettings(url=receiver.url, secret=secret, allow_private=True)
        async with process(sessions, settings):
            await known(connection)
        await connection.execute(
            "insert into webhook_deliveries (endpoint, event, attempts) select endpoint, $1, $2 from webhook_endpoints",
            uuid4(),
            attempts,
        )
        async with process(sessions, settings):
            await until(connection, "outcome is not null from webhook_deliveries")
        assert (await delivery(connection))["outcome"] == "GIVEN_UP"
