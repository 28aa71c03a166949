"""The most that a model is asked to write: configured, known, or what bounds it otherwise."""

from __future__ import annotations

import pytest

from app.costs.prices import PriceBook
from app.llm.output_limits import OutputLimits, known_output_tokens
from app.llm.routing import Target
from app.settings import LimitSettings, ModelSettings, ProviderKindName, ProviderSettings, Settings
from app.settings.defaults import UNPRICED_MODEL
from simulator.models import LISTED, Model

ANTHROPIC, OPENAI = ProviderKindName.ANTHROPIC, ProviderKindName.OPENAI


def limits(*models: ModelSettings, kind: ProviderKindName = ProviderKindName.OPENAI_COMPATIBLE) -> OutputLimits:
    provider = ProviderSettings(name="p", kind=kind, base_url="http://127.0.0.1", models=models)
    settings = Settings(providers=(provider,), limits=LimitSettings(output_tokens=1000))
    return OutputLimits(settings, PriceBook(settings).context_tokens)


class TestKnownModels:
    @pytest.mark.parametrize(
        ("kind", "model", "tokens"),
        [
            (ANTHROPIC, "claude-opus-4-1-20250805", 32_000),
            (ANTHROPIC, "claude-3-haiku-20240307", 4_096),
            (ANTHROPIC, "claude-3-5-sonnet-latest", 8_192),
            (OPENAI, "gpt-4o-2024-08-06", 16_384),
            (OPENAI, "gpt-4", 8_192),
            (OPENAI, "gpt-4.1-mini", 32_768),
            (OPENAI, "o3-mini", 100_000),
            (OPENAI, "claude-3-haiku-20240307", None),
            (OPENAI, "text-embedding-3-small", None),
            (ProviderKindName.OPENAI_COMPATIBLE, "gpt-4o", None),
        ],
    )
    def test_by_the_beginning_of_their_names(self, kind: ProviderKindName, model: str, tokens: int | None) -> None:
        assert known_output_tokens(kind, model) == tokens

    @pytest.mark.parametrize("model", [model for model in LISTED["anthropic"] if model.name != UNPRICED_MODEL])
    def test_of_anthropic_are_what_the_simulator_takes(self, model: Model) -> None:
        assert known_output_tokens(ANTHROPIC, model.name) == model.max_output_tokens

    @pytest.mark.parametrize("model", [each for each in LISTED["openai"] if not each.dimensions and each.name != UNPRICED_MODEL])
    def test_of_openai_are_what_the_simulator_takes(self, model: Model) -> None:
        assert known_output_tokens(OPENAI, model.name) == model.max_output_tokens


class TestTheLimit:
    def test_is_the_configured_one(self) -> None:
        model = ModelSettings(name="claude-3-haiku", max_output_tokens=5, context_tokens=2)
        assert limits(model, kind=ANTHROPIC).of(Target("p", "claude-3-haiku")) == 5

    def test_is_the_known_one(self) -> None:
        assert limits(kind=ANTHROPIC).of(Target("p", "claude-opus-4-1")) == 32_000

    def test_of_an_unknown_model_is_the_default(self) -> None:
        assert limits(ModelSettings(name="m")).of(Target("p", "m")) == 1000

    def test_is_never_over_the_window(self) -> None:
        assert limits(ModelSettings(name="m", context_tokens=300)).of(Target("p", "m")) == 300
        assert limits(kind=OPENAI).of(Target("p", "computer-use")) == 1000
