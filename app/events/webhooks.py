"""Sends events to webhooks: at least once, each with one id, tried again for three days. Calls never wait for it.

What is still to be sent is in a table, filled from the log of events. Any process sends what is due, and each delivery is sent
by one process at a time. A slow endpoint does not slow the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from random import SystemRandom
from typing import TypeAlias
from uuid import UUID

from sqlalchemy import text

from app.db.sessions import Sessions
from app.db.wakeups import Wakeup
from app.domain.errors import GreenLangError, SettingsError, StoreUnavailable
from app.events.relay import Relay
from app.events.webhook_sender import Sent, WebhookSender, signing_key
from app.runtime.clock import Clock
from app.settings import WebhookSettings

Render: TypeAlias = Callable[[Collection[UUID]], Awaitable[Mapping[UUID, bytes]]]
"""Returns the bodies of these events."""

DELAYS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""The delay before each further try."""
AT_ONCE = 20
POLL_SECONDS = 5.0
LEASE = timedelta(seconds=60)
KEPT = timedelta(days=30)
_JITTER = 0.1

_log = logging.getLogger(__name__)


class Webhooks:
    def __init__(
        self, settings: Sequence[WebhookSettings], topic: str, render: Render, *, sessions: Sessions, relay: Relay, clock: Clock
    ) -> None:
        """Sends the events of `topic`. Raises SettingsError if a secret is not valid."""
        for each in settings:
            signing_key(each.secret)
        self._endpoints = [_Endpoint(each, topic, render, sessions=sessions, relay=relay, clock=clock) for each in settings]

    @property
    def endpoints(self) -> list[str]:
        """The keys under which their deliveries are stored."""
        return [endpoint.name for endpoint in self._endpoints]

    async def run(self) -> None:
        """Runs until it is cancelled. Then no delivery continues."""
        async with asyncio.TaskGroup() as group:
            for endpoint in self._endpoints:
                group.create_task(endpoint.run())


class _Endpoint:
    def __init__(
        self, settings: WebhookSettings, topic: str, render: Render, *, sessions: Sessions, relay: Relay, clock: Clock
    ) -> None:
        self.name = hashlib.sha256(settings.url.encode()).hexdigest()
        self._sender = WebhookSender(settings, clock)
        self._topic = topic
        self._render = render
        self._sessions = sessions
        self._wakeup = Wakeup(clock)
        self._random = SystemRandom()
        relay.on_published(self._wakeup.set)

    async def run(self) -> None:
        while True:
            try:
                while await self._send_due():
                    pass
            except StoreUnavailable:
                _log.warning("no webhooks are sent: PostgreSQL does not answer")
            except SettingsError as error:
                _log.error("no webhooks are sent: %s", error)
            except Exception:  # noqa: BLE001 (an endpoint that ends would never be sent anything again)
                _log.exception("no webhooks are sent")
            await self._wakeup.wait(POLL_SECONDS)

    async def _send_due(self) -> bool:
        """Returns True if there may be more."""
        async with self._sessions.statements() as session:
            await session.execute(_TAKE, {"endpoint": self.name, "topic": self._topic})
            self._sender.check()
            rows = (await session.execute(_CLAIM, {"endpoint": self.name, "lease": LEASE, "most": AT_ONCE})).all()
            await session.execute(_FORGET, {"endpoint": self.name, "kept": KEPT})
        if not rows:
            return False
        attempts = {UUID(int=row.event.int): int(row.attempts) for row in rows}
        bodies = await self._render(list(attempts))
        async with asyncio.TaskGroup() as group:
            for event, number in attempts.items():
                group.create_task(self._try(event, number, bodies.get(event)))
        return len(rows) == AT_ONCE

    async def _try(self, event: UUID, attempt: int, body: bytes | None) -> None:
        """If one delivery fails here, it is tried again when its lease ends. The others continue."""
        try:
            await self._send(event, attempt, body)
        except GreenLangError as error:
            _log.warning("the outcome of a webhook is unknown", extra={"event": str(event), "reason": str(error)})
        except Exception:  # noqa: BLE001 (as above)
            _log.exception("a webhook could not be sent", extra={"event": str(event)})

    async def _send(self, event: UUID, attempt: int, body: bytes | None) -> None:
        sent = Sent("the event no longer exists", gone=True) if body is None else await self._sender.send(event, body)
        async with self._sessions.statements() as session:
            if sent.failure is None:
                await session.execute(_FINISH, {"endpoint": self.name, "event": event, "outcome": "DELIVERED"})
            elif sent.gone or attempt > len(DELAYS):
                _log.error("a webhook was given up", extra={"event": str(event), "attempts": attempt, "reason": sent.failure})
                await session.execute(_FINISH, {"endpoint": self.name, "event": event, "outcome": "GIVEN_UP"})
            else:
                _log.warning("a webhook failed", extra={"event": str(event), "attempts": attempt, "reason": sent.failure})
                delay = DELAYS[attempt - 1] * self._random.uniform(1 - _JITTER, 1 + _JITTER)
                await session.execute(_RETRY, {"endpoint": self.name, "event": event, "delay": delay})


_TAKE = text("select /* webhooks.take */ webhook_take(:endpoint, :topic)")
_CLAIM = text(
    "update /* webhooks.claim */ webhook_deliveries d set attempts = d.attempts + 1, next_at = now() + :lease from ("
    " select event from webhook_deliveries where endpoint = :endpoint and finished_at is null and next_at <= now()"
    " order by next_at limit :most for update skip locked"
    ") due where d.endpoint = :endpoint and d.event = due.event returning d.event, d.attempts"
)
_FINISH = text(
    "update /* webhooks.finish */ webhook_deliveries set outcome = :outcome, finished_at = now()"
    " where endpoint = :endpoint and event = :event and finished_at is null"
)
_RETRY = text(
    "update /* webhooks.retry */"
    " webhook_deliveries set next_at = now() + :delay where endpoint = :endpoint and event = :event and finished_at is null"
)
_FORGET = text(
    "delete /* webhooks.forget */"
    " from webhook_deliveries where endpoint = :endpoint and finished_at < now() - cast(:kept as interval)"
)
