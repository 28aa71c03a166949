from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.domain.errors import SettingsError
from app.secrets.reference import SecretReference
from app.settings import Settings, load_settings
from app.settings.durations import format_duration


def load(**environ: str) -> Settings:
    return load_settings(None, environ)


class TestPlainValues:
    @given(st.integers(0, 65_535))
    def test_whole_numbers(self, port: int) -> None:
        assert load(GREENLANG_SERVER__PORT=str(port)).server.port == port

    @given(st.floats(min_value=1e-6, max_value=1e12))
    def test_numbers(self, rate: float) -> None:
        assert load(GREENLANG_LIMITS__ALLOWANCE_PER_SECOND=str(rate)).limits.allowance_per_second == rate

    @given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=1000)))
    def test_lengths_of_time(self, length: timedelta) -> None:
        assert load(GREENLANG_CONTENT__TTL=format_duration(length)).content.ttl == length

    @pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("Yes", True), ("off", False), ("FALSE", False)])
    def test_switches(self, text: str, value: bool) -> None:  # noqa: FBT001 - a parameter of the test
        assert load(GREENLANG_SERVER__PRODUCTION=text).server.production is value

    def test_paths_and_text(self) -> None:
        settings = load(GREENLANG_SERVER__DATA_DIR="/var/lib/greenlang", GREENLANG_SERVER__HOST="0.0.0.0")
        assert (settings.server.data_dir, settings.server.host) == (Path("/var/lib/greenlang"), "0.0.0.0")

    def test_an_empty_variable_is_not_set(self) -> None:
        assert load(GREENLANG_SERVER__PORT=" ") == Settings()

    @given(st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8")))
    def test_any_other_text_is_a_settings_error_that_names_the_variable(self, text: str) -> None:
        assume(text.strip() and not re.fullmatch(r"[\d_+\s]+", text))
        with pytest.raises(SettingsError, match="GREENLANG_SERVER__WORKERS") as caught:
            load(GREENLANG_SERVER__WORKERS=text)
        assert caught.value.path == "server.workers"


class TestListsAndTables:
    def test_plain_values_by_commas_or_as_toml(self) -> None:
        for text in ("https://a.example, https://b.example", '["https://a.example", "https://b.example"]'):
            assert load(GREENLANG_SERVER__ALLOWED_ORIGINS=text).server.allowed_origins == (
                "https://a.example",
                "https://b.example",
            )

    @pytest.mark.parametrize(
        "text",
        [
            '[{ name = "vllm", kind = "openai-compatible", base_url = "http://v:1/v1", models = ["m"] }]',
            json.dumps([{"name": "vllm", "kind": "openai-compatible", "base_url": "http://v:1/v1", "models": ["m"]}]),
        ],
    )
    def test_tables_as_toml_or_json(self, text: str) -> None:
        settings = load(GREENLANG_PROVIDERS=text)
        assert [(provider.name, provider.base_url) for provider in settings.providers] == [("vllm", "http://v:1/v1")]

    def test_one_item_of_a_list_by_its_number(self, tmp_path: Path) -> None:
        file = tmp_path / "greenlang.toml"
        file.write_text('[[providers]]\nname = "a"\nkind = "openai"\n[[providers]]\nname = "b"\nkind = "openai"\n')
        settings = load_settings(
            file, {"GREENLANG_PROVIDERS__1__ENABLED": "false", "GREENLANG_PROVIDERS__0__LIMITS__MAX_WAITING": "5"}
        )
        assert [provider.enabled for provider in settings.providers] == [True, False]
        assert settings.providers[0].limits.max_waiting == 5

    def test_a_number_that_no_item_has(self) -> None:
        with pytest.raises(SettingsError, match=r"providers\[0\].*GREENLANG_PROVIDERS__0__ENABLED") as caught:
            load(GREENLANG_PROVIDERS__0__ENABLED="false")
        assert "no such item" in caught.value.problem

    def test_text_where_a_table_belongs(self) -> None:
        with pytest.raises(SettingsError, match="TOML or JSON table"):
            load(GREENLANG_BUDGETS__PER_TENANT="100")


class TestSecrets:
    def test_the_text_itself_becomes_a_reference_to_its_variable(self) -> None:
        settings = load(GREENLANG_DATABASE__PRIMARY="postgresql://u:hidden@h/db", GREENLANG_DATABASE__REPLICAS="postgresql://r")
        assert settings.database.primary == SecretReference(env="GREENLANG_DATABASE__PRIMARY")
        assert settings.database.replicas == (SecretReference(env="GREENLANG_DATABASE__REPLICAS"),)
        assert "hidden" not in repr(settings) + settings.model_dump_json()

    def test_a_reference_may_be_written_too(self) -> None:
        settings = load(
            GREENLANG_DATABASE__PRIMARY='{ file = "/run/secrets/url" }',
            GREENLANG_DATABASE__REPLICAS='[{ env = "R1" }, { env = "R2" }]',
            GREENLANG_REDIS__URL__ENV="CACHE_URL",
        )
        assert settings.database.primary == SecretReference(file=Path("/run/secrets/url"))
        assert settings.database.replicas == (SecretReference(env="R1"), SecretReference(env="R2"))
        assert settings.redis.url == SecretReference(env="CACHE_URL")

    def test_a_plain_secret_within_a_table_is_refused_unseen(self) -> None:
        with pytest.raises(SettingsError, match=r"providers\[0\].api_keys\[0\]") as caught:
            load(GREENLANG_PROVIDERS='[{ name = "a", kind = "openai", api_keys = "sk-hidden" }]')
        assert "hidden" not in str(caught.value)


class TestNames:
    def test_an_unknown_key_is_refused_with_the_right_one(self) -> None:
        with pytest.raises(SettingsError, match=r"server\.prot: unknown key; did you mean port\?"):
            load(GREENLANG_SERVER__PROT="1")

    def test_an_unknown_section_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="serve: unknown key; did you mean server"):
            load(GREENLANG_SERVE__PORT="1")

    def test_one_underscore_too_few_is_reported(self) -> None:
        with pytest.raises(SettingsError, match="did you mean GREENLANG_SERVER__PORT"):
            load(GREENLANG_SERVER_PORT="1")

    def test_other_variables_with_our_prefix_are_left_alone(self) -> None:
        assert load(GREENLANG_SIMULATOR_KEY="x", GREENLANG_DATABASE_URL="x", PATH="x") == Settings()
