"""Vectors from the cache, text by text, for callers that ask for it with `cache`.

Only the texts without a stored vector are sent, to the target that made the stored ones, because the vectors of two models
never appear in one answer. If that target cannot answer, all texts are embedded again, at any target of the route.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from app.domain.errors import Refused
from app.domain.ids import new_uuid
from app.domain.money import ZERO
from app.domain.usage import TokenUsage
from app.gateway.completions import CacheMode, CachePolicy, CompletionStatus
from app.gateway.embeddings import Embeddings, EmbeddingsOutcome, EmbeddingsRequest
from app.gateway.hit_records import HitRecords
from app.gateway.planning import CallPlanner, PlannedCall
from app.gateway.stored_embeddings import StoredEmbeddings
from app.llm.messages import EmbedCall
from app.llm.routing import ProvidersFailed, Target
from app.runtime.clock import Clock
from app.runtime.request_hash import digest

Merge: TypeAlias = Callable[[Embeddings], Embeddings]
Run: TypeAlias = Callable[[PlannedCall[EmbedCall], Merge | None], Awaitable[EmbeddingsOutcome]]
"""Makes the vectors of a planned call, and joins them with the stored ones."""
Admit: TypeAlias = Callable[[PlannedCall[EmbedCall]], Awaitable[Admitted | EmbeddingsOutcome]]


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

    async def embed(
        self, request: EmbeddingsRequest, call: PlannedCall[EmbedCall], principal: Principal, run: Run, admit: Admit
    ) -> EmbeddingsOutcome:
        """Raises what `run` raises."""
        policy = request.cache
        if policy is None or policy.mode is CacheMode.OFF:
            return await run(call, None)
        asked = _Asked(request, policy, principal, call, call.plan.targets[0])
        hits = {} if policy.mode is CacheMode.REFRESH else await self._hits(asked.keys)
        missing = tuple(text for text in asked.keys if text not in hits)
        if not missing:
            return await self._give(asked, hits, admit)
        if not hits:
            return await self._store(asked, await run(call, None))
        return await self._complete(asked, hits, missing, run)

    async def close(self) -> None:
        """Returns when every record of a hit is written."""
        await self._records.flush()

    async def _hits(self, keys: Mapping[str, EntryKey]) -> dict[str, Hit]:
        found = await asyncio.gather(*(self._cache.get(key) for key in keys.values()))
        return {text: hit for text, hit in zip(keys, found, strict=True) if hit is not None}

    async def _complete(self, asked: _Asked, hits: Mapping[str, Hit], missing: tuple[str, ...], run: Run) -> EmbeddingsOutcome:
        """Embeds the missing texts and joins them with the stored ones."""
        request = replace(asked.request, texts=missing, model=str(asked.target), idempotency_key=None)
        part = await self._planner.plan_embeddings(request, asked.principal, asked.call.operation)
        part = replace(part, requested_model=asked.call.requested_model, idempotency=asked.call.idempotency)
        made: list[Embeddings] = []

        def merge(embedded: Embeddings) -> Embeddings:
            made.append(embedded)
            vectors = {text: _vector(hit) for text, hit in hits.items()} | dict(zip(missing, embedded.vectors, strict=True))
            texts = asked.request.texts
            return replace(
                embedded, vectors=tuple(vectors[text] for text in texts), cached_count=sum(text in hits for text in texts)
            )

        try:
            outcome = await run(part, merge)
        except Refused as refused:
            if not isinstance(refused.reason, ProvidersFailed) or asked.call.idempotency is not None:
                raise
            return await self._store(asked, await run(asked.call, None))
        if made:
            await self._put(asked, missing, replace(outcome, embeddings=made[0]))
        return outcome

    async def _store(self, asked: _Asked, outcome: EmbeddingsOutcome) -> EmbeddingsOutcome:
        await self._put(asked, asked.request.texts, outcome)
        return outcome

    async def _put(self, asked: _Asked, texts: Sequence[str], outcome: EmbeddingsOutcome) -> None:
        """Stores the vectors of these texts, each with its part of the cost."""
        made = outcome.embeddings
        if made is None or outcome.began_at is None or len(made.vectors) != len(texts):
            return
        now, keys = self._clock.now(), asked.keys_of(Target(made.provider, made.model))
        expires_at = now + (asked.policy.ttl or self._default_ttl)
        whole = sum(map(len, texts))
        for text, vector in zip(texts, made.vectors, strict=True):
            cost = None if made.cost_usd is None else (made.cost_usd * len(text) / whole).quantize(Decimal("1e-12"))
            body = array("d", vector).tobytes()
            await self._cache.put(keys[text], Entry(body, outcome.began_at, now, expires_at, asked.policy.tags, cost))

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
        costs = [hit.entry.cost_usd for hit in hits.values()]
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
            saved_usd=sum((cost for cost in costs if cost is not None), ZERO),
        )


def _vector(hit: Hit) -> tuple[float, ...]:
    return tuple(array("d", hit.entry.body))
