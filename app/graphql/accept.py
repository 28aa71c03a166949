"""Which of our media types a caller prefers, according to Accept with q-values (RFC 9110)."""

from __future__ import annotations

from enum import StrEnum


class MediaType(StrEnum):
    JSON = "application/json"
    RESPONSE_JSON = "application/graphql-response+json"
    EVENT_STREAM = "text/event-stream"
    HTML = "text/html"


_JSON_TYPES = (MediaType.JSON, MediaType.RESPONSE_JSON)
_MAX_RANGES = 32


def negotiate(accept: str | None, *, html: bool = False) -> MediaType | None:
    """Returns the media type of the answer; None if the caller accepts none of ours. Events and pages are used only if they are
    named."""
    if accept is None or not accept.strip():
        return MediaType.JSON
    ranges = _ranges(accept)
    named = (*_JSON_TYPES, MediaType.EVENT_STREAM, *((MediaType.HTML,) if html else ()))
    best: MediaType | None = None
    best_rank = (0.0, 0, 0)
    for offer in named:
        rank = _rank(offer, ranges)
        if rank is not None and rank[0] > 0 and rank > best_rank:
            best, best_rank = offer, rank
    return best


def is_named(media: MediaType, accept: str | None) -> bool:
    """Whether the caller accepts the media type and names it."""
    return any(name == media and quality > 0 for name, quality in _ranges(accept or ""))


def _ranges(accept: str) -> list[tuple[str, float]]:
    found = []
    for part in accept.split(",")[:_MAX_RANGES]:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                quality = _quality(parameter[2:])
        if name:
            found.append((name, quality))
    return found


def _quality(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0


def _rank(offer: MediaType, ranges: list[tuple[str, float]]) -> tuple[float, int, int] | None:
    """Returns (quality, how exactly the type was named; earlier is higher) of the most exact range that covers the offer."""
    wild = {"*/*": 1, "application/*": 2} if offer in _JSON_TYPES else {}
    best: tuple[int, int, float] | None = None
    for position, (name, quality) in enumerate(ranges):
        exactness = 3 if name == offer else wild.get(name, 0)
        if exactness and (best is None or exactness > best[0]):
            best = (exactness, -position, quality)
    return None if best is None else (best[2], best[0], best[1])
