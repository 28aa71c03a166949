"""What the gateway returns from the cache: completions and vectors, over one cache."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from app.cache.origins import Origins
from app.cache.tiered import TieredCache
from app.costs.holds import Ledger
from app.gateway.cached_completions import CachedCompletions, Made
from app.gateway.cached_embeddings import CachedEmbeddings
from app.gateway.hit_records import HitRecords
from app.gateway.planning import CallPlanner
from app.gateway.stored_completions import StoredCompletions
from app.gateway.stored_embeddings import StoredEmbeddings
from app.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class CachedAnswers:
    completions: CachedCompletions
    embeddings: CachedEmbeddings

    async def close(self) -> None:
        """Returns when every call has ended and every record of a hit is written."""
        await self.completions.close()
        await self.embeddings.close()


def build_cached_answers(
    cache: TieredCache,
    origins: Origins[Made],
    planner: CallPlanner,
    ledger: Ledger,
    *,
    clock: Clock,
    documents: StoredCompletions,
    default_ttl: timedelta,
) -> CachedAnswers:
    records = HitRecords(ledger.settle_all, clock)
    vectors = StoredEmbeddings(documents.sealer, documents.keep_content)
    completions = CachedCompletions(
        cache, origins, planner, ledger, clock, documents=documents, records=records, default_ttl=default_ttl
    )
    embeddings = CachedEmbeddings(cache, planner, ledger, clock, documents=vectors, records=records, default_ttl=default_ttl)
    return CachedAnswers(completions, embeddings)
