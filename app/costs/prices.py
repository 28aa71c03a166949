"""What a token costs. Each model's prices are compiled once into flat rates, because the price list takes 200 µs per call.

A price comes from the configuration, else from the public list for the provider's kind. Else it is None: unknown is never zero.
An openai-compatible server sells models of other vendors at its own prices, so only the configuration has prices for it. If a
price depends on the size of the context, it applies to every token of the call once the input exceeds the tier's start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, PriceContext, TieredPrices

from app.domain.money import ZERO, round_usd
from app.domain.usage import ServiceTier, TokenUsage
from app.settings import PriceSettings, ProviderKindName, Settings

_LISTED = {ProviderKindName.ANTHROPIC: "anthropic", ProviderKindName.OPENAI: "openai"}
_PER_MILLION = -6
_TERMS: Mapping[tuple[str, ServiceTier], PriceContext] = {
    ("anthropic", ServiceTier.BATCH): {"processing": "batch"},
    ("anthropic", ServiceTier.FAST): {"speed": "fast"},
    ("openai", ServiceTier.BATCH): {"processing": "batch"},
    ("openai", ServiceTier.FLEX): {"service_tier": "flex"},
    ("openai", ServiceTier.PRIORITY): {"service_tier": "priority"},
    ("openai", ServiceTier.FAST): {"service_tier": "fast"},
}
"""What the public list calls the tiers. A tier that is missing here has no prices of its own there."""
_FASTER = frozenset({ServiceTier.PRIORITY, ServiceTier.FAST})
_FASTER_FACTOR = Decimal("2.5")
"""The highest price of a faster tier in the public list, as a multiple of the usual price (gpt-5.5, priority)."""


@dataclass(frozen=True, slots=True)
class PriceUsed:
    """The prices that were used, in US dollars per million tokens."""

    input_usd: Decimal
    output_usd: Decimal
    cache_read_usd: Decimal | None
    cache_write_usd: Decimal | None
    source: str


@dataclass(frozen=True, slots=True)
class Tier:
    """US dollars per token for calls whose input has more than `start` tokens. `price` is the same per million."""

    start: int
    input_usd: Decimal
    cache_read_usd: Decimal
    cache_write_5m_usd: Decimal
    cache_write_1h_usd: Decimal
    output_usd: Decimal
    price: PriceUsed


@dataclass(frozen=True, slots=True)
class Rates:
    """`tiers` are in the order of their starts; the first starts below zero. A class without its own price costs as much as
    input."""

    tiers: tuple[Tier, ...]

    def tier(self, input_tokens: int) -> Tier:
        for tier in reversed(self.tiers):
            if input_tokens > tier.start:
                return tier
        return self.tiers[0]

    def cost(self, usage: TokenUsage) -> Decimal:
        """US dollars. The sum is exact and is rounded once."""
        tier = self.tier(usage.input_tokens)
        return round_usd(
            tier.input_usd * usage.uncached_input_tokens
            + tier.cache_read_usd * usage.cached_input_tokens
            + tier.cache_write_5m_usd * usage.cache_write_5m_tokens
            + tier.cache_write_1h_usd * usage.cache_write_1h_tokens
            + tier.output_usd * usage.output_tokens
        )

    def input_cost(self, tokens: int, *, for_an_hour: bool = False) -> Decimal:
        """The most that `tokens` of input can cost. Providers may write a prefix to their cache and charge for it.
        `for_an_hour` is True if the prompt has cache marks of an hour."""
        tier = self.tier(tokens)
        hour_usd = tier.cache_write_1h_usd if for_an_hour else ZERO
        return round_usd(max(tier.input_usd, tier.cache_write_5m_usd, hour_usd) * tokens)

    def output_token_usd(self, input_tokens: int) -> Decimal:
        """US dollars per output token of a call with this much input."""
        return self.tier(input_tokens).output_usd

    def used(self, input_tokens: int) -> PriceUsed:
        return self.tier(input_tokens).price


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The worst-case prices of a call: those of the most expensive tier that may serve it."""

    rates: tuple[Rates, ...]
    factor: Decimal = Decimal(1)

    def input_cost(self, tokens: int, *, for_an_hour: bool = False) -> Decimal:
        return round_usd(max(rates.input_cost(tokens, for_an_hour=for_an_hour) for rates in self.rates) * self.factor)

    def output_token_usd(self, input_tokens: int) -> Decimal:
        return max(rates.output_token_usd(input_tokens) for rates in self.rates) * self.factor


