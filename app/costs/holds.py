"""The interface of reserve, act, settle for money: what the gateway asks of the ledger and what the ledger answers.

A call is admitted before anything is sent, topped up before every further attempt, and settled once, before its caller sees the
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from app.domain.attempts import Attempt
from app.domain.usage import Label, Operation


@dataclass(frozen=True, slots=True)
class Payer:
    """Who pays for a call, as budgets and the ledger see it."""

    tenant: str
    key_name: str
    agent: str | None = None
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class Estimate:
    """The worst case of one attempt at one target. Prices are None if unknown.

    Worst case = `input_usd` + output cap * `output_token_usd`. The cap may be lowered from `max_output_tokens` to what the
    tightest budget can pay, but never below `min_output_tokens`.
    """

    provider: str
    model: str
    input_tokens: int
    max_output_tokens: int
    min_output_tokens: int
    input_usd: Decimal | None
    output_token_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """`request_hash` is the SHA-256 of the canonical input. The same key with another hash is a Conflict."""

    key: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    call: UUID
    operation: Operation
    payer: Payer
    estimate: Estimate
    idempotency: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call is held and may be sent. `output_cap_tokens` is what the budgets can pay for. `admitted_at` is database time and
    decides to which period the call is charged."""

    call: UUID
    output_cap_tokens: int
    capped_by_budget: bool
    admitted_at: datetime


@dataclass(frozen=True, slots=True)
class Joined:
    """An earlier call, `call`, had the same idempotency key and input. The caller waits for it or returns it."""

    call: UUID


@dataclass(frozen=True, slots=True)
class Settlement:
    """Everything that a call has used. `document` is the finished completion as the gateway stores it; the ledger does not read
    it, and None stores nothing.

    `attempts` holds every attempt that reached a provider. An attempt with usage and without cost has no known price.
    `priced_at` is the moment whose prices were used. `saved_usd` is counted once, with the last attempt.
    """

    call: UUID
    operation: Operation
    payer: Payer
    attempts: tuple[Attempt, ...]
    status: str
    document: bytes | None
    priced_at: datetime
    cache_tier: str | None = None
    saved_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A call as the ledger keeps it. `document` is None while the call runs, if none was given, after its owner died, and once
    `expired` is true, because content is kept for less time than the call. `attempts` are then what the call was charged for."""

    key: UUID
    tenant: str
    operation: Operation
    status: str
    document: bytes | None
    created_at: datetime
    finished_at: datetime | None
    agent: str | None = None
    attempts: tuple[Attempt, ...] = ()
    expired: bool = False


class Ledger(Protocol):
    async def admit(self, request: AdmissionRequest) -> Admitted | Joined:
        """Takes one atomic hold in every budget in scope. Raises Refused(BudgetExceeded | Conflict | InvalidInput with
        UNPRICED_MODEL) and StoreUnavailable; then nothing is held."""
        ...

    async def top_up(self, call: UUID, payer: Payer, estimate: Estimate) -> int | None:
        """Returns the output cap that a further attempt may use; None if a budget cannot pay for it."""
        ...

    async def settle(self, settlement: Settlement) -> None:
        """Returns when the settlement is committed. Idempotent by call and attempt. Raises StoreUnavailable after a limited
        time; the hold then stays and is swept as unconfirmed."""
        ...

    async def settle_all(self, settlements: Sequence[Settlement]) -> int:
        """Settles each, and returns how many could not be settled within a limited time."""
        ...

    async def release(self, call: UUID) -> None:
        """Gives back a hold of which nothing was used."""
        ...

    async def earlier(self, payer: Payer, operation: Operation, repeated: IdempotencyKey) -> UUID | None:
        """Returns the call that has this idempotency key, running or still kept. Nothing is held. Raises Refused(Conflict) if
        its input was another one, StoreUnavailable."""
        ...

    async def stored(self, call: UUID) -> StoredCall | None:
        """Returns a call of any tenant that is running or still kept."""
        ...
