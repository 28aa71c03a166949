"""How many tokens a prompt has, before the provider says so: for holds, limiters and the choice of a target.

The tokenizer is OpenAI's. Other models cut text differently, so each has a correction, learned from what providers report: it
rises at once with a prompt that had more tokens than estimated and sinks slowly, because too small an estimate lets a call
spend what was not held. The tokenizer takes a second and 130 MB to load; it does so in a thread at the first prompt, and until
then a prompt counts as many tokens as it has bytes, which is never too few.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from importlib import import_module
from math import ceil
from typing import Protocol

ENCODING = "o200k_base"
TOKENS_PER_MESSAGE = 4
TOKENS_PER_PROMPT = 3
INLINE_CHARACTERS = 4000
"""Counting this many takes less time than the way to a thread and back."""

FIRST_CORRECTION = 1.0
FIRST_CORRECTION_CLAUDE = 1.35
LEAST_CORRECTION, LARGEST_CORRECTION = 0.5, 4.0
SINKING = 0.02
LEAST_TOKENS_TO_LEARN_FROM = 50

_log = logging.getLogger(__name__)


class Tokenizer(Protocol):
    def count(self, text: str) -> int: ...


def load_tokenizer() -> Tokenizer:
    tokenizer: Tokenizer = import_module("bpe_openai._bindings").tokenizer_for_encoding(ENCODING)
    return tokenizer


class Estimator:
    def __init__(self) -> None:
        self._tokenizer: Tokenizer | None = None
        self._loading: asyncio.Task[None] | None = None
        self._corrections: dict[tuple[str, str], float] = {}

    async def input_tokens(self, texts: Sequence[str]) -> int:
        """The tokens of a prompt in these pieces, overhead included, as OpenAI's models count; see `for_model`."""
        overhead = TOKENS_PER_PROMPT + TOKENS_PER_MESSAGE * len(texts)
        if self._tokenizer is None:
            if self._loading is None:
                self._loading = asyncio.create_task(self._load())
            return overhead + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return overhead + sum(map(self._tokenizer.count, texts))
        return overhead + await asyncio.to_thread(lambda count: sum(map(count, texts)), self._tokenizer.count)

    async def ready(self) -> None:
        """Returns once the tokenizer has been loaded, or could not be."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        await asyncio.shield(self._loading)

    def for_model(self, tokens: int, provider: str, model: str) -> int:
        """`tokens` of `input_tokens` as this model is expected to count them."""
        return ceil(tokens * self._correction(provider, model))

    def learn(self, provider: str, model: str, estimated: int, reported: int) -> None:
        """`estimated` is what `input_tokens` said of a prompt that the provider reported as `reported` tokens."""
        if estimated < LEAST_TOKENS_TO_LEARN_FROM or reported <= 0 or self._tokenizer is None:
            return
        seen = min(max(reported / estimated, LEAST_CORRECTION), LARGEST_CORRECTION)
        known = self._correction(provider, model)
        self._corrections[provider, model] = seen if seen > known else known + (seen - known) * SINKING

    def _correction(self, provider: str, model: str) -> float:
        first = FIRST_CORRECTION_CLAUDE if "claude" in model else FIRST_CORRECTION
        return self._corrections.get((provider, model), first)

    async def _load(self) -> None:
        try:
            self._tokenizer = await asyncio.to_thread(load_tokenizer)
        except ImportError:
            _log.warning("no tokenizer: prompts are estimated by their bytes", exc_info=True)
