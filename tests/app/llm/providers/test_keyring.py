from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.errors import SettingsError
from app.llm.providers.keyring import SET_ASIDE_SECONDS, Keyring, build_keyring
from app.secret_stores.values import SecretValues
from app.secrets.reference import SecretReference
from tests.app.llm.calls import ANTHROPIC, COMPATIBLE, OPENAI, key_file, settings
from tests.clocks import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keys(tmp_path: Path, clock: ManualClock) -> Keyring:
    return Keyring([key_file(tmp_path, "one", "sk-1"), key_file(tmp_path, "two", "sk-2")], clock)


def picked(keys: Keyring, model: str | None = "m") -> str | None:
    key = keys.pick(model)
    return key.secret if key is not None else None


class TestPicking:
    def test_prefers_the_first(self, keys: Keyring) -> None:
        assert picked(keys) == "sk-1"

    def test_leaves_out_what_was_tried(self, keys: Keyring) -> None:
        first = keys.pick("m")
        assert first is not None
        second = keys.pick("m", {first})
        assert second is not None

        assert (second.secret, keys.pick("m", {first, second})) == ("sk-2", None)

    def test_works_without_any_key(self, clock: ManualClock) -> None:
        assert picked(Keyring((), clock)) is None
        assert picked(Keyring((), clock, without="local")) == "local"


class TestARefusedKey:
    def test_is_set_aside_for_a_minute(self, keys: Keyring, clock: ManualClock) -> None:
        first = keys.pick("m")
        assert first is not None
        keys.refuse(first, None)

        assert picked(keys) == picked(keys, None) == "sk-2"
        clock.move(SET_ASIDE_SECONDS)
        assert picked(keys) == "sk-1"

    def test_for_one_model_still_serves_the_others(self, keys: Keyring) -> None:
        first = keys.pick("m")
        assert first is not None
        keys.refuse(first, "m")

        assert (picked(keys, "m"), picked(keys, "other"), picked(keys, None)) == ("sk-2", "sk-1", "sk-1")

    def test_is_asked_again_where_no_other_is_left(self, keys: Keyring, clock: ManualClock) -> None:
        for _ in range(2):
            key = keys.pick("m")
            assert key is not None
            keys.refuse(key, None)
            clock.move(1)

        assert picked(keys) == "sk-1"

    def test_gives_way_to_a_changed_secret_at_once(self, keys: Keyring, tmp_path: Path) -> None:
        first = keys.pick("m")
        assert first is not None
        key_file(tmp_path, "one", "sk-new")

        keys.refuse(first, None)
        keys.refuse(first, None)

        assert picked(keys) == "sk-new"

    def test_is_set_aside_where_its_secret_is_gone(self, keys: Keyring, tmp_path: Path) -> None:
        first = keys.pick("m")
        assert first is not None
        (tmp_path / "one").unlink()

        keys.refuse(first, None)

        assert picked(keys) == "sk-2"

    def test_is_named_in_the_log_once_while_it_is_set_aside(
        self, keys: Keyring, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = keys.pick("m")
        assert first is not None
        keys.refuse(first, None)
        keys.refuse(first, None)
        (record,) = caplog.records
        assert vars(record)["key"].endswith("/one")
        assert "sk-1" not in str(vars(record))
        clock.move(SET_ASIDE_SECONDS)
        keys.refuse(first, None)
        assert len(caplog.records) == 2

    @pytest.mark.parametrize("secret", ["sk-1\nsk-2", "sk-\u00fc", "sk-\x00"])
    def test_that_no_header_can_hold_is_known(self, clock: ManualClock, tmp_path: Path, secret: str) -> None:
        key = Keyring([key_file(tmp_path, "odd", secret)], clock).pick("m")
        assert key is not None
        assert not key.can_be_sent

    def test_shows_its_secret_nowhere(self, keys: Keyring) -> None:
        assert "sk-" not in repr(keys.pick("m"))


class TestBuilding:
    @pytest.mark.parametrize("kind", [ANTHROPIC, OPENAI])
    def test_says_where_a_key_is_missing(self, kind: object, clock: ManualClock) -> None:
        with pytest.raises(SettingsError) as caught:
            build_keyring(settings(kind, None, simulated=False), clock)  # type: ignore[arg-type]  # parametrised

        assert caught.value.path == f"providers.my-{kind}.api_keys"

    def test_says_which_variable_is_not_set(self, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MY_KEY", raising=False)

        with pytest.raises(SettingsError) as caught:
            build_keyring(settings(OPENAI, None, api_keys=(SecretReference(env="MY_KEY"),)), clock)

        assert caught.value.path == "env MY_KEY"

    def test_lets_a_local_server_want_none(self, clock: ManualClock) -> None:
        keys = build_keyring(settings(COMPATIBLE, "http://127.0.0.1:1/v1", simulated=False), clock)

        assert picked(keys) is None


class TestSecretThatChanges:
    @pytest.fixture
    def renewed(self, tmp_path: Path, clock: ManualClock) -> Keyring:
        """One key, whose secret has changed from sk-1 to sk-2."""
        reference = key_file(tmp_path, "one", "sk-1")
        reference.bind(values := SecretValues())
        keys = Keyring([reference], clock)
        values.announce(reference, "sk-2")
        return keys

    def test_is_used_by_the_next_call_and_the_one_before_stays_as_a_further_key(self, renewed: Keyring) -> None:
        first = renewed.pick("m")
        assert first is not None
        second = renewed.pick("m", {first})
        assert second is not None
        assert (first.secret, second.secret, renewed.pick("m", {first, second})) == ("sk-2", "sk-1", None)

    def test_if_the_one_before_is_refused_it_is_gone(self, renewed: Keyring) -> None:
        first = renewed.pick("m")
        assert first is not None
        before = renewed.pick("m", {first})
        assert before is not None
        renewed.refuse(before, None)
        assert (len(renewed), renewed.pick("m", {first})) == (1, None)

    def test_if_it_is_refused_the_one_before_goes_on(self, renewed: Keyring) -> None:
        first = renewed.pick("m")
        assert first is not None
        renewed.refuse(first, None)
        assert picked(renewed) == "sk-1"

    def test_that_cannot_be_sent_changes_nothing(self, tmp_path: Path, clock: ManualClock) -> None:
        reference = key_file(tmp_path, "one", "sk-1")
        reference.bind(values := SecretValues())
        keys = Keyring([reference], clock)
        with pytest.raises(SettingsError):
            values.announce(reference, "sk-2\n\x00")
        assert picked(keys) == "sk-1"
