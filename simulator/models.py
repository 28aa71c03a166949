"""The models of the simulator: a few names from the public price list, and patterns for the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

ProviderName: TypeAlias = Literal["anthropic", "openai"]


ALL_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_LOW_TO_HIGH = ("low", "medium", "high")
_WITHOUT_XHIGH = (*_LOW_TO_HIGH, "max")
_TO_XHIGH = ("none", *_LOW_TO_HIGH, "xhigh")
_TO_MAX = (*_TO_XHIGH, "max")


@dataclass(frozen=True, slots=True)
class Model:
    """`efforts` are the efforts that the model takes, empty for none. `takes_tiers` says whether it has faster and slower
    tiers. Only embedding models have `dimensions`. `reasons` says whether the model thinks unless it is asked not to,
    `always_thinks` whether it cannot be asked not to."""

    name: str
    context_tokens: int
    max_output_tokens: int = 64_000
    dimensions: int | None = None
    reasons: bool = False
    takes_sampling: bool = True
    takes_one_sampling: bool = False
    efforts: tuple[str, ...] = ALL_EFFORTS
    takes_tiers: bool = True
    takes_prefill: bool = False
    always_thinks: bool = False
    reports_cache_writes: bool = False


FAULT_MARK = "@"
_MILLION = 1_000_000
_ANTHROPIC = (
    Model("claude-opus-5-5", _MILLION, 128_000, takes_sampling=False),
    Model("claude-sonnet-5-5", _MILLION, 128_000, takes_sampling=False),
    Model("claude-haiku-5-5", _MILLION, takes_sampling=False, takes_tiers=False),
    Model("claude-opus-4-5", 200_000, takes_prefill=True, takes_one_sampling=True),
    Model("claude-sonnet-4-5", 200_000, takes_prefill=True, takes_one_sampling=True),
    Model("claude-haiku-4-5", 200_000, takes_prefill=True, takes_one_sampling=True),
    Model("sim-unpriced", 200_000),
)
_OPENAI = (
    Model("gpt-6-sol", 1_050_000, 128_000, reports_cache_writes=True, efforts=_TO_MAX),
    Model("gpt-6-luna", 1_050_000, 128_000, reports_cache_writes=True, efforts=_TO_MAX),
    Model("gpt-5.4", 1_050_000, 128_000, efforts=_TO_XHIGH),
    Model("gpt-5.4-mini", 400_000, 128_000, efforts=_TO_XHIGH),
    Model("gpt-5-mini", 400_000, 128_000, reasons=True, takes_sampling=False, efforts=("minimal", *_LOW_TO_HIGH)),
    Model("gpt-4.1", _MILLION, 32_768, efforts=(), takes_tiers=False),
    Model("gpt-4.1-mini", _MILLION, 32_768, efforts=(), takes_tiers=False),
    Model("gpt-4o-mini", 128_000, 16_384, efforts=(), takes_tiers=False),
    Model("text-embedding-3-small", 8_192, dimensions=1536),
    Model("text-embedding-3-large", 8_192, dimensions=3072),
    Model("text-embedding-ada-002", 8_192, dimensions=1536),
    Model("sim-unpriced", 200_000),
)
LISTED: dict[ProviderName, tuple[Model, ...]] = {"anthropic": _ANTHROPIC, "openai": _OPENAI}

_PATTERNS: dict[ProviderName, tuple[tuple[re.Pattern[str], Model], ...]] = {
    "anthropic": (
        (
            re.compile(r"claude-opus-4-1(-.*)?|claude-[a-z]+-4-5(-.*)?"),
            Model("", 200_000, takes_prefill=True, takes_one_sampling=True),
        ),
        (re.compile(r"claude-[123].*|claude-[a-z]+-4(-0|-20\d{6})?"), Model("", 200_000, takes_prefill=True)),
        (
            re.compile(r"claude-[a-z]+-4-6(-.*)?"),
            Model("", _MILLION, 128_000, takes_one_sampling=True, efforts=(*_LOW_TO_HIGH, "max")),
        ),
        (re.compile(r"claude-(fable|mythos)-\d.*"), Model("", _MILLION, 128_000, takes_sampling=False, always_thinks=True)),
        (re.compile(r"claude-.*"), Model("", _MILLION, 128_000, takes_sampling=False)),
        (re.compile(r"sim-.*"), Model("", 200_000, takes_prefill=True)),
    ),
    "openai": (
        (re.compile(r"(sim-|text-)embedding-.*large.*"), Model("", 8_192, dimensions=3072)),
        (re.compile(r"(sim-|text-)embedding-.*"), Model("", 8_192, dimensions=1536)),
        (re.compile(r"gpt-4.*|gpt-3.*"), Model("", 128_000, 16_384, efforts=(), takes_tiers=False)),
        (
            re.compile(r"o\d(-.*)?"),
            Model("", 400_000, 128_000, reasons=True, takes_sampling=False, efforts=_LOW_TO_HIGH),
        ),
        (
            re.compile(r"gpt-5(-.*)?"),
            Model("", 400_000, 128_000, reasons=True, takes_sampling=False, efforts=("minimal", *_LOW_TO_HIGH)),
        ),
        (re.compile(r"gpt-5\.1(-.*)?"), Model("", 400_000, 128_000, efforts=("none", *_LOW_TO_HIGH))),
        (re.compile(r"gpt-5\.[6-9].*|gpt-[6-9].*"), Model("", 1_050_000, 128_000, reports_cache_writes=True, efforts=_TO_MAX)),
        (re.compile(r"gpt-.*"), Model("", 400_000, 128_000, efforts=_TO_XHIGH)),
        (re.compile(r"sim-.*"), Model("", 200_000)),
    ),
}


@lru_cache(maxsize=1000)
def find(provider: ProviderName, name: str) -> Model | None:
    """None if the provider would answer 404: an unknown name, or a name that contains `missing`."""
    if "missing" in name:
        return None
    for listed in LISTED[provider]:
        if listed.name == name:
            return listed
    for pattern, model in _PATTERNS[provider]:
        if pattern.fullmatch(name):
            return replace(model, name=name)
    return None


def wants_completion_tokens(model: Model) -> bool:
    """The models of OpenAI that refuse the old `max_tokens`."""
    return re.match(r"o\d|gpt-[5-9]", model.name) is not None
