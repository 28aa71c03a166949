"""What the configured hosts are, before the start: one cluster and one database, and which of them is the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.db.failures import DATABASE_ERRORS, is_unavailable
from app.db.openings import Openings
from app.db.server_state import ServerState, ask_state
from app.db.urls import DatabaseUrl, database_urls
from app.domain.errors import SettingsError
from app.settings import DatabaseSettings

_ANSWER_SECONDS = 5.0
_NOT_SERVED_FROM = ("database.owner", "database.direct")


@dataclass(frozen=True, slots=True)
class FoundCluster:
    """`primary` is None if no host takes writes, or several do so on one timeline. `answering` are the hosts that answer."""

    primary: DatabaseUrl | None
    answering: tuple[DatabaseUrl, ...]


async def find_cluster(settings: DatabaseSettings) -> FoundCluster | None:
    """Asks every host of `primary` and `replicas`. None if there is one host alone, because nothing is to be found out then.
    Raises SettingsError for a host that belongs to another cluster or database than the first."""
    named = _named_hosts(settings)
    if len({url.hosts[0] for _, url in named}) == 1:
        return None
    states = await asyncio.gather(*(_ask(url) for _, url in named))
    found = [(setting, url, state) for (setting, url), state in zip(named, states, strict=True) if state is not None]
    for setting, url, state in found:
        _check_same(setting, url, state, found[0][1:])
    return FoundCluster(_primary([(url, state) for _, url, state in found]), tuple(url for _, url, _ in found))


async def does_any_answer(settings: DatabaseSettings) -> bool:
    """Whether one of all hosts of `primary` and `replicas` takes connections, or says why not."""
    return any(await asyncio.gather(*(_answers(url) for _, url in _named_hosts(settings))))


def at_primary(url: DatabaseUrl, found: FoundCluster | None) -> DatabaseUrl:
    """`url` on the host of the primary alone, if it names that host."""
    if found is None or found.primary is None or found.primary.hosts[0] not in url.hosts:
        return url
    return url.at(found.primary.hosts[0])


def _named_hosts(settings: DatabaseSettings) -> list[tuple[str, DatabaseUrl]]:
    """Each host of `primary` and `replicas` with the setting that names it."""
    urls = [(setting, url) for setting, url in database_urls(settings) if setting not in _NOT_SERVED_FROM]
    return [(setting, server) for setting, url in urls for server in url.servers()]


def _check_same(setting: str, url: DatabaseUrl, state: ServerState, first: tuple[DatabaseUrl, ServerState]) -> None:
    if state.cluster != first[1].cluster:
        raise SettingsError(setting, f"{url.hosts[0]} belongs to another cluster than {first[0].hosts[0]}")
    if state.database != first[1].database:
        raise SettingsError(setting, f"{url.hosts[0]} leads to another database than {first[0].hosts[0]}")


def _primary(found: Sequence[tuple[DatabaseUrl, ServerState]]) -> DatabaseUrl | None:
    newest = max((state.timeline for _, state in found), default=0)
    leading = {state.started_at: url for url, state in found if not state.is_standby and state.timeline == newest}
    return next(iter(leading.values())) if len(leading) == 1 else None


async def _answers(url: DatabaseUrl) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            (await Openings().open(**url.connect_arguments(), timeout=_ANSWER_SECONDS, statement_cache_size=0)).terminate()
    except DATABASE_ERRORS as error:
        return not is_unavailable(error)
    return True


async def _ask(url: DatabaseUrl) -> ServerState | None:
    with suppress(*DATABASE_ERRORS):
        async with asyncio.timeout(_ANSWER_SECONDS):
            connection = await Openings().open(**url.connect_arguments(), timeout=_ANSWER_SECONDS, statement_cache_size=0)
            try:
                return await ask_state(connection)
            finally:
                connection.terminate()
    return None