class PriceBook:
    """Prices by provider name and model name. For a provider that is not configured, the name of its kind works too.

    Building it takes 0.25 s if a configured model's price comes from the public list. Otherwise the first look-up in that list
    takes as long.
    """

    def __init__(self, settings: Settings) -> None:
        self._listed: dict[str, str] = {kind.value: listed for kind, listed in _LISTED.items()}
        self._compiled: dict[tuple[str, str], tuple[_Dated, ...]] = {}
        self._configured: set[tuple[str, str]] = set()
        self._special: dict[tuple[str, str, ServiceTier], tuple[date, Rates | None]] = {}
        for provider in settings.providers:
            listed = _LISTED.get(provider.kind)
            if listed is None:
                self._listed.pop(provider.name, None)
            else:
                self._listed[provider.name] = listed
            for model in provider.models:
                if model.price is None:
                    self._compiled[provider.name, model.name] = self._compile(provider.name, model.name)
                else:
                    self._configured.add((provider.name, model.name))
                    self._compiled[provider.name, model.name] = (_Dated(None, Rates((_tier(model.price, -1, "configuration"),))),)

    def rates(self, provider: str, model: str, at: datetime, tier: ServiceTier = ServiceTier.STANDARD) -> Rates | None:
        """Returns the rates in force at `at`; None if the price is unknown. A tier without its own prices costs the standard
        price. A configured price is the same in every tier."""
        if (self._listed.get(provider, ""), tier) in _TERMS and (provider, model) not in self._configured:
            return self._special_rates(provider, model, at, tier)
        compiled = self._compiled.get((provider, model))
        if compiled is None:
            compiled = self._compiled[provider, model] = self._compile(provider, model)
        if not compiled:
            return None
        for dated in reversed(compiled):
            if dated.condition is None or dated.condition.constraint is None or dated.condition.constraint.active(at):
                return dated.rates
        return compiled[0].rates

    def worst_case(self, provider: str, model: str, at: datetime, tier: ServiceTier) -> WorstCase | None:
        """None if the price is unknown. A call may be served by the usual tier instead of the one it asks for. If the public list
        has no price of its own for a faster tier, the most that any faster tier costs is assumed."""
        usual = self.rates(provider, model, at)
        if usual is None:
            return None
        asked = self.rates(provider, model, at, tier) or usual
        is_listed = (self._listed.get(provider, ""), tier) in _TERMS and (provider, model) not in self._configured
        if is_listed and tier in _FASTER and asked.output_token_usd(0) <= usual.output_token_usd(0):
            return WorstCase((usual,), _FASTER_FACTOR)
        return WorstCase((usual, asked))

    def context_tokens(self, provider: str, model: str) -> int | None:
        """The model's context window in the public list; None if unknown."""
        info = self._find(provider, model)
        return None if info is None else info.context_window

    def _special_rates(self, provider: str, model: str, at: datetime, tier: ServiceTier) -> Rates | None:
        """Prices can change from day to day (UTC). The prices of the last requested day are kept."""
        day = at.astimezone(UTC).date()
        kept = self._special.get((provider, model, tier))
        if kept is None or kept[0] != day:
            info, listed = self._find(provider, model), self._listed[provider]
            rates = None
            if info is not None:
                source = f"genai-prices {listed}/{info.id} {tier.value}"
                rates = _compile_rates(info.get_prices(at, _TERMS[listed, tier]), source)
            kept = self._special[provider, model, tier] = day, rates
        return kept[1]

    def _compile(self, provider: str, model: str) -> tuple[_Dated, ...]:
        info = self._find(provider, model)
        return () if info is None else _dated(info, f"genai-prices {self._listed[provider]}/{info.id}")

    def _find(self, provider: str, model: str) -> ModelInfo | None:
        listed = self._listed.get(provider)
        if listed is None:
            return None
        try:
            return get_snapshot().find_provider_model(model, None, listed, None)[1]
        except LookupError:
            return None


@dataclass(frozen=True, slots=True)
class _Dated:
    """The last price whose condition holds is in force."""

    condition: ConditionalPrice | None
    rates: Rates | None


def _dated(info: ModelInfo, source: str) -> tuple[_Dated, ...]:
    if isinstance(info.prices, ModelPrice):
        return (_Dated(None, _compile_rates(info.prices, source)),)
    return tuple(_Dated(price, _compile_rates(price.prices, source)) for price in info.prices)


def _compile_rates(price: ModelPrice, source: str) -> Rates | None:
    if price.input_mtok is None:
        return None
    starts = sorted({tier.start for value in vars(price).values() if isinstance(value, TieredPrices) for tier in value.tiers})
    return Rates(tuple(_listed_tier(price, start, source) for start in (-1, *starts)))


def _listed_tier(price: ModelPrice, start: int, source: str) -> Tier:
    write = _at(price.cache_write_mtok, start)
    settings = PriceSettings(
        input_usd=_at(price.input_mtok, start) or ZERO,
        output_usd=_at(price.output_mtok, start) or ZERO,
        cache_read_usd=_at(price.cache_read_mtok, start),
        cache_write_usd=write if price.cache_write_5m_mtok is None else _at(price.cache_write_5m_mtok, start),
        cache_write_1h_usd=write if price.cache_write_1h_mtok is None else _at(price.cache_write_1h_mtok, start),
    )
    return _tier(settings, start, source)


def _at(price: Decimal | TieredPrices | None, start: int) -> Decimal | None:
    if isinstance(price, TieredPrices):
        return next((tier.price for tier in reversed(price.tiers) if tier.start <= start), price.base)
    return price


def _tier(price: PriceSettings, start: int, source: str) -> Tier:
    read = price.input_usd if price.cache_read_usd is None else price.cache_read_usd
    write = price.input_usd if price.cache_write_usd is None else price.cache_write_usd
    write_1h = write if price.cache_write_1h_usd is None else price.cache_write_1h_usd
    return Tier(
        start=start,
        input_usd=price.input_usd.scaleb(_PER_MILLION),
        cache_read_usd=read.scaleb(_PER_MILLION),
        cache_write_5m_usd=write.scaleb(_PER_MILLION),
        cache_write_1h_usd=write_1h.scaleb(_PER_MILLION),
        output_usd=price.output_usd.scaleb(_PER_MILLION),
        price=PriceUsed(price.input_usd, price.output_usd, price.cache_read_usd, price.cache_write_usd, source),
    )
