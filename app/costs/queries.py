"""Questions about costs. They are checked before any statement is built."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from zoneinfo import ZoneInfo

from app.domain.errors import Refused
from app.domain.paging import PageRequest
from app.domain.problems import InvalidInput
from app.domain.usage import Label, Operation
from app.runtime.clock import time_zone

MAX_DIMENSIONS = 3


class CostDimension(Enum):
    PROVIDER = "PROVIDER"
    MODEL = "MODEL"
    TENANT = "TENANT"
    AGENT = "AGENT"
    OPERATION = "OPERATION"
    LABEL = "LABEL"
    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"


TIMES = frozenset({CostDimension.HOUR, CostDimension.DAY, CostDimension.MONTH})


class CostOrderField(Enum):
    COST = "COST"
    REQUESTS = "REQUESTS"
    TOKENS = "TOKENS"
    PERIOD = "PERIOD"


class Direction(Enum):
    ASC = "ASC"
    DESC = "DESC"


@dataclass(frozen=True, slots=True)
class CostOrder:
    field: CostOrderField = CostOrderField.COST
    direction: Direction = Direction.DESC


@dataclass(frozen=True, slots=True)
class CostFilter:
    """[start, end) is the time of the calls' admission. `tenants` of None means all tenants; any other None means no
    restriction. Raises Refused(InvalidInput) with the path below the API's `filter`."""

    start: datetime
    end: datetime
    tenants: tuple[str, ...] | None
    time_zone: str = "UTC"
    providers: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    agents: tuple[str, ...] | None = None
    operations: tuple[Operation, ...] | None = None
    labels: tuple[Label, ...] = ()

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise Refused(InvalidInput("The period must end after it starts.", ("filter", "period", "to")))
        try:
            time_zone(self.time_zone)
        except ValueError as error:
            raise Refused(
                InvalidInput(
                    f"{self.time_zone[:80]!r} is not a time zone; use a name like Europe/Berlin.", ("filter", "timeZone")
                )
            ) from error

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


@dataclass(frozen=True, slots=True)
class CostQuery:
    """Raises Refused(InvalidInput). Without dimensions there are totals and no rows."""

    filter: CostFilter
    group_by: tuple[CostDimension, ...] = ()
    label_key: str | None = None
    order: CostOrder = CostOrder()
    page: PageRequest = PageRequest()

    def __post_init__(self) -> None:
        if len(self.group_by) > MAX_DIMENSIONS:
            raise Refused(InvalidInput(f"At most {MAX_DIMENSIONS} dimensions.", ("groupBy",)))
        if len(set(self.group_by)) < len(self.group_by):
            raise Refused(InvalidInput("A dimension is given twice.", ("groupBy",)))
        times = TIMES.intersection(self.group_by)
        if len(times) > 1:
            raise Refused(InvalidInput("At most one of HOUR, DAY and MONTH.", ("groupBy",)))
        if (CostDimension.LABEL in self.group_by) != (self.label_key is not None):
            raise Refused(InvalidInput("LABEL needs labelKey, and labelKey needs LABEL.", ("labelKey",)))
        if self.order.field is CostOrderField.PERIOD and not times:
            raise Refused(InvalidInput("To sort by PERIOD, group by HOUR, DAY or MONTH.", ("orderBy", "field")))

    @property
    def label_keys(self) -> frozenset[str]:
        """The keys of all labels that the query filters or groups by."""
        return frozenset([*(label.key for label in self.filter.labels), *([] if self.label_key is None else [self.label_key])])

    @property
    def time(self) -> CostDimension | None:
        return next(iter(TIMES.intersection(self.group_by)), None)
