"""How places are shared: one key alone, greedy keys beside others, administrators."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Overloaded
from app.web.capacity import Capacity, Holder, Share, Shares

RETRY_AFTER = timedelta(seconds=1)
ALONE = Holder("a", "acme")
SECOND = Holder("b", "acme")
OTHER = Holder("c", "globex")
ADMIN = Holder("d", "acme", is_admin=True)
THREE_QUARTERS = 0.75


def places(limit: int = 2000, shares: Shares | None = None, *, largest: int = 1) -> Capacity:
    return Capacity(limit, RETRY_AFTER, shares, largest=largest)


def fill(share: Share, amount: int = 1) -> int:
    """Takes as much as it is given; returns how much that was."""
    taken = 0
    with suppress(Overloaded):
        while True:
            share.take(amount)
            taken += amount
    return taken


class TestCapacity:
    def test_what_is_over_is_refused_and_changes_nothing(self) -> None:
        capacity = places(10, Shares(1, 1, 0))
        share = capacity.of(ALONE)
        share.take(8)
        with pytest.raises(Overloaded) as refused:
            share.take(3)
        assert refused.value.retry_after_ms == 1000
        assert capacity.in_flight == 8
        share.give_back(8)
        share.take(10)

    def test_one_is_given_back_after_a_failure(self) -> None:
        capacity = places(1)
        with pytest.raises(ZeroDivisionError), capacity.of(ALONE).one():
            raise ZeroDivisionError
        assert capacity.in_flight == 0

    def test_a_check_takes_nothing(self) -> None:
        capacity = places(1)
        capacity.of(ALONE).check_one()
        with capacity.of(ALONE).one(), pytest.raises(Overloaded):
            capacity.of(OTHER).check_one()
        assert capacity.in_flight == 0


class TestAKeyAlone:
    @pytest.mark.parametrize("limit", [16, 100, 2000])
    def test_gets_three_quarters_of_all(self, limit: int) -> None:
        taken = fill(places(limit).of(ALONE))
        assert THREE_QUARTERS * limit <= taken < limit

    @pytest.mark.parametrize("holder", [ALONE, ADMIN])
    def test_gets_the_only_place(self, holder: Holder) -> None:
        assert fill(places(1).of(holder)) == 1

    @pytest.mark.parametrize("limit", [1000, 1001, 100_000])
    def test_can_always_have_the_largest_thing(self, limit: int) -> None:
        places(limit, largest=1000).of(ALONE).take(1000)

    def test_gets_all_that_is_for_all_where_no_share_is_configured(self) -> None:
        assert fill(places(1000, Shares(1, 1, 0.01)).of(ALONE)) == 990


class TestBesideAGreedyKey:
    def test_another_tenants_key_has_many_places(self) -> None:
        capacity = places()
        fill(capacity.of(ALONE))
        assert fill(capacity.of(OTHER)) > 150

    def test_another_key_of_its_tenant_has_some(self) -> None:
        capacity = places()
        fill(capacity.of(ALONE))
        assert fill(capacity.of(SECOND)) > 150

    @pytest.mark.parametrize("tenants", [("acme", "acme"), ("acme", "acme", "acme", "globex"), ("a", "b", "c")])
    def test_several_of_them_leave_room_for_a_tenant_that_holds_nothing(self, tenants: tuple[str, ...]) -> None:
        capacity = places()
        for number, tenant in enumerate(tenants):
            assert fill(capacity.of(Holder(number, tenant))) > 0
        capacity.of(Holder("new", "newcomer")).take(1)

    def test_a_body_of_full_size_still_fits(self) -> None:
        capacity = places(256 << 20, largest=32 << 20)
        fill(capacity.of(ALONE), 64 << 10)
        assert fill(capacity.of(OTHER), 64 << 10) >= 32 << 20

    def test_what_it_gives_back_others_may_use(self) -> None:
        capacity = places()
        taken = fill(capacity.of(ALONE))
        capacity.of(ALONE).give_back(taken)
        assert fill(capacity.of(OTHER)) == taken


class TestAdministrators:
    def test_get_in_where_everybody_else_is_greedy(self) -> None:
        capacity = places()
        for number in range(50):
            fill(capacity.of(Holder(number, f"tenant {number}")))
        assert fill(capacity.of(Holder(0, "tenant 0", is_admin=True))) > 10

    def test_get_in_beside_a_greedy_administrator(self) -> None:
        capacity = places()
        fill(capacity.of(ADMIN))
        capacity.of(Holder("another", "acme", is_admin=True)).take(1)

    def test_leave_room_for_others(self) -> None:
        capacity = places()
        fill(capacity.of(ADMIN))
        assert fill(capacity.of(OTHER)) > 150


Turn = tuple[int, int, int]
TURNS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(-40, 40)), max_size=60)


class TestAnyNumberOfPlaces:
    @given(st.integers(1, 3000))
    def test_gives_one_key_three_quarters_and_leaves_one_if_it_can(self, limit: int) -> None:
        capacity = places(limit)
        assert fill(capacity.of(ALONE)) >= THREE_QUARTERS * limit
        assert fill(capacity.of(OTHER)) >= (1 if limit >= 4 else 0)

    @given(st.integers(4, 3000), st.integers(1, 5))
    def test_leaves_one_to_a_tenant_that_holds_nothing(self, limit: int, keys: int) -> None:
        capacity = places(limit)
        for number in range(keys):
            fill(capacity.of(Holder(number, "acme")))
        capacity.of(OTHER).take(1)

    @given(st.integers(1, 3000))
    def test_keeps_a_hundredth_for_administrators(self, limit: int) -> None:
        capacity = places(limit)
        for number in range(limit):
            with suppress(Overloaded):
                capacity.of(Holder(number, str(number))).take(1)
        assert capacity.in_flight == limit - limit // 100
        assert fill(capacity.of(ADMIN)) >= min(1, limit // 100)


class TestWhateverIsTakenAndGivenBack:
    @given(st.integers(1, 300), TURNS)
    def test_the_limit_and_the_count_hold(self, limit: int, turns: list[Turn]) -> None:
        capacity = places(limit)
        held: dict[Holder, int] = {}
        for tenant, key, amount in turns:
            holder = Holder((tenant, key), str(tenant), is_admin=tenant == 0)
            before = held.get(holder, 0)
            change = max(amount, -before)
            with suppress(Overloaded):
                capacity.of(holder).take(change)
                held[holder] = before + change
            assert capacity.in_flight == sum(held.values()) <= limit
        for holder, amount in held.items():
            capacity.of(holder).give_back(amount)
        assert capacity.in_flight == 0
        assert fill(capacity.of(ALONE)) >= 1
