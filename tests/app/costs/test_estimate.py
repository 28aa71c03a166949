from __future__ import annotations

import asyncio

import pytest

from app.costs.estimate import FIRST_CORRECTION_CLAUDE, INLINE_CHARACTERS, Estimator

pytestmark = pytest.mark.anyio

PROSE = "The quick brown fox jumps over the lazy dog. "


class TestCounting:
    async def test_until_the_tokenizer_is_there_bytes_are_counted(self) -> None:
        estimator = Estimator()
        assert await estimator.input_tokens(["naïve", "猫"]) == 3 + 2 * 4 + 6 + 3
        await estimator.ready()
        assert await estimator.input_tokens(["naïve", "猫"]) < 3 + 2 * 4 + 6 + 3

    async def test_short_and_long_prompts_count_alike(self) -> None:
        estimator = Estimator()
        await estimator.ready()
        long = PROSE * (INLINE_CHARACTERS // len(PROSE) + 1)
        half = len(long) // 2
        whole, one, other = [await estimator.input_tokens([text]) for text in (long, long[:half], long[half:])]
        assert abs(whole + 7 - one - other) <= 2

    async def test_a_huge_prompt_does_not_hold_up_the_loop(self) -> None:
        estimator = Estimator()
        await estimator.ready()
        counting = asyncio.create_task(estimator.input_tokens([PROSE * 100_000]))
        turns = 0
        while not counting.done():
            await asyncio.sleep(0)
            turns += 1
        assert counting.result() > 900_000
        assert turns > 50


class TestCorrection:
    async def test_rises_at_once_and_sinks_slowly(self) -> None:
        estimator = Estimator()
        await estimator.ready()
        assert estimator.for_model(1000, "openai", "gpt-4o") == 1000
        estimator.learn("openai", "gpt-4o", 1000, 1200)
        assert estimator.for_model(1000, "openai", "gpt-4o") == 1200
        estimator.learn("openai", "gpt-4o", 1000, 1000)
        assert 1190 < estimator.for_model(1000, "openai", "gpt-4o") < 1200
        assert estimator.for_model(1000, "other", "gpt-4o") == 1000

    async def test_starts_higher_for_claude(self) -> None:
        assert Estimator().for_model(1000, "anthropic", "claude-sonnet-5") == 1000 * FIRST_CORRECTION_CLAUDE

    async def test_a_tiny_prompt_teaches_nothing(self) -> None:
        estimator = Estimator()
        await estimator.ready()
        estimator.learn("openai", "gpt-4o", 8, 32)
        assert estimator.for_model(1000, "openai", "gpt-4o") == 1000
