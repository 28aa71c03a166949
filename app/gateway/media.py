"""The images and documents of a request: how many tokens they count as, and where they are.

Only the provider counts them exactly, so each one counts as the most that providers charge for it.

Page figures: Anthropic's page on PDF support says 1,500 to 3,000 tokens of text per page, and an image of the page. OpenAI also
sends both to the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

from app.domain.hosts import is_public_url
from app.llm.messages import ImageUrl, InlineImage, InlinePdf, Message, Part, PdfUrl, Text, TextDocument

IMAGE_TOKENS = 1600
"""The most that providers charge for an image of usual size."""
PAGE_TOKENS = 3000 + IMAGE_TOKENS
UNSEEN_PDF_PAGES = 100
"""The size assumed for a PDF at an address: the most that Anthropic takes for a window of 200,000 tokens."""

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Media:
    """The number of images and documents, and the tokens that they count as. The texts of documents count as text."""

    count: int = 0
    tokens: int = 0

    def __add__(self, other: Media) -> Media:
        return Media(self.count + other.count, self.tokens + other.tokens)


def find_media(messages: tuple[Message, ...]) -> Media:
    return reduce(add, (_media(part) for _, part in _parts(messages)), Media())


def part_texts(parts: tuple[Part, ...]) -> Iterator[str]:
    """The text of the parts that a model reads."""
    for part in parts:
        if isinstance(part, Text | TextDocument):
            yield part.text
        if isinstance(part, TextDocument | InlinePdf | PdfUrl) and part.name is not None:
            yield part.name


def find_private_url(messages: tuple[Message, ...]) -> Path | None:
    """The path of the first image or document whose URL is not public. Names are not resolved."""
    for path, part in _parts(messages):
        if isinstance(part, ImageUrl | PdfUrl) and not is_public_url(part.url):
            return (*path, "image" if isinstance(part, ImageUrl) else "document", "url")
    return None


def _parts(messages: tuple[Message, ...]) -> Iterator[tuple[Path, Part]]:
    for index, message in enumerate(messages):
        for place, part in enumerate(message.parts):
            yield ("messages", str(index), "parts", str(place)), part
        if message.tool_result is not None:
            for place, part in enumerate(message.tool_result.parts):
                yield ("messages", str(index), "toolResult", "parts", str(place)), part


def _media(part: Part) -> Media:
    match part:
        case ImageUrl() | InlineImage():
            return Media(1, IMAGE_TOKENS)
        case InlinePdf(pages=pages):
            return Media(1, PAGE_TOKENS * pages)
        case PdfUrl():
            return Media(1, PAGE_TOKENS * UNSEEN_PDF_PAGES)
        case _:
            return Media()
