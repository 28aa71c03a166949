"""How many tokens a prompt will be billed as, before it is sent.

Tokens are counted with the o200k vocabulary, in slices that do not block the event loop. The count is then corrected by what
each model reported for earlier prompts. The correction follows a rise at once and a fall slowly: a hold that is too large is
returned, but a hold that is too small means spending without a hold.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec, module_from_spec
from math import ceil
from typing import Protocol

CALL_OVERHEAD = 8
TEXT_OVERHEAD = 4
"""Tokens that the providers add to a call and to each of its messages."""
_SLICE = 16 * 1024
_ROUND = 64
"""An empty text takes as long to count as this many characters."""
_CLAUDE_RATIO = 1.35
_MIN_RATIO, _MAX_RATIO = 0.25, 4.0
_MIN_COUNTED = 50
_FALL = 0.02
_MAX_MODELS = 1000


class Tokenizer(Protocol):
    def count(self, text: str) -> int: ...

    def decode(self, tokens: list[int]) -> str:
        """Raises ValueError if the tokens are no text. A number outside of the vocabulary ends the process."""
        ...


def load_tokenizer(encoding: str) -> Tokenizer:
    """Loads only the extension. Importing its package would build every vocabulary, which takes half a second and 65 MB."""
    package = find_spec("bpe_openai")
    assert package is not None
    assert package.submodule_search_locations is not None
    found = FileFinder(package.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_bindings")
    assert found is not None
    assert found.loader is not None
    bindings = module_from_spec(found)
    found.loader.exec_module(bindings)
    tokenizer: Tokenizer = bindings.tokenizer_for_encoding(encoding)
    return tokenizer


class Estimator:
    """Building it takes 60 ms and 35 MB."""

    def __init__(self) -> None:
        self._tokenizer: Tokenizer = load_tokenizer("o200k_base")
        self._ratios: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def count(self, texts: Iterable[str]) -> int:
        """Counts the texts in o200k tokens, with the providers' overhead."""
        total = CALL_OVERHEAD
        unbroken = 0
        for text in texts:
            total += TEXT_OVERHEAD
            for start in range(0, len(text), _SLICE):
                piece = text[start : start + _SLICE]
                total += self._tokenizer.count(piece)
                unbroken += len(piece) + _ROUND
                if unbroken >= _SLICE:
                    unbroken = 0
                    await asyncio.sleep(0)
        return total

    def count_now(self, texts: Iterable[str]) -> int:
        """Counts the tokens of the texts alone, without a pause for the event loop. For the parts of one answer."""
        return sum(self._tokenizer.count(text) for text in texts)

    def corrected(self, provider: str, model: str, counted: int) -> int:
        """The number of tokens that this model is expected to report for so many counted tokens."""
        return ceil(counted * self._ratios.get((provider, model), _first_ratio(model)))

    def learn(self, provider: str, model: str, counted: int, reported: int) -> None:
        """`reported` is the call's whole input, with cached tokens. Short prompts are mostly overhead and are ignored."""
        if counted < _MIN_COUNTED:
            return
        seen = min(_MAX_RATIO, max(_MIN_RATIO, reported / counted))
        known = self._ratios.pop((provider, model), _first_ratio(model))
        if len(self._ratios) >= _MAX_MODELS:
            self._ratios.popitem(last=False)
        self._ratios[provider, model] = max(seen, known + (seen - known) * _FALL)


def _first_ratio(model: str) -> float:
    return _CLAUDE_RATIO if "claude" in model else 1.0
