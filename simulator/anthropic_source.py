"""Where the bytes of an image or a document come from, in Anthropic's API."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw

from simulator.media import pdf_chars
from simulator.protocol import Rejected
from simulator.text import CHARS_PER_TOKEN, PAGE_TOKENS

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


class Source(msgspec.Struct, omit_defaults=True):
    type: Literal["base64", "url", "file", "text", "content"]
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    content: Raw = Raw(b"")


def source_chars(source: Source | None) -> int:
    """Tokens of a document."""
    if source is None or source.type == "file":
        return 0
    if source.type == "base64":
        return pdf_chars(source.data or "")
    return PAGE_TOKENS * CHARS_PER_TOKEN if source.type == "url" else len(source.data or "") + len(source.content)


def check_source(path: str, kind: str, source: Source | None) -> None:
    """`kind` is the block's type: image or document. Raises Rejected."""
    if source is None:
        raise Rejected(400, f"{path}: Field required")
    if source.type == "url":
        if not (source.url or "").startswith(("http://", "https://")):
            raise Rejected(400, f"{path}.url.url: Only HTTPS URLs are supported.")
    elif source.type == "base64":
        _check_base64(path, kind, source)
    elif kind == "document" and source.type == "text":
        _check_media_type(path, source, "text/plain")
        if not source.data:
            raise Rejected(400, f"{path}.text.data: String should have at least 1 character")
    elif source.type == "text" or (kind == "image" and source.type == "content"):
        raise Rejected(400, f"{path}: Input tag '{source.type}' found using 'type' does not match any of the expected tags")


def _check_base64(path: str, kind: str, source: Source) -> None:
    if kind == "image":
        _check_media_type(path, source, *_IMAGE_TYPES)
        return
    _check_media_type(path, source, "application/pdf")
    try:
        pdf_chars(source.data or "")
    except ValueError:
        raise Rejected(400, f"{path}.base64.data: The PDF specified was not valid.") from None


def _check_media_type(path: str, source: Source, *allowed: str) -> None:
    if source.media_type not in allowed:
        expected = " or ".join(f"'{name}'" for name in allowed)
        raise Rejected(400, f"{path}.{source.type}.media_type: Input should be {expected}")
