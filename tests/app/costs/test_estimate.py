from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.costs.estimate import CALL_OVERHEAD, TEXT_OVERHEAD, Estimator

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator()


class TestCount:
    async def test_a_known_sentence_has_its_known_tokens(self, estimator: Estimator) -> None:
        assert await estimator.count(["Hello world"]) == CALL_OVERHEAD + TEXT_OVERHEAD + 2

    async def test_chinese_is_not_taken_for_english(self, estimator: Estimator) -> None:
        assert await estimator.count(["今天天气很好，我们去公园散步吧。"]) > 8 + CALL_OVERHEAD

    @pytest.mark.parametrize("texts", [["words and more words " * 20_000], ["a"] * 5_000])
    async def test_a_large_prompt_lets_other_tasks_run(self, estimator: Estimator, texts: list[str]) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await estimator.count(texts)
        task.cancel()
        assert turns > 10


class TestCorrection:
    def test_claude_starts_above_the_count_and_others_at_it(self, estimator: Estimator) -> None:
        assert estimator.corrected("anthropic", "claude-next", 1000) == 1350
        assert estimator.corrected("openai", "gpt-next", 1000) == 1000

    def test_a_model_that_reports_more_is_believed_at_once(self, estimator: Estimator) -> None:
        estimator.learn("openai", "gpt-more", 1000, 1500)
        assert estimator.corrected("openai", "gpt-more", 1000) == 1500

    def test_a_model_that_reports_less_is_believed_slowly(self, estimator: Estimator) -> None:
        estimator.learn("openai", "gpt-less", 1000, 500)
        assert 980 <= estimator.corrected("openai", "gpt-less", 1000) < 1000

    def test_a_short_prompt_teaches_nothing(self, estimator: Estimator) -> None:
        estimator.learn("openai", "gpt-short", 20, 60)
        assert estimator.corrected("openai", "gpt-short", 1000) == 1000

    @given(reports=st.lists(st.integers(0, 10**9), max_size=30))
    def test_no_report_drives_the_estimate_out_of_bounds(self, estimator: Estimator, reports: list[int]) -> None:
        for reported in reports:
            estimator.learn("openai", "gpt-any", 1000, reported)
        assert 250 <= estimator.corrected("openai", "gpt-any", 1000) <= 4000
