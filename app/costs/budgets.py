"""Budgets: whose spending counts, how much it may be in which period, and what happens when it is too much.

A period is computed from the database's clock in the budget's time zone, so nothing has to reset it. A change takes effect at
once: it locks the running period, and every admission takes the same lock before it reads the limit.

A budget belongs to the installation, to its scope's tenant, or to its scope's agent. Only its owner, or an owner above, may
change it, because a cap does not hold if the capped side can lift it. Names are unique among the budgets of one owner, so an
owner neither takes a name from another nor learns of its budgets.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Final
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import RowMapping, select, text, tuple_
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.db.sessions import Sessions, WriteSession
from app.db.statement_times import named
from app.db.tables.budgets import budget_now
from app.domain.errors import Forbidden, Refused
from app.domain.ids import format_id
from app.domain.money import format_decimal, round_usd
from app.domain.paging import Page, PageRequest, build_page, decode_cursor, encode_cursor, not_a_cursor
from app.domain.problems import Conflict, InvalidInput, ProblemCode, no_such
from app.domain.usage import Label
from app.runtime.clock import time_zone

MAX_NAME_LENGTH = 200
MAX_LIMIT_USD = Decimal(10) ** 15
MAX_THRESHOLD_PERCENT = 1000
MAX_THRESHOLDS = 20
NO_SUCH_BUDGET: Final = no_such("budget")
_CURSOR = "budgets"


class BudgetPeriod(Enum):
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    TOTAL = "TOTAL"


class BudgetEnforcement(Enum):
    BLOCK = "BLOCK"
    ALERT_ONLY = "ALERT_ONLY"


@dataclass(frozen=True, slots=True)
class BudgetScope:
    """A field that is None matches everything. If `tenant` is None, the budget counts the spending of all tenants together."""

    tenant: str | None = None
    agent: str | None = None
    provider: str | None = None
    model: str | None = None
    label: Label | None = None


class BudgetOwner(Enum):
    INSTALLATION = "INSTALLATION"
    TENANT = "TENANT"
    AGENT = "AGENT"

    def may_own(self, scope: BudgetScope) -> bool:
        """A budget over all tenants belongs to the installation. An agent owns only budgets that count its own spending."""
        return self is BudgetOwner.INSTALLATION or (
            scope.tenant is not None and (self is BudgetOwner.TENANT or scope.agent is not None)
        )


@dataclass(frozen=True, slots=True)
class NewBudget:
    """The owner must be allowed to own a budget of this scope."""

    name: str
    scope: BudgetScope
    limit_usd: Decimal
    period: BudgetPeriod = BudgetPeriod.MONTH
    time_zone: str = "UTC"
    thresholds: tuple[int, ...] = (80, 90, 100)
    enforcement: BudgetEnforcement = BudgetEnforcement.BLOCK
    owner: BudgetOwner = BudgetOwner.INSTALLATION


@dataclass(frozen=True, slots=True)
class BudgetChange:
    """A field that is None stays as it is."""

    expected_version: int
    name: str | None = None
    limit_usd: Decimal | None = None
    thresholds: tuple[int, ...] | None = None
    enforcement: BudgetEnforcement | None = None
    owner: BudgetOwner | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget in its running period. A TOTAL period starts at the budget's creation and has no end. `is_default` is True if
    the budget comes from the configuration."""

    key: UUID
    name: str
    scope: BudgetScope
    limit_usd: Decimal
    period: BudgetPeriod
    time_zone: str
    thresholds: tuple[int, ...]
    enforcement: BudgetEnforcement
    owner: BudgetOwner
    is_default: bool
    spent_usd: Decimal
    held_usd: Decimal
    period_start: datetime
    period_end: datetime | None
    version: int
    deleted_at: datetime | None

    @property
    def id(self) -> str:
        return format_id("bud", self.key)

    @property
    def remaining_usd(self) -> Decimal:
        """Never negative, although spending can be above a limit that was lowered."""
        return max(self.limit_usd - self.spent_usd - self.held_usd, Decimal(0))


_CHANGEABLE = {
    BudgetOwner.INSTALLATION: frozenset(BudgetOwner),
    BudgetOwner.TENANT: frozenset({BudgetOwner.TENANT, BudgetOwner.AGENT}),
    BudgetOwner.AGENT: frozenset({BudgetOwner.AGENT}),
}


