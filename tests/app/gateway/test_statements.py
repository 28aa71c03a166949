from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest

from app.access.principal import Scope
from app.domain.errors import Refused
from app.domain.problems import Conflict
from app.domain.usage import Operation
from app.gateway.completions import CompletionRequest, CompletionStatus
from app.gateway.statements import (
    STATEMENTS_FORMAT,
    Grounding,
    PassageReference,
    Quote,
    Statement,
    plain_text,
    read_statements,
)
from app.retrieval.passages import passage_messages
from app.services import Services
from tests.app.access.principals import principal
from tests.app.conftest import OpenProcess
from tests.app.gateway.test_gateway import records, sent
from tests.services import OPENAI, asked
from tests.simulators import RunningSimulator

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
ACME = principal(Scope.COMPLETIONS)
OTHER_AGENT = principal(Scope.COMPLETIONS, agent="other")
PASSAGES = (PassageReference(UUID(int=1), 0.9), PassageReference(UUID(int=2), 0.5))
SAID = [{"text": "Boilers make steam.", "quotes": [{"passage": "P1", "quote": "never checked"}]}, {"text": "So.", "quotes": []}]
TEXTS = ("Steam is made by two boilers.", "Freight moves by rail.")


def question(text: str = "What makes steam?", key: str | None = None, asked_for: bytes = b"question") -> CompletionRequest:
    return replace(
        asked(model=OPENAI, key=key),
        messages=passage_messages(text, TEXTS, "0123456789abcdef"),
        response_format=STATEMENTS_FORMAT,
        grounding=Grounding(asked_for, PASSAGES),
    )


class TestStatements:
    def test_are_read_with_their_quotes(self) -> None:
        text = msgspec.json.encode({"statements": SAID}).decode()

        assert read_statements(text) == (
            Statement("Boilers make steam.", (Quote("P1", "never checked"),)),
            Statement("So.", ()),
        )
        assert plain_text(read_statements(text)) == "Boilers make steam. So."

    @pytest.mark.parametrize(
        "text",
        [None, "", "no JSON", '{"statements": [{"text": "cut', '{"statements": [{}]}', "[]", "\ud83d", '{"statements": {}}'],
    )
    def test_are_none_in_a_text_that_is_not_whole(self, text: str | None) -> None:
        assert read_statements(text) == ()


class TestAnAnswer:
    async def test_is_shown_by_its_id_without_quotes_and_charged_as_an_answer(
        self, services: Services, open_process: OpenProcess
    ) -> None:
        completion = await services.gateway.complete(question(), ACME)

        for process in (services, await open_process()):
            shown = await process.gateway.completion(completion.key, ACME)
            assert shown is not None
            assert (shown.text, shown.passages) == (" ".join(TEXTS), PASSAGES)
            assert await process.gateway.completion(completion.key, OTHER_AGENT) is None
        (record,) = await records(services)
        assert (record.operation, record.completion_id) == (Operation.ANSWER, completion.id)

    async def test_that_was_given_before_is_found_whatever_passages_a_repeat_would_find(self, services: Services) -> None:
        assert await services.gateway.earlier(question(key="once"), ACME) is None
        assert await services.gateway.earlier(question(), ACME) is None

        first = await services.gateway.complete(question(key="once"), ACME)

        repeat = replace(question("In other messages?", key="once"), grounding=Grounding(b"question"))
        found = await services.gateway.earlier(repeat, ACME)
        assert found == first
        assert found is not None
        assert found.passages == PASSAGES
        assert await services.gateway.complete(repeat, ACME) == first
        assert await services.gateway.earlier(asked("Hello", model=OPENAI, key="once"), ACME) is None
        assert len(await records(services)) == 1

    async def test_to_another_question_under_the_same_key_is_a_conflict(self, services: Services) -> None:
        await services.gateway.complete(question(key="once"), ACME)

        with pytest.raises(Refused) as refused:
            await services.gateway.earlier(question(key="once", asked_for=b"another"), ACME)
        assert isinstance(refused.value.reason, Conflict)


class TestACompletionThatAsksNoModel:
    async def test_costs_nothing_and_is_kept(self, services: Services, simulator: RunningSimulator) -> None:
        request = replace(question(), grounding=Grounding(b"question"))

        completion = await services.gateway.complete_unasked(request, ACME, "Nothing was found.")

        assert (completion.status, completion.text, completion.cost_usd) == (
            CompletionStatus.FINISHED,
            "Nothing was found.",
            Decimal(0),
        )
        assert completion.created_at <= datetime.now(UTC)
        assert await services.gateway.completion(completion.key, ACME) == completion
        assert await records(services) == ()
        assert sent(simulator) == 0

    async def test_is_the_one_that_came_first_with_its_key(self, services: Services) -> None:
        request = replace(question(key="once"), grounding=Grounding(b"question"))
        first = await services.gateway.complete_unasked(request, ACME, "Nothing was found.")

        assert await services.gateway.complete_unasked(request, ACME, "Another text.") == first
        assert await services.gateway.earlier(request, ACME) == first
