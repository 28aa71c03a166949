"""Vectors from the cache, text by text, for callers that ask for it with `cache`.

Only the texts without a stored vector are sent, to the target that made the stored ones, because the vectors of two models
never appear in one answer. If that target cannot answer, all texts are embedded again, at any target of the route.

A text that another call of this process is sending is not sent again: its vector is waited for. A call waits before it sends
anything, so two calls never wait for each other.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import TypeAlias

from app.access.principal import Principal
from app.cache.entries import Entry
from app.cache.keys import EntryKey, EntryKind, entry_key
from app.cache.tiered import Hit, TieredCache
from app.costs.holds import Admitted, Ledger, Settlement
from app.domain.attempts import Attempt, AttemptOutcome
from app.domain.errors import DeadlineExceeded, Refused
from app.domain.ids import new_uuid
from app.domain.money import ZERO
from app.domain.usage import TokenUsage
from app.gateway.completions import CacheMode, CachePolicy, CompletionStatus
from app.gateway.embeddings import Embeddings, EmbeddingsOutcome, EmbeddingsRequest
from app.gateway.hit_records import HitRecords
from app.gateway.planning import CallPlanner, PlannedCall
from app.gateway.running import MergeStored
from app.gateway.stored_embeddings import StoredEmbeddings
from app.llm.messages import EmbedCall
from app.llm.routing import ProvidersFailed, Target
from app.runtime.clock import Clock
from app.runtime.request_hash import digest

Run: TypeAlias = Callable[[PlannedCall[EmbedCall], "MergeStored | None"], Awaitable[EmbeddingsOutcome]]
"""Makes the vectors of a planned call, and joins them with the stored ones."""
Admit: TypeAlias = Callable[[PlannedCall[EmbedCall]], Awaitable[Admitted | EmbeddingsOutcome]]
_Made: TypeAlias = "asyncio.Future[Entry | None]"
"""The vector that a call makes. None if the call ended for a reason that concerns only its own caller."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """`keys` are by text, for vectors of `target`."""

    request: EmbeddingsRequest
    policy: CachePolicy
    principal: Principal
    call: PlannedCall[EmbedCall]
    target: Target

    @property
    def keys(self) -> Mapping[str, EntryKey]:
        return self.keys_of(self.target)

    def keys_of(self, target: Target) -> Mapping[str, EntryKey]:
        tenant, agent, dimensions = self.call.payer.tenant, self.principal.agent, self.request.dimensions
        return {
            text: entry_key(tenant, EntryKind.EMBEDDING, str(target), digest((text, dimensions, agent)))
            for text in dict.fromkeys(self.request.texts)
        }


class _Merge:
    """Joins the vectors of a call with the stored ones, in the order of the texts. `made` is what the call itself made."""

    def __init__(self, texts: Sequence[str], hits: Mapping[str, Hit], missing: Sequence[str]) -> None:
        self._texts = texts
        self._hits = hits
        self._missing = missing
        self.made: Embeddings | None = None

    @property
    def saved_usd(self) -> Decimal:
        return _saved(self._hits)

    def __call__(self, embedded: Embeddings) -> Embeddings:
        self.made = embedded
        vectors = {text: _vector(hit) for text, hit in self._hits.items()}
        vectors |= dict(zip(self._missing, embedded.vectors, strict=True))
        count = sum(text in self._hits for text in self._texts)
        return replace(embedded, vectors=tuple(vectors[text] for text in self._texts), cached_count=count)


class CachedEmbeddings:
    def __init__(
        self,
        cache: TieredCache,
        planner: CallPlanner,
        ledger: Ledger,
        clock: Clock,
        *,
        documents: StoredEmbeddings,
        records: HitRecords,
        default_ttl: timedelta,
    ) -> None:
        self._cache = cache
        self._planner = planner
        self._ledger = ledger
        self._clock = clock
        self._documents = documents
        self._default_ttl = default_ttl
        self._records = records
        self._making: dict[EntryKey, _Made] = {}

    async def embed(
        self, request: EmbeddingsRequest, call: PlannedCall[EmbedCall], principal: Principal, run: Run, admit: Admit
    ) -> EmbeddingsOutcome:
        """Raises what `run` raises."""
        policy = request.cache
        if policy is None or policy.mode is CacheMode.OFF:
            return await run(call, None)
        asked = _Asked(request, policy, principal, call, call.plan.targets[0])
        if policy.mode is CacheMode.REFRESH:
            return await self._make_all(asked, run)
        keys = asked.keys
        hits = await self._hits(asked, keys)
        missing = tuple(text for text in keys if text not in hits)
        if not missing:
            return await self._give(asked, hits, admit)
        with self._announced([keys[text] for text in missing]):
            if not hits:
                return await self._make_all(asked, run)
            return await self._complete(asked, hits, missing, run)

    async def close(self) -> None:
        """Returns when every record of a hit is written."""
        await self._records.flush()

    async def _hits(self, asked: _Asked, keys: Mapping[str, EntryKey]) -> dict[str, Hit]:
        """Returns what is stored, and what other calls of this process have made meanwhile. Nothing that is left is being made
        by another call. Raises the failure of the providers that such a call met, and DeadlineExceeded."""
        hits = dict[str, Hit]()
        while True:
            left = {text: key for text, key in keys.items() if text not in hits}
            found = await asyncio.gather(*(self._cache.get(key) for key in left.values()))
            hits |= {text: hit for text, hit in zip(left, found, strict=True) if hit is not None}
            making = {text: made for text, key in left.items() if text not in hits and (made := self._making.get(key))}
            if not making:
                return hits
            seconds = max(0.0, asked.call.template.deadline - self._clock.monotonic())
            if (await asyncio.wait(making.values(), timeout=seconds))[1]:
                raise DeadlineExceeded
            for text, made in making.items():
                entry = made.result()
                hit = None if entry is None else self._cache.share(keys[text], entry)
                if hit is not None:
                    hits[text] = hit

    @contextmanager
    def _announced(self, keys: Sequence[EntryKey]) -> Iterator[None]:
        """Until the block ends, other calls of this process wait for the vectors of these keys."""
        announced = {key: asyncio.get_running_loop().create_future() for key in keys}
        self._making |= announced
        try:
            yield
        except Refused as refused:
            if isinstance(refused.reason, ProvidersFailed):
                for made in announced.values():
                    made.set_exception(refused)
                    made.exception()
            raise
        finally:
            for key, made in announced.items():
                if self._making.get(key) is made:
                    del self._making[key]
                if not made.done():
                    made.set_result(None)

    async def _complete(self, asked: _Asked, hits: Mapping[str, Hit], missing: tuple[str, ...], run: Run) -> EmbeddingsOutcome:
        """Embeds the missing texts and joins them with the stored ones."""
        request = replace(asked.request, texts=missing, model=str(asked.target), idempotency_key=None)
        part = await self._planner.plan_embeddings(request, asked.principal, asked.call.operation)
        part = replace(part, requested_model=asked.call.requested_model, idempotency=asked.call.idempotency)
        merge = _Merge(asked.request.texts, hits, missing)
        try:
            outcome = await run(part, merge)
        except Refused as refused:
            if not isinstance(refused.reason, ProvidersFailed) or asked.call.idempotency is not None:
                raise
            return await self._make_all(asked, run)
        if merge.made is not None:
            await self._put(asked, missing, replace(outcome, embeddings=merge.made))
        return outcome

    async def _make_all(self, asked: _Asked, run: Run) -> EmbeddingsOutcome:
        outcome = await run(asked.call, None)
        await self._put(asked, asked.request.texts, outcome)
        return outcome

    async def _put(self, asked: _Asked, texts: Sequence[str], outcome: EmbeddingsOutcome) -> None:
        """Stores the vectors of these texts, each with its part of the cost."""
        made = outcome.embeddings
        if made is None or outcome.began_at is None or len(made.vectors) != len(texts):
            return
        now, keys = self._clock.now(), asked.keys_of(Target(made.provider, made.model))
        expires_at = now + (asked.policy.ttl or self._default_ttl)
        whole, writes = sum(map(len, texts)), list[Awaitable[None]]()
        for text, vector in zip(texts, made.vectors, strict=True):
            cost = None if made.cost_usd is None else (made.cost_usd * len(text) / whole).quantize(Decimal("1e-12"))
            body = array("d", vector).tobytes()
            entry = Entry(body, outcome.began_at, now, expires_at, asked.policy.tags, cost)
            if (waited := self._making.pop(keys[text], None)) is not None:
                waited.set_result(entry)
            writes.append(self._cache.put(keys[text], entry, asked_for=asked.policy.ttl))
        await asyncio.gather(*writes)

    async def _give(self, asked: _Asked, hits: Mapping[str, Hit], admit: Admit) -> EmbeddingsOutcome:
        call = asked.call
        vectors = tuple(_vector(hits[text]) for text in asked.request.texts)
        provider, model = asked.target.provider, asked.target.model
        made = Embeddings(provider, model, len(vectors[0]), vectors, TokenUsage(), ZERO, cached_count=len(vectors))
        outcome = EmbeddingsOutcome(call.key, call.payer.tenant, CompletionStatus.FINISHED, made)
        if call.idempotency is not None:
            admission = await admit(call)
            if isinstance(admission, EmbeddingsOutcome):
                return admission
            outcome = replace(outcome, key=admission.call)
            await self._ledger.settle(self._settlement(outcome, call, hits))
            return outcome
        self._records.add(self._settlement(outcome, call, hits))
        return outcome

    def _settlement(self, outcome: EmbeddingsOutcome, call: PlannedCall[EmbedCall], hits: Mapping[str, Hit]) -> Settlement:
        """One usage record with what was saved."""
        assert outcome.embeddings is not None
        attempt = Attempt(
            key=new_uuid(call.started_at),
            provider=outcome.embeddings.provider,
            model=outcome.embeddings.model,
            outcome=AttemptOutcome.SUCCEEDED,
            started_at=call.started_at,
            latency_ms=(self._clock.monotonic() - call.started) * 1000,
            usage=TokenUsage(),
            cost_usd=ZERO,
        )
        return Settlement(
            outcome.key,
            call.operation,
            call.payer,
            (attempt,),
            outcome.status.value,
            self._documents.encode(outcome) if call.idempotency is not None else None,
            call.started_at,
            cache_tier=next(iter(hits.values())).tier.value,
            saved_usd=_saved(hits),
        )


def _vector(hit: Hit) -> tuple[float, ...]:
    return tuple(array("d", hit.entry.body))


def _saved(hits: Mapping[str, Hit]) -> Decimal:
    return sum((cost for hit in hits.values() if (cost := hit.entry.cost_usd) is not None), ZERO)
