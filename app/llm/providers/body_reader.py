"""Reads the whole body of an answer with status 200: one JSON object, server-sent events, or one event per line.

Servers send each of these, whatever was requested. Everything that can be read is read, also of a body that broke off after a
whole answer. A body that cannot be read costs its own figures, or else what was received. A body that is no answer costs
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from app.domain.errors import ProviderError
from app.domain.usage import TokenUsage
from app.llm.messages import ModelCall
from app.llm.providers.answers import READING_ERRORS, WholeAnswer
from app.llm.providers.sse import EVENT_FIELDS, SseReader
from app.llm.providers.stream_reader import StreamReader
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import may_have_figures
from app.llm.providers.usage_mapping import salvaged_usage
from app.llm.providers.wire_text import REPAIRED, Malformed, as_utf8, is_json


class WireProtocol(Protocol):
    def read_answer(self, raw: bytes, call: ModelCall, notes: Notes) -> WholeAnswer:
        """Reads one JSON object. Raises Malformed, and ProviderError with its cost."""
        ...

    def read_billed(self, body: Mapping[str, object], call: ModelCall, output_bytes: int) -> TokenUsage | None:
        """Returns what an unusable answer says that it cost; None if it does not say."""
        ...

    def reader(self, call: ModelCall, notes: Notes, provider_request_id: str | None) -> StreamReader: ...


class BodyReader:
    def __init__(self, protocol: WireProtocol) -> None:
        self._protocol = protocol

    def read(self, raw: bytes, call: ModelCall, notes: Notes) -> WholeAnswer:
        """Raises one of READING_ERRORS, and ProviderError, with its cost, for an error that the body reports."""
        raw = as_utf8(raw)
        payloads = _payloads(raw)
        if not payloads:
            return self._protocol.read_answer(raw, call, notes)
        reader = self._protocol.reader(call, notes, None)
        try:
            return self._read_events(reader, payloads, call, notes, is_lines=_begins_object(raw))
        except READING_ERRORS:
            if reader.started:
                raise
        answer = self._protocol.read_answer(raw if _begins_object(raw) else payloads[0], call, notes)
        if not (answer.text or answer.tool_calls):
            raise Malformed
        notes.add(REPAIRED)
        return answer

    def cost(self, raw: bytes, call: ModelCall, seconds: float, *, is_cut: bool) -> TokenUsage | None:
        """Returns the cost of a body that cannot be read; None if it is no answer. `is_cut` is True if its connection broke or
        was silent."""
        raw = as_utf8(raw)
        reader = self._protocol.reader(call, Notes(call), None)
        is_billed = False
        for payload in _payloads(raw):
            try:
                reader.read(payload)
            except READING_ERRORS:
                continue
            except ProviderError:
                break
            is_billed = is_billed or may_have_figures(payload)
        if reader.started or is_billed:
            return reader.usage()
        return salvaged_usage(raw, call, seconds, self._protocol.read_billed, is_cut=is_cut)

    def _read_events(
        self, reader: StreamReader, payloads: Sequence[bytes], call: ModelCall, notes: Notes, *, is_lines: bool
    ) -> WholeAnswer:
        for payload in payloads:
            if is_lines and reader.complete and self._begins_another(payload, call):
                notes.add(REPAIRED)
                break
            try:
                reader.read(payload)
            except READING_ERRORS:
                if reader.complete:
                    break
                raise
            except ProviderError as reported:
                cost = reader.usage()
                if reported.usage is None and (reader.started or cost.output_tokens):
                    reported.usage = cost
                raise
            if reader.stopped:
                break
        if not reader.complete:
            raise Malformed
        return reader.answer()

    def _begins_another(self, payload: bytes, call: ModelCall) -> bool:
        """Whether a line after a complete answer has words. Then it is another answer, and not the usage."""
        try:
            return bool(self._protocol.reader(call, Notes(call), None).read(payload))
        except (*READING_ERRORS, ProviderError):
            return True


def _payloads(raw: bytes) -> list[bytes]:
    """Returns the payloads of events; none if the body is one object."""
    if raw.lstrip().startswith(EVENT_FIELDS):
        events = SseReader()
        return [*events.feed(raw), *events.flush()]
    if not _begins_object(raw) or b"\n{" not in raw:
        return []
    if is_json(raw):
        return []
    return [line for line in raw.splitlines() if _begins_object(line)]


def _begins_object(raw: bytes) -> bool:
    return raw.lstrip().startswith(b"{")
