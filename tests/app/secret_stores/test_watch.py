"""Secrets that change in a process: files are real, a store is a table that fails on demand."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from app.domain.errors import SettingsError
from app.secret_stores.first_values import with_first_values
from app.secret_stores.reader import MAX_LENGTH, SecretFault, SecretReader, StoreAway
from app.secret_stores.watch import SecretState, SecretWatch
from app.secrets.reference import SecretReference, SecretSource
from app.settings import DatabaseSettings, RedisSettings, SecretSettings, Settings, VaultAuth, VaultSettings
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "redis"
    path.write_text("redis://:one@localhost", encoding="utf-8")
    return path


@pytest.fixture
def settings(file: Path) -> Settings:
    return Settings(redis=RedisSettings(url=SecretReference(file=file)))


def write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def remove(file: Path) -> None:
    file.unlink()


def only(watch: SecretWatch) -> SecretState:
    (state,) = watch.states()
    return state


class TestFile:
    async def test_that_changes_is_handed_on_and_counted(self, settings: Settings, file: Path, clock: ManualClock) -> None:
        watch, registry, taken = SecretWatch(settings, clock), CollectorRegistry(), list[str]()
        watch.expose(registry)
        assert settings.redis.url is not None
        settings.redis.url.on_change(taken.append)
        await watch.refresh()
        assert (taken, only(watch).changed_at) == ([], None)
        clock.move(30)
        write(file, "redis://:two@localhost\n")
        await watch.refresh()
        assert taken == ["redis://:two@localhost"]
        state = only(watch)
        assert (state.place, state.source, state.in_use, state.last_error) == ("redis.url", SecretSource.FILE, True, None)
        assert state.changed_at == state.read_at == clock.now()
        assert registry.get_sample_value("greenlang_secret_reloads_total", {"source": "file"}) == 1
        assert registry.get_sample_value("greenlang_secret_failures_total", {"source": "vault"}) == 0

    async def test_that_is_gone_leaves_the_value_before_and_says_so_once_a_minute(
        self, settings: Settings, file: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        watch = SecretWatch(settings, clock)
        remove(file)
        with caplog.at_level(logging.WARNING):
            for _ in range(4):
                await watch.refresh()
                clock.move(20)
        assert len(caplog.records) == 2
        assert only(watch).last_error == "No such file or directory"
        assert (only(watch).in_use, watch.faults) == (True, ["redis.url"])
        write(file, "redis://:one@localhost")
        await watch.refresh()
        assert (only(watch).last_error, watch.faults) == (None, [])

    async def test_with_a_value_that_cannot_be_used_is_not_in_use_until_it_is_right(
        self, settings: Settings, file: Path, clock: ManualClock
    ) -> None:
        watch = SecretWatch(settings, clock)

        def refuse(text: str) -> None:
            if "wrong" in text:
                raise SettingsError("redis.url", "it is no URL")

        assert settings.redis.url is not None
        settings.redis.url.on_change(refuse)
        write(file, "wrong")
        for _ in range(2):
            await watch.refresh()
            assert (only(watch).in_use, only(watch).last_error) == (False, "it is no URL")
        write(file, "redis://:two@localhost")
        await watch.refresh()
        assert (only(watch).in_use, only(watch).last_error) == (True, None)

    async def test_that_nothing_listens_to_waits_for_a_restart(self, settings: Settings, file: Path, clock: ManualClock) -> None:
        watch = SecretWatch(settings, clock)
        write(file, "another")
        await watch.refresh()
        assert (only(watch).in_use, only(watch).last_error) == (False, "a restart takes it into use")

    async def test_with_which_a_store_is_entered_is_in_use_because_the_next_login_reads_it(
        self, file: Path, clock: ManualClock
    ) -> None:
        login = VaultSettings(address="http://127.0.0.1:9", auth=VaultAuth.TOKEN, token=SecretReference(file=file))
        watch = SecretWatch(Settings(secrets=SecretSettings(vault=login)), clock)
        write(file, "another")
        await watch.refresh()
        assert (only(watch).place, only(watch).in_use, watch.faults) == ("secrets.vault.token", True, [])

    async def test_second_steps_are_taken_one_refresh_later(self, settings: Settings, file: Path, clock: ManualClock) -> None:
        watch, steps = SecretWatch(settings, clock), list[str]()
        assert settings.redis.url is not None
        settings.redis.url.on_change(lambda text: lambda: steps.append(text))
        write(file, "redis://:two@localhost")
        await watch.refresh()
        assert steps == []
        await watch.refresh()
        await watch.refresh()
        assert steps == ["redis://:two@localhost"]


class Table:
    """A store with one path. `fault` is raised if it is set."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self.fields = fields
        self.fault: SecretFault | None = None
        self.asked = 0

    def read(self, path: str) -> Mapping[str, object]:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return self.fields


def vault(field: str, path: str = "a") -> SecretReference:
    return SecretReference(vault=f"{path}#{field}")


class TestReader:
    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({}, "no such field"), ({"f": {"a": 1}}, "not text"), ({"f": 7}, "not text"), ({"f": " "}, "empty"),
            ({"f": "x" * (MAX_LENGTH + 1)}, "more than"),
        ],
    )  # fmt: skip
    def test_a_value_that_is_no_secret_is_refused_without_its_text(self, fields: Mapping[str, object], reason: str) -> None:
        found = SecretReader({}, {SecretSource.VAULT: Table(fields)}).read([vault("f")])["vault a#f"]
        assert isinstance(found, SecretFault)
        assert reason in str(found)
        assert "xx" not in str(found)

    def test_each_path_is_read_once_and_a_store_that_is_away_is_asked_once(self) -> None:
        store = Table({"f": "one", "g": "two"})
        reader = SecretReader({}, {SecretSource.VAULT: store})
        assert reader.read([vault("f"), vault("g")]) == {"vault a#f": "one", "vault a#g": "two"}
        assert store.asked == 1
        store.fault = StoreAway()
        found = reader.read([vault("f"), vault("g", "b"), vault("h", "c")])
        assert store.asked == 2
        assert all(isinstance(each, StoreAway) for each in found.values())

    def test_a_store_that_is_not_configured_is_named(self) -> None:
        found = SecretReader({}).read([vault("f")])["vault a#f"]
        assert str(found) == "secrets.vault is not configured"


def test_a_start_names_the_place_of_a_secret_that_cannot_be_read() -> None:
    with pytest.raises(SettingsError, match=r"^database.primary: vault a#f: secrets.vault is not configured$"):
        with_first_values(Settings(database=DatabaseSettings(primary=vault("f"))))
