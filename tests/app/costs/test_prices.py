from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, PriceContext
from hypothesis import given
from hypothesis import strategies as st

from app.costs.prices import PriceBook, PriceUsed
from app.domain.money import round_usd
from app.domain.usage import ServiceTier, TokenUsage
from app.settings import ModelSettings, PriceSettings, ProviderKindName, ProviderSettings, Settings

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def listed_models(provider: str) -> list[ModelInfo]:
    return next(found.models for found in get_snapshot().providers if found.id == provider)


LISTED = [(provider, model.id) for provider in ("anthropic", "openai") for model in listed_models(provider)]
PRICED = [pair for pair in LISTED if PriceBook(Settings()).rates(*pair, NOON) is not None]

CONTEXTS: dict[str, dict[ServiceTier, PriceContext]] = {
    "anthropic": {ServiceTier.BATCH: {"processing": "batch"}, ServiceTier.FAST: {"speed": "fast"}},
    "openai": {
        ServiceTier.BATCH: {"processing": "batch"},
        ServiceTier.FLEX: {"service_tier": "flex"},
        ServiceTier.PRIORITY: {"service_tier": "priority"},
        ServiceTier.FAST: {"service_tier": "fast"},
        ServiceTier.STANDARD: {"service_tier": "default"},
    },
}

