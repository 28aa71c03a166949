"""The parts of a message or of a tool's result: text, images and documents."""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import strawberry
from strawberry import field

from app.llm.messages import Document, ImageUrl, InlineImage, InlinePdf, Part, PdfUrl, Text, TextDocument
from app.llm.pdf_pages import estimate_pages, is_pdf
from resolvers.inputs.checks import Path, check_length, invalid, unfit_text

_IMAGE_TYPES = ("image/gif", "image/jpeg", "image/png", "image/webp")
_PDF, _PLAIN = _DOCUMENT_TYPES = ("application/pdf", "text/plain")
_PIECE = 1024 * 1024
_MAX_URL_LENGTH = 8192
_MAX_DOCUMENT_NAME_LENGTH = 200


@strawberry.input(description="An image inside the request.")
class InlineImageInput:
    data: str = field(description="The image's bytes as base64.")
    media_type: str = field(description="`image/gif`, `image/jpeg`, `image/png` or `image/webp`.")

    def to_domain(self, path: Path) -> InlineImage:
        if self.media_type not in _IMAGE_TYPES:
            raise invalid(f"The media type is none of {', '.join(_IMAGE_TYPES)}.", (*path, "mediaType"))
        if not self.data:
            raise invalid("The image is empty.", (*path, "data"))
        if any(piece is None for piece in _decoded(self.data)):
            raise invalid("The data is not base64.", (*path, "data"))
        return InlineImage(self.data, self.media_type)


def _decoded(data: str) -> Iterator[bytes | None]:
    """Decodes in pieces, so that other threads get their turn. None if the text is not base64. Only the last piece may be
    padded."""
    for start in range(0, len(data), _PIECE):
        try:
            found = binascii.a2b_base64(data[start : start + _PIECE], strict_mode=True)
        except ValueError:
            yield None
            return
        yield found if len(found) == _PIECE // 4 * 3 or start + _PIECE >= len(data) else None


@strawberry.input(one_of=True, description="An image, by its address or inline.")
class ImageInput:
    url: str | None = field(description="An http or https address. It is passed on to the provider and never fetched here.")
    base64: InlineImageInput | None = field(description="The image itself.")

    def to_domain(self, path: Path) -> Part:
        if self.base64 is not None:
            return self.base64.to_domain((*path, "base64"))
        assert self.url is not None
        _check_url(self.url, (*path, "url"))
        return ImageUrl(self.url)


def _check_url(url: str, path: Path) -> None:
    check_length(url, _MAX_URL_LENGTH, path)
    if not _is_web_address(url):
        raise invalid("The address is not an http or https URL.", path)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


@strawberry.input(description="A document inside the request.")
class InlineDocumentInput:
    data: str = field(description="The document's bytes as base64.")
    media_type: str = field(description="`application/pdf` or `text/plain`; text is UTF-8.")

    def to_domain(self, name: str | None, path: Path) -> Document:
        if self.media_type not in _DOCUMENT_TYPES:
            raise invalid(f"The media type is none of {', '.join(_DOCUMENT_TYPES)}.", (*path, "mediaType"))
        if not self.data:
            raise invalid("The document is empty.", (*path, "data"))
        content = bytearray()
        for piece in _decoded(self.data):
            if piece is None:
                raise invalid("The data is not base64.", (*path, "data"))
            content += piece
        if self.media_type == _PLAIN:
            return _text_document(content, name, (*path, "data"))
        if not is_pdf(content):
            raise invalid("The data is not a PDF.", (*path, "data"))
        return InlinePdf(self.data, estimate_pages(content), name)


def _text_document(content: bytearray, name: str | None, path: Path) -> TextDocument:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise invalid("The text is not UTF-8.", path) from None
    if problem := unfit_text(text):
        raise invalid(f"The text {problem}.", path)
    return TextDocument(text, name)


@strawberry.input(description="A document: exactly one of url, base64 and text.")
class DocumentPartInput:
    url: str | None = field(
        description="An http or https address of a PDF. It is passed on to the provider and never fetched here. Providers that "
        "take no addresses of documents are skipped."
    )
    base64: InlineDocumentInput | None = field(description="The document itself.")
    text: str | None = field(description="A text document.")
    name: str | None = field(description="The name that the model sees, such as `report.pdf`. At most 200 characters.")

    def to_domain(self, path: Path) -> Document:
        check_length(self.name, _MAX_DOCUMENT_NAME_LENGTH, (*path, "name"))
        if sum(given is not None for given in (self.url, self.base64, self.text)) != 1:
            raise invalid("A document has exactly one of url, base64 and text.", path)
        if self.base64 is not None:
            return self.base64.to_domain(self.name, (*path, "base64"))
        if self.url is not None:
            _check_url(self.url, (*path, "url"))
            return PdfUrl(self.url, self.name)
        if not self.text:
            raise invalid("The document is empty.", (*path, "text"))
        return TextDocument(self.text, self.name)


@strawberry.input(one_of=True, description="A part of a message.")
class PartInput:
    text: str | None = field(description="Text.")
    image: ImageInput | None = field(description="An image. Only in USER messages and tool results.")
    document: DocumentPartInput | None = field(description="A PDF or a text document. Only in USER messages and tool results.")

    @property
    def is_large(self) -> bool:
        return self.image is not None or self.document is not None

    def to_domain(self, path: Path, *, only_text: bool) -> Part:
        if self.image is not None:
            if only_text:
                raise invalid("Images belong to USER messages and tool results.", (*path, "image"))
            return self.image.to_domain((*path, "image"))
        if self.document is not None:
            if only_text:
                raise invalid("Documents belong to USER messages and tool results.", (*path, "document"))
            return self.document.to_domain((*path, "document"))
        if not self.text:
            raise invalid("The text is empty.", (*path, "text"))
        return Text(self.text)


def to_parts(parts: Sequence[PartInput], path: Path, *, only_text: bool = False) -> tuple[Part, ...]:
    if not parts:
        raise invalid("There are no parts.", path)
    return tuple(part.to_domain((*path, str(index)), only_text=only_text) for index, part in enumerate(parts))
