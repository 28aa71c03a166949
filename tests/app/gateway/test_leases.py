from __future__ import annotations

from uuid import uuid4

import pytest
from redis import Redis

from app.access.principal import Scope
from app.events.stream_log import LogWrite, StreamLog
from app.gateway.completions import CompletionStatus
from app.gateway.leases import Leases
from app.gateway.streams.events import CompletionFailed, CompletionStarted
from app.llm.routing import ProvidersFailed
from app.redis.clients import connect_redis
from app.runtime.process_identity import identity
from app.services import Services
from tests.app.access.principals import principal
from tests.app.conftest import OpenProcess
from tests.app.gateway.admissions import admit_only
from tests.clocks import ManualClock
from tests.services import Stores, asked, full_redis
from tests.simulators import RunningSimulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ACME = principal(Scope.COMPLETIONS)


class TestOwnerThatDied:
    async def test_has_its_call_ended_once_by_anyone_who_watches(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator, stores: Stores
    ) -> None:
        """The owner goes on here, without a lease: to the others it is dead."""
        simulator.post({"operation": "completion", "headers_delay_ms": 900, "token_delay_ms": 100, "answer": {"tokens": 60}})
        redis = connect_redis(stores.valkey_url, services.settings.redis, services.clock)
        other = await open_process()
        completion = await services.gateway.start(asked(key="k"), ACME)
        services.leases.drop(completion.key)
        await StreamLog(redis).write([LogWrite(completion.key, ends=True)])
        events = [event async for event in other.gateway.events(completion.key, None, ACME)]
        assert isinstance(events[0], CompletionStarted)
        failed = events[-1]
        assert isinstance(failed, CompletionFailed)
        assert isinstance(failed.problem, ProvidersFailed)
        stored = await other.ledger.stored(completion.key)
        assert stored is not None
        assert stored.status == CompletionStatus.FAILED.value
        await redis.close()


class TestCancel:
    async def test_calls_who_holds_the_lease_here(self, services: Services) -> None:
        leases = services.leases
        key, wishes = uuid4(), []
        leases.hold(key, lambda: wishes.append(key))
        await leases.cancel(key)
        assert wishes == [key]
        leases.drop(key)

    async def test_reaches_another_process_with_its_next_renewal(self, services: Services, stores: Stores) -> None:
        redis = connect_redis(stores.valkey_url, services.settings.redis, services.clock)
        key, wishes = uuid4(), []
        owner = Leases(services.clock, StreamLog(redis), services.ledger)
        owner.hold(key, lambda: wishes.append(key))
        await services.leases.cancel(key)
        assert await StreamLog(redis).renew([key]) == {key}
        assert wishes == []
        await redis.close()


class TestBurial:
    async def test_is_over_before_the_call_runs_again(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator, stores: Stores
    ) -> None:
        """Two look at the same moment; who comes second must not end the run that has begun since."""
        simulator.post({"operation": "completion", "headers_delay_ms": 900, "token_delay_ms": 100, "answer": {"tokens": 60}})
        redis = connect_redis(stores.valkey_url, services.settings.redis, services.clock)
        machine_and_process, _, _ = identity().rpartition(" ")
        other = await open_process()
        completion = await services.gateway.start(asked(key="k"), ACME)
        services.leases.drop(completion.key)
        await StreamLog(redis, owner=f"{machine_and_process} 1").write([LogWrite(completion.key, begins=True)])
        await other.leases.reclaim_if_owner_died(completion.key)
        first = await other.ledger.stored(completion.key)
        assert first is not None
        assert first.status == CompletionStatus.FAILED.value
        again = await admit_only(other, asked(key="k"), ACME)
        assert again.call == completion.key
        await services.leases.reclaim_if_owner_died(completion.key)
        second = await services.ledger.stored(completion.key)
        assert second is not None
        assert second.status == CompletionStatus.RUNNING.value
        await other.ledger.release(completion.key)
        await redis.close()

    async def test_spares_a_call_whose_owner_cannot_renew_its_lease(
        self, services: Services, open_process: OpenProcess, simulator: RunningSimulator, stores: Stores
    ) -> None:
        simulator.post({"operation": "completion", "token_delay_ms": 50, "answer": {"tokens": 60}})
        other = await open_process()
        completion = await services.gateway.start(asked(key="k"), ACME)
        with full_redis(stores.valkey_url):
            with Redis.from_url(stores.valkey_url) as server:
                server.flushdb()
            await other.leases.reclaim_orphan(completion.key)
        stored = await services.ledger.stored(completion.key)
        assert stored is not None
        assert stored.status != CompletionStatus.FAILED.value

    async def test_spares_a_call_that_no_one_can_ask_about(self, services: Services) -> None:
        away = connect_redis("redis://127.0.0.1:1/0", services.settings.redis, services.clock)
        leases = Leases(ManualClock(), StreamLog(away), services.ledger)
        completion = await services.gateway.start(asked(key="k"), ACME)
        await leases.reclaim_orphan(completion.key)
        stored = await services.ledger.stored(completion.key)
        assert stored is not None
        assert stored.status != CompletionStatus.FAILED.value
        await away.close()
