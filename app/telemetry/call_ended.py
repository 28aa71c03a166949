"""The record of a paid call that has ended, for the observers of calls. It holds no content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from app.domain.attempts import Attempt
from app.domain.problems import ProblemCode
from app.domain.usage import Operation, TokenUsage


@dataclass(frozen=True, slots=True)
class CallEnded:
    """`status` is a CompletionStatus's value. `problem` says why there is no answer."""

    operation: Operation
    requested_model: str | None
    route: str | None
    tenant: str
    agent: str | None
    status: str
    problem: ProblemCode | None
    started_at: datetime
    latency_ms: float
    attempts: tuple[Attempt, ...]
    usage: TokenUsage | None
    cost_usd: Decimal | None


CallListener: TypeAlias = Callable[[CallEnded], None]
