"""Collections of documents, what goes into them, and searches."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, TypeAlias

import strawberry
from strawberry import ID, field

from app.retrieval import ingest, search
from app.retrieval.search import MAX_TOP_K
from app.vectors import collections, documents
from app.vectors.store import Distance
from resolvers import vectors as resolve
from schema.budgets import BudgetExceeded
from schema.describes import describes
from schema.pagination import Connection
from schema.problems import Conflict, InvalidInput, NotFound
from schema.providers import ProvidersFailed, RateLimited
from schema.scalars import JSON, BigInt
from schema.values import Deleted, Node


@describes(collections.Collection, description="A named set of documents. Its store, model and dimensions never change.")
class Collection(Node):
    name: str = field(description="Unique among the tenant's collections, such as `handbook`.")
    store: str = field(description="Name of the store that has its index, such as `pgvector`.")
    embedding_model: str = field(
        description="The model of its vectors, such as `openai/text-embedding-3-small`. `none` if callers bring all vectors."
    )
    dimensions: int = field(description="Length of its vectors, such as 1536.")
    distance: Distance = field(description="How scores are computed.")
    document_count: BigInt = field(description="How many documents it has: exact, with those that their store gets later.")
    created_at: datetime = field(description="When it was created.")


@describes(ingest.DocumentFailure, description="A document that was not written.")
class DocumentFailure:
    id: ID = field(description="The caller's id of the document.")
    problem: InvalidInput = field(description="Why. Its code says if the document is at fault, or a budget or a provider.")


@describes(ingest.DocumentsUpserted, description="What became of the documents. Each succeeds or fails on its own.")
class DocumentsUpserted:
    upserted_count: int = field(
        description="How many documents were written. If their store is away, searches find them when it is back."
    )
    unchanged_count: int = field(
        description="Same text as stored, so neither embedded nor written again. Source, metadata and the caller's vector are "
        "the same too."
    )
    failures: list[DocumentFailure] = field(
        description="The documents that were not written, in the order of the call.", metadata={"cost": 0}
    )
    cost_usd: Decimal | None = field(description="What embedding the texts cost. Null if a price is unknown.")


@describes(resolve.DocumentsDeleted, description="Documents were deleted. No search finds them any more.")
class DocumentsDeleted:
    deleted_count: BigInt = field(description="How many documents there were.")


@describes(
    documents.Provenance,
    description="Where the text of a hit comes from. verified is false where the stored text no longer matches its hash.",
)
class Provenance:
    sha256: str = field(description="SHA-256 of the text when it was written, in hexadecimal.")
    source: str | None = field(description="Where the document comes from, as the caller said, such as a URL.")
    indexed_at: datetime = field(description="When the document was written.")
    verified: bool = field(description="Whether the stored text matches the hash now.")


@describes(
    documents.ChunkSpan,
    description="Which part of its document a hit is. Positions are in Unicode code points; the end is not included.",
)
class ChunkSpan:
    index: int = field(description="Number of the chunk in its document, from 0.")
    start: int = field(description="Where it starts in the document's text.")
    end: int = field(description="Where it ends.")


@describes(search.SearchHit, description="A chunk of a document. Several hits may have one document's id.")
class SearchHit:
    id: ID = field(description="The caller's id of the document.")
    score: float = field(description="How near it is, by the collection's distance. Higher is nearer.")
    text: str = field(description="The text of the chunk, as it is stored.")
    metadata: JSON | None = field(description="Metadata of the document.")
    provenance: Provenance = field(description="Where the text comes from.")
    chunk: ChunkSpan = field(description="Which part of the document it is.")


@describes(search.SearchHits, description="What a search found.")
class SearchHits:
    hits: list[SearchHit] = field(
        description="The best first. Equal scores are ordered by document and chunk.", metadata={"list_size": MAX_TOP_K}
    )
    latency_ms: float = field(description="How long the search took on the server, in milliseconds.")
    cost_usd: Decimal | None = field(description="What embedding the text cost. Null if its price is unknown.")


SearchResult: TypeAlias = Annotated[
    SearchHits | BudgetExceeded | RateLimited | ProvidersFailed | InvalidInput | NotFound,
    strawberry.union("SearchResult", description="The hits, or the reason why there are none."),
]
CollectionCreateResult: TypeAlias = Annotated[
    Collection | Conflict | InvalidInput,
    strawberry.union("CollectionCreateResult", description="The new collection, or the reason why there is none."),
]
CollectionDeleteResult: TypeAlias = Annotated[
    Deleted | NotFound,
    strawberry.union("CollectionDeleteResult", description="The id of the deleted collection, or NotFound."),
]
DocumentsUpsertResult: TypeAlias = Annotated[
    DocumentsUpserted | BudgetExceeded | RateLimited | ProvidersFailed | InvalidInput | NotFound,
    strawberry.union("DocumentsUpsertResult", description="What was written, or the reason why nothing was."),
]
DocumentsDeleteResult: TypeAlias = Annotated[
    DocumentsDeleted | InvalidInput | NotFound,
    strawberry.union("DocumentsDeleteResult", description="How many were deleted, or the reason why none was."),
]


@strawberry.type
class VectorQueries:
    collections = strawberry.field(
        resolver=resolve.collections,
        graphql_type=Connection[Collection] | None,
        description="The tenant's collections, sorted by name.",
    )
    collection = strawberry.field(
        resolver=resolve.collection, graphql_type=Collection | None, description="Fetch a collection by its name."
    )
    search = strawberry.field(
        resolver=resolve.search,
        graphql_type=SearchResult | None,
        description="Find the chunks of documents that are nearest to a text or a vector. Embedding the question costs money, so "
        "it can be refused; POST only.",
        metadata={"spends": True},
    )


@strawberry.type
class VectorMutations:
    collection_create = strawberry.field(
        resolver=resolve.collection_create, graphql_type=CollectionCreateResult | None, description="Create a collection."
    )
    collection_delete = strawberry.field(
        resolver=resolve.collection_delete,
        graphql_type=CollectionDeleteResult | None,
        description="Delete a collection with all its documents. It is gone at once; its store is emptied in the background.",
    )
    documents_upsert = strawberry.field(
        resolver=resolve.documents_upsert,
        graphql_type=DocumentsUpsertResult | None,
        description="Write documents, or replace those with the same ids. Up to 1,000 documents; each succeeds or fails on its "
        "own.",
    )
    documents_delete = strawberry.field(
        resolver=resolve.documents_delete,
        graphql_type=DocumentsDeleteResult | None,
        description="Delete documents by their ids or by a filter.",
    )
