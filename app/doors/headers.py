"""What a client says in headers, because its protocol has no field for it, and what an answer says there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.domain.errors import Refused
from app.domain.money import format_decimal
from app.domain.problems import InvalidInput
from app.gateway.completions import CacheMode, Completion
from resolvers.inputs.completions import CacheInput
from resolvers.inputs.labels import LabelInput

_LABEL = "x-greenlang-label-"
_MODES = {"use": CacheMode.USE, "refresh": CacheMode.REFRESH}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the headers of a request ask for, beside its body."""

    agent: str | None
    labels: list[LabelInput]
    timeout_ms: int | None
    cache: CacheInput | None
    idempotency_key: str | None


def with_bearer(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers as a client with `Authorization: Bearer` sends them, also if it sends `x-api-key`."""
    key = headers.get("x-api-key")
    return headers if key is None or "authorization" in headers else {"authorization": f"Bearer {key}"}


def asked_in(headers: Mapping[str, str]) -> Asked:
    """Raises Refused(InvalidInput) with the name of a header."""
    mode = headers.get("x-greenlang-cache")
    ttl = _number(headers, "x-greenlang-cache-ttl")
    if mode is not None and mode not in _MODES:
        raise Refused(InvalidInput("It is neither use nor refresh.", ("x-greenlang-cache",)))
    cache = None if mode is None else CacheInput(mode=_MODES[mode], ttl_seconds=ttl, tags=None)
    labels = [LabelInput(key=name.removeprefix(_LABEL), value=headers[name]) for name in headers if name.startswith(_LABEL)]
    return Asked(
        headers.get("x-greenlang-agent"),
        labels,
        _number(headers, "x-greenlang-timeout-ms"),
        cache,
        headers.get("idempotency-key"),
    )


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refused(InvalidInput("It is not a whole number.", (name,)))
    return int(text)


def answer_headers(completion: Completion, notes: Iterable[str] = ()) -> list[tuple[bytes, bytes]]:
    """Who answered, at which cost, and what was changed in the request."""
    said = [*notes, *completion.notes]
    found = {
        "completion-id": completion.id,
        "provider": completion.provider,
        "model": completion.model,
        "cost-usd": None if completion.cost_usd is None else format_decimal(completion.cost_usd),
        "cache": None if completion.cache is None else completion.cache.tier.value.lower(),
        "capped-by-budget": "true" if completion.capped_by_budget else None,
        "notes": "; ".join(said) if said else None,
    }
    return [(f"x-greenlang-{name}".encode(), _header_text(value)) for name, value in found.items() if value is not None]


def _header_text(text: str) -> bytes:
    return "".join(character if character.isprintable() else " " for character in text).encode("latin-1", "replace")
