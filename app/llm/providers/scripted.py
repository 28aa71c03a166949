"""A Provider that follows a script, for tests and drills of guards, routers and gateways.

Every call of any method uses the next step. The last step is used for every call after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from app.domain.errors import ProviderError
from app.domain.usage import TokenUsage
from app.llm.messages import Answer, AnswerEnd, EmbedCall, Embedded, FinishReason, ModelCall, StreamPart, TextDelta
from app.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer after `delay` seconds. If streamed, its text comes word by word, `gap` seconds apart."""

    answer: Answer
    delay: float = 0.0
    gap: float = 0.0


@dataclass(frozen=True, slots=True)
class Fail:
    """`error` after `delay` seconds. If streamed, `first` is sent before it, `gap` seconds apart."""

    error: Exception
    delay: float = 0.0
    first: tuple[StreamPart, ...] = ()
    gap: float = 0.0


@dataclass(frozen=True, slots=True)
class Vectors:
    embedded: Embedded
    delay: float = 0.0


Step: TypeAlias = Reply | Fail | Vectors


def text_answer(text: str, *, model: str = "scripted-1", usage: TokenUsage | None = None) -> Answer:
    """A plain, finished answer. Without `usage`, it uses one output token per word and 10 input tokens."""
    spent = usage if usage is not None else TokenUsage(uncached_input_tokens=10, visible_output_tokens=len(text.split()))
    return Answer(text=text, finish_reason=FinishReason.STOP, usage=spent, model=model)


@dataclass
class ScriptedProvider:
    """`calls`, `probes` and `closed` record what was asked of the provider. `open_streams` counts streams that are not closed
    yet."""

    name: str
    steps: Sequence[Step]
    clock: Clock
    kind: str = "scripted"
    probe_error: ProviderError | None = None
    calls: list[ModelCall | EmbedCall] = field(default_factory=list)
    probes: int = 0
    open_streams: int = 0
    closed: bool = False

    def _next(self, call: ModelCall | EmbedCall) -> Step:
        step = self.steps[min(len(self.calls), len(self.steps) - 1)]
        self.calls.append(call)
        return step

    async def complete(self, call: ModelCall) -> Answer:
        step = self._next(call)
        await self._wait(step.delay)
        if isinstance(step, Fail):
            raise step.error
        assert isinstance(step, Reply), "an answer was requested, but the next step of the script has vectors"
        return step.answer

    async def stream(self, call: ModelCall) -> AsyncIterator[StreamPart]:
        step = self._next(call)
        assert not isinstance(step, Vectors), "a stream was requested, but the next step of the script has vectors"
        self.open_streams += 1
        try:
            await self._wait(step.delay)
            parts = step.first if isinstance(step, Fail) else _deltas(step.answer)
            for part in parts:
                yield part
                await self._wait(step.gap)
            if isinstance(step, Fail):
                raise step.error
            yield AnswerEnd(step.answer)
        finally:
            self.open_streams -= 1

    async def embed(self, call: EmbedCall) -> Embedded:
        step = self._next(call)
        await self._wait(step.delay)
        if isinstance(step, Fail):
            raise step.error
        assert isinstance(step, Vectors), "vectors were requested, but the next step of the script has an answer"
        return step.embedded

    async def probe(self) -> None:
        self.probes += 1
        if self.probe_error is not None:
            raise self.probe_error

    async def close(self) -> None:
        self.closed = True

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            await self.clock.sleep(seconds)


def _deltas(answer: Answer) -> tuple[TextDelta, ...]:
    words = (answer.text or "").split(" ")
    return tuple(TextDelta(word if index == 0 else f" {word}") for index, word in enumerate(words) if word or index)