@dataclass(frozen=True, slots=True)
class BudgetAuthority:
    """Who makes and changes budgets: the installation (`tenant` is None), a tenant, or one agent. If `agent` is set, only that
    agent, even if `tenant` is None, because a key can have both an agent and the scope ADMIN."""

    tenant: str | None = None
    agent: str | None = None

    @property
    def owner(self) -> BudgetOwner:
        """The owner of the budgets that are made with this authority."""
        if self.agent is not None:
            return BudgetOwner.AGENT
        return BudgetOwner.INSTALLATION if self.tenant is None else BudgetOwner.TENANT

    def check_change(self, budget: Budget, change: BudgetChange) -> None:
        """Raises Forbidden."""
        self._check_owner(budget)
        if change.owner is not None and self.owner is not BudgetOwner.INSTALLATION:
            raise Forbidden("a change of the owner needs the scope ADMIN")

    def check_deletion(self, budget: Budget) -> None:
        """Raises Forbidden."""
        self._check_owner(budget)
        if budget.is_default and self.owner is not BudgetOwner.INSTALLATION:
            raise Forbidden("the deletion of a configured default needs the scope ADMIN")

    def _check_owner(self, budget: Budget) -> None:
        if budget.owner not in _CHANGEABLE[self.owner]:
            raise Forbidden(f"the budget belongs to the {budget.owner.value.lower()}: this key may not change it")


@dataclass(frozen=True, slots=True)
class BudgetFilter:
    """If `tenant` is None, budgets of every tenant match, and those over all tenants together."""

    tenant: str | None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class BudgetExceeded:
    """A budget cannot pay for the call. `needed_usd` is the worst-case cost with the smallest output cap that the call
    accepts."""

    message: str
    budget: Budget
    needed_usd: Decimal
    remaining_usd: Decimal
    code: ProblemCode = ProblemCode.BUDGET_EXCEEDED


def exceeded(budget: Budget, needed: Decimal, remaining: Decimal) -> BudgetExceeded:
    return BudgetExceeded(
        f"The budget {budget.name!r} has {format_decimal(remaining)} USD left; the call may cost {format_decimal(needed)} USD.",
        budget,
        needed,
        remaining,
    )


