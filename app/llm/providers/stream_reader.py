"""What the readers of both wire protocols share: when a streamed answer is over, and what happens to events that cannot be
read.

An answer is complete with its finish reason (`finish_reason`, `stop_reason`), or with the terminal event (`[DONE]`,
`message_stop`) of a server that sends no reason. If words follow, it is not complete any more, because some servers send a
finish reason with every chunk. Only the terminal event, after words and a finish reason, ends the reading at once. Before it
the reader waits for what may follow, longer if that may be words. So an answer never ends while words of it are still to come.
An event that cannot be read is ignored with a note if it cannot contain words. Otherwise the answer is Malformed.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from app.domain.usage import TokenUsage
from app.llm.failures import stream_failure, tells_failure
from app.llm.messages import ContentDelta, ModelCall
from app.llm.providers.answers import WholeAnswer
from app.llm.providers.unsupported import Notes
from app.llm.providers.usage_figures import Figures
from app.llm.providers.wire_text import BYTE_ORDER_MARK, Malformed, TooDeep, decode_loosely

ODD_EVENT = "An event of the stream that could not be read was ignored."
LATE_WORDS = "Words that the provider sent after the end of its answer were ignored."
_DONE = b"[DONE]"
_WORDS = re.compile(
    rb'"(?:content|text|refusal|reasoning\w*|thinking|partial_json|arguments|name)"\s*:\s*(?:"(?!")|\[(?!\s*\])|\{(?!\s*\}))'
    rb'|"(?:delta|message)"\s*:\s*"(?!")'
)


def may_hold_words(payload: bytes) -> bool:
    """Whether there is a field for words that is not empty, even if the rest is broken."""
    return _WORDS.search(payload) is not None


class Mark(Enum):
    """What an event says about the end of the answer."""

    FINISH = "a finish reason"
    USAGE = "usage alone, which comes after the words"
    TERMINAL = "the terminal event"


class StreamReader(ABC):
    """Reads one streamed answer, event by event.

    `started` is true after the first piece of content. `complete` is true when nothing is missing as far as is known. `certain`
    is true if no words can follow. `stopped` is true when nothing more is useful. `words` is the number of events with words.
    """

    def __init__(self, call: ModelCall, notes: Notes, request_id: str | None) -> None:
        self._call = call
        self._notes = notes
        self._request_id = request_id
        self._figures = Figures()
        self._output_bytes = 0
        self._has_reason = False
        self._was_taken_back = False
        self._is_over = False
        self.words = 0
        self.started = False
        self.complete = False
        self.certain = False

    @property
    def stopped(self) -> bool:
        return self._is_over and self.is_billed

    @property
    @abstractmethod
    def is_billed(self) -> bool:
        """Whether the figures of the whole answer were received."""

    @abstractmethod
    def answer(self) -> WholeAnswer:
        """Raises Malformed, and ProviderError if the finish reason says that the answer is not whole."""

    @abstractmethod
    def usage(self) -> TokenUsage:
        """What has been billed so far. It is an estimate unless the answer is complete."""

    def read(self, payload: bytes) -> Sequence[ContentDelta]:
        """Returns the parts to pass on. Raises Malformed, and ProviderError for an error inside the stream."""
        if self._is_over:
            self._read_late(payload)
            return ()
        parts: list[ContentDelta] = []
        size = self._output_bytes
        is_object = payload.startswith(b"{")
        mark = self._read_object(payload, parts) if is_object else self._read_no_object(payload, parts)
        has_words = bool(parts) or self._output_bytes != size
        if has_words:
            self._was_taken_back = self._was_taken_back or self.complete
            self.started, self.complete, self.certain = True, False, False
            self.words += 1
        if mark is not None:
            self._note_end(mark, has_words=has_words)
            if self.complete:
                parts += self._held_back()
        return parts

    @abstractmethod
    def _read_object(self, payload: bytes, parts: list[ContentDelta]) -> Mark | None:
        """Adds to the parts. Raises the same errors as `read`."""

    @abstractmethod
    def _mark_of_done(self) -> Mark | None:
        """What `[DONE]` means in this protocol."""

    @abstractmethod
    def _held_back(self) -> Sequence[ContentDelta]:
        """Returns, once, what was held back until the answer is complete."""

    @abstractmethod
    def _read_late_figures(self, event: Any) -> None: ...

    def _note_end(self, mark: Mark, *, has_words: bool) -> None:
        if mark is Mark.FINISH:
            self._has_reason = self.complete = True
            self.certain = self.started and not has_words and not self._was_taken_back
        elif mark is Mark.USAGE:
            self.certain = self.complete
        else:
            self.complete = self.certain = True
            self._is_over = self._has_reason and self.started

    def _read_no_object(self, payload: bytes, parts: list[ContentDelta]) -> Mark | None:
        payload = payload.removeprefix(BYTE_ORDER_MARK).strip()
        if payload.startswith(b"{"):
            return self._read_object(payload, parts)
        if payload.strip(b'"').upper() == _DONE:
            return self._mark_of_done()
        event = self._decode_loosely(payload)
        if isinstance(event, list) and any(isinstance(each, Mapping) and tells_failure(each) for each in event):
            raise stream_failure(event, self._request_id)
        if may_hold_words(payload):
            raise Malformed
        self._notes.add(ODD_EVENT)
        return None

    def _read_late(self, payload: bytes) -> None:
        """After the end only figures count."""
        if may_hold_words(payload):
            self._notes.add(LATE_WORDS)
        try:
            self._read_late_figures(decode_loosely(payload))
        except Malformed:
            return

    def _decode_loosely(self, payload: bytes) -> Any:
        """Returns None for an ignored event. Raises Malformed for an event that may have contained words, or was cut off before
        them."""
        try:
            return decode_loosely(payload)
        except TooDeep:
            is_cut = False
        except Malformed:
            is_cut = payload.lstrip().startswith((b"{", b"[")) and not self.certain
        if is_cut or may_hold_words(payload):
            raise Malformed
        self._notes.add(ODD_EVENT)
        return None

    def _leave_out(self, value: object) -> None:
        """Ignores a part of an event that has a wrong type. Raises Malformed if it may have contained words."""
        if value and isinstance(value, str | list | dict):
            raise Malformed
        self._notes.add(ODD_EVENT)
