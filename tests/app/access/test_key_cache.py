from __future__ import annotations

from datetime import timedelta

import pytest

from app.access.key_cache import KeyCache, KeyCacheLimits, KeyEntry
from tests.app.access.principals import principal
from tests.clocks import ManualClock


def entry(hint: str = "a", version: int = 1, *, revoked: bool = False) -> KeyEntry:
    return KeyEntry(hint=hint, secret_hash=b"", version=version, revoked=revoked, calls_cancelled=False, principal=principal())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> KeyCache:
    return KeyCache(clock, KeyCacheLimits(ttl=timedelta(seconds=30), entries=3, refused_ttl=timedelta(seconds=5), refused=2))


class TestLifetime:
    def test_an_entry_is_found_until_its_ttl_has_passed(self, cache: KeyCache, clock: ManualClock) -> None:
        cache.remember(entry())
        clock.move(29.9)
        assert cache.get("a") == entry()
        clock.move(0.1)
        assert cache.get("a") is None

    def test_use_does_not_make_it_longer(self, cache: KeyCache, clock: ManualClock) -> None:
        cache.remember(entry())
        for _ in range(29):
            clock.move(1)
            assert cache.get("a") is not None
        clock.move(1)
        assert cache.get("a") is None

    def test_an_unknown_hint_is_asked_for_again_soon(self, cache: KeyCache, clock: ManualClock) -> None:
        cache.remember_refused("a", known=False)
        assert cache.was_refused("a", None)
        clock.move(5)
        assert not cache.was_refused("a", None)

    def test_a_key_that_was_pushed_out_is_asked_for_again_at_once(self, cache: KeyCache) -> None:
        cache.remember_refused("a", known=True)
        assert cache.was_refused("a", entry())
        assert not cache.was_refused("a", None)


class TestSize:
    def test_the_entry_used_longest_ago_goes(self, cache: KeyCache) -> None:
        for hint in "abc":
            cache.remember(entry(hint))
        cache.get("a")
        cache.remember(entry("d"))
        assert [hint for hint in "abcd" if cache.get(hint)] == ["a", "c", "d"]

    def test_guesses_push_out_guesses_and_no_keys(self, cache: KeyCache) -> None:
        cache.remember(entry("a"))
        for guess in range(1000):
            cache.remember_refused(str(guess), known=False)
        assert cache.get("a") is not None
        assert len(cache) == 3


class TestChanges:
    def test_a_change_takes_the_entry_away(self, cache: KeyCache) -> None:
        cache.remember(entry())
        cache.take_changes([entry(version=2, revoked=True)])
        assert cache.get("a") is None

    def test_an_entry_that_has_the_change_already_stays(self, cache: KeyCache) -> None:
        cache.remember(entry(version=2))
        cache.take_changes([entry(version=2)])
        assert cache.get("a") == entry(version=2)

    def test_what_was_read_before_a_change_does_not_come_back_after_it(self, cache: KeyCache) -> None:
        cache.take_changes([entry(version=2, revoked=True)])
        assert not cache.remember(entry(version=1))
        assert cache.get("a") is None
        assert cache.remember(entry(version=2, revoked=True))

    def test_each_change_is_news_once(self, cache: KeyCache) -> None:
        change = entry(version=2)
        assert cache.take_changes([change]) == (change,)
        assert cache.take_changes([change]) == ()
        later = entry(version=3)
        assert cache.take_changes([later]) == (later,)

    def test_what_it_remembers_of_changes_is_the_recent_ones(self, cache: KeyCache) -> None:
        cache.take_changes([entry(version=2)])
        cache.take_changes([])
        assert cache.remember(entry(version=1))