class BudgetStore:
    """Every read names its tenant. None reads the budgets of all tenants and is for administrators."""

    def __init__(self, sessions: Sessions, max_per_tenant: int = 100) -> None:
        """`max_per_tenant` limits the budgets that a tenant adds itself. Admissions are batched, so the budgets of one tenant
        cost the calls of all tenants time."""
        self._sessions = sessions
        self._max_per_tenant = max_per_tenant

    async def create(self, new: NewBudget) -> Budget:
        """Raises Refused: InvalidInput, also if the tenant has its maximum of budgets, or Conflict if the same owner has a
        budget with this name."""
        _check(name=new.name, limit_usd=new.limit_usd, thresholds=new.thresholds)
        _check_scope(new.scope)
        _check_owner(new.owner, new.scope)
        _check_zone(new.time_zone)
        scope, key = new.scope, uuid4()
        values = {
            "key": key,
            "name": new.name,
            "tenant": scope.tenant or "",
            "agent": scope.agent or "",
            "provider": scope.provider or "",
            "model": scope.model or "",
            "label_key": "" if scope.label is None else scope.label.key,
            "label_value": "" if scope.label is None else scope.label.value,
            "limit_usd": new.limit_usd,
            "period": new.period.value,
            "time_zone": new.time_zone,
            "thresholds": sorted(set(new.thresholds)),
            "enforcement": new.enforcement.value,
            "owner": new.owner.value,
        }
        try:
            async with self._sessions.write() as session:
                await session.execute(_LOCK_LEDGER)
                if new.owner is not BudgetOwner.INSTALLATION:
                    await self._check_number(session, scope.tenant)
                await session.execute(_INSERT, values)
                await session.execute(text("select budget_open(:key)"), {"key": key})
                return await _load(session, key)
        except IntegrityError as error:
            raise Refused(_name_taken(new.name)) from error
        except DBAPIError as error:
            if error.orig is not None and isinstance(error.orig.__cause__, asyncpg.InvalidParameterValueError):
                raise Refused(_unknown_zone(new.time_zone)) from error
            raise

    async def update(self, key: UUID, change: BudgetChange, authority: BudgetAuthority) -> Budget:
        """Changes a budget for all calls that are admitted from now on. Raises Forbidden if the budget belongs to an owner
        above, and Refused: NotFound, Conflict for another version or a name that is in use, InvalidInput."""
        _check(name=change.name, limit_usd=change.limit_usd, thresholds=change.thresholds)
        values = {
            "key": key,
            "name": change.name,
            "limit_usd": change.limit_usd,
            "thresholds": None if change.thresholds is None else sorted(set(change.thresholds)),
            "enforcement": None if change.enforcement is None else change.enforcement.value,
            "owner": None if change.owner is None else change.owner.value,
        }
        name = change.name
        try:
            async with self._sessions.write() as session:
                found = await self._lock(session, key, authority)
                name = name or found.name
                authority.check_change(found, change)
                if found.version != change.expected_version:
                    raise Refused(Conflict(f"The budget has version {found.version}, not {change.expected_version}."))
                if change.owner is not None:
                    _check_owner(change.owner, found.scope)
                await session.execute(_UPDATE, values)
                await session.execute(
                    text("select raise_alerts(array[:key]::uuid[], array[:start]::timestamptz[], false)"),
                    {"key": key, "start": found.period_start},
                )
                return await _load(session, key)
        except IntegrityError as error:
            raise Refused(_name_taken(name or "")) from error

    async def delete(self, key: UUID, authority: BudgetAuthority) -> None:
        """Keeps the history and enforces nothing from now on. A deleted default is not made again, so its tenant or agent is
        exempt. Raises Forbidden and Refused(NotFound)."""
        async with self._sessions.write() as session:
            authority.check_deletion(await self._lock(session, key, authority))
            await session.execute(
                text("update budgets set deleted_at = now(), version = version + 1 where key = :key"), {"key": key}
            )

    async def by_key(self, key: UUID, tenant: str | None) -> Budget | None:
        return (await self.by_keys([key], tenant)).get(key)

    async def by_keys(self, keys: Collection[UUID], tenant: str | None, *, primary: bool = False) -> dict[UUID, Budget]:
        """Returns the budgets that exist, also deleted ones. With a tenant, only the tenant's own."""
        if not keys:
            return {}
        asked = _NOW.where(budget_now.c.key.in_(keys))
        if tenant is not None:
            asked = asked.where(budget_now.c.tenant == tenant)
        async with self._sessions.read(primary=primary) as session:
            found = [budget_from_row(row) for row in (await session.execute(asked)).mappings()]
            return {budget.key: budget for budget in found}

    async def page(self, where: BudgetFilter, request: PageRequest) -> Page[Budget]:
        """Returns the budgets that are not deleted, sorted by tenant and name."""
        order = budget_now.c.tenant, budget_now.c.name, budget_now.c.key
        asked = _NOW.where(budget_now.c.deleted_at.is_(None)).order_by(*order).limit(request.first + 1)
        if where.tenant is not None:
            asked = asked.where(budget_now.c.tenant == where.tenant)
        if where.agent is not None:
            asked = asked.where(budget_now.c.agent == where.agent)
        if request.after is not None:
            tenant, name, key = decode_cursor(_CURSOR, request.after, 3)
            asked = asked.where(tuple_(*order) > tuple_(tenant, name, _cursor_key(key)))
        async with self._sessions.read() as session:
            found = [budget_from_row(row) for row in (await session.execute(asked)).mappings()]
        return build_page(
            request, found, lambda budget: encode_cursor(_CURSOR, budget.scope.tenant or "", budget.name, str(budget.key))
        )

    async def _check_number(self, session: WriteSession, tenant: str | None) -> None:
        had: int = (await session.execute(_COUNT, {"tenant": tenant})).scalar_one()
        if had >= self._max_per_tenant:
            raise Refused(
                InvalidInput(
                    f"The tenant has {had} budgets of its own; {self._max_per_tenant} are allowed. Delete one that is not needed."
                )
            )

    async def _lock(self, session: WriteSession, key: UUID, authority: BudgetAuthority) -> Budget:
        """Locks the running period first, as every admission does. Then no other transaction can change the budget."""
        values = {"key": key, "tenant": authority.tenant, "agent": authority.agent}
        if (await session.execute(_LOCK_PERIOD, values)).first() is not None:
            found = await _load(session, key)
            if found.deleted_at is None:
                return found
        raise Refused(NO_SUCH_BUDGET)


