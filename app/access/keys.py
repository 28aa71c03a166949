"""API keys: made once, shown once, checked at every call.

A call costs no SQL while its key is cached, for at most the cache's TTL. Within this time a key works even if PostgreSQL is
away; after it, the answer is StoreUnavailable. A wrong secret costs the same whether or not its hint exists: one hash, and a
read of the row unless it was read for a refusal a moment ago. A revocation reaches every process at once by NOTIFY, and with
the next poll at the latest. All keys that are requested at one time are read in one statement, and only one statement is under
way. So callers that guess keys cannot use up the connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypeAlias
from uuid import UUID

from app.access.credentials import hash_secret, hint_of, matches, new_secret
from app.access.key_cache import KeyCache, KeyCacheLimits, KeyEntry
from app.access.key_rows import CHANNEL, ApiKey, NewKey, any_key, insert_key, read_changes, read_entries, read_keys, revoke_key
from app.access.limits import KeyLimits, Limits
from app.access.principal import Principal
from app.access.running_calls import RunningCalls
from app.db.sessions import Sessions
from app.db.wakeups import Wakeup, listen
from app.domain.errors import Refused, RefusedKey, StoreUnavailable, Unauthenticated
from app.domain.ids import new_uuid
from app.domain.problems import InvalidInput, NotFound
from app.runtime.clock import Clock
from app.runtime.tasks import end_tasks

POLL_SECONDS: Final = 5.0
READ_SECONDS: Final = 5.0
OVERLAP: Final = timedelta(seconds=60)
"""A poll sees a change if no more than this time passes between its time stamp and its commit."""

_REFUSAL: Final = "the API key is missing, wrong, expired or revoked"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """The only result that contains the secret."""

    key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyChanged:
    key_id: UUID
    revoked: bool


ChangeListener: TypeAlias = Callable[[KeyChanged], None]
_Found: TypeAlias = KeyEntry | StoreUnavailable | None


class KeyStore:
    """Use it with `async with`, which follows the changes of other processes. Without that, a change is seen when the TTL has
    passed."""

    def __init__(
        self,
        sessions: Sessions,
        clock: Clock,
        limits: Limits | None = None,
        cache: KeyCacheLimits | None = None,
        hash_key: Callable[[str], bytes] = hash_secret,
    ) -> None:
        self._sessions = sessions
        self._clock = clock
        self._hash = hash_key
        self._limits = limits or KeyLimits(clock)
        self._cache = KeyCache(clock, cache or KeyCacheLimits())
        self.calls = RunningCalls()
        self._wakeup = Wakeup(clock)
        self._listeners: dict[object, ChangeListener] = {}
        self._waiting: dict[str, asyncio.Future[_Found]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._following: tuple[asyncio.Task[None], ...] = ()
        self._changes_read_at: datetime | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def start(self) -> None:
        self._following = (
            _task(listen(self._sessions.engines.listening, CHANNEL, self._wakeup.set, self._clock)),
            _task(self._follow()),
        )

    async def close(self) -> None:
        tasks = (*self._following, self._reading) if self._reading is not None else self._following
        self._following = ()
        await end_tasks(tasks)

    async def authenticate(self, bearer: str | None) -> Principal:
        """`bearer` is the text after `Bearer `. Raises Unauthenticated, always with the same message, and StoreUnavailable."""
        if not bearer:
            raise Unauthenticated(_REFUSAL, RefusedKey.MISSING)
        hint = hint_of(bearer)
        if hint is None:
            raise Unauthenticated(_REFUSAL, RefusedKey.MALFORMED)
        entry = await self._entry(hint, self._hash(bearer))
        if entry is None:
            raise Unauthenticated(_REFUSAL, RefusedKey.UNKNOWN, hint)
        if entry.revoked:
            raise Unauthenticated(_REFUSAL, RefusedKey.REVOKED, hint)
        if self._has_expired(entry.principal):
            raise Unauthenticated(_REFUSAL, RefusedKey.EXPIRED, hint)
        return entry.principal

    def slot(self, principal: Principal) -> AbstractAsyncContextManager[None]:
        """Takes a slot under the key's own rate and number of concurrent calls. Entering raises KeyLimited if there is none."""
        return self._limits.slot(principal)

    def on_change(self, listener: ChangeListener) -> Callable[[], None]:
        """Calls `listener` once for every revocation in any process. Expiry is not a revocation, because the principal has the
        time of its expiry.

        Returns a function that removes the listener.
        """
        registration = object()
        self._listeners[registration] = listener

        def stop() -> None:
            self._listeners.pop(registration, None)

        return stop

    async def create(self, new: NewKey) -> CreatedKey:
        """Raises Refused(Conflict) if a key of the tenant that is not revoked has this name, Refused(InvalidInput),
        StoreUnavailable."""
        if new.expires_at is not None and new.expires_at <= self._clock.now():
            raise Refused(InvalidInput("the key would have expired already", ("expiresAt",)))
        hint, secret = new_secret()
        async with self._sessions.write() as session:
            key = await insert_key(session, new_uuid(self._clock.now()), new, hint, hash_secret(secret))
        return CreatedKey(key, secret)

    async def revoke(self, reference: str, tenant: str | None = None, *, cancel_calls: bool = False) -> ApiKey:
        """Revokes a key by id or name. To revoke it twice changes nothing. With `cancel_calls`, every process cancels the calls
        that run with the key, even if it was revoked before. Raises Refused(NotFound), Refused(InvalidInput) if keys of several
        tenants have the name, StoreUnavailable."""
        async with self._sessions.write() as session:
            key = await revoke_key(session, reference, tenant, cancel_calls=cancel_calls)
        if key is None:
            raise Refused(NotFound(f"there is no key {reference}"))
        self._cache.forget(key.hint)
        self._wakeup.set()
        return key

    async def list(self, tenant: str | None = None) -> tuple[ApiKey, ...]:
        """Returns the keys of one tenant or of all, oldest first, also the expired and revoked ones."""
        async with self._sessions.read(primary=True) as session:
            return await read_keys(session, tenant)

    async def has_any(self) -> bool:
        """Whether there ever was a key, also if it is revoked."""
        async with self._sessions.read(primary=True) as session:
            return await any_key(session)

    async def refresh(self) -> None:
        """Reads the changes since the last call. Raises StoreUnavailable."""
        async with _bounded(), self._sessions.read(primary=True) as session:
            recent, self._changes_read_at = await read_changes(session, self._changes_read_at, OVERLAP)
        loop = asyncio.get_running_loop()
        for entry in self._cache.take_changes(recent):
            if entry.calls_cancelled:
                loop.call_soon(self.calls.cancel, entry.principal.key_id)
            for listener in self._listeners.values():
                loop.call_soon(listener, KeyChanged(entry.principal.key_id, entry.revoked))

    async def _follow(self) -> None:
        while True:
            try:
                await self.refresh()
            except StoreUnavailable:
                _log.warning("changes of keys cannot be read")
            await self._wakeup.wait(POLL_SECONDS)

    def _has_expired(self, principal: Principal) -> bool:
        return principal.expires_at is not None and principal.expires_at <= self._clock.now()

    async def _entry(self, hint: str, secret_hash: bytes) -> KeyEntry | None:
        """Returns None if there is no key with this hint and hash. Raises StoreUnavailable."""
        cached = self._cache.get(hint)
        if matches(secret_hash, cached.secret_hash if cached else None):
            return cached
        if self._cache.was_refused(hint, cached):
            return None
        found = await self._look_up(hint)
        if matches(secret_hash, found.secret_hash if found else None):
            return found
        self._cache.remember_refused(hint, known=found is not None)
        return None

    async def _look_up(self, hint: str) -> KeyEntry | None:
        for _ in range(2):
            found = await asyncio.shield(self._ask(hint))
            if isinstance(found, StoreUnavailable):
                raise StoreUnavailable(found.store) from found
            if found is None or self._cache.remember(found):
                return found
        return None

    def _ask(self, hint: str) -> asyncio.Future[_Found]:
        answer = self._waiting.get(hint)
        if answer is None:
            answer = self._waiting[hint] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            self._reading = _task(self._read_waiting())
        return answer

    async def _read_waiting(self) -> None:
        batch: dict[str, asyncio.Future[_Found]] = {}
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                found = await self._read(tuple(batch))
                for hint, answer in batch.items():
                    answer.set_result(found if isinstance(found, StoreUnavailable) else found.get(hint))
        finally:
            self._reading = None
            for answer in (*batch.values(), *self._waiting.values()):
                if not answer.done():
                    answer.set_result(StoreUnavailable("PostgreSQL"))
            self._waiting.clear()

    async def _read(self, hints: tuple[str, ...]) -> dict[str, KeyEntry] | StoreUnavailable:
        try:
            async with _bounded(), self._sessions.read(primary=True) as session:
                return await read_entries(session, hints)
        except StoreUnavailable as error:
            return error


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """A server that accepts a connection and then does not answer counts as unavailable too."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            yield
    except TimeoutError as error:
        raise StoreUnavailable("PostgreSQL") from error


def _task(work: Coroutine[object, object, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("a task of the key store ended", exc_info=error)
