"""Keys as rows. Other processes only need to learn of keys that changed after they were made, because no caller has used a new
hint before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import Row, Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.access.key_cache import KeyEntry
from app.access.principal import Principal, Scope
from app.db.sessions import ReadSession, WriteSession
from app.db.statement_times import named
from app.db.tables.access import api_keys
from app.domain.errors import Refused
from app.domain.ids import format_id, parse_id
from app.domain.problems import Conflict, InvalidInput

_Row: TypeAlias = Row[*tuple[Any, ...]]

CHANNEL: Final = "greenlang_keys"
MAX_NAME_LENGTH: Final = 128

_ENTRY = (
    api_keys.c.hint,
    api_keys.c.secret_hash,
    api_keys.c.version,
    api_keys.c.revoked_at,
    api_keys.c.calls_cancelled_at,
    api_keys.c.id,
    api_keys.c.name,
    api_keys.c.tenant,
    api_keys.c.scopes,
    api_keys.c.agent,
    api_keys.c.expires_at,
    api_keys.c.requests_per_minute,
    api_keys.c.max_concurrent,
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """Names have 1 to 128 printable characters. Raises Refused(InvalidInput) for values that no key can have."""

    name: str
    tenant: str
    scopes: frozenset[Scope]
    agent: str | None = None
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    max_concurrent: int | None = None

    def __post_init__(self) -> None:
        for field, name in (("name", self.name), ("tenant", self.tenant), ("agent", self.agent)):
            if name is not None and not _is_name(name):
                raise Refused(
                    InvalidInput(f"{field} has 1 to {MAX_NAME_LENGTH} printable characters and no space at its ends", (field,))
                )
        if not self.scopes:
            raise Refused(InvalidInput("a key needs at least one scope", ("scopes",)))
        if self.agent is not None and Scope.ADMIN in self.scopes:
            raise Refused(InvalidInput("a key that is bound to an agent cannot have ADMIN", ("scopes",)))
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise Refused(InvalidInput("a time must have its offset from UTC", ("expiresAt",)))
        for field, limit in (("requestsPerMinute", self.requests_per_minute), ("maxConcurrent", self.max_concurrent)):
            if limit is not None and not 1 <= limit < 2**31:
                raise Refused(InvalidInput("a limit must be a whole number of at least 1", (field,)))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key with everything but its secret."""

    key: UUID
    name: str
    tenant: str
    hint: str
    scopes: frozenset[Scope]
    agent: str | None
    expires_at: datetime | None
    requests_per_minute: int | None
    max_concurrent: int | None
    created_at: datetime
    revoked_at: datetime | None

    @property
    def id(self) -> str:
        return format_id("key", self.key)


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= MAX_NAME_LENGTH and text.isprintable() and text == text.strip()


async def insert_key(session: WriteSession, key: UUID, new: NewKey, hint: str, secret_hash: bytes) -> ApiKey:
    """Raises Refused(Conflict) if the tenant has a key with this name that is not revoked."""
    statement = (
        insert(api_keys)
        .values(
            id=key,
            tenant=new.tenant,
            name=new.name,
            hint=hint,
            secret_hash=secret_hash,
            scopes=sorted(scope.value for scope in new.scopes),
            agent=new.agent,
            expires_at=new.expires_at,
            requests_per_minute=new.requests_per_minute,
            max_concurrent=new.max_concurrent,
        )
        .returning(api_keys)
    )
    try:
        return _api_key((await session.execute(named("keys.insert", statement))).one())
    except IntegrityError as error:
        raise Refused(Conflict(f"the tenant {new.tenant} has a key {new.name}; revoke it or use another name")) from error


