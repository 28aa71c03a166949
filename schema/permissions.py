"""Who may see what, as a table. If a type or a root field has no row, the schema does not build.

The row of a root field is checked whenever the field is called. What is below a root field belongs to it: `Rule.WITH_PARENT`
says that a caller who gets the object may read the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeAlias

from graphql import GraphQLField, GraphQLObjectType, GraphQLSchema

from app.access.principal import Principal, Scope
from app.domain.errors import Forbidden


class Rule(Enum):
    ANY_KEY = "any good key"
    WITH_PARENT = "every caller that was given the object"


Permission: TypeAlias = Scope | tuple[Scope, ...] | Rule
"""Several scopes are all needed."""

EVERY_FIELD = "*"

PERMISSIONS: Mapping[tuple[str, str], Permission] = {
    ("Query", "budget"): Scope.BUDGETS_READ,
    ("Query", "budgetAlerts"): Scope.BUDGETS_READ,
    ("Query", "budgets"): Scope.BUDGETS_READ,
    ("Query", "cacheStats"): Scope.CACHE,
    ("Query", "collection"): Scope.VECTORS,
    ("Query", "collections"): Scope.VECTORS,
    ("Query", "completion"): Scope.COMPLETIONS,
    ("Query", "costForecast"): Scope.COSTS,
    ("Query", "costs"): Scope.COSTS,
    ("Query", "health"): Scope.ADMIN,
    ("Query", "models"): Scope.PROVIDERS,
    ("Query", "node"): Rule.ANY_KEY,  # each kind of node asks for its own scope
    ("Query", "providers"): Scope.PROVIDERS,
    ("Query", "routes"): Scope.PROVIDERS,
    ("Query", "routeExplain"): Scope.COMPLETIONS,
    ("Query", "search"): Scope.VECTORS,
    ("Query", "secrets"): Scope.ADMIN,
    ("Query", "usageRecords"): Scope.COSTS,
    ("Query", "viewer"): Rule.ANY_KEY,
    ("Mutation", "answerCreate"): (Scope.VECTORS, Scope.COMPLETIONS),
    ("Mutation", "breakerReset"): Scope.ADMIN,
    ("Mutation", "budgetCreate"): Scope.BUDGETS,
    ("Mutation", "budgetDelete"): Scope.BUDGETS,
    ("Mutation", "budgetUpdate"): Scope.BUDGETS,
    ("Mutation", "cacheInvalidate"): Scope.CACHE,
    ("Mutation", "collectionCreate"): Scope.VECTORS,
    ("Mutation", "collectionDelete"): Scope.VECTORS,
    ("Mutation", "completionCancel"): Scope.COMPLETIONS,
    ("Mutation", "completionCreate"): Scope.COMPLETIONS,
    ("Mutation", "completionStart"): Scope.COMPLETIONS,
    ("Mutation", "documentsDelete"): Scope.VECTORS,
    ("Mutation", "documentsUpsert"): Scope.VECTORS,
    ("Mutation", "embeddingsCreate"): Scope.COMPLETIONS,
    ("Mutation", "costExportCreate"): Scope.COSTS,
    ("Subscription", "budgetAlerts"): Scope.BUDGETS_READ,
    ("Subscription", "completionEvents"): Scope.COMPLETIONS,
    ("Subscription", "completionStream"): Scope.COMPLETIONS,
    ("Subscription", "costUpdates"): Scope.COSTS,
    ("Subscription", "providerEvents"): Scope.PROVIDERS,
    ("Allowance", EVERY_FIELD): Rule.WITH_PARENT,
    ("Answer", EVERY_FIELD): Rule.WITH_PARENT,
    ("Attempt", EVERY_FIELD): Rule.WITH_PARENT,
    ("Breaker", EVERY_FIELD): Rule.WITH_PARENT,
    ("Budget", EVERY_FIELD): Rule.WITH_PARENT,
    ("BudgetAlert", EVERY_FIELD): Rule.WITH_PARENT,
    ("BudgetAlertConnection", EVERY_FIELD): Rule.WITH_PARENT,
    ("BudgetAlertEdge", EVERY_FIELD): Rule.WITH_PARENT,
    ("BudgetAlertRaised", EVERY_FIELD): Rule.WITH_PARENT,
    ("BudgetAlertsMissed", EVERY_FIELD): Rule.WITH_PARENT,
    ("BudgetConnection", EVERY_FIELD): Rule.WITH_PARENT,
    ("BudgetEdge", EVERY_FIELD): Rule.WITH_PARENT,
    ("BudgetExceeded", EVERY_FIELD): Rule.WITH_PARENT,  # its resolvers hide what the caller may not see
    ("BudgetScope", EVERY_FIELD): Rule.WITH_PARENT,
    ("CacheHit", EVERY_FIELD): Rule.WITH_PARENT,
    ("CacheInvalidated", EVERY_FIELD): Rule.WITH_PARENT,
    ("CacheStats", EVERY_FIELD): Rule.WITH_PARENT,
    ("CacheTierStats", EVERY_FIELD): Rule.WITH_PARENT,
    ("ChunkSpan", EVERY_FIELD): Rule.WITH_PARENT,
    ("Collection", EVERY_FIELD): Rule.WITH_PARENT,
    ("CollectionConnection", EVERY_FIELD): Rule.WITH_PARENT,
    ("CollectionEdge", EVERY_FIELD): Rule.WITH_PARENT,
    ("Citation", EVERY_FIELD): Rule.WITH_PARENT,
    ("Completion", EVERY_FIELD): Rule.WITH_PARENT,
    ("CompletionCancelled", EVERY_FIELD): Rule.WITH_PARENT,
    ("CompletionDelta", EVERY_FIELD): Rule.WITH_PARENT,
    ("CompletionFailed", EVERY_FIELD): Rule.WITH_PARENT,
    ("CompletionFinished", EVERY_FIELD): Rule.WITH_PARENT,
    ("CompletionRerouted", EVERY_FIELD): Rule.WITH_PARENT,
    ("CompletionRestarted", EVERY_FIELD): Rule.WITH_PARENT,
    ("CompletionStarted", EVERY_FIELD): Rule.WITH_PARENT,
    ("Conflict", EVERY_FIELD): Rule.WITH_PARENT,
    ("CostForecast", EVERY_FIELD): Rule.WITH_PARENT,
    ("CostExport", EVERY_FIELD): Rule.WITH_PARENT,
    ("CostReport", EVERY_FIELD): Rule.WITH_PARENT,
    ("CostRow", EVERY_FIELD): Rule.WITH_PARENT,
    ("CostRowConnection", EVERY_FIELD): Rule.WITH_PARENT,
    ("CostRowEdge", EVERY_FIELD): Rule.WITH_PARENT,
    ("CostTotals", EVERY_FIELD): Rule.WITH_PARENT,
    ("CostUpdate", EVERY_FIELD): Rule.WITH_PARENT,
    ("CursorExpired", EVERY_FIELD): Rule.WITH_PARENT,
    ("Deleted", EVERY_FIELD): Rule.WITH_PARENT,
    ("DocumentFailure", EVERY_FIELD): Rule.WITH_PARENT,
    ("DocumentsDeleted", EVERY_FIELD): Rule.WITH_PARENT,
    ("DocumentsUpserted", EVERY_FIELD): Rule.WITH_PARENT,
    ("Embeddings", EVERY_FIELD): Rule.WITH_PARENT,
    ("ForecastDay", EVERY_FIELD): Rule.WITH_PARENT,
    ("Health", EVERY_FIELD): Rule.WITH_PARENT,
    ("HealthCheck", EVERY_FIELD): Rule.WITH_PARENT,
    ("SecretState", EVERY_FIELD): Rule.WITH_PARENT,
    ("Heartbeat", EVERY_FIELD): Rule.WITH_PARENT,
    ("InvalidInput", EVERY_FIELD): Rule.WITH_PARENT,
    ("Label", EVERY_FIELD): Rule.WITH_PARENT,
    ("Limiter", EVERY_FIELD): Rule.WITH_PARENT,
    ("Model", EVERY_FIELD): Rule.WITH_PARENT,
    ("ModelBreaker", EVERY_FIELD): Rule.WITH_PARENT,
    ("NotFound", EVERY_FIELD): Rule.WITH_PARENT,
    ("PageInfo", EVERY_FIELD): Rule.WITH_PARENT,
    ("PriceUsed", EVERY_FIELD): Rule.WITH_PARENT,
    ("Provider", EVERY_FIELD): Rule.WITH_PARENT,
    ("ProviderChanged", EVERY_FIELD): Rule.WITH_PARENT,
    ("ProviderMetrics", EVERY_FIELD): Rule.WITH_PARENT,  # its resolver hides the money of all tenants
    ("Provenance", EVERY_FIELD): Rule.WITH_PARENT,
    ("ProvidersFailed", EVERY_FIELD): Rule.WITH_PARENT,
    ("RateLimited", EVERY_FIELD): Rule.WITH_PARENT,
    ("ReasoningDelta", EVERY_FIELD): Rule.WITH_PARENT,
    ("SearchHit", EVERY_FIELD): Rule.WITH_PARENT,
    ("SearchHits", EVERY_FIELD): Rule.WITH_PARENT,
    ("Route", EVERY_FIELD): Rule.WITH_PARENT,
    ("RouteCandidate", EVERY_FIELD): Rule.WITH_PARENT,
    ("TokenUsage", EVERY_FIELD): Rule.WITH_PARENT,
    ("ToolCallDelta", EVERY_FIELD): Rule.WITH_PARENT,
    ("ToolCall", EVERY_FIELD): Rule.WITH_PARENT,
    ("UsageRecord", EVERY_FIELD): Rule.WITH_PARENT,
    ("UsageRecordConnection", EVERY_FIELD): Rule.WITH_PARENT,
    ("UsageRecordEdge", EVERY_FIELD): Rule.WITH_PARENT,
    ("Viewer", EVERY_FIELD): Rule.WITH_PARENT,
}


class Unlisted(LookupError):
    """A field that is not in the table."""


def permission(type_name: str, field_name: str, *, root: bool = False) -> Permission:
    """Returns the row of a field. Every root field needs its own row. Below the roots, a type's row for every field is enough."""
    row = PERMISSIONS.get((type_name, field_name))
    if row is None and not root:
        row = PERMISSIONS.get((type_name, EVERY_FIELD))
    if row is None or (root and row is Rule.WITH_PARENT):
        raise Unlisted(f"{type_name}.{field_name} has no row in the table of permissions")
    return row


