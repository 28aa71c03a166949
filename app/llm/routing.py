"""Which targets a call tries, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum

from app.domain.attempts import Attempt
from app.domain.problems import ProblemCode
from app.domain.usage import Operation
from app.llm.messages import UnsupportedPolicy


class RoutingStrategy(Enum):
    PRIORITY = "PRIORITY"
    LEAST_COST = "LEAST_COST"
    LEAST_LATENCY = "LEAST_LATENCY"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"


@dataclass(frozen=True, slots=True)
class Target:
    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


def parse_target(text: str) -> Target | None:
    """Parses `provider/model`; a model's name may contain slashes. None if the text is no such pair."""
    provider, _, model = text.partition("/")
    return Target(provider, model) if provider and model else None


@dataclass(frozen=True, slots=True)
class Route:
    """`targets` are `provider/model` in order."""

    name: str
    strategy: RoutingStrategy
    targets: tuple[str, ...]
    default_max_output_tokens: int
    unsupported: UnsupportedPolicy


class RestartReason(Enum):
    """How a stream broke after something of it had been shown."""

    CUT = "CUT"
    STALLED = "STALLED"
    MALFORMED = "MALFORMED"
    PROVIDER_ERROR = "PROVIDER_ERROR"


@dataclass(frozen=True, slots=True)
class Restarted:
    """`attempt` broke after something of its answer had been shown. All that was shown is void: a new answer begins here."""

    attempt: Attempt
    reason: RestartReason


@dataclass(frozen=True, slots=True)
class CallNeeds:
    """What a call needs of its target: room for the estimated input, and the operation. `private_url` is the input path of an
    image whose URL is not public."""

    input_tokens: int = 0
    streamed: bool = False
    operation: Operation = Operation.COMPLETION
    private_url: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RoutingPreference:
    """`only` and `avoid` name providers or `provider/model` targets. An empty `only` means all."""

    strategy: RoutingStrategy | None = None
    fallback: bool = True
    only: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteCandidate:
    target: str
    eligible: bool
    reason: str
    estimated_cost_usd: Decimal | None = None
    latency_p50_ms: float | None = None


@dataclass(frozen=True, slots=True)
class RateLimited:
    """A limiter had no room within the queue's timeout. `scope` names the key, the provider or the model of the limit."""

    message: str
    retry_after: timedelta
    scope: str
    code: ProblemCode = ProblemCode.RATE_LIMITED

    @property
    def retry_after_ms(self) -> int:
        return max(1, round(self.retry_after.total_seconds() * 1000))


@dataclass(frozen=True, slots=True)
class ProvidersFailed:
    """Every target failed, or another target would fail in the same way."""

    message: str
    attempts: tuple[Attempt, ...]
    retryable: bool
    code: ProblemCode = ProblemCode.PROVIDER_ERROR
