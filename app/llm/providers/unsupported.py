"""A parameter that a model does not take is dropped with a note in the answer, or the call is refused before it is sent. It is
never dropped silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.domain.errors import Refused, RefusedByTarget
from app.domain.problems import InvalidInput
from app.llm.messages import ModelCall, UnsupportedPolicy

OTHER_REASONING = "Reasoning written by another model was not sent."


@dataclass(slots=True)
class Notes:
    """Collects notes of what was changed in a call to one model."""

    call: ModelCall
    texts: list[str] = field(default_factory=list)

    def drop(self, name: str) -> None:
        """`name` is the name of the field in the input (camelCase). Raises Refused(InvalidInput) if the call's policy is to
        refuse."""
        if self.call.unsupported is UnsupportedPolicy.REFUSE:
            raise Refused(InvalidInput(f"{self.call.model} does not take {name}.", (name,)))
        self.texts.append(f"{name} was left out: {self.call.model} does not take it.")

    def change(self, name: str, asked: str, sent: str) -> None:
        """Notes that the model takes the parameter, but not the value asked for. Raises like `drop`."""
        if self.call.unsupported is UnsupportedPolicy.REFUSE:
            raise Refused(InvalidInput(f"{self.call.model} does not take {name} {asked}.", (name,)))
        self.texts.append(f"{name} was changed from {asked} to {sent}: {self.call.model} does not take {asked}.")

    def settle(self, name: str, asked: str, sent: str) -> None:
        if asked != sent:
            self.change(name, asked, sent)

    def add(self, text: str) -> None:
        if text not in self.texts:
            self.texts.append(text)


def not_taken(message: str, path: Sequence[str]) -> RefusedByTarget:
    return RefusedByTarget(InvalidInput(message, tuple(path)))


def refuse(message: str, path: Sequence[str]) -> Refused:
    return Refused(InvalidInput(message, tuple(path)))
