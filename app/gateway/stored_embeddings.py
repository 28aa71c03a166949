"""Vectors as bytes. The ledger keeps them with a call that has an idempotency key, and a repeat of the key gets them again.

They are packed as 32-bit floats if that loses nothing, else as 64-bit floats. Vectors are content: if content is not to be
kept, a repeat is refused as a Conflict and is not charged again.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import msgspec

from app.costs.holds import StoredCall
from app.domain.problems import Conflict
from app.gateway.completions import CompletionStatus
from app.gateway.embeddings import Embeddings, EmbeddingsOutcome
from app.gateway.stored_completions import ABANDONED, OUTCOME_NOT_KEPT, seal_context
from app.llm.routing import ProvidersFailed
from app.secrets.sealing import Sealer

_Code: TypeAlias = Literal["f", "d"]
NOT_KEPT = Conflict("The vectors of this call were not kept and cannot be returned again. Use another idempotency key.")


@dataclass(frozen=True, slots=True)
class _Document:
    """`embeddings` has no vectors. `packed` has them, one after the other."""

    problem: ProvidersFailed | None
    embeddings: Embeddings | None
    code: _Code
    packed: bytes


_DECODER = msgspec.msgpack.Decoder(_Document)


@dataclass(frozen=True, slots=True)
class StoredEmbeddings:
    sealer: Sealer
    keep_content: bool

    def encode(self, ended: EmbeddingsOutcome) -> bytes | None:
        """Returns None if there is nothing to keep."""
        made = ended.embeddings if self.keep_content else None
        problem = ended.problem if isinstance(ended.problem, ProvidersFailed) else None
        if made is None and problem is None:
            return None
        code, packed = _pack(() if made is None else made.vectors)
        document = _Document(problem, None if made is None else replace(made, vectors=()), code, packed)
        return self.sealer.seal(msgspec.msgpack.encode(document), seal_context(ended.tenant, ended.key))

    def read(self, stored: StoredCall) -> EmbeddingsOutcome:
        """Reads the outcome of a call that has ended. Raises UnsealError if the bytes are not this tenant's."""
        status = CompletionStatus(stored.status)
        if stored.document is None:
            failed = OUTCOME_NOT_KEPT if stored.expired else ABANDONED
            problem = NOT_KEPT if status is CompletionStatus.FINISHED else failed
            return EmbeddingsOutcome(stored.key, stored.tenant, status, problem=problem)
        document = _DECODER.decode(self.sealer.unseal(stored.document, seal_context(stored.tenant, stored.key)))
        made = document.embeddings
        if made is not None:
            made = replace(made, vectors=_unpack(document.code, document.packed, made.dimensions))
        return EmbeddingsOutcome(stored.key, stored.tenant, status, made, document.problem)


def _pack(vectors: tuple[tuple[float, ...], ...]) -> tuple[_Code, bytes]:
    packed = bytearray()
    for vector in vectors:
        singles = array("f", vector)
        if tuple(singles) != vector:
            return "d", b"".join(array("d", vector).tobytes() for vector in vectors)
        packed += singles.tobytes()
    return "f", bytes(packed)


def _unpack(code: _Code, packed: bytes, dimensions: int) -> tuple[tuple[float, ...], ...]:
    floats = array(code, packed)
    return tuple(tuple(floats[start : start + dimensions]) for start in range(0, len(floats), dimensions))
