"""Cuts a text into chunks that a model can embed.

Chunks are cut at paragraphs and sentences, at lines and words only if a sentence is too long, and within a word only if the
word is too long. `text[chunk.start:chunk.end]` is the chunk's text. Every character that is not white space is in a chunk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MIN_CHUNK_TOKENS = 16
"""No character is more tokens than this."""
_GAP = re.compile(r"\s+|(?<=[。！？])(?![\s。！？」』])")
_SENTENCE_ENDS = tuple(".!?…。！？")
_CLOSING = "\"'”’»)]*_`」』"

CountTokens = Callable[[str], int]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """`start` and `end` are positions in the document's text, in Unicode code points; the end is not included."""

    index: int
    start: int
    end: int
    text: str


def cut(text: str, count: CountTokens, max_tokens: int, overlap_tokens: int = 0) -> list[Chunk]:
    """Returns the chunks in order, none if the text is blank. A text that fits is one chunk, with the white space around it.
    A chunk has at most `max_tokens`. It begins with whole sentences of at most `overlap_tokens` that end the chunk before it,
    if they fit. `max_tokens` is at least MIN_CHUNK_TOKENS."""
    assert max_tokens >= MIN_CHUNK_TOKENS
    assert 0 <= overlap_tokens < max_tokens
    if not text or text.isspace():
        return []
    if count(text) <= max_tokens:
        return [Chunk(0, 0, len(text), text)]
    spans = list(_sentences(text, count, max_tokens, overlap_tokens))
    packed = _Packing(text, spans, count, max_tokens, overlap_tokens).chunks()
    return [Chunk(index, start, end, text[start:end]) for index, (start, end) in enumerate(packed)]


def _sentences(text: str, count: CountTokens, max_tokens: int, overlap_tokens: int) -> Iterator[Span]:
    """Yields the parts between which the text may be cut: none is blank, and none has over `max_tokens`."""
    pending = [(span, 1) for span in _parts(text, (0, len(text)), _LEVELS[0])][::-1]
    while pending:
        (start, end), level = pending.pop()
        if count(text[start:end]) <= max_tokens:
            yield start, end
        elif level < len(_LEVELS):
            parts = [(span, level + 1) for span in _parts(text, (start, end), _LEVELS[level])]
            pending.extend(reversed(parts))
        else:
            yield from _pieces(text, (start, end), count, overlap_tokens or max_tokens)


def _parts(text: str, span: Span, is_cut: Callable[[re.Match[str]], bool]) -> Iterator[Span]:
    start, end = span
    for gap in _GAP.finditer(text, start, end):
        at_edge = gap.start() == start or gap.end() == end
        if at_edge or is_cut(gap):
            if gap.start() > start:
                yield start, gap.start()
            start = gap.end()
    if start < end:
        yield start, end


def _pieces(text: str, span: Span, count: CountTokens, max_tokens: int) -> Iterator[Span]:
    """Halves a word until its parts fit. A single character always does."""
    pending = [span]
    while pending:
        start, end = pending.pop()
        if end - start == 1 or count(text[start:end]) <= max_tokens:
            yield start, end
        else:
            middle = (start + end) // 2
            pending += [(middle, end), (start, middle)]


def _ends_paragraph(gap: str) -> bool:
    return gap.count("\n") > 1


def _at_sentence(gap: re.Match[str]) -> bool:
    if not gap[0] or _ends_paragraph(gap[0]):
        return True
    at, text = gap.start(), gap.string
    while at > 0 and text[at - 1] in _CLOSING:
        at -= 1
    return text.endswith(_SENTENCE_ENDS, 0, at)


def _at_line(gap: re.Match[str]) -> bool:
    return "\n" in gap[0]


def _at_word(gap: re.Match[str]) -> bool:
    return bool(gap[0])


_LEVELS = (_at_sentence, _at_line, _at_word)


class _Packing:
    def __init__(self, text: str, spans: Sequence[Span], count: CountTokens, max_tokens: int, overlap_tokens: int) -> None:
        self._text = text
        self._spans = spans
        self._count = count
        self._max = max_tokens
        self._overlap = overlap_tokens
        starts = [start for start, _ in spans[1:]]
        self._tokens = [count(text[start:following]) for (start, _), following in zip(spans, [*starts, len(text)], strict=True)]

    def chunks(self) -> Iterator[Span]:
        first, done = 0, 0
        while done < len(self._spans):
            after = self._last(first, done) + 1
            yield self._spans[first][0], self._spans[after - 1][1]
            first, done = self._next_first(first, after), after

    def _last(self, first: int, done: int) -> int:
        """The last span of the chunk that begins with `first`: at least `done`, which is the first one that is in no chunk.
        A chunk that is half full ends with a paragraph if it can."""
        last, total, at_paragraph = first, self._tokens[first], -1
        while last + 1 < len(self._spans):
            if last >= done and total * 2 >= self._max and self._ends_paragraph(last):
                at_paragraph = last
            if total + self._tokens[last + 1] > self._max and last >= done:
                break
            last += 1
            total += self._tokens[last]
        else:
            at_paragraph = -1
        last = at_paragraph if at_paragraph >= 0 else last
        while last > done and not self._fits(first, last):
            last -= 1
        return last

    def _next_first(self, first: int, after: int) -> int:
        """Goes back over the spans that the next chunk repeats."""
        if after == len(self._spans):
            return after
        begin, total = after, 0
        while begin - 1 > first and total + self._tokens[begin - 1] <= self._overlap:
            begin -= 1
            total += self._tokens[begin]
        while begin < after and not self._fits(begin, after):
            begin += 1
        return begin

    def _fits(self, first: int, last: int) -> bool:
        return self._count(self._text[self._spans[first][0] : self._spans[last][1]]) <= self._max

    def _ends_paragraph(self, index: int) -> bool:
        return _ends_paragraph(self._text[self._spans[index][1] : self._spans[index + 1][0]])
