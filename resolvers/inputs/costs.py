from __future__ import annotations

from datetime import UTC, datetime

import strawberry
from strawberry import field

from app.access.principal import Principal
from app.access.tenancy import agents_for, tenants_for
from app.costs import queries
from app.costs.queries import CostOrderField, Direction
from app.domain.usage import Operation
from resolvers.inputs.checks import check_names, check_texts, invalid
from resolvers.inputs.labels import LabelInput, to_labels

_MAX_NAMES = 100
_MAX_NAME_LENGTH = 256
_MIN_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_MAX_TIME = datetime(2200, 1, 1, tzinfo=UTC)


@strawberry.input(description="Half-open: from is included, to is not.")
class PeriodInput:
    start: datetime = field(name="from", description="Start, included, such as `2026-03-01T00:00:00Z`.")
    end: datetime = field(name="to", description="End, not included, such as `2026-04-01T00:00:00Z`.")

    def check(self) -> None:
        for name, instant in (("from", self.start), ("to", self.end)):
            if not _MIN_TIME <= instant <= _MAX_TIME:
                raise invalid("The time is not between the years 2000 and 2200.", ("filter", "period", name))


@strawberry.input(description="Which costs. Omitted lists match everything that the caller may see.")
class CostFilter:
    period: PeriodInput = field(description="When the calls were admitted.")
    time_zone: str = field(
        description="The time zone of hours, days and months: an IANA name, such as `Europe/Berlin`.", default="UTC"
    )
    providers: list[str] | None = field(description="Only these providers, such as `anthropic`.")
    models: list[str] | None = field(description="Only these models, such as `claude-sonnet-5-5`.")
    tenants: list[str] | None = field(description="Only these tenants. A tenant other than the caller's needs ADMIN.")
    agents: list[str] | None = field(description="Only these agents.")
    operations: list[Operation] | None = field(description="Only these kinds of calls.")
    labels: list[LabelInput] | None = field(description="Only calls that have all of these labels.")

    def to_domain(self, principal: Principal) -> queries.CostFilter:
        """Raises Refused(InvalidInput), and Forbidden for a tenant or an agent that the caller may not read."""
        check_texts(self, ("filter",))
        self.period.check()
        return queries.CostFilter(
            self.period.start,
            self.period.end,
            tenants_for(principal, self._names("tenants", self.tenants)),
            self.time_zone,
            self._names("providers", self.providers),
            self._names("models", self.models),
            agents_for(principal, self._names("agents", self.agents)),
            None if self.operations is None else tuple(self.operations),
            to_labels(self.labels, ("filter", "labels")),
        )

    def _names(self, name: str, names: list[str] | None) -> tuple[str, ...] | None:
        return None if names is None else check_names(names, _MAX_NAMES, _MAX_NAME_LENGTH, ("filter", name))


@strawberry.input(description="How rows are sorted.")
class CostOrder:
    field_: CostOrderField = field(name="field", description="The figure to sort by.", default=CostOrderField.COST)
    direction: Direction = field(description="Smallest or largest first.", default=Direction.DESC)

    def to_domain(self) -> queries.CostOrder:
        return queries.CostOrder(self.field_, self.direction)
