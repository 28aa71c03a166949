"""What is counted of each vector store, by its configured name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


_OPERATIONS = ("create", "drop", "upsert", "delete", "search", "read", "check")


class VectorMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "greenlang_vector_store_seconds",
            "Duration of a call to a vector store.",
            ["store", "operation"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.failures = Counter(
            "greenlang_vector_store_failures",
            "Calls that a vector store did not answer.",
            ["store", "operation"],
            registry=registry,
        )
        self.hits_asked = Counter("greenlang_vector_hits_asked", "Hits that searches asked for.", ["store"], registry=registry)
        self.hits_given = Counter("greenlang_vector_hits_given", "Hits that searches returned.", ["store"], registry=registry)
        self.hits_dropped = Counter(
            "greenlang_vector_hits_dropped",
            "Hits of a store that were not shown: their document is not there, or does not match the filter.",
            ["store", "reason"],
            registry=registry,
        )
        self.unverified = Counter(
            "greenlang_vector_texts_unverified", "Chunks whose text does not match its hash.", ["store"], registry=registry
        )
        self.drift = Gauge(
            "greenlang_vector_drift",
            "Chunks that differed in the last comparison of a store with the database.",
            ["store"],
            registry=registry,
        )
        self.pending = Gauge(
            "greenlang_vector_documents_pending",
            "Documents that were accepted and are not in their store yet.",
            ["store"],
            registry=registry,
        )

    def begin(self, store: str) -> None:
        """Shows counts of 0 of a configured store."""
        for operation in _OPERATIONS:
            self.seconds.labels(store, operation)
            self.failures.labels(store, operation)
        for reason in ("absent", "filter"):
            self.hits_dropped.labels(store, reason)
        for metric in (self.hits_asked, self.hits_given, self.unverified):
            metric.labels(store)