def scopes_of(row: Permission) -> tuple[Scope, ...]:
    """The scopes that a caller needs, all of them."""
    if isinstance(row, Rule):
        return ()
    return row if isinstance(row, tuple) else (row,)


def check(type_name: str, field_name: str, principal: Principal) -> None:
    """Raises Forbidden if the principal may not call the field."""
    row = PERMISSIONS.get((type_name, field_name))
    if row is None:
        raise Forbidden(f"{field_name} is not available to any caller")
    for scope in scopes_of(row):
        if not principal.may(scope):
            raise Forbidden(f"{field_name} needs the scope {scope.value}")


def enforce(schema: GraphQLSchema) -> None:
    """Adds a check to every field that needs a scope. Raises Unlisted if a field has no row."""
    roots = {schema.query_type, schema.mutation_type, schema.subscription_type}
    for graphql_type in schema.type_map.values():
        if isinstance(graphql_type, GraphQLObjectType) and not graphql_type.name.startswith("__"):
            for name, field in graphql_type.fields.items():
                if scopes_of(permission(graphql_type.name, name, root=graphql_type in roots)):
                    _guard(graphql_type.name, name, field)


def _guard(type_name: str, field_name: str, field: GraphQLField) -> None:
    if field.subscribe is not None:
        field.subscribe = _checked(type_name, field_name, field.subscribe)
    elif field.resolve is not None:
        field.resolve = _checked(type_name, field_name, field.resolve)


def _checked(type_name: str, field_name: str, resolve: Callable[..., Any]) -> Callable[..., Any]:
    def checked(root: object, info: Any, **arguments: object) -> Any:  # graphql-core types resolvers this loosely
        check(type_name, field_name, info.context.principal)
        return resolve(root, info, **arguments)

    return checked