tokens = st.one_of(st.integers(0, 3), st.integers(0, 2_000_000))
usages = st.builds(TokenUsage, tokens, tokens, tokens, tokens, tokens, tokens)
moments = st.datetimes(datetime(2023, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 hypothesis adds the zone


def oracle(provider: str, model: str, usage: TokenUsage, at: datetime, context: PriceContext | None = None) -> Decimal:
    found = calc_price(
        Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_5m_tokens=usage.cache_write_5m_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            output_tokens=usage.output_tokens,
        ),
        model,
        provider_id=provider,
        genai_request_timestamp=at,
        price_context=context,
    )
    return round_usd(found.total_price)


def settings_with(name: str, kind: ProviderKindName, *models: ModelSettings) -> Settings:
    return Settings(providers=(ProviderSettings(name=name, kind=kind, models=models),))


class TestThePublicPriceList:
    @pytest.mark.parametrize(("provider", "model"), PRICED)
    def test_every_model_costs_what_the_list_says(self, provider: str, model: str) -> None:
        rates = PriceBook(Settings()).rates(provider, model, NOON)
        assert rates is not None
        for size in (0, 1, 777, 127_999, 128_000, 128_001, 200_000, 200_001, 272_000, 272_001, 900_000):
            usage = TokenUsage(size - size // 2, size // 4, size // 8, size // 2 - size // 4 - size // 8, 333, 77)
            assert usage.input_tokens == size
            assert rates.cost(usage) == oracle(provider, model, usage, NOON)

    @given(st.sampled_from(PRICED), usages, moments)
    def test_any_usage_at_any_time_costs_what_the_list_says(
        self, listed: tuple[str, str], usage: TokenUsage, at: datetime
    ) -> None:
        rates = PriceBook(Settings()).rates(*listed, at)
        assert rates is not None
        assert rates.cost(usage) == oracle(*listed, usage, at)

    def test_only_families_and_models_not_sold_by_the_token_have_no_price(self) -> None:
        unpriced = {model for _, model in set(LISTED) - set(PRICED)}
        assert all(
            name.startswith(("ft:", "gpt-live", "gpt-realtime", "gpt-transcribe", "moderation", "tts", "whisper"))
            for name in unpriced
        )

    def test_the_cost_is_rounded_once_to_twelve_places(self) -> None:
        rates = PriceBook(
            settings_with(
                "mine",
                ProviderKindName.OPENAI_COMPATIBLE,
                ModelSettings(name="m", price=PriceSettings(input_usd=Decimal("0.0000005"), output_usd=Decimal("0.0000005"))),
            )
        ).rates("mine", "m", NOON)
        assert rates is not None
        assert rates.cost(TokenUsage(uncached_input_tokens=1, visible_output_tokens=1)) == Decimal("0.000000000001")
        assert rates.cost(TokenUsage(uncached_input_tokens=1)) == 0


class TestServiceTiers:
    @pytest.mark.parametrize(("provider", "model"), PRICED)
    def test_every_model_costs_in_every_tier_what_the_list_says(self, provider: str, model: str) -> None:
        book, usage = PriceBook(Settings()), TokenUsage(70_000, 40_000, 20_000, 20_000, 333, 77)
        for tier in ServiceTier:
            for at in (datetime(2026, 10, 10, 12, tzinfo=UTC), datetime(2026, 10, 13, 23, 59, tzinfo=UTC), NOON):
                rates = book.rates(provider, model, at, tier)
                assert rates is not None
                assert rates.cost(usage) == oracle(provider, model, usage, at, CONTEXTS[provider].get(tier))

    @pytest.mark.parametrize(
        ("provider", "model", "tier", "input_usd"),
        [
            ("anthropic", "claude-fable-5", ServiceTier.STANDARD, "10"),
            ("anthropic", "claude-fable-5", ServiceTier.BATCH, "5"),
            ("openai", "gpt-5", ServiceTier.STANDARD, "1.25"),
            ("openai", "gpt-5", ServiceTier.FLEX, "0.625"),
            ("openai", "gpt-5", ServiceTier.BATCH, "0.625"),
            ("openai", "gpt-5", ServiceTier.PRIORITY, "2.5"),
        ],
    )
    def test_have_prices_of_their_own(self, provider: str, model: str, tier: ServiceTier, input_usd: str) -> None:
        rates = PriceBook(Settings()).rates(provider, model, NOON, tier)
        assert rates is not None
        used = rates.used(10)
        assert used.input_usd == Decimal(input_usd)
        assert used.source == f"genai-prices {provider}/{model}" + ("" if tier is ServiceTier.STANDARD else f" {tier.value}")

    def test_without_prices_of_their_own_cost_the_usual(self) -> None:
        book = PriceBook(Settings())
        usual = book.rates("anthropic", "claude-fable-5", NOON)
        assert book.rates("anthropic", "claude-fable-5", NOON, ServiceTier.PRIORITY) == usual

    def test_cost_what_the_configuration_says(self) -> None:
        price = PriceSettings(input_usd=Decimal(7), output_usd=Decimal(9))
        book = PriceBook(settings_with("openai", ProviderKindName.OPENAI, ModelSettings(name="gpt-4o", price=price)))
        assert book.rates("openai", "gpt-4o", NOON, ServiceTier.BATCH) == book.rates("openai", "gpt-4o", NOON)

    @pytest.mark.parametrize("tier", ServiceTier)
    def test_an_unknown_price_is_none(self, tier: ServiceTier) -> None:
        assert PriceBook(Settings()).rates("openai", "no-such-model", NOON, tier) is None


class TestWhichPriceApplies:
    def test_a_provider_is_priced_by_its_kind_whatever_its_name(self) -> None:
        book = PriceBook(settings_with("eu-claude", ProviderKindName.ANTHROPIC))
        assert book.rates("eu-claude", "claude-sonnet-5", NOON) == book.rates("anthropic", "claude-sonnet-5", NOON)

    def test_the_configuration_comes_first(self) -> None:
        price = PriceSettings(input_usd=Decimal(7), output_usd=Decimal(9), cache_read_usd=Decimal(1))
        book = PriceBook(settings_with("openai", ProviderKindName.OPENAI, ModelSettings(name="gpt-4o", price=price)))
        rates = book.rates("openai", "gpt-4o", NOON)
        assert rates is not None
        used = rates.used(10)
        assert used == PriceUsed(Decimal(7), Decimal(9), Decimal(1), None, "configuration")
        assert rates.cost(TokenUsage(uncached_input_tokens=1_000_000, reasoning_tokens=1_000_000)) == 16

    def test_a_compatible_server_is_never_priced_by_the_list(self) -> None:
        book = PriceBook(settings_with("openai", ProviderKindName.OPENAI_COMPATIBLE))
        assert book.rates("openai", "gpt-4o", NOON) is None

    @pytest.mark.parametrize("model", ["no-such-model", "", "whisper-1"])
    def test_an_unknown_price_is_none(self, model: str) -> None:
        assert PriceBook(Settings()).rates("openai", model, NOON) is None

    def test_a_price_that_changed_is_the_one_of_its_day(self) -> None:
        book = PriceBook(Settings())
        large = TokenUsage(uncached_input_tokens=300_000)
        before = book.rates("anthropic", "claude-sonnet-4-6", datetime(2026, 3, 12, 23, 59, tzinfo=UTC))
        after = book.rates("anthropic", "claude-sonnet-4-6", datetime(2026, 3, 13, tzinfo=UTC))
        assert before is not None
        assert after is not None
        assert before.cost(large) == 2 * after.cost(large) == Decimal("1.8")


class TestTheWorstCase:
    @given(st.sampled_from(PRICED), usages)
    def test_covers_every_split_of_the_input_but_the_one_hour_cache(self, listed: tuple[str, str], usage: TokenUsage) -> None:
        rates = PriceBook(Settings()).rates(*listed, NOON)
        assert rates is not None
        known = TokenUsage(
            usage.uncached_input_tokens + usage.cache_write_1h_tokens,
            usage.cached_input_tokens,
            usage.cache_write_5m_tokens,
            0,
            usage.visible_output_tokens,
            usage.reasoning_tokens,
        )
        worst = rates.input_cost(known.input_tokens) + rates.output_token_usd(known.input_tokens) * known.output_tokens
        assert rates.cost(known) <= worst + Decimal("0.000000000001")
