"""The one interface to a model. An adapter, a guarded adapter and the scripted one of the tests are all Providers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import Enum
from typing import Protocol

from app.llm.messages import Answer, EmbedCall, Embedded, ModelCall, StreamPart


class ProviderKind(Enum):
    ANTHROPIC = "anthropic"
    OPENAI = "openai"
    OPENAI_COMPATIBLE = "openai-compatible"


class Provider(Protocol):
    """Every method raises ProviderError, whose kind says how the try failed. Beside it only Refused(InvalidInput) leaves an
    adapter: the call asks for what its model does not take and its policy is to refuse; then nothing was sent."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """A ProviderKind's value, followed by ` (simulator)` if no real provider answers."""
        ...

    async def complete(self, call: ModelCall) -> Answer: ...

    def stream(self, call: ModelCall) -> AsyncIterator[StreamPart]:
        """Deltas, then exactly one AnswerEnd as the last part; a stream without it raises TRUNCATED."""
        ...

    async def embed(self, call: EmbedCall) -> Embedded: ...

    async def probe(self) -> None:
        """The cheapest call there is; costs no tokens."""
        ...

    async def close(self) -> None: ...
