"""Answers that show what they rest on.

A citation is the passage's own words, found in the very passage that the model named. A quote that is not there is dropped, and
a statement without a quote makes the answer ungrounded. Every passage is read from PostgreSQL, under the caller's tenant and
with its hash, also when a stored answer is shown again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from app.access.principal import Principal
from app.domain.usage import Label
from app.gateway.completions import CacheMode, CachePolicy, Completion, CompletionRequest
from app.gateway.gateway import Gateway
from app.gateway.statements import (
    STATEMENTS_FORMAT,
    Grounding,
    PassageReference,
    Statement,
    passage_name,
    plain_text,
    read_statements,
)
from app.gateway.stored_completions import without_quotes
from app.llm.messages import Message, Role, Text
from app.llm.routing import RoutingPreference
from app.retrieval.passages import PassageMarks, passage_messages
from app.retrieval.search import Search, SearchHit, SearchRequest
from app.runtime.request_hash import digest
from app.vectors.collections import Collections
from app.vectors.documents import Documents
from app.vectors.quotes import own_words

NOTHING_FOUND: Final = "Nothing was found that could answer the question."


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """`search` has the question as its text."""

    search: SearchRequest
    model: str | None = None
    max_output_tokens: int | None = None
    routing: RoutingPreference = RoutingPreference()
    cache: CachePolicy | None = None
    labels: tuple[Label, ...] = ()
    idempotency_key: str | None = None

    @property
    def question(self) -> str:
        assert self.search.text is not None
        return self.search.text


@dataclass(frozen=True, slots=True)
class Citation:
    hit: SearchHit
    quote: str


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    citations: tuple[Citation, ...]
    grounded: bool
    completion: Completion


class Answers:
    def __init__(
        self, gateway: Gateway, search: Search, collections: Collections, documents: Documents, marks: PassageMarks
    ) -> None:
        self._gateway = gateway
        self._search = search
        self._collections = collections
        self._documents = documents
        self._marks = marks

    async def answer(self, request: AnswerRequest, principal: Principal) -> Answer:
        """Raises Refused with the problem, StoreUnavailable, Forbidden. If nothing is found, no model is asked."""
        asked = _completion_request(request)
        hits: Sequence[SearchHit] = ()
        completion = None if asked.idempotency_key is None else await self._gateway.earlier(asked, principal)
        if completion is None:
            found = await self._search.search(request.search, principal)
            hits = [hit for hit in found.hits if hit.stored.is_verified]
            completion = await self._complete(asked, hits, request, principal)
        return _shown(completion, await self._passages(completion, hits, request, principal))

    async def _complete(
        self, asked: CompletionRequest, hits: Sequence[SearchHit], request: AnswerRequest, principal: Principal
    ) -> Completion:
        if not hits:
            return await self._gateway.complete_unasked(asked, principal, NOTHING_FOUND)
        texts = [hit.stored.text for hit in hits]
        cached = request.cache is not None and request.cache.mode is not CacheMode.OFF
        mark = self._marks.repeatable(request.question, texts) if cached else self._marks.once()
        assert asked.grounding is not None
        passages = tuple(PassageReference(hit.stored.key, hit.score) for hit in hits)
        grounding = replace(asked.grounding, passages=passages)
        messages = passage_messages(request.question, texts, mark)
        return await self._gateway.complete(replace(asked, messages=messages, grounding=grounding), principal)

    async def _passages(
        self, completion: Completion, hits: Sequence[SearchHit], request: AnswerRequest, principal: Principal
    ) -> Mapping[str, SearchHit]:
        """The passages of the completion that can be quoted, by the names that the model knows. A completion that came first
        with the idempotency key may have other ones than those that were found now."""
        found = {hit.stored.key: hit for hit in hits}
        missing = {each.chunk: each.score for each in completion.passages if each.chunk not in found}
        collection = await self._collections.find(principal.tenant, request.search.collection) if missing else None
        if collection is not None:
            chunks = await self._documents.read(collection, list(missing))
            found |= {key: SearchHit(chunk, missing[key]) for key, chunk in chunks.items() if chunk.is_verified}
        names = {passage_name(position): each.chunk for position, each in enumerate(completion.passages)}
        return {name: found[chunk] for name, chunk in names.items() if chunk in found}


def _completion_request(request: AnswerRequest) -> CompletionRequest:
    """What the caller asks for. The passages follow."""
    return CompletionRequest(
        messages=(Message(Role.USER, (Text(request.question),)),),
        model=request.model,
        response_format=STATEMENTS_FORMAT,
        max_output_tokens=request.max_output_tokens,
        routing=request.routing,
        cache=request.cache,
        agent=request.search.agent,
        labels=request.labels,
        idempotency_key=request.idempotency_key,
        grounding=Grounding(digest(repr(request.search))),
    )


def _shown(completion: Completion, passages: Mapping[str, SearchHit]) -> Answer:
    if not completion.passages:
        return Answer(completion.text or "", (), grounded=False, completion=completion)
    statements = read_statements(completion.text)
    cited = [_citations(statement, passages) for statement in statements]
    distinct = {(citation.hit.stored.key, citation.quote): citation for citations in cited for citation in citations}
    return Answer(
        text=plain_text(statements),
        citations=tuple(distinct.values()),
        grounded=bool(cited) and all(cited),
        completion=without_quotes(completion),
    )


def _citations(statement: Statement, passages: Mapping[str, SearchHit]) -> list[Citation]:
    named = ((passages.get(quote.passage), quote.quote) for quote in statement.quotes)
    checked = ((hit, own_words(quote, hit.stored.text)) for hit, quote in named if hit is not None)
    return [Citation(hit, words) for hit, words in checked if words is not None]
