"""One execution and one encoding for everybody who asks the same of the same source.

A subscription field marked with an Audience has the same events for all its subscribers from the moment they join. Subscribers
with the same document, variables and rights share one source, one execution an event and one text; each has a bounded queue.
Whoever falls behind is told so and left out; the others never wait for it.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import msgspec

from app.access.audience import Audience
from app.access.principal import Scope
from app.graphql.engine import Caller, Engine, Prepared, Run
from app.graphql.errors import RequestFailed, failed_by

_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Subject:
    """What two subscribers must have in common to be shown the same events."""

    document: str
    operation: str | None
    variables: bytes
    tenant: str | None
    agent: str | None
    scopes: frozenset[Scope]


class Member(Protocol):
    """A subscriber's end of a shared stream; neither may wait for the subscriber."""

    async def deliver(self, payload: str) -> None: ...

    def finish(self, failed: RequestFailed | None) -> None:
        """The stream has ended, by itself or by a failure."""
        ...


class _Share:
    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None


class Broadcasts:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shares: dict[Subject, _Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    async def join(self, member: Member, prepared: Prepared, run: Run, caller: Caller) -> Subject:
        """From now on `member` gets every event; the source is open when this returns. Raises RequestFailed."""
        subject = _subject(prepared, caller)
        share = self._shares.get(subject)
        if share is None:
            share = self._shares[subject] = _Share()
            share.task = asyncio.create_task(self._serve(subject, share, run, caller))
        share.members.add(member)
        if share.opened.done():
            self._engine.greet(prepared, run, caller)
        try:
            await asyncio.shield(share.opened)
        except BaseException:
            self.leave(member, subject)
            raise
        return subject

    def leave(self, member: Member, subject: Subject) -> None:
        """The last to leave closes the source."""
        share = self._shares.get(subject)
        if share is None:
            return
        share.members.discard(member)
        if not share.members:
            del self._shares[subject]
            if share.task is not None:
                share.task.cancel()

    async def _serve(self, subject: Subject, share: _Share, run: Run, caller: Caller) -> None:
        failed: RequestFailed | None = None
        try:
            async with aclosing(await self._engine.subscribe(run, caller)) as events:
                share.opened.set_result(None)
                async for payload in events:
                    await _deliver(msgspec.json.encode(payload).decode(), share.members)
        except Exception as error:  # noqa: BLE001 (told to whoever waits for the stream to open, masked and logged)
            failed = error if isinstance(error, RequestFailed) else failed_by(error, caller.request_id)
            if not share.opened.done():
                share.opened.set_exception(failed)
                share.opened.exception()
        finally:
            if self._shares.get(subject) is share:
                del self._shares[subject]
            if not share.opened.done():
                share.opened.cancel()
            for member in tuple(share.members):
                member.finish(failed)


async def _deliver(text: str, members: set[Member]) -> None:
    """Others get their turn in between, so that many subscribers do not stop the event loop."""
    for number, member in enumerate(tuple(members)):
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
        if member in members:
            await member.deliver(text)


def _subject(prepared: Prepared, caller: Caller) -> Subject:
    name = prepared.operation.node.name
    principal = caller.principal
    everyone = prepared.operation.audience is Audience.EVERYONE
    return Subject(
        prepared.document.text,
        name.value if name else None,
        msgspec.json.encode(prepared.request.variables or {}, order="sorted"),
        None if everyone else principal.tenant,
        None if everyone else principal.agent,
        principal.scopes,
    )
