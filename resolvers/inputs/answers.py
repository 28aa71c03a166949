"""The input of an answer from passages. Everything is checked here, before anything is searched."""

from __future__ import annotations

import strawberry
from strawberry import field

from app.llm.routing import RoutingPreference
from app.retrieval.answers import AnswerRequest
from app.retrieval.search import MAX_TOP_K, SearchRequest
from resolvers.inputs.checks import check_length, check_range, check_texts, invalid
from resolvers.inputs.completions import (
    MAX_AGENT_LENGTH,
    MAX_IDEMPOTENCY_KEY_LENGTH,
    MAX_TARGET_LENGTH,
    MAX_TOKENS,
    CacheInput,
    RoutingInput,
)
from resolvers.inputs.labels import LabelInput, to_labels
from resolvers.inputs.vectors import MetadataFilter, checked_filter

_MAX_QUESTION_LENGTH = 16 * 1024


@strawberry.input(description="Where an answer looks for its passages.")
class AnswerSearchInput:
    collection: str = field(description="Name of the collection.")
    top_k: int = field(description="How many passages the model is given at most: 1 to 100.", default=8)
    min_score: float | None = field(description="Passages with a lower score are left out.")
    filter: MetadataFilter | None = field(description="Only passages of documents whose metadata match.")


@strawberry.input(description="A question to answer from the passages of a collection.")
class AnswerInput:
    question: str = field(description="At most 16384 characters, such as `Which boiler burns oil?`.")
    search: AnswerSearchInput = field(description="Where to look.")
    model: str | None = field(description="`provider/model`, or the name of a route. Omit for the default route.")
    max_output_tokens: int | None = field(
        description="Maximum output tokens. Omit for the route's default. An answer that is cut off has no statements."
    )
    routing: RoutingInput | None = field(description="Narrows the route for this call.")
    cache: CacheInput | None = field(
        description="Omit for no caching. A stored answer is used for the same question if the same passages are found for it."
    )
    agent: str | None = field(description="Who pays, within the caller's tenant, such as `research-7`.")
    labels: list[LabelInput] | None = field(description="Up to 16 labels by which costs can be grouped, each key once.")
    idempotency_key: str | None = field(
        description="The same key and input give the same completion, charged once, even if other passages would be found now. "
        "Its quotes are checked again. The same key with other input is a Conflict. At most 255 characters."
    )

    def to_domain(self) -> AnswerRequest:
        """Raises Refused(InvalidInput) with the path of the first fault."""
        check_texts(self)
        check_length(self.question, _MAX_QUESTION_LENGTH, ("question",))
        check_range(self.search.top_k, 1, MAX_TOP_K, ("search", "topK"))
        check_length(self.model, MAX_TARGET_LENGTH, ("model",))
        check_range(self.max_output_tokens, 1, MAX_TOKENS, ("maxOutputTokens",))
        check_length(self.agent, MAX_AGENT_LENGTH, ("agent",))
        check_length(self.idempotency_key, MAX_IDEMPOTENCY_KEY_LENGTH, ("idempotencyKey",))
        if not self.question.strip():
            raise invalid("The question is blank.", ("question",))
        where = self.search.filter
        return AnswerRequest(
            SearchRequest(
                self.search.collection,
                text=self.question,
                top_k=self.search.top_k,
                min_score=self.search.min_score,
                where=None if where is None else checked_filter(where, ("search", "filter")),
                agent=self.agent,
            ),
            model=self.model,
            max_output_tokens=self.max_output_tokens,
            routing=RoutingPreference() if self.routing is None else self.routing.to_domain(),
            cache=None if self.cache is None else self.cache.to_domain(),
            labels=to_labels(self.labels, ("labels",)),
            idempotency_key=self.idempotency_key,
        )
