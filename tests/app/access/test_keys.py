from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, text

from app.access.credentials import hash_secret, new_secret
from app.access.key_rows import NewKey
from app.access.keys import POLL_SECONDS, KeyChanged, KeyStore
from app.access.limits import KeyLimited
from app.access.principal import Principal, Scope
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import Refused, RefusedKey, StoreUnavailable, Unauthenticated
from app.domain.problems import Conflict, InvalidInput, NotFound
from app.runtime.clock import Clock, SystemClock
from app.settings import DatabaseSettings
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 10.0


def new_key(name: str = "agents", tenant: str = "acme", **more: object) -> NewKey:
    fields: dict[str, object] = {"name": name, "tenant": tenant, "scopes": frozenset({Scope.COMPLETIONS})} | more
    return NewKey(**fields)  # type: ignore[arg-type]  # a test gives what it needs


class Process:
    """A key store with connections of its own, as another server process has them."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.sessions = Sessions(build_engines(url, (), DatabaseSettings(pool_size=2)))
        self.hashed: list[str] = []
        self.keys = KeyStore(self.sessions, clock, hash_key=self._hash)
        self.statements: list[str] = []
        event.listen(self.sessions.engines.primary.sync_engine, "before_cursor_execute", self._note)

    def _note(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.statements.append(statement)

    def _hash(self, bearer: str) -> bytes:
        self.hashed.append(bearer)
        return hash_secret(bearer)

    @property
    def lookups(self) -> int:
        return sum("hint = any(" in statement for statement in self.statements)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now=datetime.now(UTC))


@pytest.fixture
async def processes(database_url: str) -> AsyncIterator[Callable[[Clock], Process]]:
    async with AsyncExitStack() as stack:

        def start(clock: Clock) -> Process:
            process = Process(database_url, clock)
            stack.push_async_callback(process.sessions.engines.close)
            return process

        yield start


@pytest.fixture
def process(processes: Callable[[Clock], Process], clock: ManualClock) -> Process:
    return processes(clock)


@pytest.fixture
def keys(process: Process) -> KeyStore:
    return process.keys


async def refused(keys: KeyStore, bearer: str | None) -> bool:
    try:
        await keys.authenticate(bearer)
    except Unauthenticated:
        return True
    return False


async def until(condition: Callable[[], Awaitable[bool]]) -> float:
    """Seconds until the condition came true."""
    start = time.monotonic()
    while not await condition():
        assert time.monotonic() - start < DEADLINE_SECONDS
        await asyncio.sleep(0.005)
    return time.monotonic() - start


class TestAuthentication:
    async def test_a_good_key_says_who_calls(self, keys: KeyStore, clock: ManualClock) -> None:
        expires_at = clock.now() + timedelta(days=1)
        created = await keys.create(
            new_key(
                scopes=frozenset({Scope.COMPLETIONS, Scope.COSTS}),
                agent="scout",
                expires_at=expires_at,
                requests_per_minute=60,
                max_concurrent=4,
            )
        )
        assert await keys.authenticate(created.secret) == Principal(
            key_id=created.key.key,
            key_name="agents",
            tenant="acme",
            scopes=frozenset({Scope.COMPLETIONS, Scope.COSTS}),
            agent="scout",
            expires_at=expires_at,
            requests_per_minute=60,
            max_concurrent=4,
            hint=created.key.hint,
        )

    async def test_none_wrong_unknown_malformed_expired_and_revoked_are_refused_in_the_same_words(
        self, keys: KeyStore, clock: ManualClock
    ) -> None:
        good = await keys.create(new_key())
        revoked = await keys.create(new_key("revoked"))
        await keys.revoke(revoked.key.id)
        expired = await keys.create(new_key("expired", expires_at=clock.now() + timedelta(seconds=1)))
        clock.move(1)
        wrong = good.secret[:-1] + ("a" if good.secret[-1] != "a" else "b")
        unknown = new_secret()[1]
        words, reasons = set(), []
        for bearer in (None, "", "sk-x", "\0", wrong, unknown, expired.secret, revoked.secret):
            with pytest.raises(Unauthenticated) as caught:
                await keys.authenticate(bearer)
            words.add(str(caught.value))
            reasons.append((caught.value.reason, caught.value.hint))
        assert len(words) == 1
        assert reasons == [
            (RefusedKey.MISSING, None),
            (RefusedKey.MISSING, None),
            (RefusedKey.MALFORMED, None),
            (RefusedKey.MALFORMED, None),
            (RefusedKey.UNKNOWN, good.key.hint),
            (RefusedKey.UNKNOWN, unknown.split("-")[1]),
            (RefusedKey.EXPIRED, expired.key.hint),
            (RefusedKey.REVOKED, revoked.key.hint),
        ]
        assert (await keys.authenticate(good.secret)).key_name == "agents"

    async def test_a_cached_key_is_refused_the_moment_it_expires(self, keys: KeyStore, clock: ManualClock) -> None:
        created = await keys.create(new_key(expires_at=clock.now() + timedelta(seconds=10)))
        clock.move(9.999)
        await keys.authenticate(created.secret)
        clock.move(0.001)
        assert await refused(keys, created.secret)


class TestSecrets:
    async def test_only_a_hash_is_stored(self, keys: KeyStore, process: Process) -> None:
        created = await keys.create(new_key())
        async with process.sessions.read() as session:
            row = str((await session.execute(text("select api_keys::text from api_keys"))).scalar_one())
        assert created.key.hint in row
        assert created.secret not in row
        assert created.secret.rpartition("-")[2] not in row

    async def test_the_secret_is_in_no_repr(self, keys: KeyStore) -> None:
        created = await keys.create(new_key())
        principal = await keys.authenticate(created.secret)
        shown = repr(created) + repr(principal) + repr(await keys.list()) + repr(keys)
        assert created.secret.rpartition("-")[2] not in shown


class TestCache:
    async def test_a_call_costs_no_sql_while_its_key_is_cached(self, keys: KeyStore, process: Process) -> None:
        created = await keys.create(new_key())
        await keys.authenticate(created.secret)
        process.statements.clear()
        for _ in range(100):
            await keys.authenticate(created.secret)
        assert process.statements == []

    async def test_the_row_is_read_again_when_the_ttl_has_passed(
        self, keys: KeyStore, process: Process, clock: ManualClock
    ) -> None:
        created = await keys.create(new_key())
        for _ in range(3):
            await keys.authenticate(created.secret)
            clock.move(30)
        assert process.lookups == 3

    async def test_many_who_ask_at_once_share_a_statement(self, keys: KeyStore, process: Process) -> None:
        secrets = [(await keys.create(new_key(str(number)))).secret for number in range(20)]
        found = await asyncio.gather(*(keys.authenticate(secret) for secret in secrets * 10))
        assert {principal.key_name for principal in found} == {str(number) for number in range(20)}
        assert process.lookups <= 2

    async def test_a_caller_who_leaves_takes_no_one_along(self, keys: KeyStore) -> None:
        created = await keys.create(new_key())
        first, second = (asyncio.create_task(keys.authenticate(created.secret)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).key_name == "agents"

    async def test_a_guess_is_looked_up_once_in_a_while(self, keys: KeyStore, process: Process, clock: ManualClock) -> None:
        _, guess = new_secret()
        for _ in range(10):
            assert await refused(keys, guess)
        assert process.lookups == 1
        clock.move(5)
        assert await refused(keys, guess)
        assert process.lookups == 2

    @pytest.mark.parametrize("in_use", [True, False], ids=["in use", "not in use"])
    async def test_a_wrong_secret_costs_the_same_whether_its_hint_is_known_or_not(
        self, keys: KeyStore, process: Process, clock: ManualClock, *, in_use: bool
    ) -> None:
        """Counted at every guess, also after the memory of refusals and of keys has passed."""
        created = await keys.create(new_key())
        costs: dict[str, list[tuple[int, int]]] = {}
        for hint in (created.key.hint, new_secret()[0]):
            costs[hint] = []
            for number in range(12):
                if in_use:
                    await keys.authenticate(created.secret)
                process.hashed.clear()
                process.statements.clear()
                assert await refused(keys, f"sk-{hint}-{str(number % 10) * 32}")
                assert len(process.statements) <= 3  # a look-up in a transaction of its own
                costs[hint].append((process.lookups, len(process.hashed)))
                clock.move((0.1, 4, 6, 31)[number % 4])
        known, unknown = costs.values()
        assert known == unknown
        assert set(known) == {(0, 1), (1, 1)}

    async def test_guesses_keep_no_one_from_using_the_key(self, keys: KeyStore, process: Process, clock: ManualClock) -> None:
        created = await keys.create(new_key())
        for _ in range(40):
            assert await refused(keys, f"sk-{created.key.hint}-{'0' * 32}")
            assert (await keys.authenticate(created.secret)).key_name == "agents"
            clock.move(1)
        assert process.lookups <= 9


class TestStoreAway:
    async def test_a_cached_key_works_until_its_ttl_has_passed(
        self, keys: KeyStore, clock: ManualClock, process: Process, owner_url: str
    ) -> None:
        created = await keys.create(new_key())
        await keys.authenticate(created.secret)
        await self.take_away(process, owner_url)
        clock.move(29)
        assert (await keys.authenticate(created.secret)).key_name == "agents"
        clock.move(1)
        with pytest.raises(StoreUnavailable):
            await keys.authenticate(created.secret)

    async def test_an_unknown_key_cannot_be_distinguished_from_a_good_one(
        self, keys: KeyStore, process: Process, owner_url: str
    ) -> None:
        await self.take_away(process, owner_url)
        with pytest.raises(StoreUnavailable):
            await keys.authenticate(new_secret()[1])

    async def test_it_serves_again_when_the_store_does(self, keys: KeyStore, process: Process, owner_url: str) -> None:
        created = await keys.create(new_key())
        await self.take_away(process, owner_url)
        with pytest.raises(StoreUnavailable):
            await keys.authenticate(created.secret)
        await self.allow(process, owner_url, connections=True)
        assert (await keys.authenticate(created.secret)).key_name == "agents"

    async def take_away(self, process: Process, owner_url: str) -> None:
        await self.allow(process, owner_url, connections=False)

    async def allow(self, process: Process, owner_url: str, *, connections: bool) -> None:
        """The database takes no connection any more, and those there were are cut."""
        server, _, name = owner_url.rpartition("/")
        other = Sessions(build_engines(f"{server}/postgres", (), DatabaseSettings()))
        async with other.write() as session:
            await session.execute(text(f"alter database {name} with allow_connections {connections}"))
            await session.execute(
                text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"), {"name": name}
            )
        await other.engines.close()


class TestRevocation:
    async def test_reaches_another_process_within_a_second(self, processes: Callable[[Clock], Process]) -> None:
        here, there = processes(SystemClock()), processes(SystemClock())
        async with here.keys, there.keys:
            await until(lambda: listening(there))
            created = await here.keys.create(new_key())
            await there.keys.authenticate(created.secret)
            await here.keys.revoke(created.key.id)
            assert await refused(here.keys, created.secret)
            assert await until(lambda: refused(there.keys, created.secret)) < 1

    async def test_reaches_another_process_by_polling_where_no_message_comes(
        self, processes: Callable[[Clock], Process], clock: ManualClock
    ) -> None:
        here, there = processes(clock), processes(clock)
        created = await here.keys.create(new_key())
        await there.keys.authenticate(created.secret)
        await there.keys.refresh()
        await here.keys.revoke(created.key.id)
        await there.keys.authenticate(created.secret)
        await there.keys.refresh()
        assert await refused(there.keys, created.secret)

    async def test_the_poll_comes_every_five_seconds(self, process: Process, clock: ManualClock) -> None:
        async def polled() -> bool:
            return sum("changed_at >" in statement for statement in process.statements) > polls

        polls = 0
        async with process.keys:
            await until(lambda: listening(process))
            await until(polled)
            for _ in range(3):
                await asyncio.sleep(0.05)
                polls = sum("changed_at >" in statement for statement in process.statements)
                await clock.advance(POLL_SECONDS)
                await until(polled)
        assert POLL_SECONDS <= 5

    async def test_a_lost_connection_is_made_again(self, processes: Callable[[Clock], Process]) -> None:
        here, there = processes(SystemClock()), processes(SystemClock())
        async with there.keys:
            await until(lambda: listening(there))
            async with here.sessions.write() as session:
                await session.execute(text("select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen%'"))
            created = await here.keys.create(new_key())
            await there.keys.authenticate(created.secret)
            await until(lambda: listening(there))
            await here.keys.revoke(created.key.id)
            assert await until(lambda: refused(there.keys, created.secret)) < 1

    async def test_listeners_hear_of_it_once(self, processes: Callable[[Clock], Process], clock: ManualClock) -> None:
        here, there = processes(clock), processes(clock)
        heard: list[KeyChanged] = []
        gone: list[KeyChanged] = []
        there.keys.on_change(heard.append)
        there.keys.on_change(gone.append)()
        created = await here.keys.create(new_key())
        await there.keys.refresh()
        await here.keys.revoke(created.key.id)
        for _ in range(3):
            await there.keys.refresh()
            await asyncio.sleep(0)
        assert heard == [KeyChanged(created.key.key, revoked=True)]
        assert gone == []

    async def test_it_ends_with_its_tasks(self, process: Process) -> None:
        before = asyncio.all_tasks()
        async with process.keys:
            assert len(asyncio.all_tasks()) > len(before)
        assert asyncio.all_tasks() == before


async def listening(process: Process) -> bool:
    async with process.sessions.read() as session:
        found = await session.execute(text("select count(*) from pg_stat_activity where query ilike 'listen%'"))
        return bool(found.scalar_one())


class TestCreation:
    async def test_a_live_name_is_taken_within_its_tenant(self, keys: KeyStore) -> None:
        first = await keys.create(new_key())
        with pytest.raises(Refused) as caught:
            await keys.create(new_key())
        assert isinstance(caught.value.reason, Conflict)
        await keys.create(new_key(tenant="globex"))
        await keys.revoke(first.key.id)
        await keys.create(new_key())
        assert len(await keys.list("acme")) == 2

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"name": ""}, "name"),
            ({"name": " agents"}, "name"),
            ({"name": "a\nb"}, "name"),
            ({"name": "a" * 129}, "name"),
            ({"tenant": "\0"}, "tenant"),
            ({"agent": ""}, "agent"),
            ({"scopes": frozenset()}, "scopes"),
            ({"scopes": frozenset({Scope.ADMIN, Scope.COSTS}), "agent": "scout"}, "scopes"),
            ({"expires_at": datetime(2030, 1, 1)}, "expiresAt"),  # noqa: DTZ001 - the naive time is the point
            ({"requests_per_minute": 0}, "requestsPerMinute"),
            ({"max_concurrent": -1}, "maxConcurrent"),
            ({"max_concurrent": 2**31}, "maxConcurrent"),
        ],
    )
    async def test_what_no_key_can_be_is_refused(self, fields: dict[str, object], path: str) -> None:
        with pytest.raises(Refused) as caught:
            new_key(**({"name": "agents", "tenant": "acme"} | fields))  # type: ignore[arg-type]  # any field at all
        assert isinstance(caught.value.reason, InvalidInput)
        assert caught.value.reason.path == (path,)

    async def test_a_key_that_would_have_expired_is_refused(self, keys: KeyStore, clock: ManualClock) -> None:
        with pytest.raises(Refused):
            await keys.create(new_key(expires_at=clock.now()))
        assert await keys.list() == ()

    async def test_has_any_from_the_first_on(self, keys: KeyStore) -> None:
        assert not await keys.has_any()
        created = await keys.create(new_key())
        assert await keys.has_any()
        await keys.revoke(created.key.id)
        assert await keys.has_any()


class TestRevokingByReference:
    async def test_by_name(self, keys: KeyStore) -> None:
        created = await keys.create(new_key())
        revoked = await keys.revoke("agents")
        assert revoked.key == created.key.key
        assert revoked.revoked_at is not None

    async def test_twice_changes_nothing(self, keys: KeyStore) -> None:
        created = await keys.create(new_key())
        assert await keys.revoke(created.key.id) == await keys.revoke(created.key.id)

    async def test_one_name_in_several_tenants_needs_the_tenant(self, keys: KeyStore) -> None:
        await keys.create(new_key())
        await keys.create(new_key(tenant="globex"))
        with pytest.raises(Refused) as caught:
            await keys.revoke("agents")
        assert isinstance(caught.value.reason, InvalidInput)
        assert "acme, globex" in caught.value.reason.message
        assert (await keys.revoke("agents", "globex")).tenant == "globex"
        assert [key.revoked_at is None for key in await keys.list("acme")] == [True]

    @pytest.mark.parametrize("reference", ["nobody", "key_" + "0" * 32, "cmp_" + "0" * 32, ""])
    async def test_what_is_not_there_is_not_found(self, keys: KeyStore, reference: str) -> None:
        with pytest.raises(Refused) as caught:
            await keys.revoke(reference)
        assert isinstance(caught.value.reason, NotFound)

    async def test_a_foreign_tenants_id_is_not_found(self, keys: KeyStore) -> None:
        created = await keys.create(new_key())
        with pytest.raises(Refused) as caught:
            await keys.revoke(created.key.id, "globex")
        assert isinstance(caught.value.reason, NotFound)


class TestOwnLimits:
    async def test_a_slot_is_counted_by_key(self, keys: KeyStore) -> None:
        caller = await keys.authenticate((await keys.create(new_key(max_concurrent=1))).secret)
        async with keys.slot(caller):
            with pytest.raises(KeyLimited):
                async with keys.slot(caller):
                    pass
