"""A completion as bytes: what the ledger keeps with a call, so that `completion(id)` and a repeated key can give it back.

Only what the call itself produced is in it. Where content is not to be kept, text, tool calls and reasoning are left out and a
note says so.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from uuid import UUID

import msgspec

from app.completions import Completion
from app.llm.routing import ProvidersFailed
from app.secrets import Sealer

_FIELDS = typing.get_type_hints(Completion) | {"problem": ProvidersFailed | None, "reasoning": typing.Any}
CONTENT_NOT_KEPT = "The content of this completion was not kept."


@dataclass(frozen=True, slots=True)
class CompletionDocuments:
    """`sealer` encrypts at rest; `keep_content` is the configuration's word on prompts and answers."""

    sealer: Sealer
    keep_content: bool

    def encode(self, completion: Completion) -> bytes:
        if not self.keep_content:
            completion = dataclasses.replace(
                completion, text=None, tool_calls=(), reasoning=None, notes=(*completion.notes, CONTENT_NOT_KEPT)
            )
        return self.sealer.seal(msgspec.json.encode(completion), seal_context(completion.tenant, completion.key))

    def decode(self, document: bytes, tenant: str, key: UUID) -> Completion:
        """Raises UnsealError where the bytes are not this tenant's completion, or the key is another."""
        raw = msgspec.json.decode(self.sealer.unseal(document, seal_context(tenant, key)), type=dict[str, typing.Any])
        return Completion(**{name: msgspec.convert(value, _FIELDS[name], strict=False) for name, value in raw.items()})


def seal_context(tenant: str, key: UUID) -> bytes:
    """Content sealed for one tenant's completion opens for no other."""
    return tenant.encode() + b"\0" + key.bytes
