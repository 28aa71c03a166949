"""Streamed events of both protocols, and what a reader makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.llm.messages import ContentDelta, TextDelta
from app.llm.providers.answers import WholeAnswer
from app.llm.providers.stream_reader import StreamReader
from app.llm.providers.unsupported import Notes
from tests.app.llm.calls import call
from tests.integration.payload_mutations import encode

CALL = call("some-model", max_output_tokens=4096)
USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
LAST = {"choices": [], "usage": USAGE}
DONE = b"[DONE]"
STOP = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 500}}


def chunk(text: str | None = None, finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    said = delta if text is None else {"content": text, **delta}
    return {"choices": [{"index": index, "delta": said, "finish_reason": finish}]}


def delta(text: str, index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}


def feed(reader: StreamReader, events: Sequence[object]) -> str:
    """The text that is shown of them."""
    parts: list[ContentDelta] = []
    for event in events:
        parts += reader.read(event if isinstance(event, bytes) else encode(event))
    return "".join(part.text for part in parts if isinstance(part, TextDelta))


def state(reader: StreamReader) -> tuple[bool, bool, bool]:
    """Whether the answer is complete, no words can follow, and nothing more is read."""
    return reader.complete, reader.certain, reader.stopped


def whole(make: Any, events: Sequence[object]) -> tuple[WholeAnswer, list[str]]:
    """The answer, whose text must be what was shown, and its notes."""
    notes = Notes(CALL)
    reader: StreamReader = make(CALL, notes, None)
    shown = feed(reader, events)
    assert reader.complete
    answer = reader.answer()
    assert (answer.text or "") == shown
    return answer, notes.texts
