"""Domain enums are registered here with their descriptions, in place.

The enums that inputs use are registered before the inputs are made. Otherwise Strawberry would register them itself, without
descriptions.
"""

from __future__ import annotations

from enum import Enum

import strawberry
from strawberry.types.enum import has_enum_definition

from app.costs.budgets import BudgetEnforcement, BudgetOwner, BudgetPeriod
from app.costs.export import ExportFormat
from app.costs.queries import CostDimension, CostOrderField, Direction
from app.domain.usage import Operation
from app.gateway.completions import CacheMode, OnClientLeave
from app.llm.messages import AskedTier, CacheTtl, ReasoningEffort, Role, ToolChoiceMode
from app.llm.routing import RoutingStrategy


def describe_enum(enum: type[Enum], *, description: str, values: dict[str, str], name: str | None = None) -> None:
    """Registers a domain enum in place; `values` must describe each of its members."""
    strawberry.enum(enum, name=name, description=description)
    assert has_enum_definition(enum)
    for value in enum.__strawberry_definition__.values:
        value.description = values.pop(value.name)
    if values:
        raise ValueError(f"{enum.__name__} has no {', '.join(values)}")


describe_enum(
    Role,
    description="Who speaks in a message.",
    values={
        "SYSTEM": "Instructions to the model.",
        "USER": "The user's part of the conversation.",
        "ASSISTANT": "The model's part of the conversation.",
        "TOOL": "A tool's answer to a call of the model.",
    },
)
describe_enum(
    ToolChoiceMode,
    description="One rule for all tools.",
    values={
        "AUTO": "The model decides whether to ask for tools.",
        "NONE": "The model asks for none.",
        "REQUIRED": "The model asks for at least one.",
    },
)
describe_enum(
    ReasoningEffort,
    description="How long the model may think before it answers. A model that does not take an effort gets the nearest lower "
    "one, and a note says so.",
    values={
        "NONE": "Not at all.",
        "MINIMAL": "As little as the model can.",
        "LOW": "Briefly: fast and cheap.",
        "MEDIUM": "As long as most questions need.",
        "HIGH": "As long as hard questions need: slow and expensive.",
        "XHIGH": "Longer than hard questions usually need.",
        "MAX": "As long as the model can: the slowest and most expensive.",
    },
)
describe_enum(
    CacheTtl,
    description="How long a provider caches a prefix of the prompt after its last use.",
    values={"FIVE_MINUTES": "5 minutes.", "ONE_HOUR": "1 hour. Anthropic charges more for writing it."},
)
describe_enum(
    AskedTier,
    name="ServiceTier",
    description="How fast a provider serves a call, and at which price.",
    values={
        "STANDARD": "The usual price and speed.",
        "FLEX": "Slower and cheaper, where the provider has it.",
        "PRIORITY": "Faster: at OpenAI for a higher price, at Anthropic from capacity that was bought in advance.",
        "FAST": "The provider's fast mode, for a higher price.",
    },
)
describe_enum(
    OnClientLeave,
    description="What happens to a streamed call if the operation that started it ends before the call does.",
    values={
        "CANCEL": "The call is cancelled. What was produced until then stays charged.",
        "CONTINUE": "The call continues. It can be watched with `completionEvents`.",
    },
)
describe_enum(
    CacheMode,
    description="How a call uses the cache of answers.",
    values={
        "OFF": "The cache is neither read nor written.",
        "USE": "Use a stored answer if there is one. Store a new one.",
        "REFRESH": "Make a new answer and store it, even if there is a stored one.",
    },
)
describe_enum(
    RoutingStrategy,
    description="How a route orders its targets.",
    values={
        "PRIORITY": "As they are listed.",
        "LEAST_COST": "Cheapest for this call first.",
        "LEAST_LATENCY": "Lowest recent latency first.",
        "ROUND_ROBIN": "Each in turn.",
        "RANDOM": "In random order.",
    },
)
describe_enum(
    BudgetPeriod,
    description="How often a budget starts again from zero, in its own time zone.",
    values={
        "HOUR": "Each full hour.",
        "DAY": "At each midnight.",
        "WEEK": "At midnight before each Monday.",
        "MONTH": "At the first of each month.",
        "TOTAL": "Never.",
    },
)
describe_enum(
    BudgetEnforcement,
    description="What happens to a call that a budget cannot pay for.",
    values={"BLOCK": "It is refused before anything is sent.", "ALERT_ONLY": "It goes through. Alerts are raised."},
)
describe_enum(
    BudgetOwner,
    description="Who set a budget. Only the owner and ADMIN may change it; a tenant may also change what its agents own.",
    values={
        "INSTALLATION": "An administrator or the configuration.",
        "TENANT": "A key of the scope's tenant.",
        "AGENT": "A key that is bound to the scope's agent.",
    },
)
describe_enum(
    Operation,
    description="What kind of call was paid for.",
    values={
        "COMPLETION": "An answer of a language model.",
        "EMBEDDING": "Texts turned into vectors.",
        "ANSWER": "A question answered from stored passages. Not yet: no call is of this kind.",
        "SEARCH": "The embedding of a search. Not yet: no call is of this kind.",
    },
)
describe_enum(
    CostDimension,
    description="At most one of HOUR, DAY, MONTH a query.",
    values={
        "PROVIDER": "By provider.",
        "MODEL": "By model.",
        "TENANT": "By tenant.",
        "AGENT": "By agent.",
        "OPERATION": "By kind of call.",
        "LABEL": "By the value of one label; `labelKey` says which.",
        "HOUR": "By hour of the filter's time zone.",
        "DAY": "By day of the filter's time zone.",
        "MONTH": "By month of the filter's time zone.",
    },
)
describe_enum(
    ExportFormat,
    description="Format of a cost export.",
    values={
        "CSV": "Comma-separated, for spreadsheets; the last row is the total.",
        "JSON_LINES": "One JSON object a line; the last one is the total.",
    },
)
describe_enum(
    CostOrderField,
    description="The figure by which rows are sorted.",
    values={
        "COST": "By costUsd.",
        "REQUESTS": "By requests.",
        "TOKENS": "By input and output tokens together.",
        "PERIOD": "By periodStart; needs HOUR, DAY or MONTH.",
    },
)
describe_enum(
    Direction,
    description="Sort direction.",
    values={"ASC": "The smallest, or the earliest.", "DESC": "The largest, or the latest."},
)
