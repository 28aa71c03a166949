"""Which model a client means: the name of a route, `provider/model`, or a bare name that one provider has."""

from __future__ import annotations

from app.doors.failures import DoorFailed, Failure
from app.llm.fleet import Fleet
from app.llm.routing import parse_target


def resolve_model(name: str, fleet: Fleet) -> str:
    """Returns what GraphQL's `model` takes. Raises DoorFailed for a bare name that several providers have. A name that is not
    known is returned as it is: the planner refuses it."""
    target = parse_target(name)
    if (target is not None and target.provider in fleet.kinds()) or any(route.name == name for route in fleet.routes()):
        return name
    found = [model.provider for model in fleet.models() if model.name == name]
    if len(found) > 1:
        choices = " or ".join(f"{provider}/{name}" for provider in found)
        message = f"Several providers have the model {name!r}. Write {choices}."
        raise DoorFailed(Failure(404, "invalid_request_error", "model_not_found", message, "model"))
    return f"{found[0]}/{name}" if found else name


def kinds_of(model: str, fleet: Fleet) -> set[str]:
    """The kinds of the providers that may answer for a resolved model."""
    route = next((route for route in fleet.routes() if route.name == model), None)
    targets = [model] if route is None else route.targets
    kinds = fleet.kinds()
    found = {kinds.get(target.provider) for target in map(parse_target, targets) if target is not None}
    return {kind.value for kind in found if kind is not None}
