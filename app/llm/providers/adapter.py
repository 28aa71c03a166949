"""What both adapters do with a call around their wire protocols: encode, send, read, check and account.

A failed try reports what was billed. An answer that does not match the schema, that cannot be read or that broke off is billed.
If the request may have arrived and no answer came, it may be billed too, and an estimate reports that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import httpx2

from app.domain.errors import FailureKind, ProviderError
from app.domain.usage import TokenUsage
from app.llm.messages import (
    Answer,
    AnswerEnd,
    ContentDelta,
    EmbedCall,
    Embedded,
    FinishReason,
    ModelCall,
    ReasoningEffort,
    StreamPart,
    TextDelta,
    ToolCallDelta,
    merged,
)
from app.llm.providers.answer_timeouts import first_token_timeout, silence_deadline, whole_answer_timeout
from app.llm.providers.answers import READING_ERRORS, WholeAnswer
from app.llm.providers.bodies import Begun, BrokenAnswer, ErrorAnswer, ParameterRefused
from app.llm.providers.body_reader import BodyReader
from app.llm.providers.call_names import CallNames
from app.llm.providers.efforts import refused_effort
from app.llm.providers.encoded_request import EncodedRequest
from app.llm.providers.forced_tool import note_if_not_called
from app.llm.providers.json_text import FENCED, JsonText, bare_json
from app.llm.providers.opaque_fields import Maker, given_back, without_fields
from app.llm.providers.schema_check import AnswerCheck, SchemaChecks
from app.llm.providers.stream_phase import Phase
from app.llm.providers.stream_reader import StreamReader
from app.llm.providers.unsupported import Notes
from app.llm.providers.untaken import Untaken
from app.llm.providers.upstream import EventStream, Upstream
from app.llm.providers.usage_mapping import estimated_usage, unanswered_usage
from app.llm.refused_parameters import EFFORT, Parameters
from app.runtime.clock import Clock
from app.settings import ProviderSettings

_MAYBE_BILLED = {
    FailureKind.CONNECTION,
    FailureKind.FIRST_TOKEN_TIMEOUT,
    FailureKind.TOTAL_TIMEOUT,
    FailureKind.TRUNCATED,
    FailureKind.MALFORMED,
}
"""Failures of a stream after which the provider reports no usage. It may have billed the input."""
_STILL_UP = {
    FailureKind.MODEL_NOT_FOUND,
    FailureKind.BAD_REQUEST,
    FailureKind.RATE_LIMITED,
    FailureKind.NOT_IMPLEMENTED,
    FailureKind.UNSUPPORTED,
    FailureKind.UNKNOWN_REFUSAL,
}
_UNCHECKED = {FinishReason.TOOL_CALLS, FinishReason.CONTENT_FILTER}

CUT_JSON = "The output cap cut the answer, so its JSON may not be whole. With a larger maxOutputTokens it can be."

_T = TypeVar("_T")


class Adapter(ABC):
    """A Provider over HTTP. The subclass for a wire protocol writes requests and reads answers."""

    completions_path: ClassVar[str]
    models_path: ClassVar[str]
    parameters: ClassVar[Parameters] = Parameters()
    """Parameters that can be left out of a request if a model refuses them."""

    def __init__(self, settings: ProviderSettings, upstream: Upstream, clock: Clock) -> None:
        self.name = settings.name
        self.kind = f"{settings.kind.value} (simulator)" if settings.simulated else settings.kind.value
        self._settings = settings
        self.upstream = upstream
        self._clock = clock
        self._checks = SchemaChecks()
        self._bodies = BodyReader(self)
        self._maker = Maker(settings.name, settings.kind.value)
        self.call_names: CallNames | None = None
        self.untaken = Untaken(self.parameters)

    @abstractmethod
    def encode(self, call: ModelCall, notes: Notes, *, stream: bool) -> EncodedRequest:
        """Raises Refused(InvalidInput)."""

    @abstractmethod
    def read_answer(self, raw: bytes, call: ModelCall, notes: Notes) -> WholeAnswer:
        """Reads one JSON object. Raises Malformed, and ProviderError with its cost."""

    @abstractmethod
    def read_billed(self, body: Mapping[str, object], call: ModelCall, output_bytes: int) -> TokenUsage | None:
        """Returns what an unusable answer says that it cost; None if it does not say."""

    @abstractmethod
    def reader(self, call: ModelCall, notes: Notes, provider_request_id: str | None) -> StreamReader: ...

    @abstractmethod
    async def embed(self, call: EmbedCall) -> Embedded:
        """Raises ProviderError."""

    async def complete(self, call: ModelCall) -> Answer:
        check = self._checks.prepare(call.response_format)
        allowed = whole_answer_timeout(self._settings.timeouts, call.max_output_tokens)

        async def send(request: EncodedRequest) -> Begun:
            return await self.upstream.post(
                self.completions_path,
                request,
                model=call.model,
                deadline=silence_deadline(call, self._clock.monotonic()),
                answer_timeout=allowed,
                holder=call.holder,
            )

        began_at = self._clock.monotonic()
        try:
            begun, notes = await self._send(call, send, stream=False)
        except BrokenAnswer as broken:
            return self._answer_of_broken(broken, call, check)
        except ProviderError as failure:
            self._charge(failure, call, unanswered_usage)
            raise
        whole = self._read_whole(begun.body, call, notes, begun.response, self._clock.monotonic() - began_at)
        return self._answer(whole, check, notes, begun.response)

    def _answer_of_broken(self, broken: BrokenAnswer, call: ModelCall, check: AnswerCheck | None) -> Answer:
        """Reads an answer whose connection broke or was silent, because it may have been whole before. Raises ProviderError
        with what was received."""
        notes, raw = Notes(call), broken.begun.body
        self.encode(call, notes, stream=False)
        try:
            whole = self._bodies.read(raw, call, notes)
        except READING_ERRORS:
            broken.usage = self._bodies.cost(raw, call, broken.seconds, is_cut=True)
            raise broken from None
        return self._answer(whole, check, notes, broken.begun.response)

    def _charge(self, failure: ProviderError, call: ModelCall, estimate: Callable[[ModelCall, float], TokenUsage]) -> None:
        """Returns what a request cost whose answer was an error, or that got none."""
        if isinstance(failure, ErrorAnswer):
            failure.usage = self.read_billed(failure.billed, call, 0)
        elif failure.unanswered_seconds is not None:
            failure.usage = estimate(call, failure.unanswered_seconds)

    def _read_whole(self, raw: bytes, call: ModelCall, notes: Notes, response: httpx2.Response, seconds: float) -> WholeAnswer:
        """Reads a whole answer, also from a server that streams although it was not asked to. Raises ProviderError with what
        the answer cost."""
        try:
            return self._bodies.read(raw, call, notes)
        except READING_ERRORS:
            error = self._malformed(response)
            error.usage = self._bodies.cost(raw, call, seconds, is_cut=False)
            raise error from None
        except ProviderError as error:
            error.provider_request_id = self.upstream.request_id(response)
            raise

    async def stream(self, call: ModelCall) -> AsyncGenerator[StreamPart, None]:
        check = self._checks.prepare(call.response_format)

        async def send(request: EncodedRequest) -> EventStream:
            return await self.upstream.open(
                self.completions_path,
                request,
                model=call.model,
                first_token=first_token_timeout(self._settings.timeouts, call),
                silence_deadline=silence_deadline(call, self._clock.monotonic()),
                deadline=call.deadline,
                holder=call.holder,
            )

        try:
            source, notes = await self._send(call, send, stream=True)
        except ProviderError as unopened:
            self._charge(unopened, call, lambda asked, _: estimated_usage(asked, 0))
            raise
        try:
            reader = self.reader(call, notes, self.upstream.request_id(source.response))
            json_text = None if check is None else JsonText()
            shown = is_over = False
            while not is_over:
                parts, failure, is_over = await self._read(source, reader)
                if source.ended and source.document:
                    async for piece in self._document(source, call, check, notes):
                        yield piece
                    return
                for part in _bare(merged(parts), json_text) if shown or failure is None else ():
                    shown = True
                    yield part
                if failure is not None:
                    raise failure
            whole = self._whole_of(reader, source)
            for part in _rest(json_text):
                yield part
            try:
                yield AnswerEnd(self._answer(whole, check, notes, source.response))
            finally:
                await source.drain()
        finally:
            await source.close()

    def _whole_of(self, reader: StreamReader, source: EventStream) -> WholeAnswer:
        try:
            return reader.answer()
        except READING_ERRORS:
            error = self._malformed(source.response)
            error.usage = reader.usage()
            raise error from None

    async def _document(
        self, source: EventStream, call: ModelCall, check: AnswerCheck | None, notes: Notes
    ) -> AsyncGenerator[StreamPart, None]:
        """Yields the answer of a server that does not stream although it was asked to."""
        whole = self._read_whole(source.document, call, notes, source.response, source.seconds)
        if whole.text:
            yield TextDelta(whole.text if check is None else bare_json(whole.text)[0])
        for made in whole.tool_calls:
            yield ToolCallDelta(made.id, "", made.name)
            yield ToolCallDelta(made.id, made.arguments)
        yield AnswerEnd(self._answer(whole, check, notes, source.response))

    async def probe(self) -> None:
        """A server that answers is up, even if it lists no models or limits how often they are listed."""
        try:
            await self.upstream.get(self.models_path, {"limit": 1})
        except ProviderError as error:
            if error.kind not in _STILL_UP:
                raise

    async def close(self) -> None:
        await self.upstream.close()

    async def _send(self, call: ModelCall, send: Callable[[EncodedRequest], Awaitable[_T]], *, stream: bool) -> tuple[_T, Notes]:
        """Sends the call. Sends it again without a parameter only if the model has named one that it does not take."""
        while True:
            notes = Notes(call)
            request = self.encode(self._fit(call, notes), notes, stream=stream)
            try:
                return await send(request), notes
            except ParameterRefused as refused:
                if not self.untaken.learn(self._refused_name(call, refused), call.model, call.reasoning_effort):
                    raise

    @abstractmethod
    def settled_effort(self, call: ModelCall) -> ReasoningEffort | None:
        """Returns the effort that the call is sent with."""

    def _refused_name(self, call: ModelCall, refused: ParameterRefused) -> str:
        """If a model refuses one effort, the next lower one is tried. The parameter is left out if none is left."""
        sent = self.settled_effort(call) if refused.parameter == EFFORT and refused.of_value else None
        return refused.parameter if sent is None else refused_effort(sent)

    def _fit(self, call: ModelCall, notes: Notes) -> ModelCall:
        """Returns the call without what providers put into it and this one does not accept."""
        call = self._maker.with_own_state(call, notes)
        call = without_fields(call, self.untaken.of(call.model, call.reasoning_effort) & given_back(call), notes)
        return call if self.call_names is None else self.call_names.fit(call, notes)

    async def _read(self, source: EventStream, reader: StreamReader) -> tuple[Sequence[ContentDelta], ProviderError | None, bool]:
        """Returns the parts of the next chunk, the error that came after them, and whether the answer is over. A complete
        answer that may go on is over if the server is silent for too long, or if the body ends."""
        parts: list[ContentDelta] = []
        try:
            payloads = await source.read()
            if payloads is not None:
                self._take(source, reader, payloads, parts)
            elif not reader.complete:
                raise self._cut(source)
        except ProviderError as error:
            if reader.complete and error.kind is FailureKind.IDLE_TIMEOUT:
                return parts, None, True
            if reader.started or (source.sends_events and error.kind in _MAYBE_BILLED):
                error.usage = reader.usage()
            return parts, error, True
        return parts, None, payloads is None or reader.stopped

    def _take(self, source: EventStream, reader: StreamReader, payloads: list[bytes], parts: list[ContentDelta]) -> None:
        words = reader.words
        for payload in payloads:
            try:
                parts += reader.read(payload)
            except READING_ERRORS:
                raise self._cut(source) if source.ended else self._malformed(source.response, broke_off=True) from None
        if reader.certain:
            phase = Phase.BILLED if reader.is_billed else Phase.COMPLETE
        elif reader.complete:
            phase = Phase.MAYBE_IDLE
        else:
            phase = Phase.IDLE if reader.started else source.phase
        source.wait_for(phase, anew=reader.words != words)

    def _cut(self, source: EventStream) -> ProviderError:
        return ProviderError(
            FailureKind.TRUNCATED,
            status_code=source.response.status_code,
            provider_request_id=self.upstream.request_id(source.response),
        )

    def _malformed(self, response: httpx2.Response, *, broke_off: bool = False) -> ProviderError:
        return ProviderError(
            FailureKind.MALFORMED,
            broke_off=broke_off,
            status_code=response.status_code,
            provider_request_id=self.upstream.request_id(response),
        )

    def _answer(self, whole: WholeAnswer, check: AnswerCheck | None, notes: Notes, response: httpx2.Response) -> Answer:
        request_id = self.upstream.request_id(response)
        note_if_not_called(whole.tool_calls, notes)
        checked = whole if check is None else _as_json(whole, check, notes)
        if checked is None:
            raise ProviderError(
                FailureKind.SCHEMA_MISMATCH,
                status_code=response.status_code,
                provider_request_id=request_id,
                usage=whole.usage,
            )
        return Answer(
            text=checked.text,
            finish_reason=whole.finish_reason,
            usage=whole.usage,
            model=whole.model,
            tool_calls=tuple(
                replace(made, provider_state=self._maker.state(whole.call_fields.get(made.id))) for made in whole.tool_calls
            ),
            provider_state=self._maker.state(whole.fields),
            reasoning=whole.reasoning,
            notes=tuple(notes.texts),
            status_code=response.status_code,
            provider_request_id=request_id,
            rate_limits=self.upstream.rate_limits(response),
        )


def _bare(parts: Sequence[ContentDelta], json_text: JsonText | None) -> Sequence[ContentDelta]:
    """The parts of an answer in JSON, without the text around it."""
    if json_text is None:
        return parts
    shown = (TextDelta(json_text.take(part.text)) if isinstance(part, TextDelta) else part for part in parts)
    return [part for part in shown if not isinstance(part, TextDelta) or part.text]


def _rest(json_text: JsonText | None) -> Sequence[ContentDelta]:
    """Returns what is shown at the end of an answer in JSON."""
    return (TextDelta(rest),) if json_text is not None and (rest := json_text.end()) else ()


def _as_json(whole: WholeAnswer, check: AnswerCheck, notes: Notes) -> WholeAnswer | None:
    """Returns None if the answer does not match. An answer that the cap has cut cannot match, so it is returned unchanged."""
    text, is_fenced = (None, False) if whole.text is None else bare_json(whole.text)
    if is_fenced:
        notes.add(FENCED)
    if whole.finish_reason is FinishReason.LENGTH:
        notes.add(CUT_JSON)
    elif whole.finish_reason not in _UNCHECKED and not check.accepts(text or ""):
        return None
    return replace(whole, text=text)
