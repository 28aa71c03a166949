"""What was spent, by whom and on what."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import strawberry
from strawberry import ID, field

from app.costs import forecast, prices, reports
from app.domain.attempts import AttemptOutcome
from app.domain.usage import CacheTier, Operation
from resolvers import costs as resolve
from schema.describes import describes
from schema.pagination import Connection
from schema.scalars import BigInt
from schema.values import Label, Node, TokenUsage


@describes(reports.CostTotals, description="All calls of the period and the filter together.")
class CostTotals:
    cost_usd: Decimal = field(description='Cost in US dollars, such as `"12.345678"`.')
    saved_usd: Decimal = field(description="What cached answers would have cost.")
    requests: BigInt = field(description="Attempts that reached a provider or the cache.")
    failures: BigInt = field(description="Attempts that failed.")
    cache_hits: BigInt = field(description="Attempts that the cache answered.")
    input_tokens: BigInt = field(description="Tokens that were sent.")
    output_tokens: BigInt = field(description="Tokens that models wrote.")
    cached_input_tokens: BigInt = field(description="Part of inputTokens that providers read from their prompt caches.")
    reasoning_tokens: BigInt = field(description="Part of outputTokens that models spent on thinking.")
    unpriced_requests: BigInt = field(description="Requests with an unknown price. They are not in costUsd.")
    unconfirmed_usd: Decimal = field(description="Part of costUsd that is estimated.")


@describes(
    reports.CostRow,
    description="Dimensions that were not requested are null. Agent and label are also null for calls that named none.",
)
class CostRow:
    provider: str | None = field(description="With PROVIDER: its name.")
    model: str | None = field(description="With MODEL: its name.")
    tenant: str | None = field(description="With TENANT: its name.")
    agent: str | None = field(description="With AGENT: its name. Null: the calls that named none.")
    operation: Operation | None = field(description="With OPERATION: the kind of call.")
    label: str | None = field(description="With LABEL: the label's value. Null: the calls without that label.")
    period_start: datetime | None = field(description="Start of the hour, day or month. Null without one of these.")
    cost_usd: Decimal = field(description="Cost in US dollars.")
    saved_usd: Decimal = field(description="What cached answers would have cost.")
    requests: BigInt = field(description="Attempts that reached a provider or the cache.")
    failures: BigInt = field(description="Attempts that failed.")
    cache_hits: BigInt = field(description="Attempts that the cache answered.")
    input_tokens: BigInt = field(description="Tokens that were sent.")
    output_tokens: BigInt = field(description="Tokens that models wrote.")
    cached_input_tokens: BigInt = field(description="Part of inputTokens that providers read from their prompt caches.")
    reasoning_tokens: BigInt = field(description="Part of outputTokens that models spent on thinking.")
    unpriced_requests: BigInt = field(description="Requests with an unknown price. They are not in costUsd.")


@describes(reports.CostReport, description="`asOf` says up to when usage is counted.")
class CostReport:
    as_of: datetime = field(description="Everything settled before this time is counted.")
    totals: CostTotals = field(description="All rows together, including other pages.")
    rows: Connection[CostRow] = field(description="One row for each combination of the dimensions. Empty without `groupBy`.")


@describes(forecast.ForecastDay, description="The forecast of one day. 80 of 100 days are expected to end between low and high.")
class ForecastDay:
    day: datetime = field(description="The day's local midnight.")
    expected_usd: Decimal = field(description="Expected cost. Today's includes what was spent already.")
    low_usd: Decimal = field(description="One day in ten is expected to end below it.")
    high_usd: Decimal = field(description="One day in ten is expected to end above it.")


@describes(
    forecast.CostForecast,
    description="Cost by the end of the period, including what was spent already. 80 of 100 periods are expected "
    "to end between low and high.",
)
class CostForecast:
    as_of: datetime = field(description="Everything settled before this time is included.")
    expected_usd: Decimal = field(description='What the whole period is expected to cost, such as `"812.4"`.')
    low_usd: Decimal = field(description="One period in ten is expected to end below it. Never below what was spent already.")
    high_usd: Decimal = field(description="One period in ten is expected to end above it.")
    method: str = field(
        description="How the forecast was made and from how many days: with or without a trend and a weekday pattern."
    )
    days: list[ForecastDay] = field(
        description="Today and the days to come. Empty if the period is over.", metadata={"list_size": forecast.MAX_DAYS}
    )


@describes(prices.PriceUsed, description="Rates in US dollars per million tokens, as they were used.")
class PriceUsed:
    input_usd: Decimal = field(description='For input tokens, such as `"3"`.')
    output_usd: Decimal = field(description='For output tokens, such as `"15"`.')
    cache_read_usd: Decimal | None = field(description="For tokens read from the provider's prompt cache. Null if it has none.")
    cache_write_usd: Decimal | None = field(
        description="For tokens written to that cache. Null if they have no price of their own."
    )
    source: str = field(description="Where the rates come from: a price list or the configuration.")


@describes(reports.UsageRecord, description="One attempt that reached a provider or the cache, as it was charged.")
class UsageRecord(Node):
    completion_id: ID | None = field(description="Id of its completion. Null for other calls.")
    at: datetime = field(description="When the call was admitted.")
    operation: Operation = field(description="What kind of call it was.")
    tenant: str = field(description="Who was charged.")
    agent: str | None = field(description="Which of the tenant's agents called.")
    labels: list[Label] = field(description="Labels of the call.")
    key_name: str | None = field(description="Name of the API key; never the key itself.")
    provider_request_id: str | None = field(description="The provider's own id of the request, for its support.")
    price: PriceUsed | None = field(description="The rates that costUsd was computed with. Null if unknown.")
    provider: str = field(description="Name of the provider.")
    model: str = field(description="Name of the model.")
    outcome: AttemptOutcome = field(description="How the attempt ended.")
    usage: TokenUsage = field(description="Tokens that were sent and written.")
    cost_usd: Decimal | None = field(description="Null if the price is unknown.")
    cache_tier: CacheTier | None = field(description="The tier that had the cached answer. Null if a provider answered.")
    latency_ms: float = field(description="How long it took, in milliseconds.")
    confirmed: bool = field(description="False if the figures are an estimate because the provider's figures never came.")


@strawberry.type
class CostQueries:
    costs = strawberry.field(
        resolver=resolve.costs,
        graphql_type=CostReport | None,
        description="Cost totals for a period, grouped by up to three dimensions. Sorted by cost, highest first, "
        "unless `orderBy` says otherwise.",
    )
    cost_forecast = strawberry.field(
        resolver=resolve.cost_forecast,
        graphql_type=CostForecast | None,
        description="Forecast of the cost at the end of a period, at most 400 days ahead. Null if nothing was ever spent.",
    )
    usage_records = strawberry.field(
        resolver=resolve.usage_records,
        graphql_type=Connection[UsageRecord] | None,
        description="One record per attempt that reached a provider or the cache, newest first.",
    )
