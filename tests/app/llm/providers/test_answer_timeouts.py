from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.llm.messages import EmbedCall, ModelCall
from app.llm.providers.answer_timeouts import embedding_timeout, first_token_timeout, silence_deadline, whole_answer_timeout
from app.settings import ProviderTimeouts

DEFAULTS = ProviderTimeouts()
FIRST_TOKEN = timedelta(seconds=30)


def call(cap: int = 4096, *, others: bool, deadline: float = 600.0) -> ModelCall:
    return ModelCall("m", (), cap, deadline, is_another_target_left=others)


def test_a_whole_answer_of_4096_tokens_may_take_100_seconds_and_a_silent_target_less_than_120() -> None:
    assert timedelta(seconds=105) < whole_answer_timeout(DEFAULTS, 4096) < timedelta(seconds=115)


@given(cap=st.integers(0, 1_000_000), more=st.integers(0, 1_000_000))
def test_a_whole_answer_gets_more_time_the_longer_it_may_be(cap: int, more: int) -> None:
    assert FIRST_TOKEN <= whole_answer_timeout(DEFAULTS, cap) <= whole_answer_timeout(DEFAULTS, cap + more)


def test_a_stream_that_is_silent_is_left_after_first_token_if_another_target_is_left() -> None:
    assert first_token_timeout(DEFAULTS, call(100_000, others=True)) == FIRST_TOKEN


@given(cap=st.integers(1, 1_000_000))
def test_the_last_targets_stream_gets_twice_that_at_most(cap: int) -> None:
    assert FIRST_TOKEN < first_token_timeout(DEFAULTS, call(cap, others=False)) <= 2 * FIRST_TOKEN


def test_embeddings_get_more_time_at_the_last_target() -> None:
    one = EmbedCall("m", ("text",), 600.0)
    assert embedding_timeout(DEFAULTS, one) == 2 * FIRST_TOKEN
    assert embedding_timeout(DEFAULTS, EmbedCall("m", ("text",), 600.0, is_another_target_left=True)) == FIRST_TOKEN


@given(now=st.floats(0, 1e6), left=st.floats(0, 1e4))
def test_half_of_the_time_that_is_left_is_kept_for_another_target(now: float, left: float) -> None:
    deadline = now + left
    assert silence_deadline(call(others=False, deadline=deadline), now) == deadline
    half = silence_deadline(call(others=True, deadline=deadline), now)
    assert abs((half - now) - left / 2) < 1e-6