async def revoke_key(session: WriteSession, reference: str, tenant: str | None, *, cancel_calls: bool) -> ApiKey | None:
    """Revokes a key by id or name, and cancels its running calls if `cancel_calls` is true. Returns None if there is no such
    key. Raises Refused(InvalidInput) if several tenants have a key with this name and no tenant is given."""
    found = (await session.execute(named("keys.lock", _named(reference, tenant).with_for_update()))).all()
    if len(found) > 1:
        tenants = ", ".join(sorted(row.tenant for row in found))
        raise Refused(InvalidInput(f"keys of several tenants have this name: {tenants}; give the tenant or the id", ("tenant",)))
    if not found:
        return None
    row = found[0]
    cancels = cancel_calls and row.calls_cancelled_at is None
    if row.revoked_at is not None and not cancels:
        return _api_key(row)
    now = func.clock_timestamp()
    statement = (
        update(api_keys)
        .where(api_keys.c.id == row.id)
        .values(
            revoked_at=func.coalesce(api_keys.c.revoked_at, now),
            calls_cancelled_at=now if cancels else api_keys.c.calls_cancelled_at,
            changed_at=now,
            version=api_keys.c.version + 1,
        )
        .returning(api_keys)
    )
    row = (await session.execute(named("keys.revoke", statement))).one()
    await session.execute(named("keys.notify", select(func.pg_notify(CHANNEL, ""))))
    return _api_key(row)


def _named(reference: str, tenant: str | None) -> Select[*tuple[Any, ...]]:
    key = parse_id("key", reference)
    statement = select(api_keys)
    if key is not None:
        statement = statement.where(api_keys.c.id == key)
    else:
        statement = statement.where(api_keys.c.name == reference, api_keys.c.revoked_at.is_(None))
    return statement if tenant is None else statement.where(api_keys.c.tenant == tenant)


async def read_keys(session: ReadSession, tenant: str | None) -> tuple[ApiKey, ...]:
    statement = select(api_keys).order_by(api_keys.c.tenant, api_keys.c.created_at, api_keys.c.id)
    if tenant is not None:
        statement = statement.where(api_keys.c.tenant == tenant)
    return tuple(_api_key(row) for row in await session.execute(named("keys.list", statement)))


async def any_key(session: ReadSession) -> bool:
    return (await session.execute(named("keys.any", select(select(api_keys.c.id).exists())))).scalar_one()


async def read_entries(session: ReadSession, hints: Sequence[str]) -> dict[str, KeyEntry]:
    rows = await session.execute(named("keys.entries", select(*_ENTRY).where(api_keys.c.hint == func.any(list(hints)))))
    return {row.hint: _entry(row) for row in rows}


async def read_changes(session: ReadSession, since: datetime | None, overlap: timedelta) -> tuple[tuple[KeyEntry, ...], datetime]:
    """Returns all keys that changed later than `overlap` before `since`, and the time of this read by the database's clock."""
    now: datetime = (await session.execute(named("keys.now", select(func.now())))).scalar_one()
    changed = api_keys.c.changed_at > (since or now) - overlap
    rows = await session.execute(named("keys.changes", select(*_ENTRY).where(api_keys.c.version > 1, changed)))
    return tuple(_entry(row) for row in rows), now


def _entry(row: _Row) -> KeyEntry:
    return KeyEntry(
        hint=row.hint,
        secret_hash=row.secret_hash,
        version=row.version,
        revoked=row.revoked_at is not None,
        calls_cancelled=row.calls_cancelled_at is not None,
        principal=Principal(
            key_id=row.id,
            key_name=row.name,
            tenant=row.tenant,
            scopes=frozenset(Scope(scope) for scope in row.scopes),
            agent=row.agent,
            expires_at=row.expires_at,
            requests_per_minute=row.requests_per_minute,
            max_concurrent=row.max_concurrent,
            hint=row.hint,
        ),
    )


def _api_key(row: _Row) -> ApiKey:
    return ApiKey(
        key=row.id,
        name=row.name,
        tenant=row.tenant,
        hint=row.hint,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        agent=row.agent,
        expires_at=row.expires_at,
        requests_per_minute=row.requests_per_minute,
        max_concurrent=row.max_concurrent,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
