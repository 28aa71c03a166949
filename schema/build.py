"""The one schema: its roots, its scalars, and the permissions in front of it."""

from __future__ import annotations

import strawberry
from strawberry.schema.config import StrawberryConfig

from schema.alerts import AlertQueries, AlertSubscriptions
from schema.answers import AnswerMutations
from schema.budgets import BudgetMutations, BudgetQueries
from schema.cache import CacheMutations, CacheQueries
from schema.completions import CompletionMutations, CompletionQueries, CompletionSubscriptions
from schema.cost_updates import CostSubscriptions
from schema.costs import CostQueries
from schema.embeddings import EmbeddingMutations
from schema.exports import ExportMutations
from schema.health import HealthQueries
from schema.inputs import plan_inputs
from schema.node import NodeQueries
from schema.permissions import enforce
from schema.provider_events import ProviderSubscriptions
from schema.providers import ProviderMutations, ProviderQueries
from schema.scalars import RETURNED_JSON, SCALARS
from schema.secrets import SecretQueries
from schema.vectors import VectorMutations, VectorQueries
from schema.viewer import ViewerQueries


@strawberry.type(description="Queries.")
class Query(
    NodeQueries,
    ViewerQueries,
    CompletionQueries,
    ProviderQueries,
    CostQueries,
    BudgetQueries,
    AlertQueries,
    CacheQueries,
    HealthQueries,
    SecretQueries,
    VectorQueries,
):
    pass


@strawberry.type(description="Mutations.")
class Mutation(
    CompletionMutations,
    EmbeddingMutations,
    BudgetMutations,
    ProviderMutations,
    ExportMutations,
    CacheMutations,
    VectorMutations,
    AnswerMutations,
):
    pass


@strawberry.type(description="Subscriptions.")
class Subscription(CompletionSubscriptions, AlertSubscriptions, CostSubscriptions, ProviderSubscriptions):
    pass


def build_schema() -> strawberry.Schema:
    """`schema._schema` is graphql-core's own, with the permission checks in place."""
    schema = strawberry.Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        config=StrawberryConfig(scalar_map={**SCALARS, **RETURNED_JSON}),
    )
    plan_inputs(schema._schema, schema.config)
    enforce(schema._schema)
    return schema
