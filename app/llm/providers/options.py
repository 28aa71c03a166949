from __future__ import annotations

from typing import Any

from app.llm.messages import ModelCall
from app.llm.providers.unsupported import Notes, refuse
from app.settings import ProviderKindName


def add_options(body: dict[str, Any], call: ModelCall, kind: ProviderKindName, notes: Notes) -> None:
    """Adds the caller's own fields for this kind of provider. Raises Refused if one would replace a field of ours."""
    options = (call.provider_options or {}).get(kind.value)
    if not options:
        return
    for name in options:
        if name in body:
            raise refuse("GreenLang sets this field itself.", ("providerOptions", kind.value, name))
    body |= options
    notes.add(f"Sent because providerOptions asks for it: {', '.join(sorted(options))}.")
