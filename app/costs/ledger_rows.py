"""A batch of settlements as PostgreSQL receives it: rows of its types `ledger_…`, sent in binary.

Most calls of a batch have the same payer and price, so each of these is sent once and referred to by its index. Whatever a
provider sends can be stored: a billed call must not fail to settle because of an unusual character.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from app.costs.holds import AdmissionRequest, Estimate, Payer, Settlement
from app.costs.prices import PriceBook, PriceUsed
from app.domain.attempts import Attempt
from app.domain.usage import TokenUsage

Row: TypeAlias = tuple[object, ...]
Key = TypeVar("Key", bound=Hashable)

_NOTHING = TokenUsage()


@dataclass(frozen=True, slots=True)
class TopUp:
    """A further attempt of a call that was admitted at `at`."""

    call: UUID
    payer: Payer
    estimate: Estimate
    at: datetime


@dataclass(frozen=True, slots=True)
class Release:
    call: UUID


class Places(Generic[Key]):
    """Rows that are sent once, and the indexes, from 1, by which others refer to them."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._places: dict[Key, int] = {}

    def get(self, key: Key) -> int | None:
        return self._places.get(key)

    def add(self, key: Key, row: Row) -> int:
        self.rows.append(row)
        self._places[key] = len(self.rows)
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class AskedRows:
    """The last arguments of `ledger_admit`, in its order."""

    payers: list[Row]
    targets: list[Row]
    requests: list[Row]


@dataclass(slots=True)
class SettledRows:
    """The arguments of `ledger_settle`, in its order."""

    payers: list[Row] = field(default_factory=list)
    prices: list[Row] = field(default_factory=list)
    calls: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    documents: list[bytes | None] = field(default_factory=list)


def asked_rows(batch: Iterable[AdmissionRequest | TopUp]) -> AskedRows:
    payers, targets, requests = Places[tuple[Payer, str]](), Places[tuple[str, str]](), list[Row]()
    for asked in batch:
        operation, idempotency, at = "", None, None
        if isinstance(asked, AdmissionRequest):
            operation, idempotency = asked.operation.value, asked.idempotency
        else:
            at = asked.at
        estimate = asked.estimate
        target = estimate.provider, estimate.model
        payer = asked.payer, operation
        requests.append(
            (
                asked.call,
                payers.get(payer) or payers.add(payer, payer_row(*payer)),
                targets.get(target) or targets.add(target, target),
                estimate.input_tokens,
                estimate.max_output_tokens,
                min(estimate.min_output_tokens, estimate.max_output_tokens),
                estimate.input_usd,
                estimate.output_token_usd,
                None if idempotency is None else idempotency.key,
                None if idempotency is None else idempotency.request_hash,
                at,
            )
        )
    return AskedRows(payers.rows, targets.rows, requests)


def settled_rows(batch: Iterable[tuple[Settlement | Release, datetime | None]], prices: PriceBook) -> SettledRows:
    """Each item comes with the time of its admission, None if this process did not admit it."""
    rows, payers, used = SettledRows(), Places[tuple[Payer, str]](), Places[tuple[str, str, int]]()
    for place, (item, at) in enumerate(batch, 1):
        if isinstance(item, Release):
            rows.calls.append((item.call, at, None, None))
            rows.documents.append(None)
            continue
        operation = item.operation.value
        payer = payers.get((item.payer, operation)) or payers.add((item.payer, operation), payer_row(item.payer, operation))
        rows.calls.append((item.call, at, payer, item.status))
        rows.documents.append(item.document)
        for attempt in item.attempts:
            price = _price(attempt, item.priced_at, prices)
            key = attempt.provider, attempt.model, id(price)
            rows.attempts.append(_attempt_row(place, used.get(key) or used.add(key, _price_row(attempt, price)), item, attempt))
    rows.payers, rows.prices = payers.rows, used.rows
    return rows


def _attempt_row(call: int, price: int, settlement: Settlement, attempt: Attempt) -> Row:
    usage, request_id = attempt.usage or _NOTHING, attempt.provider_request_id
    return (
        call,
        price,
        attempt.key,
        attempt.outcome.value,
        request_id and storable(request_id),
        usage.uncached_input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
        usage.visible_output_tokens,
        usage.reasoning_tokens,
        attempt.cost_usd,
        settlement.saved_usd if attempt is settlement.attempts[-1] else None,
        settlement.cache_tier,
        attempt.latency_ms,
        usage.confirmed,
    )


def _price(attempt: Attempt, at: datetime, prices: PriceBook) -> PriceUsed | None:
    if attempt.usage is None or attempt.cost_usd is None:
        return None
    rates = prices.rates(attempt.provider, attempt.model, at, attempt.usage.service_tier)
    return None if rates is None else rates.used(attempt.usage.input_tokens)


def _price_row(attempt: Attempt, price: PriceUsed | None) -> Row:
    provider, model = storable(attempt.provider), storable(attempt.model)
    if price is None:
        return provider, model, None, None, None, None, None
    return provider, model, price.input_usd, price.output_usd, price.cache_read_usd, price.cache_write_usd, price.source


def payer_row(payer: Payer, operation: str) -> Row:
    labels = {storable(label.key): storable(label.value) for label in payer.labels}
    return payer.tenant, payer.agent, payer.key_name, operation, msgspec.json.encode(labels).decode()


def storable(text: str) -> str:
    """Removes what PostgreSQL cannot store."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
