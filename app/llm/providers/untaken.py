"""Parameters that models have refused before. A model is not sent the same one again."""

from __future__ import annotations

from app.llm.messages import ReasoningEffort
from app.llm.refused_parameters import Parameters

_MAX_MODELS = 1000


class Untaken:
    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._refused: dict[tuple[str, ReasoningEffort | None], frozenset[str]] = {}
        self._own: dict[str, frozenset[str]] = {}

    def of(self, model: str, effort: ReasoningEffort | None = None) -> frozenset[str]:
        """A model may refuse what the caller asked for at some efforts only. It refuses what GreenLang adds at every effort."""
        return self._refused.get((model, effort), frozenset()) | self._own.get(model, frozenset())

    def learn(self, parameter: str, model: str, effort: ReasoningEffort | None = None) -> bool:
        """Returns True if the next request like this one will differ."""
        known = self.of(model, effort)
        if parameter in known:
            return False
        if parameter in self._parameters.own:
            if len(self._own) >= _MAX_MODELS:
                self._own.clear()
            self._own[model] = self._own.get(model, frozenset()) | {parameter}
        else:
            if len(self._refused) >= _MAX_MODELS:
                self._refused.clear()
            self._refused[model, effort] = self._refused.get((model, effort), frozenset()) | {parameter}
        return True
