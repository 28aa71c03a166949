"""What a process has of vectors: opened here, in one place."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from app.costs.estimate import Estimator
from app.costs.ledger import PostgresLedger
from app.db.sessions import Sessions
from app.gateway.gateway import Gateway
from app.llm.router import Router
from app.retrieval.answers import Answers
from app.retrieval.collections import CollectionMaker
from app.retrieval.embedder import Embedder
from app.retrieval.ingest import Ingest
from app.retrieval.passages import PassageMarks
from app.retrieval.search import Search
from app.runtime.clock import Clock
from app.runtime.offload import Offload
from app.settings import VectorSettings
from app.vectors.collections import Collections
from app.vectors.deletion import Deletion
from app.vectors.documents import Documents
from app.vectors.full_text import FullText
from app.vectors.indexing import Indexing
from app.vectors.metrics import VectorMetrics
from app.vectors.registry import VectorStores, build_vector_stores


@dataclass(frozen=True, slots=True)
class Vectors:
    stores: VectorStores
    collections: Collections
    documents: Documents
    indexing: Indexing
    maker: CollectionMaker
    ingest: Ingest
    deletion: Deletion
    search: Search
    answers: Answers
    metrics: VectorMetrics


@dataclass(frozen=True, slots=True)
class VectorParts:
    """What the vectors of a process use of it."""

    gateway: Gateway
    ledger: PostgresLedger
    router: Router
    estimator: Estimator
    offload: Offload
    metrics: CollectorRegistry
    marks: PassageMarks


def build_vectors(
    settings: VectorSettings, sessions: Sessions, clock: Clock, parts: VectorParts, stack: AsyncExitStack
) -> Vectors:
    """Stores connect at the first use. Raises SettingsError."""
    metrics = VectorMetrics(parts.metrics)
    stores = build_vector_stores(settings, sessions, clock, metrics)
    stack.push_async_callback(stores.close)
    collections, documents = Collections(sessions, clock), Documents(sessions)
    embedder = Embedder(parts.gateway, parts.ledger, parts.router, clock)
    indexing = Indexing(sessions, clock, stores, collections=collections, documents=documents, metrics=metrics)
    ingest = Ingest(
        collections,
        documents,
        indexing,
        embedder,
        estimator=parts.estimator,
        offload=parts.offload,
        clock=clock,
        chunk_tokens=settings.chunk_tokens,
        chunk_overlap=settings.chunk_overlap,
    )
    search = Search(collections, documents, stores, embedder, full_text=FullText(sessions), metrics=metrics, clock=clock)
    return Vectors(
        stores=stores,
        collections=collections,
        documents=documents,
        indexing=indexing,
        maker=CollectionMaker(collections, stores, embedder),
        ingest=ingest,
        deletion=Deletion(sessions, documents),
        search=search,
        answers=Answers(parts.gateway, search, collections, documents, parts.marks),
        metrics=metrics,
    )
