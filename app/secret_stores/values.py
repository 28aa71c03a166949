"""What one process knows of the values of its secrets. Values are kept in memory, so a store that is away takes none of them."""

from __future__ import annotations

from collections.abc import Mapping

from app.secrets.reference import Listener, SecondStep, SecretReference


class SecretValues:
    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        """`texts` are by the names of references."""
        self._texts = dict(texts or {})
        self._listeners: dict[str, list[Listener]] = {}

    def text(self, reference: SecretReference) -> str | None:
        return self._texts.get(reference.name)

    def listen(self, reference: SecretReference, listener: Listener) -> None:
        self._listeners.setdefault(reference.name, []).append(listener)

    def is_heard(self, reference: SecretReference) -> bool:
        """Whether anything takes a new value without a restart."""
        return reference.name in self._listeners

    def keep(self, reference: SecretReference, text: str) -> None:
        self._texts[reference.name] = text

    def announce(self, reference: SecretReference, text: str) -> list[SecondStep]:
        """Gives the new value to all that listen, and returns their second steps. Raises SettingsError if one cannot use it; then
        that one goes on with the value before."""
        steps = [listener(text) for listener in self._listeners.get(reference.name, ())]
        return [step for step in steps if step is not None]
