"""The input of embeddings. Everything is checked here, before anything is held or sent."""

from __future__ import annotations

from datetime import timedelta

import strawberry
from strawberry import field

from app.gateway.embeddings import EmbeddingsRequest
from app.llm.routing import RoutingPreference
from resolvers.inputs.checks import check_count, check_length, check_range, check_texts, invalid
from resolvers.inputs.completions import (
    MAX_AGENT_LENGTH,
    MAX_IDEMPOTENCY_KEY_LENGTH,
    MAX_TARGET_LENGTH,
    MAX_TIMEOUT_MS,
    CacheInput,
    RoutingInput,
)
from resolvers.inputs.labels import LabelInput, to_labels

_MAX_TEXTS = 2048
_MAX_TEXT_LENGTH = 256 * 1024
_MAX_CHARACTERS = 4 * 1024 * 1024
_MAX_DIMENSIONS = 16_384


@strawberry.input(description="Texts, each of which becomes a vector.")
class EmbeddingsInput:
    texts: list[str] = field(description="1 to 2048 texts, none empty. At most 262144 characters each and 4194304 together.")
    model: str | None = field(
        description="`provider/model`, or the name of a route. Omit for the route `embeddings`. Such as "
        "`openai/text-embedding-3-small`."
    )
    dimensions: int | None = field(description="Length of the vectors, if the model can shorten them. Omit for the model's own.")
    routing: RoutingInput | None = field(description="Narrows the route for this call.")
    cache: CacheInput | None = field(description="Omit for no caching. Each text has its own stored vector.")
    timeout_ms: int | None = field(description="Deadline of the whole call, retries and failover included. Up to one hour.")
    agent: str | None = field(description="Who pays, within the caller's tenant, such as `research-7`.")
    labels: list[LabelInput] | None = field(description="Up to 16 labels by which costs can be grouped, each key once.")
    idempotency_key: str | None = field(
        description="The same key and input give the same vectors, charged once. The same key with other input is a "
        "Conflict. At most 255 characters."
    )

    def to_domain(self) -> EmbeddingsRequest:
        """Raises Refused(InvalidInput) with the path of the first fault."""
        check_texts(self)
        self._check_texts_to_embed()
        check_length(self.model, MAX_TARGET_LENGTH, ("model",))
        check_range(self.dimensions, 1, _MAX_DIMENSIONS, ("dimensions",))
        check_range(self.timeout_ms, 1, MAX_TIMEOUT_MS, ("timeoutMs",))
        check_length(self.agent, MAX_AGENT_LENGTH, ("agent",))
        check_length(self.idempotency_key, MAX_IDEMPOTENCY_KEY_LENGTH, ("idempotencyKey",))
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
        check_count(self.texts, _MAX_TEXTS, ("texts",))
        for position, text in enumerate(self.texts):
            check_length(text, _MAX_TEXT_LENGTH, ("texts", str(position)))
        characters = sum(map(len, self.texts))
        if characters > _MAX_CHARACTERS:
            raise invalid(f"The texts have {characters} characters; at most {_MAX_CHARACTERS} are allowed.", ("texts",))
