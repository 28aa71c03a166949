"""The API keys of one provider, in order of preference. A refused key is set aside for a while, and the next one is used.

A secret that changes is used by the next call. The one before stays as a further key until it is refused, so a new one that is
wrong takes nothing away.

A key that is refused with 403 is set aside only for the model in question, because one model's refusal must not take the
provider away from all callers. If the secret of a refused key has changed since it was read, the new secret is used at once.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from functools import partial

from app.domain.errors import SettingsError
from app.llm.providers.unusable_settings import is_header_value
from app.runtime.clock import Clock
from app.secrets.reference import SecretReference
from app.settings import ProviderKindName, ProviderSettings

SET_ASIDE_SECONDS = 60.0
_REMEMBERED = 1000
_FORMER = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """`secret` is None for a server that needs no key."""

    place: int
    secret: str | None = field(repr=False)

    @property
    def can_be_sent(self) -> bool:
        return self.secret is None or is_header_value(self.secret)


def build_keyring(settings: ProviderSettings, clock: Clock) -> Keyring:
    """Raises SettingsError and names what is missing. A server of your own may need no key."""
    own = settings.base_url is not None or settings.simulated or settings.kind is ProviderKindName.OPENAI_COMPATIBLE
    if not settings.api_keys and not own:
        raise SettingsError(f"providers.{settings.name}.api_keys", f"a provider of kind {settings.kind.value} needs one")
    return Keyring(settings.api_keys, clock, without="simulator" if settings.simulated else None)


class Keyring:
    """`without` is the secret that is sent if no key is configured. Raises SettingsError and names the reference if a secret
    cannot be read."""

    def __init__(self, references: Sequence[SecretReference], clock: Clock, *, without: str | None = None) -> None:
        self._references = tuple(references)
        self._clock = clock
        keys = [ApiKey(place, reference.reveal()) for place, reference in enumerate(self._references)]
        self._keys = keys or [ApiKey(0, without)]
        self._former: list[ApiKey] = []
        for place, reference in enumerate(self._references):
            reference.on_change(partial(self._renew, place))
        self._refused_until: dict[tuple[int, str | None], float] = {}

    def __len__(self) -> int:
        return len(self._keys) + len(self._former)

    def pick(self, model: str | None, tried: Container[ApiKey] = ()) -> ApiKey | None:
        """Returns the first key that was not tried yet and is not set aside, neither as a whole nor for this model. If all are
        set aside, returns the one that comes back first: a request with it costs nothing, and a key that was refused by mistake
        works again at once."""
        if not self._refused_until and self._keys[0] not in tried:
            return self._keys[0]
        former = next((key for key in self._former if key not in tried), None)
        untried = [key for key in self._keys if key not in tried]
        chosen = min(untried, key=lambda key: max(self._until(key, None), self._until(key, model)), default=None)
        if chosen is None or (former is not None and max(self._until(chosen, None), self._until(chosen, model))):
            return former or chosen
        return chosen

    def refuse(self, key: ApiKey, model: str | None) -> None:
        """Takes the key out of use for a while, only for `model` if that is given. If its secret has changed, the new secret
        replaces it instead. Does nothing if that has already happened."""
        if key in self._former:
            self._former.remove(key)
        if self._keys[key.place] is not key:
            return
        fresh = self._read_again(key)
        if fresh is not None:
            self._keys[key.place] = fresh
            return
        if len(self._refused_until) >= _REMEMBERED:
            self._refused_until.clear()
        if not self._until(key, model):
            _log.warning("a key is refused, or cannot be sent", extra={"key": self._named(key), "model": model})
        self._refused_until[key.place, model] = self._clock.monotonic() + SET_ASIDE_SECONDS

    def _renew(self, place: int, secret: str) -> None:
        """Does nothing if a refusal has shown the new secret before."""
        before, fresh = self._keys[place], ApiKey(place, secret)
        if before.secret == secret:
            return
        if not fresh.can_be_sent:
            raise SettingsError(self._references[place].name, "it cannot be sent in a header")
        self._keys[place] = fresh
        self._former = [before, *self._former][:_FORMER]
        for refused in [each for each in self._refused_until if each[0] == place]:
            del self._refused_until[refused]

    def _until(self, key: ApiKey, model: str | None) -> float:
        """When the key may be used again; 0 if it is not set aside."""
        until = self._refused_until.get((key.place, model), 0.0)
        if until and until <= self._clock.monotonic():
            del self._refused_until[key.place, model]
            return 0.0
        return until

    def _named(self, key: ApiKey) -> str | None:
        """Where the secret is configured; None if it is not."""
        if key.place >= len(self._references):
            return None
        return self._references[key.place].name

    def _read_again(self, key: ApiKey) -> ApiKey | None:
        if key.place >= len(self._references):
            return None
        try:
            secret = self._references[key.place].reveal()
        except SettingsError:
            return None
        return ApiKey(key.place, secret) if secret != key.secret else None
