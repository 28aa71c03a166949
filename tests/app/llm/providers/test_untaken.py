from __future__ import annotations

from app.llm.messages import ReasoningEffort
from app.llm.providers.untaken import Untaken
from app.llm.refused_parameters import Parameters

PARAMETERS = Parameters(own=frozenset({"stream_options"}), asked=frozenset({"temperature"}))


def test_what_is_learned_of_one_model_is_not_said_of_another() -> None:
    untaken = Untaken(PARAMETERS)

    assert untaken.learn("stream_options", "a")
    assert untaken.of("a", ReasoningEffort.HIGH) == {"stream_options"}
    assert untaken.of("b") == frozenset()


def test_what_a_caller_asks_for_may_be_refused_at_one_effort_alone() -> None:
    untaken = Untaken(PARAMETERS)

    assert untaken.learn("temperature", "a", ReasoningEffort.HIGH)
    assert untaken.of("a", ReasoningEffort.HIGH) == {"temperature"}
    assert untaken.of("a") == frozenset()


def test_a_parameter_that_was_left_out_already_changes_nothing() -> None:
    untaken = Untaken(PARAMETERS)
    untaken.learn("temperature", "a")

    assert not untaken.learn("temperature", "a")
