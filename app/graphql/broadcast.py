"""One execution and one encoding for all subscribers that ask the same of the same source.

A subscription field that is marked with an Audience has the same events for all its subscribers from the moment they join.
Subscribers with the same document, variables and rights share one source, one execution per event and one text. Each has a
bounded queue. A subscriber that falls behind gets an error and is removed. The others never wait for it.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec

from app.access.audience import Audience
from app.access.principal import Scope
from app.graphql.engine import Caller, Engine, Prepared, Run
from app.graphql.errors import RequestFailed, failed_by
from app.runtime.offload import Offload
from app.runtime.request_hash import digest
from app.runtime.tasks import create_shared_task

_AT_ONCE = 200
_SMALL = 16 * 1024


@dataclass(frozen=True, slots=True)
class Subject:
    """What must be equal for two subscribers to see the same events."""

    document: str
    operation: str | None
    variables: bytes
    tenant: str | None
    agent: str | None
    scopes: frozenset[Scope]


class Member(Protocol):
    """A subscriber's end of a shared stream. No method may wait for the subscriber."""

    async def deliver(self, payload: str) -> None: ...

    def finish(self, failed: RequestFailed | None) -> None:
        """The stream has ended, by itself or because of a failure."""
        ...


class _Share:
    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None


class Broadcasts:
    def __init__(self, engine: Engine, offload: Offload) -> None:
        self._engine = engine
        self._offload = offload
        self._shares: dict[Subject, _Share] = {}

    def __len__(self) -> int:
        return len(self._shares)

    async def join(self, member: Member, prepared: Prepared, run: Run, caller: Caller) -> Subject:
        """From now on `member` gets every event. The source is open when this returns. Raises RequestFailed."""
        subject = await self._subject(prepared, caller)
        share = self._shares.get(subject)
        if share is None:
            share = self._shares[subject] = _Share()
            share.task = create_shared_task(self._serve(subject, share, run, caller))
        share.members.add(member)
        if share.opened.done():
            self._engine.greet(prepared, run, caller)
        try:
            await asyncio.shield(share.opened)
        except BaseException:
            self.leave(member, subject)
            raise
        return subject

    async def _subject(self, prepared: Prepared, caller: Caller) -> Subject:
        """Only the variables that the operation declares count, as a hash, so nothing large is kept."""
        node, principal = prepared.operation.node, caller.principal
        given = prepared.request.variables or {}
        declared = {each.variable.name.value for each in node.variable_definitions or ()}
        everyone = prepared.operation.audience is Audience.EVERYONE
        return Subject(
            prepared.document.text,
            node.name.value if node.name else None,
            await self._digest({name: given[name] for name in declared & given.keys()}, prepared.request.size),
            None if everyone else principal.tenant,
            None if everyone else principal.agent,
            principal.scopes,
        )

    async def _digest(self, variables: dict[str, object], size: int) -> bytes:
        return digest(variables) if size <= _SMALL else await self._offload.run_in_thread(size, partial(digest, variables))

    def leave(self, member: Member, subject: Subject) -> None:
        """Removes a member. When the last one leaves, the source is closed."""
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
        except Exception as error:  # noqa: BLE001 (masked and logged, and raised for those who wait for the stream to open)
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
            share.task = failed = None  # otherwise their tracebacks keep them and the request in memory


async def _deliver(text: str, members: set[Member]) -> None:
    """Gives the event loop a turn in between. Otherwise many subscribers would block it."""
    for number, member in enumerate(tuple(members)):
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
        if member in members:
            await member.deliver(text)