_LOCK_LEDGER = text("select /* budgets.lock_ledger */ pg_advisory_xact_lock(ledger_lock())")
_COUNT = text(
    "select /* budgets.count */ count(*) from budgets"
    " where tenant = :tenant and deleted_at is null and owner <> 'INSTALLATION' and origin = 'created'"
)
_INSERT = text(
    "insert /* budgets.insert */"
    " into budgets (key, name, tenant, agent, provider, model, label_key, label_value, limit_usd, period, time_zone,"
    " thresholds, enforcement, owner) values (:key, :name, :tenant, :agent, :provider, :model, :label_key, :label_value,"
    " :limit_usd, :period, :time_zone, :thresholds, :enforcement, :owner)"
)
_UPDATE = text(
    "update /* budgets.update */ budgets set version = version + 1, name = coalesce(cast(:name as text), name),"
    " limit_usd = coalesce(cast(:limit_usd as numeric), limit_usd),"
    " thresholds = coalesce(cast(:thresholds as integer[]), thresholds),"
    " enforcement = coalesce(cast(:enforcement as text), enforcement), owner = coalesce(cast(:owner as text), owner)"
    " where key = :key"
)
_LOCK_PERIOD = text(
    "select /* budgets.lock_period */ lock_periods(array[key], array[period_start], array[period_end]) from budget_now"
    " where key = :key and deleted_at is null and (cast(:tenant as text) is null or tenant = :tenant)"
    " and (cast(:agent as text) is null or agent = :agent)"
)
_NOW = named("budgets.read", select(text("*")).select_from(budget_now))


async def _load(session: WriteSession, key: UUID) -> Budget:
    rows = await session.execute(text("select * from budget_now where key = :key"), {"key": key})
    return budget_from_row(rows.mappings().one())


def budget_from_row(row: RowMapping | asyncpg.Record) -> Budget:
    """Reads a row of the view `budget_now`."""
    return Budget(
        key=UUID(int=row["key"].int),
        name=row["name"],
        scope=BudgetScope(
            row["tenant"] or None,
            row["agent"] or None,
            row["provider"] or None,
            row["model"] or None,
            Label(row["label_key"], row["label_value"]) if row["label_key"] else None,
        ),
        limit_usd=row["limit_usd"],
        period=BudgetPeriod(row["period"]),
        time_zone=row["time_zone"],
        thresholds=tuple(row["thresholds"]),
        enforcement=BudgetEnforcement(row["enforcement"]),
        owner=BudgetOwner(row["owner"]),
        is_default=row["origin"] == "default",
        spent_usd=row["spent_usd"],
        held_usd=row["held_usd"],
        period_start=row["period_start"],
        period_end=row["period_end"],
        version=row["version"],
        deleted_at=row["deleted_at"],
    )


def _check(*, name: str | None, limit_usd: Decimal | None, thresholds: tuple[int, ...] | None) -> None:
    if name is not None and (not name.strip() or len(name) > MAX_NAME_LENGTH or "\x00" in name):
        raise Refused(InvalidInput(f"The name must have 1 to {MAX_NAME_LENGTH} characters.", ("name",)))
    if limit_usd is not None:
        if not limit_usd.is_finite() or not 0 <= limit_usd <= MAX_LIMIT_USD:
            raise Refused(InvalidInput("The limit must be between 0 and 10^15 USD.", ("limitUsd",)))
        if round_usd(limit_usd) != limit_usd:
            raise Refused(InvalidInput("The limit has at most 12 decimal places.", ("limitUsd",)))
    if thresholds is not None and (
        len(thresholds) > MAX_THRESHOLDS or not all(1 <= percent <= MAX_THRESHOLD_PERCENT for percent in thresholds)
    ):
        raise Refused(
            InvalidInput(f"At most {MAX_THRESHOLDS} thresholds of 1 to {MAX_THRESHOLD_PERCENT} percent.", ("thresholds",))
        )


def _check_scope(scope: BudgetScope) -> None:
    for name in ("tenant", "agent", "provider", "model"):
        value = getattr(scope, name)
        if value is not None and (not value or "\x00" in value):
            raise Refused(InvalidInput(f"The {name} is empty.", ("scope", name)))
    if scope.label is not None and (not scope.label.key or "\x00" in scope.label.key + scope.label.value):
        raise Refused(InvalidInput("The label needs a key.", ("scope", "label", "key")))


def _check_owner(owner: BudgetOwner, scope: BudgetScope) -> None:
    if not owner.may_own(scope):
        wanted = "one tenant" if owner is BudgetOwner.TENANT else "one agent of one tenant"
        raise Refused(InvalidInput(f"{owner.value} can only own a budget of {wanted}.", ("owner",)))


def _check_zone(name: str) -> None:
    try:
        time_zone(name)
    except ValueError as error:
        raise Refused(_unknown_zone(name)) from error


def _unknown_zone(name: str) -> InvalidInput:
    return InvalidInput(f"{name[:80]!r} is not a time zone; use a name like Europe/Berlin.", ("timeZone",))


def _name_taken(name: str) -> Conflict:
    return Conflict(f"A budget with the name {name!r} exists.")


def _cursor_key(text_: str) -> UUID:
    try:
        return UUID(text_)
    except ValueError as error:
        raise not_a_cursor() from error
