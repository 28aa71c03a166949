from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from app.costs.budgets import BudgetAuthority, BudgetEnforcement, BudgetExceeded, BudgetScope, BudgetStore, NewBudget
from app.costs.holds import Admitted, IdempotencyKey, Joined
from app.costs.ledger import PostgresLedger
from app.costs.prices import PriceBook
from app.costs.statements import Statements
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.attempts import AttemptOutcome
from app.domain.errors import Refused, StoreUnavailable
from app.domain.problems import Conflict, InvalidInput, ProblemCode
from app.domain.usage import Label
from app.settings import BudgetDefault, BudgetSettings, DatabaseSettings, Settings
from tests.app.costs.calls import Sums, asked, attempt, estimate, payer, settlement, sums
from tests.app.costs.conftest import LedgerMaker
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


def budget(
    limit: str = "10",
    name: str = "b",
    scope: BudgetScope | None = None,
    enforcement: BudgetEnforcement = BudgetEnforcement.BLOCK,
) -> NewBudget:
    return NewBudget(name, scope or BudgetScope(tenant="acme"), Decimal(limit), enforcement=enforcement)


async def refusal(ledger: PostgresLedger, *args: object, **kwargs: object) -> object:
    with pytest.raises(Refused) as refused:
        await ledger.admit(asked(*args, **kwargs))  # type: ignore[arg-type]  # passed on as they are
    return refused.value.reason


