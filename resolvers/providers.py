from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import strawberry
from strawberry import ID, UNSET, Parent

from app.access.principal import Scope
from app.costs.prices import PriceUsed
from app.domain.errors import Refused
from app.domain.problems import NotFound, no_such
from app.llm.fleet import ModelInfo, ProviderStatus
from app.llm.metrics import ProviderMetrics
from app.llm.routing import Route, RouteCandidate
from resolvers.info import Info
from resolvers.inputs.completions import CompletionInput
from resolvers.refusals import refusals

PROVIDER_ID = "prv_"


def providers(info: Info) -> list[ProviderStatus]:
    return info.context.services.fleet.providers()


def models(
    info: Info,
    provider: Annotated[str | None, strawberry.argument(description="Only this provider's. Omit to get all.")] = UNSET,
) -> list[ModelInfo]:
    return info.context.services.fleet.models(provider if isinstance(provider, str) else None)


def routes(info: Info) -> list[Route]:
    return info.context.services.fleet.routes()


@refusals(NotFound)
async def breaker_reset(
    info: Info,
    provider: Annotated[str, strawberry.argument(description="Name of the provider, such as `anthropic`.")],
    model: Annotated[str | None, strawberry.argument(description="Only this model's breaker. Omit for all.")] = UNSET,
) -> ProviderStatus:
    found = await info.context.services.fleet.reset_breaker(provider, model if isinstance(model, str) else None)
    if found is None:
        raise Refused(no_such("provider or model"))
    return found


async def route_explain(
    info: Info,
    request: Annotated[CompletionInput, strawberry.argument(name="input", description="The call to explain.")],
) -> list[RouteCandidate]:
    return await info.context.services.planner.explain(await request.read(), info.context.principal)


def cost_usd(root: Parent[ProviderMetrics], info: Info) -> Decimal | None:
    """This is the money of all tenants."""
    return root.cost_usd if info.context.principal.may(Scope.ADMIN) else None


def provider_id(root: Parent[ProviderStatus]) -> ID:
    return ID(f"{PROVIDER_ID}{root.name}")


def models_of(root: Parent[ProviderStatus], info: Info) -> list[ModelInfo]:
    return info.context.services.fleet.models(root.name)


def _price(root: ModelInfo, info: Info) -> PriceUsed | None:
    """The price for the smallest call. If a price depends on the size of the call, this is the lowest one."""
    rates = info.context.services.prices.rates(root.provider, root.name, info.context.clock.now())
    return None if rates is None else rates.used(0)


def input_price(root: Parent[ModelInfo], info: Info) -> Decimal | None:
    price = _price(root, info)
    return None if price is None else price.input_usd


def output_price(root: Parent[ModelInfo], info: Info) -> Decimal | None:
    price = _price(root, info)
    return None if price is None else price.output_usd


def cache_read_price(root: Parent[ModelInfo], info: Info) -> Decimal | None:
    price = _price(root, info)
    return None if price is None else price.cache_read_usd


def cache_write_price(root: Parent[ModelInfo], info: Info) -> Decimal | None:
    price = _price(root, info)
    return None if price is None else price.cache_write_usd
