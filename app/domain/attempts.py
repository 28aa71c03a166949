"""One try at one target, as callers, ledger and metrics see it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from uuid import UUID

from app.domain.ids import format_id
from app.domain.problems import ProblemCode
from app.domain.usage import TokenUsage


class AttemptOutcome(Enum):
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    RATE_LIMITED = "RATE_LIMITED"
    CANCELLED = "CANCELLED"
    SKIPPED_OPEN_CIRCUIT = "SKIPPED_OPEN_CIRCUIT"
    SKIPPED_LIMIT = "SKIPPED_LIMIT"
    SKIPPED_BUDGET = "SKIPPED_BUDGET"


@dataclass(frozen=True, slots=True)
class Attempt:
    """`usage` is None if nothing was billed or known; `cost_usd` is None if the price is unknown."""

    key: UUID
    provider: str
    model: str
    outcome: AttemptOutcome
    started_at: datetime
    latency_ms: float
    status_code: int | None = None
    reason: ProblemCode | None = None
    provider_request_id: str | None = None
    usage: TokenUsage | None = None
    cost_usd: Decimal | None = None

    @property
    def id(self) -> str:
        return format_id("att", self.key)
