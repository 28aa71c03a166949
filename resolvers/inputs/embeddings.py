"""Texts to embed as they are asked for. Everything is checked here, before anything is held or sent."""

from __future__ import annotations

from datetime import timedelta

import strawberry
from strawberry import field

from app.embeddings import EmbeddingsRequest
from app.llm.routing import RoutingPreference
from resolvers.inputs.checks import check_count, check_length, check_range, check_texts, invalid
from resolvers.inputs.completions import (
    LONGEST_AGENT,
    LONGEST_IDEMPOTENCY_KEY,
    LONGEST_TARGET,
    LONGEST_TIMEOUT_MS,
    CacheInput,
    RoutingInput,
)
from resolvers.inputs.labels import LabelInput, to_labels

_MOST_TEXTS = 2048
_LONGEST_TEXT = 256 * 1024
_MOST_CHARACTERS = 4 * 1024 * 1024
_MOST_DIMENSIONS = 16_384


@strawberry.input(description="Texts, each of which becomes a vector.")
class EmbeddingsInput:
    texts: list[str] = field(description="1 to 2048 texts, none empty: at most 262144 characters each and 4194304 together.")
    model: str | None = field(
        description="`provider/model`, or a route's name; left out, the route `embeddings`. Such as "
        "`openai/text-embedding-3-small`."
    )
    dimensions: int | None = field(description="Length of the vectors, where the model can shorten them; left out, its own.")
    routing: RoutingInput | None = field(description="Narrows the route for this call.")
    cache: CacheInput | None = field(description="Left out: no caching.")
    timeout_ms: int | None = field(description="Deadline of the whole call, retries and failover included; up to one hour.")
    agent: str | None = field(description="Who pays, within the caller's tenant, such as `research-7`.")
    labels: list[LabelInput] | None = field(description="Up to 16 marks by which costs can be split, each key once.")
    idempotency_key: str | None = field(
        description="Same key and input: the same vectors, charged once. Same key, other input: Conflict. At most 255 characters."
    )

    def to_domain(self) -> EmbeddingsRequest:
        """Raises Refused(InvalidInput) with the path of the first fault."""
        check_texts(self)
        self._check_texts_to_embed()
        check_length(self.model, LONGEST_TARGET, ("model",))
        check_range(self.dimensions, 1, _MOST_DIMENSIONS, ("dimensions",))
        check_range(self.timeout_ms, 1, LONGEST_TIMEOUT_MS, ("timeoutMs",))
        check_length(self.agent, LONGEST_AGENT, ("agent",))
        check_length(self.idempotency_key, LONGEST_IDEMPOTENCY_KEY, ("idempotencyKey",))
        return EmbeddingsRequest(
            texts=tuple(self.texts),
            model=self.model,
            dimensions=self.dimensions,
            routing=RoutingPreference() if self.routing is None else self.routing.to_domain(),
            cache=None if self.cache is None else self.cache.to_domain(),
            agent=self.agent,
            labels=to_labels(self.labels, ("labels",)),
            timeout=None if self.timeout_ms is None else timedelta(milliseconds=self.timeout_ms),
            idempotency_key=self.idempotency_key,
        )

    def _check_texts_to_embed(self) -> None:
        if not self.texts:
            raise invalid("There are no texts.", ("texts",))
        check_count(self.texts, _MOST_TEXTS, ("texts",))
        for position, text in enumerate(self.texts):
            check_length(text, _LONGEST_TEXT, ("texts", str(position)))
        characters = sum(map(len, self.texts))
        if characters > _MOST_CHARACTERS:
            raise invalid(f"The texts have {characters} characters; at most {_MOST_CHARACTERS} are allowed.", ("texts",))