class TestAdmission:
    async def test_without_a_budget_every_call_is_admitted(self, ledger: PostgresLedger) -> None:
        request = asked(worst=estimate(input_usd=None))
        admitted = await ledger.admit(request)
        assert isinstance(admitted, Admitted)
        assert (admitted.call, admitted.output_cap_tokens, admitted.capped_by_budget) == (request.call, 100, False)

    async def test_the_worst_case_is_held_of_every_budget_in_scope(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        scopes = [
            BudgetScope(tenant="acme"),
            BudgetScope(tenant="acme", agent="writer"),
            BudgetScope(provider="openai"),
            BudgetScope(model="gpt-4o"),
            BudgetScope(tenant="acme", label=Label("team", "red")),
            BudgetScope(),
        ]
        others = [
            BudgetScope(tenant="other"),
            BudgetScope(agent="reader"),
            BudgetScope(provider="anthropic"),
            BudgetScope(tenant="acme", label=Label("team", "blue")),
        ]
        made = [await budgets.create(budget(name=str(n), scope=scope)) for n, scope in enumerate([*scopes, *others])]
        await ledger.admit(asked(payer(agent="writer", team="red")))
        held = [(await budgets.by_keys([one.key], None))[one.key].held_usd for one in made]
        assert held == [2] * len(scopes) + [0] * len(others)

    async def test_the_cap_is_lowered_to_what_the_tightest_budget_can_pay(
        self, ledger: PostgresLedger, budgets: BudgetStore
    ) -> None:
        await budgets.create(budget("3.805"))
        first, second = await ledger.admit(asked()), await ledger.admit(asked())
        assert isinstance(first, Admitted)
        assert isinstance(second, Admitted)
        assert (first.output_cap_tokens, first.capped_by_budget) == (100, False)
        assert (second.output_cap_tokens, second.capped_by_budget) == (80, True)

    async def test_below_the_least_cap_the_call_is_refused_and_nothing_is_held(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        wide = await budgets.create(budget("100", "wide"))
        tight = await budgets.create(budget("1.49", "tight"))
        reason = await refusal(ledger)
        assert isinstance(reason, BudgetExceeded)
        assert (reason.budget.key, reason.needed_usd, reason.remaining_usd) == (tight.key, Decimal("1.5"), Decimal("1.49"))
        assert (await sums(sessions, wide.key)).held == 0

    async def test_an_unpriced_model_is_refused_where_a_budget_must_be_kept(
        self, ledger: PostgresLedger, budgets: BudgetStore
    ) -> None:
        await budgets.create(budget(enforcement=BudgetEnforcement.ALERT_ONLY))
        await ledger.admit(asked(worst=estimate(input_usd=None, token_usd=None)))
        await budgets.create(budget(name="strict"))
        reason = await refusal(ledger, worst=estimate(input_usd=None, token_usd=None))
        assert isinstance(reason, InvalidInput)
        assert (reason.code, reason.path) == (ProblemCode.UNPRICED_MODEL, ("model",))

    async def test_a_budget_that_only_alerts_blocks_nothing(self, ledger: PostgresLedger, budgets: BudgetStore) -> None:
        made = await budgets.create(budget("1", enforcement=BudgetEnforcement.ALERT_ONLY))
        for _ in range(3):
            await ledger.admit(asked())
        assert (await budgets.by_keys([made.key], None))[made.key].held_usd == 6

    async def test_a_crowd_never_holds_more_than_the_limit(
        self, new_ledger: LedgerMaker, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(budget("100"))
        ledgers = [new_ledger() for _ in range(4)]
        found = await asyncio.gather(*(ledgers[n % 4].admit(asked()) for n in range(200)), return_exceptions=True)
        admitted = [one for one in found if isinstance(one, Admitted)]
        assert len(admitted) == 50
        assert all(isinstance(one, Admitted | Refused) for one in found)
        assert await sums(sessions, made.key) == Sums(Decimal(0), Decimal(100), Decimal(100), Decimal(0), Decimal(0))


class TestTopUp:
    async def test_a_further_attempt_is_held_on_top(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(budget("3.8"))
        request = asked()
        await ledger.admit(request)
        assert await ledger.top_up(request.call, request.payer, estimate()) == 80
        assert (await sums(sessions, made.key)).held == Decimal("3.8")
        assert await ledger.top_up(request.call, request.payer, estimate()) is None
        await ledger.settle(settlement(request, attempt("1"), attempt("2")))
        assert await sums(sessions, made.key) == Sums(Decimal(3), Decimal(0), Decimal(0), Decimal(3), Decimal(3))

    async def test_only_the_attempts_own_provider_holds_for_it(self, ledger: PostgresLedger, budgets: BudgetStore) -> None:
        first = await budgets.create(budget(name="openai", scope=BudgetScope(tenant="acme", provider="openai")))
        second = await budgets.create(budget(name="anthropic", scope=BudgetScope(tenant="acme", provider="anthropic")))
        request = asked()
        await ledger.admit(request)
        await ledger.top_up(request.call, request.payer, estimate(provider="anthropic", input_usd="3"))
        found = await budgets.by_keys([first.key, second.key], "acme")
        assert [found[one.key].held_usd for one in (first, second)] == [2, 4]

    async def test_a_call_that_is_not_open_cannot_be_topped_up(self, ledger: PostgresLedger) -> None:
        assert await ledger.top_up(uuid4(), payer(), estimate()) is None


class TestSettlement:
    async def test_charges_what_was_used_and_releases_what_was_held(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(budget())
        request = asked()
        await ledger.admit(request)
        await ledger.settle(settlement(request, attempt("0.123456789012"), document=b"the answer"))
        used = Decimal("0.123456789012")
        assert await sums(sessions, made.key) == Sums(used, Decimal(0), Decimal(0), used, used)
        stored = await ledger.stored(request.call)
        assert stored is not None
        assert (stored.status, stored.document, stored.tenant) == ("FINISHED", b"the answer", "acme")

    async def test_twice_is_once(self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions) -> None:
        made = await budgets.create(budget())
        request, used = asked(), attempt("2")
        await ledger.admit(request)
        await ledger.settle(settlement(request, used))
        await ledger.settle(settlement(request, used))
        assert await sums(sessions, made.key) == Sums(Decimal(2), Decimal(0), Decimal(0), Decimal(2), Decimal(2))

    async def test_twice_in_one_batch_is_once(self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions) -> None:
        made = await budgets.create(budget())
        first, second = asked(), asked()
        await asyncio.gather(ledger.admit(first), ledger.admit(second))
        used = attempt("2")
        await asyncio.gather(ledger.settle(settlement(first, used)), ledger.settle(settlement(first, used)))
        await asyncio.gather(ledger.release(second.call), ledger.release(second.call))
        assert await sums(sessions, made.key) == Sums(Decimal(2), Decimal(0), Decimal(0), Decimal(2), Decimal(2))

    async def test_what_a_call_used_outweighs_its_release_in_one_batch(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made, request = await budgets.create(budget()), asked()
        await ledger.admit(request)
        await asyncio.gather(ledger.release(request.call), ledger.settle(settlement(request, attempt("2"))))
        assert await sums(sessions, made.key) == Sums(Decimal(2), Decimal(0), Decimal(0), Decimal(2), Decimal(2))

    async def test_a_call_that_was_never_admitted_is_recorded_all_the_same(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(budget())
        request = asked()
        await ledger.settle(settlement(request, attempt("2")))
        await ledger.settle(settlement(request, attempt("2")))
        assert (await sums(sessions, made.key)).spent == 2
        assert await ledger.stored(request.call) is not None

    async def test_a_released_call_leaves_nothing(self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions) -> None:
        made = await budgets.create(budget())
        request = asked(key=IdempotencyKey("k", b"h" * 32))
        await ledger.admit(request)
        await ledger.release(request.call)
        assert await sums(sessions, made.key) == Sums(*[Decimal(0)] * 5)
        assert await ledger.stored(request.call) is None
        assert isinstance(await ledger.admit(asked(key=IdempotencyKey("k", b"x" * 32))), Admitted)

    async def test_a_budget_made_meanwhile_is_charged(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        request = asked()
        await ledger.admit(request)
        made = await budgets.create(budget())
        await ledger.settle(settlement(request))
        assert await sums(sessions, made.key) == Sums(Decimal(2), Decimal(0), Decimal(0), Decimal(2), Decimal(2))

    async def test_a_provider_that_sends_nul_is_billed_too(self, ledger: PostgresLedger, sessions: Sessions) -> None:
        request = asked()
        await ledger.admit(request)
        used = attempt()
        strange = type(used)(used.key, "openai", "gpt\x00", AttemptOutcome.SUCCEEDED, used.started_at, 1.0, usage=used.usage)
        await ledger.settle(settlement(request, strange))
        async with sessions.read(primary=True) as session:
            assert (await session.execute(text("select model from usage_records"))).scalar_one() == "gpt\ufffd"

    async def test_a_caller_that_leaves_while_it_waits_holds_nothing(
        self, ledger: PostgresLedger, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(budget())
        task = asyncio.create_task(ledger.admit(asked()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ledger.close()
        assert (await sums(sessions, made.key)).held == 0


class TestIdempotency:
    async def test_the_same_key_and_input_join_the_first_call(self, new_ledger: LedgerMaker, budgets: BudgetStore) -> None:
        await budgets.create(budget("2"))
        key = IdempotencyKey("k", b"h" * 32)
        first = asked(key=key)
        here, there = new_ledger(), new_ledger()
        await here.admit(first)
        assert await there.admit(asked(key=key)) == Joined(first.call)
        await here.settle(settlement(first))
        assert await there.admit(asked(key=key)) == Joined(first.call)

    async def test_a_crowd_with_one_key_is_one_call(self, new_ledger: LedgerMaker, sessions: Sessions) -> None:
        ledgers = [new_ledger() for _ in range(3)]
        found = await asyncio.gather(*(ledgers[n % 3].admit(asked(key=IdempotencyKey("k", b"h" * 32))) for n in range(60)))
        admitted = [one for one in found if isinstance(one, Admitted)]
        assert len(admitted) == 1
        assert {one.call for one in found} == {admitted[0].call}

    async def test_another_input_with_the_key_is_a_conflict(self, ledger: PostgresLedger) -> None:
        await ledger.admit(asked(key=IdempotencyKey("k", b"h" * 32)))
        reason = await refusal(ledger, key=IdempotencyKey("k", b"x" * 32))
        assert isinstance(reason, Conflict)
        assert reason.code is ProblemCode.IDEMPOTENCY_MISMATCH

    async def test_keys_of_another_tenant_are_other_keys(self, ledger: PostgresLedger) -> None:
        key = IdempotencyKey("k", b"h" * 32)
        assert isinstance(await ledger.admit(asked(key=key)), Admitted)
        assert isinstance(await ledger.admit(asked(payer("other"), key=key)), Admitted)

    async def test_a_refused_call_does_not_take_its_key(self, ledger: PostgresLedger, budgets: BudgetStore) -> None:
        made = await budgets.create(budget("1"))
        key = IdempotencyKey("k", b"h" * 32)
        assert isinstance(await refusal(ledger, key=key), BudgetExceeded)
        await budgets.delete(made.key, BudgetAuthority())
        assert isinstance(await ledger.admit(asked(key=key)), Admitted)


class _Relay:
    """Carries connections to PostgreSQL; while it is `cut`, what the server answers gets lost, and then the connection. Who says
    `fatal` cuts it. While it is `lost`, nothing arrives at all."""

    def __init__(self, database_url: str) -> None:
        self._server = urlsplit(database_url)
        self.cut = False
        self.lost = False
        self.fatal: bytes | None = None

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection(self._server.hostname, self._server.port)
        await asyncio.gather(self._pump(reader, ahead), self._pump(behind, writer, answers=True), return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        with closing(writer):
            while (data := await reader.read(65536)) and not (answers and self.cut) and not self.lost:
                self.cut |= self.fatal is not None and self.fatal in data
                writer.write(data)


class TestServerWhoseAnswerWasLost:
    @pytest.fixture
    async def relay(self, database_url: str) -> _Relay:
        return _Relay(database_url)

    @pytest.fixture
    async def far(self, database_url: str, relay: _Relay) -> AsyncIterator[tuple[PostgresLedger, ManualClock]]:
        """A ledger that has the database behind the relay, and its clock."""
        async with await asyncio.start_server(relay.carry, "127.0.0.1", 0) as server:
            url, port = urlsplit(database_url), server.sockets[0].getsockname()[1]
            behind = url._replace(netloc=f"{url.netloc.rpartition(':')[0]}:{port}").geturl()
            engines, clock = build_engines(behind, [], DatabaseSettings()), ManualClock()
            ledger = PostgresLedger(Sessions(engines), clock, Settings(), PriceBook(Settings()))
            yield ledger, clock
            await ledger.close()
            await engines.close()

    async def refused(self, clock: ManualClock, *admissions: Coroutine[None, None, object]) -> None:
        """All of them, once the ledger has lost its patience."""
        waiting = asyncio.gather(*admissions, return_exceptions=True)
        while not waiting.done():
            await clock.advance(0.5)
            await asyncio.sleep(0.01)
        assert {type(each) for each in await waiting} == {StoreUnavailable}

    async def test_what_it_admitted_is_taken_back(
        self, far: tuple[PostgresLedger, ManualClock], relay: _Relay, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made, (ledger, clock) = await budgets.create(budget()), far
        await ledger.admit(asked())
        relay.cut = True
        await self.refused(clock, ledger.admit(asked()))
        assert (await sums(sessions, made.key)).held == 4
        relay.cut = False
        await ledger.release_doubtful()
        assert (await sums(sessions, made.key)).held == 2

    async def test_what_it_admitted_is_taken_back_where_it_left_before_it_said_why_it_refused_another(
        self, far: tuple[PostgresLedger, ManualClock], relay: _Relay, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made, (ledger, clock) = await budgets.create(budget()), far
        await ledger.admit(asked())
        relay.fatal = b"from budget_now"
        await self.refused(clock, ledger.admit(asked()), ledger.admit(asked(worst=estimate(input_usd="50"))))
        assert (await sums(sessions, made.key)).held == 4
        relay.cut, relay.fatal = False, None
        await ledger.release_doubtful()
        assert (await sums(sessions, made.key)).held == 2

    async def test_what_could_not_be_released_is_released_later(
        self, far: tuple[PostgresLedger, ManualClock], relay: _Relay, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made, (ledger, clock) = await budgets.create(budget()), far
        request = asked()
        await ledger.admit(request)
        await ledger.settle(settlement(asked()))
        relay.lost = True
        await self.refused(clock, ledger.release(request.call))
        assert (await sums(sessions, made.key)).held == 2
        relay.lost = False
        await ledger.release_doubtful()
        assert (await sums(sessions, made.key)).held == 0


class TestRepeatsInOneBatch:
    async def test_join_the_first_without_a_collision(
        self, new_ledger: LedgerMaker, budgets: BudgetStore, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, ledger, fetches = await budgets.create(budget()), new_ledger(), list[str]()
        fetch = Statements.fetch

        async def counted(statements: Statements, statement: str, *arguments: object) -> list[asyncpg.Record]:
            fetches.append(statement)
            return await fetch(statements, statement, *arguments)

        monkeypatch.setattr(Statements, "fetch", counted)
        key = IdempotencyKey("again", b"same")
        first, *others = await asyncio.gather(*(ledger.admit(asked(key=key)) for _ in range(3)), ledger.admit(asked()))
        assert isinstance(first, Admitted)
        assert [type(each) for each in others] == [Joined, Joined, Admitted]
        assert len(fetches) == 3
        assert (await sums(sessions, made.key)).held == 4


class TestDeadOwners:
    async def expire(self, sessions: Sessions) -> None:
        async with sessions.write() as session:
            await session.execute(
                text("update completions set lease_until = now() - interval '1 second' where status = 'RUNNING'")
            )

    async def test_their_calls_are_settled_at_the_estimate(
        self, new_ledger: LedgerMaker, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(budget())
        dead, alive, request = new_ledger(), new_ledger(), asked()
        await dead.admit(request)
        assert await alive.sweep() == 0
        await self.expire(sessions)
        assert await alive.sweep() == 1
        assert await alive.sweep() == 0
        assert await sums(sessions, made.key) == Sums(Decimal(2), Decimal(0), Decimal(0), Decimal(2), Decimal(2))
        stored = await alive.stored(request.call)
        assert stored is not None
        assert (stored.status, stored.document) == ("FAILED", None)
        assert [one.cost_usd for one in stored.attempts] == [Decimal(2)]
        async with sessions.read(primary=True) as session:
            assert (await session.execute(text("select confirmed, visible_output_tokens from usage_records"))).one() == (
                False,
                100,
            )

    async def test_the_real_figures_replace_the_estimate_when_they_come_late(
        self, new_ledger: LedgerMaker, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(budget())
        slow, other, request = new_ledger(), new_ledger(), asked()
        await slow.admit(request)
        await self.expire(sessions)
        await other.sweep()
        late = settlement(request, attempt("0.5"))
        await slow.settle(late)
        await slow.settle(late)
        used = Decimal("0.5")
        assert await sums(sessions, made.key) == Sums(used, Decimal(0), Decimal(0), used, used)
        stored = await other.stored(request.call)
        assert stored is not None
        assert (stored.status, stored.document) == ("FINISHED", b"d")

    async def test_their_keys_run_again_under_the_same_id(
        self, new_ledger: LedgerMaker, budgets: BudgetStore, sessions: Sessions
    ) -> None:
        made = await budgets.create(budget())
        dead, alive, key = new_ledger(), new_ledger(), IdempotencyKey("k", b"h" * 32)
        first = asked(key=key)
        await dead.admit(first)
        await self.expire(sessions)
        await alive.sweep()
        again = asked(key=key)
        admitted = await alive.admit(again)
        assert isinstance(admitted, Admitted)
        assert admitted.call == first.call
        await dead.settle(settlement(first, attempt("0.25")))
        assert (await sums(sessions, made.key)).held == 2
        await alive.settle(settlement(first, attempt("0.5")))
        used = Decimal("0.75")
        assert await sums(sessions, made.key) == Sums(used, Decimal(0), Decimal(0), used, used)

    async def test_a_call_in_hand_is_renewed(self, new_ledger: LedgerMaker, sessions: Sessions) -> None:
        soon = Settings(budgets=BudgetSettings(hold_ttl=timedelta(milliseconds=1)))
        owner, other, request = new_ledger(soon), new_ledger(), asked()
        await owner.admit(request)
        await asyncio.sleep(0.01)
        assert await owner.renew() == 1
        await owner.settle(settlement(request))
        assert await owner.renew() == 0
        assert await other.sweep() == 0


class TestDefaultBudgets:
    async def test_are_made_with_the_first_call_and_bind_it(self, new_ledger: LedgerMaker, budgets: BudgetStore) -> None:
        ledger = new_ledger(
            Settings(
                budgets=BudgetSettings(
                    per_tenant=BudgetDefault(limit_usd=Decimal(3)), per_agent=BudgetDefault(limit_usd=Decimal(2), period="DAY")
                )
            )
        )
        await ledger.admit(asked(payer(agent="writer")))
        reason = await refusal(ledger, payer(agent="writer"))
        assert isinstance(reason, BudgetExceeded)
        assert reason.budget.scope == BudgetScope(tenant="acme", agent="writer")
        reason = await refusal(ledger, payer(agent="reader"))
        assert isinstance(reason, BudgetExceeded)
        assert reason.budget.scope == BudgetScope(tenant="acme")

    async def test_are_not_made_again_once_deleted(self, new_ledger: LedgerMaker, budgets: BudgetStore) -> None:
        settings = Settings(budgets=BudgetSettings(per_tenant=BudgetDefault(limit_usd=Decimal(0))))
        reason = await refusal(new_ledger(settings))
        assert isinstance(reason, BudgetExceeded)
        await budgets.delete(reason.budget.key, BudgetAuthority())
        assert isinstance(await new_ledger(settings).admit(asked()), Admitted)
