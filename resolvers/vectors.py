from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import strawberry
from strawberry import ID, UNSET

from app.costs.budgets import BudgetExceeded
from app.domain.ids import Deleted, format_id, parse_id
from app.domain.paging import Page
from app.domain.problems import Conflict, InvalidInput, NotFound
from app.llm.routing import ProvidersFailed, RateLimited
from app.retrieval.ingest import DocumentsUpserted
from app.retrieval.search import SearchHits
from app.vectors.collections import ID_KIND, Collection
from resolvers.info import Info
from resolvers.inputs.paging import After, First, page_request
from resolvers.inputs.vectors import (
    CollectionInput,
    DocumentsDeleteInput,
    DocumentsUpsertInput,
    SearchInput,
)
from resolvers.refusals import refusals


@dataclass(frozen=True, slots=True)
class DocumentsDeleted:
    deleted_count: int


async def collections(info: Info, first: First = UNSET, after: After = UNSET) -> Page[Collection]:
    found = info.context.services.vectors.collections
    return await found.page(info.context.principal.tenant, page_request(first, after))


async def collection(
    info: Info, name: Annotated[str, strawberry.argument(description="Its name, such as `handbook`.")]
) -> Collection | None:
    return await info.context.services.vectors.collections.find(info.context.principal.tenant, name)


async def collection_node(info: Info, collection_id: ID) -> Collection | None:
    key = parse_id(ID_KIND, collection_id)
    found = info.context.services.vectors.collections
    return None if key is None else await found.by_key(info.context.principal.tenant, key)


@refusals(BudgetExceeded, RateLimited, ProvidersFailed, InvalidInput, NotFound)
async def search(
    info: Info, request: Annotated[SearchInput, strawberry.argument(name="input", description="What to search for.")]
) -> SearchHits:
    return await info.context.services.vectors.search.search(request.to_domain(), info.context.principal)


@refusals(Conflict, InvalidInput)
async def collection_create(
    info: Info,
    request: Annotated[CollectionInput, strawberry.argument(name="input", description="The collection to create.")],
) -> Collection:
    return await info.context.services.vectors.maker.create(request.to_domain(), info.context.principal)


@refusals(NotFound)
async def collection_delete(
    info: Info, name: Annotated[str, strawberry.argument(description="Its name, such as `handbook`.")]
) -> Deleted:
    key = await info.context.services.vectors.maker.delete(name, info.context.principal)
    return Deleted(format_id(ID_KIND, key))


@refusals(BudgetExceeded, RateLimited, ProvidersFailed, InvalidInput, NotFound)
async def documents_upsert(
    info: Info,
    request: Annotated[DocumentsUpsertInput, strawberry.argument(name="input", description="The documents to write.")],
) -> DocumentsUpserted:
    return await info.context.services.vectors.ingest.upsert(request.to_domain(), info.context.principal)


@refusals(InvalidInput, NotFound)
async def documents_delete(
    info: Info,
    request: Annotated[DocumentsDeleteInput, strawberry.argument(name="input", description="The documents to delete.")],
) -> DocumentsDeleted:
    wanted, vectors = request.to_domain(), info.context.services.vectors
    collection = await vectors.collections.get(info.context.principal.tenant, request.collection)
    if isinstance(wanted, tuple):
        return DocumentsDeleted(await vectors.deletion.by_ids(collection, wanted))
    return DocumentsDeleted(await vectors.deletion.by_filter(collection, wanted))
