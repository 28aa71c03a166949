"""A completion as bytes. The ledger keeps them with the call, for `completion(id)` and for repeats of an idempotency key.

The bytes hold only what the call itself produced. If content is not to be kept, they hold no text, tool calls or reasoning, and
a note says so.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from uuid import UUID

import msgspec

from app.access.principal import Principal
from app.access.visibility import may_see
from app.costs.holds import Ledger, StoredCall
from app.domain.money import ZERO
from app.domain.problems import InvalidInput
from app.domain.usage import Operation
from app.gateway.completions import Completion, CompletionStatus
from app.gateway.statements import plain_text, read_statements
from app.llm.routing import ProvidersFailed, RateLimited
from app.secrets.sealing import Sealer

_FIELDS = typing.get_type_hints(Completion) | {"reasoning": typing.Any}
CONTENT_NOT_KEPT = "The content of this completion was not kept."
OUTCOME_NOT_KEPT = ProvidersFailed("This call failed. How it failed is no longer kept.", (), retryable=False)
_SHOWN = frozenset({Operation.COMPLETION, Operation.ANSWER})
ABANDONED = ProvidersFailed("The server that ran this call stopped before the call ended.", (), retryable=True)


@dataclass(frozen=True, slots=True)
class StoredCompletions:
    """`sealer` encrypts at rest. `keep_content` is the configured choice whether prompts and answers are kept."""

    sealer: Sealer
    keep_content: bool

    def encode(self, completion: Completion) -> bytes:
        if not self.keep_content:
            completion = dataclasses.replace(
                completion,
                text=None,
                tool_calls=(),
                reasoning=None,
                provider_state=None,
                notes=(*completion.notes, CONTENT_NOT_KEPT),
            )
        return self.sealer.seal(msgspec.json.encode(completion), seal_context(completion.tenant, completion.key))

    def read(self, stored: StoredCall) -> Completion:
        """Returns the completion in its present state. Raises UnsealError if the bytes are not this tenant's completion, or if
        they were sealed with a key that is not configured."""
        if stored.document is None:
            return _without_document(stored)
        document = self.sealer.unseal(stored.document, seal_context(stored.tenant, stored.key))
        return decode_completion(document)


class CompletionReader:
    """Finds completions that run or are kept, in any process, for callers that may see them."""

    def __init__(self, ledger: Ledger, documents: StoredCompletions) -> None:
        self.documents = documents
        self._ledger = ledger

    async def find(self, key: UUID, principal: Principal) -> Completion | None:
        """Returns the completion in its present state; None if there is none that the principal may see. Raises
        StoreUnavailable."""
        stored = await self._ledger.stored(key)
        if stored is None or stored.operation not in _SHOWN or not may_see(principal, stored.tenant, stored.agent):
            return None
        completion = self.documents.read(stored)
        return completion if stored.operation is Operation.COMPLETION else without_quotes(completion)


def decode_completion(document: bytes) -> Completion:
    """What was a completion as JSON."""
    raw = msgspec.json.decode(document, type=dict[str, typing.Any])
    problem = _problem(raw.pop("problem"))
    fields = {name: msgspec.convert(value, _FIELDS[name], strict=False) for name, value in raw.items()}
    return Completion(**fields, problem=problem)


def without_quotes(answer: Completion) -> Completion:
    """An answer from passages as callers see it: what the model said, without quotes that were not checked."""
    if not answer.passages:
        return answer
    statements = read_statements(answer.text)
    return dataclasses.replace(answer, text=None if answer.text is None else plain_text(statements))


def _without_document(stored: StoredCall) -> Completion:
    status, costs = CompletionStatus(stored.status), [attempt.cost_usd for attempt in stored.attempts]
    known = [cost for cost in costs if cost is not None]
    failed = OUTCOME_NOT_KEPT if stored.expired else ABANDONED
    return Completion(
        stored.key,
        status,
        stored.tenant,
        stored.created_at,
        problem=dataclasses.replace(failed, attempts=stored.attempts) if status is CompletionStatus.FAILED else None,
        cost_usd=sum(known, ZERO) if known and len(known) == len(costs) else None,
        attempts=stored.attempts,
        agent=stored.agent,
        finished_at=stored.finished_at,
        notes=(CONTENT_NOT_KEPT,) if stored.expired else (),
    )


def _problem(raw: dict[str, typing.Any] | None) -> object:
    """The kind of a problem is known from the fields that only this kind has."""
    if raw is None:
        return None
    kind = ProvidersFailed if "attempts" in raw else RateLimited if "retry_after" in raw else InvalidInput
    return msgspec.convert(raw, kind, strict=False)


def seal_context(tenant: str, key: UUID) -> bytes:
    """Content that is sealed for one tenant's completion cannot be opened as another's."""
    return tenant.encode() + b"\0" + key.bytes
