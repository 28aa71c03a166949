"""Takes the JSON out of an answer, without the Markdown fence and the words that some models put around it.

The text is read in pieces, so a streamed answer shows the same text as a whole one: nothing before the JSON begins, and nothing
after the JSON of a fence. If a text has no JSON at its start or in a fence, it is shown unchanged at its end.
"""

from __future__ import annotations

import re

FENCED = "The JSON was taken out of the Markdown fence around it."
_BYTE_ORDER_MARK = "\ufeff"
_BEGINS = ("{", "[", '"')
_FENCE = re.compile(r"(?:```|~~~)[ \t]{0,8}(?:json[\w-]{0,12})?\s{0,40}(?=[{\[])", re.IGNORECASE)
_MAX_FENCE_LENGTH = 80
_MARKS = re.compile(r'[{}\[\]"\\]')


class JsonText:
    """`is_fenced` is True when the JSON has begun in a fence."""

    def __init__(self) -> None:
        self._held: str | None = ""
        self._depth = 0
        self._is_in_text = False
        self._is_escaped = False
        self._is_done = False
        self.is_fenced = False

    def take(self, piece: str) -> str:
        """Returns what is to be shown now."""
        if self._held is None:
            return self._in_fence(piece) if self.is_fenced else piece
        searched = max(0, len(self._held) - _MAX_FENCE_LENGTH)
        self._held += piece
        bare = self._held.lstrip().removeprefix(_BYTE_ORDER_MARK).lstrip()
        if bare.startswith(_BEGINS):
            self._held = None
            return bare
        return self._begin_fence(searched)

    def end(self) -> str:
        """Returns what is shown at the end of the text: all of it, if no JSON has begun."""
        shown = self._begin_fence(0) if self._held else ""
        held, self._held = self._held, None
        return shown or held or ""

    def _begin_fence(self, searched: int) -> str:
        found = _FENCE.search(self._held or "", searched)
        if found is None or self._held is None:
            return ""
        inside, self._held, self.is_fenced = self._held[found.end() :], None, True
        return self._in_fence(inside)

    def _in_fence(self, piece: str) -> str:
        """Returns the text up to the end of the JSON in the fence."""
        if self._is_done:
            return ""
        escaped = 0 if self._is_escaped else -1
        for mark in _MARKS.finditer(piece):
            at, char = mark.start(), mark.group()
            if at == escaped:
                continue
            if char == "\\":
                escaped = at + 1
            elif char == '"':
                self._is_in_text = not self._is_in_text
            elif not self._is_in_text:
                self._depth += 1 if char in "{[" else -1
                if not self._depth:
                    self._is_done = True
                    return piece[: at + 1]
        if piece:
            self._is_escaped = escaped == len(piece)
        return piece


def bare_json(text: str) -> tuple[str, bool]:
    """Returns what is shown of a whole text, and whether it was in a fence."""
    reading = JsonText()
    return reading.take(text) + reading.end(), reading.is_fenced
