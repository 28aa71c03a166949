from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.costs.holds import StoredCall
from app.domain.problems import ProblemCode
from app.domain.usage import Operation, TokenUsage
from app.gateway.completions import CompletionStatus
from app.gateway.embeddings import Embeddings, EmbeddingsOutcome
from app.gateway.stored_embeddings import NOT_KEPT, StoredEmbeddings
from app.llm.routing import ProvidersFailed
from app.secrets.sealing import Sealer, UnsealError

KEY = UUID(int=7)
KEEPING = StoredEmbeddings(Sealer([b"k" * 32]), keep_content=True)
SINGLES = st.floats(allow_nan=False, allow_infinity=False, width=32)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)


def outcome(*vectors: tuple[float, ...]) -> EmbeddingsOutcome:
    made = Embeddings("openai", "text-embedding-3-small", len(vectors[0]), vectors, TokenUsage(12), Decimal("0.00000024"))
    return EmbeddingsOutcome(KEY, "acme", CompletionStatus.FINISHED, made)


def stored(document: bytes | None, status: str = "FINISHED", tenant: str = "acme") -> StoredCall:
    at = datetime(2026, 11, 22, tzinfo=UTC)
    return StoredCall(KEY, tenant, Operation.EMBEDDING, status, document, at, at)


class TestVectors:
    @given(st.integers(1, 5).flatmap(lambda size: st.lists(st.tuples(*[SINGLES | DOUBLES] * size), min_size=1, max_size=4)))
    def test_come_back_to_the_last_bit(self, vectors: list[tuple[float, ...]]) -> None:
        ended = outcome(*vectors)
        assert KEEPING.read(stored(KEEPING.encode(ended))) == ended

    def test_take_four_bytes_a_number_where_that_is_all_they_have(self) -> None:
        singles = struct.unpack("<1000f", struct.pack("<1000f", *(number / 7 for number in range(1000))))
        encoded = KEEPING.encode(outcome(singles))
        assert encoded is not None
        assert len(encoded) < 4500

    def test_open_for_no_other_tenant(self) -> None:
        with pytest.raises(UnsealError):
            KEEPING.read(stored(KEEPING.encode(outcome((1.0,))), tenant="globex"))


class TestWithoutVectors:
    def test_a_failure_comes_back_with_its_reason(self) -> None:
        problem = ProvidersFailed("No target answered.", (), retryable=True, code=ProblemCode.TIMEOUT)
        ended = EmbeddingsOutcome(KEY, "acme", CompletionStatus.FAILED, problem=problem)
        for keep in (True, False):
            documents = StoredEmbeddings(Sealer([]), keep)
            assert documents.read(stored(documents.encode(ended), "FAILED")) == ended

    def test_where_content_is_not_kept_nothing_is_and_a_repeat_is_informed_so(self) -> None:
        documents = StoredEmbeddings(Sealer([]), keep_content=False)
        assert documents.encode(outcome((1.0,))) is None
        assert documents.read(stored(None)).problem is NOT_KEPT

    def test_a_call_whose_server_died_may_be_made_again(self) -> None:
        problem = KEEPING.read(stored(None, "FAILED")).problem
        assert isinstance(problem, ProvidersFailed)
        assert problem.retryable
