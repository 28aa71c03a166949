from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, cast

import pytest
import strawberry
from graphql import ExecutionResult, parse

from app.graphql.plans import PlannedExecutor
from schema.describes import describes
from tests.core_schema import core_schema


@dataclass(frozen=True)
class Published:
    number: int
    text: str | None


@dataclass(frozen=True)
class Ended:
    number: int
    word: str


class ForeignEvent:
    number = 1


@strawberry.interface
class Numbered:
    number: int


@describes(Published, description="Text.")
class Words(Numbered):
    text: str


@describes(Ended, description="The end.")
class End(Numbered):
    @strawberry.field
    def shout(self) -> str:
        return cast("Ended", self).word.upper()


Event = Annotated[Words | End, strawberry.union("Event")]


@strawberry.type
class Query:
    number: int


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def events(self) -> AsyncGenerator[Event, None]:
        yield cast("Words", Published(1, "a"))

    @strawberry.subscription
    async def numbers(self) -> AsyncGenerator[int, None]:
        yield 1


SCHEMA = strawberry.Schema(Query, subscription=Subscription)
ALL = """
subscription {
  reported: events { __typename ... on Numbered { at: number } ... on Words { text } ... on End { shout } }
}"""


def executor(document: str, *, planned: bool = True) -> PlannedExecutor:
    built = PlannedExecutor.build(core_schema(SCHEMA), parse(document))
    assert isinstance(built, PlannedExecutor)
    built.plans = {} if planned else None
    return built


def by_graphql_core(document: str, event: object) -> ExecutionResult:
    result = executor(document, planned=False).build_per_event_executor(event).execute_operation(False)
    assert isinstance(result, ExecutionResult)
    return result


class TestPlannedEvent:
    def test_is_what_graphql_core_makes_of_it(self) -> None:
        event = Published(3, "a")
        completed = executor(ALL).complete_event(event)
        assert completed == {"reported": {"__typename": "Words", "at": 3, "text": "a"}}
        assert completed == by_graphql_core(ALL, event).data

    def test_may_be_a_plain_value(self) -> None:
        assert executor("subscription { numbers }").complete_event(7) == {"numbers": 7}

    def test_is_planned_once_for_each_class(self) -> None:
        running = executor(ALL)
        for number in range(3):
            running.complete_event(Published(number, "a"))
            running.complete_event(Ended(number, "b"))
        assert running.plans is not None
        assert sum(key[0] in {Published, Ended} for key in running.plans) == 2


class TestEventThatIsNotPlain:
    @pytest.mark.parametrize("event", [Ended(1, "b"), Published(1, None), Published(2**40, "a"), ForeignEvent(), None])
    def test_is_left_to_graphql_core(self, event: object) -> None:
        """A resolver, a null where none may be, a number that does not fit, a class of another schema."""
        assert executor(ALL).complete_event(event) is None

    def test_is_left_to_it_where_directives_decide_what_is_selected(self) -> None:
        assert executor(ALL, planned=False).complete_event(Published(1, "a")) is None
