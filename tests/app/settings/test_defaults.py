from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from app.costs.prices import PriceBook
from app.secrets.reference import SecretReference
from app.settings import (
    SIMULATOR_KEY,
    ProviderKindName,
    Settings,
    load_settings,
    needs_simulator,
    simulated_providers,
    with_simulator,
)
from app.settings.defaults import MODELS, UNPRICED_MODEL

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BOTH = {"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "o"}


class TestProviders:
    def test_each_key_that_is_set_brings_its_provider(self) -> None:
        names = [[provider.name for provider in load_settings(None, {key: "x"}).providers] for key in BOTH]
        assert names == [["anthropic"], ["openai"]]
        assert [provider.name for provider in load_settings(None, BOTH).providers] == ["anthropic", "openai"]

    def test_a_blank_key_brings_none(self) -> None:
        assert load_settings(None, {"OPENAI_API_KEY": " "}).providers == ()

    def test_their_keys_are_references(self) -> None:
        anthropic, openai = load_settings(None, BOTH).providers
        assert anthropic.api_keys == (SecretReference(env="ANTHROPIC_API_KEY"),)
        assert openai.api_keys == (SecretReference(env="OPENAI_API_KEY"),)

    def test_configured_ones_stand_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "greenlang.toml"
        file.write_text('[[providers]]\nname = "mine"\nkind = "openai"\n')
        (mine,) = load_settings(file, BOTH).providers
        assert mine.name == "mine"
        assert mine.api_keys == (SecretReference(env="OPENAI_API_KEY"),)
        assert tuple(model.name for model in mine.models) == MODELS[ProviderKindName.OPENAI]

    def test_every_default_model_has_a_price(self) -> None:
        prices = PriceBook(Settings())
        for kind, models in MODELS.items():
            for model in models:
                rates = prices.rates(kind.value, model, NOON)
                assert rates is not None
                assert rates.input_cost(1_000) > 0


def targets(settings: Settings) -> dict[str, tuple[str, ...]]:
    return {route.name: route.targets for route in settings.routes}


class TestDefaultRoute:
    def test_is_the_first_model_of_every_provider_in_order(self) -> None:
        assert targets(load_settings(None, BOTH))["default"] == ("anthropic/claude-sonnet-5-5", "openai/gpt-6-sol")

    def test_leaves_out_what_is_not_enabled(self) -> None:
        text = '[{ name = "a", kind = "openai", enabled = false }, { name = "b", kind = "openai" }]'
        assert targets(load_settings(None, {"GREENLANG_PROVIDERS": text})) == {
            "default": ("b/gpt-6-sol",),
            "embeddings": ("b/text-embedding-3-small",),
        }

    def test_a_configured_one_stays(self, tmp_path: Path) -> None:
        file = tmp_path / "greenlang.toml"
        file.write_text('[[routes]]\nname = "default"\ntargets = ["openai/gpt-6-luna"]\n')
        assert targets(load_settings(file, BOTH))["default"] == ("openai/gpt-6-luna",)

    def test_comes_behind_the_others(self, tmp_path: Path) -> None:
        file = tmp_path / "greenlang.toml"
        file.write_text('[[routes]]\nname = "cheap"\ntargets = ["openai/gpt-6-luna"]\n')
        assert [route.name for route in load_settings(file, BOTH).routes] == ["cheap", "default", "embeddings"]


class TestTheRouteOfEmbeddings:
    def test_is_the_first_model_that_makes_vectors(self) -> None:
        text = (
            '[{ name = "a", kind = "anthropic", models = ["embed-claude"] },'
            ' { name = "b", kind = "openai-compatible", base_url = "http://b", models = ["llama", "nomic-embed-text"] },'
            ' { name = "c", kind = "openai" }]'
        )
        assert targets(load_settings(None, {"GREENLANG_PROVIDERS": text}))["embeddings"] == ("b/nomic-embed-text",)

    def test_is_not_there_where_no_model_makes_vectors(self) -> None:
        assert "embeddings" not in targets(load_settings(None, {"ANTHROPIC_API_KEY": "x"}))

    def test_a_configured_one_stays(self, tmp_path: Path) -> None:
        file = tmp_path / "greenlang.toml"
        file.write_text('[[routes]]\nname = "embeddings"\ntargets = ["openai/gpt-6-luna"]\n')
        assert targets(load_settings(file, BOTH))["embeddings"] == ("openai/gpt-6-luna",)


class TestSimulator:
    def test_is_needed_where_no_provider_is(self) -> None:
        assert needs_simulator(load_settings(None, {}))
        assert not needs_simulator(load_settings(None, {"OPENAI_API_KEY": "x"}))

    def test_plays_both_under_their_names(self) -> None:
        anthropic, openai = simulated_providers("http://127.0.0.1:9000/")
        assert (anthropic.name, anthropic.base_url) == ("anthropic", "http://127.0.0.1:9000/anthropic")
        assert (openai.name, openai.base_url) == ("openai", "http://127.0.0.1:9000/v1")
        for provider in (anthropic, openai):
            assert provider.simulated
            assert provider.api_keys == (SecretReference(env=SIMULATOR_KEY),)
            assert provider.models[-1].name == UNPRICED_MODEL

    def test_has_a_default_route(self) -> None:
        settings = with_simulator(load_settings(None, {}), "http://127.0.0.1:9000")
        assert settings.routes[0].targets == ("anthropic/claude-sonnet-5-5", "openai/gpt-6-sol")
        assert not needs_simulator(settings)

    def test_its_settings_go_to_another_process(self) -> None:
        settings = with_simulator(Settings(), "http://127.0.0.1:9000")
        assert Settings.model_validate_json(settings.model_dump_json()) == settings

    def test_routes_can_be_configured_for_it(self, tmp_path: Path) -> None:
        file = tmp_path / "greenlang.toml"
        file.write_text('[[routes]]\nname = "odd"\ntargets = ["openai/sim-unpriced"]\n')
        settings = with_simulator(load_settings(file, {}), "http://127.0.0.1:9000")
        assert [route.name for route in settings.routes] == ["odd", "default", "embeddings"]
