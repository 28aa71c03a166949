"""What was spent, by whom and on what."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import strawberry
from strawberry import ID, field

from app.attempts import AttemptOutcome
from app.costs import forecast, prices, reports
from app.usage import CacheTier, Operation
from resolvers import costs as resolve
from schema.describes import describes
from schema.pagination import Connection
from schema.scalars import BigInt
from schema.values import Label, Node, TokenUsage


@describes(reports.CostTotals, description="All calls of the period and the filter together.")
class CostTotals:
    cost_usd: Decimal = field(description='What was spent, such as `"12.345678"`.')
    saved_usd: Decimal = field(description="What cached answers would have cost.")
    requests: BigInt = field(description="Attempts that reached a provider or the cache.")
    failures: BigInt = field(description="Attempts that failed.")
    cache_hits: BigInt = field(description="Attempts that the cache answered.")
    input_tokens: BigInt = field(description="All that was sent.")
    output_tokens: BigInt = field(description="All that models wrote.")
    cached_input_tokens: BigInt = field(description="Part of inputTokens that providers read from their prompt caches.")
    reasoning_tokens: BigInt = field(description="Part of outputTokens that models spent on thinking.")
    unpriced_requests: BigInt = field(description="Requests whose price is unknown and so not in costUsd.")
    unconfirmed_usd: Decimal = field(description="Part of costUsd that rests on estimates.")


@describes(
    reports.CostRow, description="Dimensions not asked for are null. So are an agent and a label that the calls did not name."
)
class CostRow:
    provider: str | None = field(description="With PROVIDER: its name.")
    model: str | None = field(description="With MODEL: its name.")
    tenant: str | None = field(description="With TENANT: its name.")
    agent: str | None = field(description="With AGENT: its name; null: the calls that named none.")
    operation: Operation | None = field(description="With OPERATION: the kind of call.")
    label: str | None = field(description="With LABEL: the label's value; null: the calls without that label.")
    period_start: datetime | None = field(description="Start of the hour, day or month. Null without one of these.")
    cost_usd: Decimal = field(description="What was spent.")
    saved_usd: Decimal = field(description="What cached answers would have cost.")
    requests: BigInt = field(description="Attempts that reached a provider or the cache.")
    failures: BigInt = field(description="Attempts that failed.")
    cache_hits: BigInt = field(description="Attempts that the cache answered.")
    input_tokens: BigInt = field(description="All that was sent.")
    output_tokens: BigInt = field(description="All that models wrote.")
    cached_input_tokens: BigInt = field(description="Part of inputTokens that providers read from their prompt caches.")
    reasoning_tokens: BigInt = field(description="Part of outputTokens that models spent on thinking.")
    unpriced_requests: BigInt = field(description="Requests whose price is unknown and so not in costUsd.")


@describes(reports.CostReport, description="`asOf` says up to when usage is counted.")
class CostReport:
    as_of: datetime = field(description="Everything settled before this instant is counted.")
    totals: CostTotals = field(description="All rows together, those of other pages too.")
    rows: Connection[CostRow] = field(
        description="One row for each combination of the dimensions; none where none was asked for."
    )


@describes(forecast.ForecastDay, description="A day as it is expected; 80 of 100 are to end between low and high.")
class ForecastDay:
    day: datetime = field(description="The day's local midnight.")
    expected_usd: Decimal = field(description="Today: with what was spent already.")
    low_usd: Decimal = field(description="One day in ten is to end below it.")
    high_usd: Decimal = field(description="One day in ten is to end above it.")


@describes(
    forecast.CostForecast,
    description="Spending by the period's end, with what was spent already; 80 of 100 are to end between low and high.",
)
class CostForecast:
    as_of: datetime = field(description="Everything spent before this instant is known.")
    expected_usd: Decimal = field(description='What the whole period is expected to cost, such as `"812.4"`.')
    low_usd: Decimal = field(description="One period in ten is to end below it; never below what was spent already.")
    high_usd: Decimal = field(description="One period in ten is to end above it.")
    method: str = field(description="How it was made and from how many days: with a trend and weekday pattern or without.")
    days: list[ForecastDay] = field(
        description="Today and the days to come; none where the period is over.", metadata={"list_size": forecast.LONGEST_DAYS}
    )


@describes(prices.PriceUsed, description="Rates in US dollars per million tokens, as they were used.")
class PriceUsed:
    input_usd: Decimal = field(description='For what is sent, such as `"3"`.')
    output_usd: Decimal = field(description='For what the model writes, such as `"15"`.')
    cache_read_usd: Decimal | None = field(
        description="For what is read from the provider's prompt cache; null where it has none."
    )
    cache_write_usd: Decimal | None = field(
        description="For what is written to that cache; null where it has no price of its own."
    )
    source: str = field(description="Where the rates come from: a price list or the configuration.")


@describes(reports.UsageRecord, description="One attempt that reached a provider or the cache, as it was charged.")
class UsageRecord(Node):
    completion_id: ID | None = field(description="Of the completion it belongs to; null for other calls.")
    at: datetime = field(description="When the call was admitted.")
    operation: Operation = field(description="What kind of call it was.")
    tenant: str = field(description="Who was charged.")
    agent: str | None = field(description="Which of the tenant's agents called.")
    labels: list[Label] = field(description="The call's marks.")
    key_name: str | None = field(description="Name of the API key; never the key itself.")
    provider_request_id: str | None = field(description="The provider's own id of the request, for its support.")
    price: PriceUsed | None = field(description="Null where unknown. The rates that costUsd was computed with.")
    provider: str = field(description="Name of the provider.")
    model: str = field(description="Name of the model.")
    outcome: AttemptOutcome = field(description="How the attempt ended.")
    usage: TokenUsage = field(description="What was sent and written.")
    cost_usd: Decimal | None = field(description="Null where the price is unknown.")
    cache_tier: CacheTier | None = field(description="Where the cache found the answer; null where a provider gave it.")
    latency_ms: float = field(description="How long it took, in milliseconds.")
    confirmed: bool = field(description="False where the figures are an estimate, because the provider's never came.")


@strawberry.type
class CostQueries:
    costs = strawberry.field(
        resolver=resolve.costs,
        graphql_type=CostReport | None,
        description="Totals of the period, split by up to three dimensions, dearest first unless asked otherwise.",
    )
    cost_forecast = strawberry.field(
        resolver=resolve.cost_forecast,
        graphql_type=CostForecast | None,
        description="What the period will have cost at its end, at most 400 days ahead; null where nothing was ever spent.",
    )
    usage_records = strawberry.field(
        resolver=resolve.usage_records,
        graphql_type=Connection[UsageRecord] | None,
        description="One record per attempt that reached a provider or the cache, newest first.",
    )
