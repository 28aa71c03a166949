"""Looks at the secrets of a server process again and again, and hands on what has changed.

A value that cannot be read, or that its user refuses, changes nothing: the value before stays in use, until a later reading is
right. The environment of a process never changes, so it is not looked at again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from app.domain.errors import SettingsError
from app.runtime.clock import Clock
from app.secret_stores.reader import SecretFault, SecretReader
from app.secret_stores.values import SecretValues
from app.secrets.reference import SecondStep, SecretReference, SecretSource
from app.settings import Settings
from app.settings.secret_places import secret_places, store_logins

_QUIET_SECONDS = 60.0
_NOT_TAKEN = "a restart takes it into use"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SecretState:
    """Where a secret stands. `changed_at` is None until it changes. `last_error` is a category, None if the last reading was
    right. `in_use`: whether the process works with the value that was read last."""

    place: str
    source: SecretSource
    read_at: datetime | None
    changed_at: datetime | None
    last_error: str | None
    in_use: bool


@dataclass(slots=True)
class _Watched:
    place: str
    reference: SecretReference
    text: str | None = field(default=None, repr=False)
    read_at: datetime | None = None
    changed_at: datetime | None = None
    fault: str | None = None
    in_use: bool = True
    quiet_until: float = 0.0
    is_login: bool = False
    """Whether a store of secrets is entered with it. It is read again at each login, so nothing needs to listen."""


class SecretWatch:
    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Binds the references of `settings`, so build it before whatever listens to them."""
        self._clock = clock
        self._refresh_seconds = settings.secrets.refresh.total_seconds()
        self._reader = SecretReader({SecretSource.VAULT: settings.secrets.vault, SecretSource.AWS: settings.secrets.aws})
        places = list(secret_places(settings))
        self._values = next((found for _, each in places if isinstance(found := each.values, SecretValues)), SecretValues())
        for _, reference in places:
            reference.bind(self._values)
        self._watched = [_Watched(place, reference) for place, reference in places]
        self._watched += [_Watched(place, reference, is_login=True) for place, reference in store_logins(settings)]
        self._second_steps: list[SecondStep] = []
        self._reloads, self._failures, self._failing = _metrics()
        for watched in self._watched:
            self._read_first(watched)

    def expose(self, registry: CollectorRegistry) -> None:
        for metric in (self._reloads, self._failures, self._failing):
            registry.register(metric)

    @property
    def faults(self) -> Sequence[str]:
        """The places whose value could not be read the last time, or cannot be used."""
        return [watched.place for watched in self._watched if watched.fault is not None]

    def states(self) -> list[SecretState]:
        return [
            SecretState(
                each.place,
                each.reference.source,
                each.read_at,
                each.changed_at,
                each.fault,
                each.in_use and each.text is not None,
            )
            for each in self._watched
        ]

    async def run_maintenance(self) -> None:
        """Until it is cancelled. The first time is at once: a process that is started again has the values of its parent."""
        while any(watched.reference.source is not SecretSource.ENVIRONMENT for watched in self._watched):
            await self.refresh()
            await self._clock.sleep(self._refresh_seconds)

    async def refresh(self) -> None:
        steps, self._second_steps = self._second_steps, []
        for step in steps:
            step()
        watched = [each for each in self._watched if each.reference.source is not SecretSource.ENVIRONMENT]
        found = await asyncio.to_thread(self._reader.read, [each.reference for each in watched])
        for each in watched:
            value = found[each.reference.name]
            if isinstance(value, SecretFault):
                self._note(each, str(value))
            else:
                self._take(each, value)
        self._count_failing()

    def _read_first(self, watched: _Watched) -> None:
        try:
            watched.text = watched.reference.reveal()
            watched.read_at = self._clock.now()
        except SettingsError as error:
            watched.fault = error.problem

    def _take(self, watched: _Watched, text: str) -> None:
        watched.read_at = self._clock.now()
        text = text.strip()
        if watched.text == text:
            watched.fault = None if watched.in_use else watched.fault
            return
        watched.text, watched.changed_at = text, watched.read_at
        self._values.keep(watched.reference, text)
        self._reloads.labels(watched.reference.source.value).inc()
        try:
            self._second_steps += self._values.announce(watched.reference, text)
        except SettingsError as error:
            watched.in_use = False
            self._note(watched, error.problem)
            return
        watched.in_use = watched.is_login or self._values.is_heard(watched.reference)
        watched.fault = None if watched.in_use else _NOT_TAKEN
        _log.info("a secret has changed", extra={"place": watched.place, "in_use": watched.in_use})

    def _note(self, watched: _Watched, fault: str) -> None:
        """One line a minute for each secret."""
        watched.fault = fault
        self._failures.labels(watched.reference.source.value).inc()
        now = self._clock.monotonic()
        if now >= watched.quiet_until:
            watched.quiet_until = now + _QUIET_SECONDS
            _log.warning(
                "a secret could not be renewed; the value before stays in use", extra={"place": watched.place, "reason": fault}
            )

    def _count_failing(self) -> None:
        for source in SecretSource:
            failing = sum(each.fault is not None for each in self._watched if each.reference.source is source)
            self._failing.labels(source.value).set(failing)


def _metrics() -> tuple[Counter, Counter, Gauge]:
    reloads = Counter("greenlang_secret_reloads", "Secrets whose value has changed, by source.", ["source"], registry=None)
    failures = Counter(
        "greenlang_secret_failures", "Readings of secrets that failed or gave an unusable value.", ["source"], registry=None
    )
    failing = Gauge("greenlang_secrets_failing", "Secrets whose last reading was not right.", ["source"], registry=None)
    for source in SecretSource:
        for metric in (reloads, failures, failing):
            metric.labels(source.value)
    return reloads, failures, failing
