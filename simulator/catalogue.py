"""The answers of `GET /v1/models`, in either provider's words."""

from __future__ import annotations

import msgspec

from simulator.models import LISTED, Model, ProviderName
from simulator.structured import Json

_CREATED = 1_780_000_000
_CREATED_AT = "2026-05-28T00:00:00Z"
_LINES = ("haiku", "sonnet", "opus", "fable", "mythos")


def listing(provider: ProviderName, query: dict[str, list[str]]) -> bytes:
    """OpenAI has one page; Anthropic's are cut by `limit`, `after_id` and `before_id`."""
    models = [described(provider, model) for model in LISTED[provider]]
    if provider == "openai":
        return msgspec.json.encode({"object": "list", "data": models})
    names = [model.name for model in LISTED[provider]]
    start = names.index(query["after_id"][0]) + 1 if query.get("after_id", [""])[0] in names else 0
    end = names.index(query["before_id"][0]) if query.get("before_id", [""])[0] in names else len(names)
    limit = int(query["limit"][0]) if query.get("limit", [""])[0].isdigit() else 20
    page, shown = models[start:end][:limit], names[start:end][:limit]
    answer: Json = {
        "data": page,
        "has_more": len(shown) < len(names[start:end]),
        "first_id": shown[0] if shown else None,
        "last_id": shown[-1] if shown else None,
    }
    return msgspec.json.encode(answer)


def described(provider: ProviderName, model: Model) -> Json:
    if provider == "openai":
        return {"id": model.name, "object": "model", "created": _CREATED, "owned_by": "system"}
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name.replace("-", " ").title(),
        "created_at": _CREATED_AT,
        "lifecycle": "active",
        "line": next((line for line in _LINES if line in model.name), None),
        "max_input_tokens": model.context_tokens,
        "max_tokens": model.max_output_tokens,
    }
