"""Checks that a quote is in its passage.

What is found is the passage's own words: white space and typographic quotation marks may differ from the quote, nothing else. A
quote that is not found as it is, in one piece and as whole words, is none. Short quotes would be found almost anywhere.
"""

from __future__ import annotations

MIN_QUOTE_LENGTH = 12
"""In characters. A shorter quote must be the whole passage."""
_STRAIGHT = dict.fromkeys("“”„‟«»″＂", '"') | dict.fromkeys("‘’‚‛‹›′＇", "'")


def own_words(quote: str, passage: str) -> str | None:
    """Returns the part of the passage that the quote stands for. None if there is none."""
    wanted, _ = _canonical(quote.strip())
    text, positions = _canonical(passage)
    if wanted and wanted == text.strip():
        return passage.strip()
    if len(wanted) < MIN_QUOTE_LENGTH:
        return None
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        if not _is_within_word(text, at) and not _is_within_word(text, end):
            return passage[positions[at] : positions[end - 1] + 1]
        at = text.find(wanted, at + 1)
    return None


def _canonical(text: str) -> tuple[str, list[int]]:
    """The text with straight quotation marks and single spaces, and the position of each of its characters."""
    characters: list[str] = []
    positions: list[int] = []
    for position, character in enumerate(text):
        if character.isspace():
            if characters and characters[-1] == " ":
                continue
            characters.append(" ")
        else:
            characters.append(_STRAIGHT.get(character, character))
        positions.append(position)
    return "".join(characters), positions


def _is_within_word(text: str, at: int) -> bool:
    """Only scripts with upper and lower case are asked. Others, such as Chinese, may have no spaces between words."""
    return 0 < at < len(text) and _is_of_word(text[at - 1]) and _is_of_word(text[at])


def _is_of_word(character: str) -> bool:
    return character.isdecimal() or character.lower() != character.upper()
