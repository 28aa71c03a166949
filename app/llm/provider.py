"""The one interface to a model. Adapters, guarded adapters and the scripted provider of the tests all implement Provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from app.llm.messages import Answer, EmbedCall, Embedded, ModelCall, StreamPart


class Provider(Protocol):
    """Every method raises ProviderError, and its kind says how the try failed. An adapter raises only one other error,
    Refused(InvalidInput): the call has a parameter that its model does not take, and its policy is to refuse. Then nothing was
    sent."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """The configured kind, such as `openai`, followed by ` (simulator)` if no real provider answers."""
        ...

    async def complete(self, call: ModelCall) -> Answer: ...

    def stream(self, call: ModelCall) -> AsyncIterator[StreamPart]:
        """Yields deltas, then exactly one AnswerEnd as the last part. A stream without it raises TRUNCATED."""
        ...

    async def embed(self, call: EmbedCall) -> Embedded: ...

    async def probe(self) -> None:
        """Sends the provider's cheapest request, which costs no tokens."""
        ...

    async def close(self) -> None: ...
