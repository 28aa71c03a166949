"""Both adapters against a simulator that misbehaves: every way in which a try can fail, and what is left after it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.domain.errors import FailureKind, ProviderError
from app.llm.messages import FinishReason
from app.llm.providers.adapter import Adapter
from app.runtime.clock import SystemClock
from app.settings import ProviderKindName, ProviderTimeouts
from tests.app.llm.calls import (
    ANTHROPIC,
    MODELS,
    SHORT,
    adapter,
    call,
    end_of,
    failure,
    key_file,
    parts_of,
    user,
)
from tests.simulators import RunningSimulator, StepFields

pytestmark = pytest.mark.anyio


STATUSES = {
    "status-400": FailureKind.BAD_REQUEST,
    "status-401": FailureKind.KEY_REFUSED,
    "status-402": FailureKind.KEY_REFUSED,
    "status-403": FailureKind.KEY_REFUSED,
    "status-404": FailureKind.MODEL_NOT_FOUND,
    "status-408": FailureKind.SERVER_ERROR,
    "status-409": FailureKind.SERVER_ERROR,
    "status-413": FailureKind.CONTEXT_TOO_LONG,
    "status-422": FailureKind.BAD_REQUEST,
    "status-500": FailureKind.SERVER_ERROR,
    "status-503": FailureKind.OVERLOADED,
    "status-529": FailureKind.OVERLOADED,
    "rate-limited-bare": FailureKind.RATE_LIMITED,
    "quota": FailureKind.KEY_REFUSED,
    "context-too-long": FailureKind.CONTEXT_TOO_LONG,
    "prompt-filter": FailureKind.CONTENT_FILTERED,
}
KEYS_FAULTS: tuple[StepFields, ...] = tuple(
    {"fault": "status", "status": status, "error_type": "unknown", "error_message": message}
    for status, message in (
        (400, "Your credit balance is too low to access the API."),
        (400, "API key not valid. Please pass a valid API key."),
        (400, "Rate limit exceeded"),
        (413, "Request too large on tokens per minute (TPM)"),
        (404, "The model does not exist or you do not have access to it."),
    )
)
UNANSWERED = {
    "reset": FailureKind.CONNECTION,
    "disconnect": FailureKind.CONNECTION,
    "disconnect-billed": FailureKind.CONNECTION,
    "silent": FailureKind.FIRST_TOKEN_TIMEOUT,
    "slow-headers": FailureKind.FIRST_TOKEN_TIMEOUT,
    "slow-first-token": FailureKind.FIRST_TOKEN_TIMEOUT,
}
BROKEN_OFF = {
    "stall": FailureKind.IDLE_TIMEOUT,
    "cut": FailureKind.TRUNCATED,
    "truncate": FailureKind.TRUNCATED,
    "malformed": FailureKind.MALFORMED,
}


class TestAFailedTry:
    @pytest.mark.parametrize("streamed", [True, False])
    @pytest.mark.parametrize("fault", STATUSES)
    async def test_is_reported_by_status_and_type(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str, *, streamed: bool
    ) -> None:
        simulator.post(fault)

        error = await failure(provider, model, streamed=streamed)

        assert error.kind is STATUSES[fault]
        assert error.usage is None
        if fault.startswith("status-"):
            assert (error.status_code, bool(error.provider_request_id)) == (int(fault[-3:]), True)

    @pytest.mark.parametrize("fault", BROKEN_OFF)
    async def test_after_the_first_token_says_what_was_billed(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str
    ) -> None:
        simulator.post(fault)

        error = await failure(provider, model, streamed=True)

        assert error.kind is BROKEN_OFF[fault]
        assert error.usage is not None
        assert not error.usage.confirmed
        assert 0 < error.usage.output_tokens <= 16

    @pytest.mark.parametrize(("fault", "reported"), [*UNANSWERED.items(), ("cut-first", FailureKind.CONNECTION)])
    async def test_before_the_first_token_of_a_stream_is_charged_for_the_input_as_an_estimate(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str, reported: FailureKind
    ) -> None:
        simulator.post(fault)

        error = await failure(provider, model, streamed=True)

        assert error.kind is reported
        assert error.usage is not None
        assert (error.usage.confirmed, error.usage.output_tokens) == (False, 0)
        assert error.usage.input_tokens > 0

    @pytest.mark.parametrize("fault", UNANSWERED)
    async def test_before_a_whole_answer_began_is_charged_for_what_can_be_made_in_that_time(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str
    ) -> None:
        simulator.post(fault)

        error = await failure(provider, model, streamed=False)

        assert (error.kind, error.status_code) == (UNANSWERED[fault], None)
        assert error.usage is not None
        assert (error.usage.confirmed, error.usage.input_tokens > 0) == (False, True)
        if UNANSWERED[fault] is FailureKind.FIRST_TOKEN_TIMEOUT:
            assert error.usage.output_tokens == call(model).max_output_tokens
        else:
            assert 0 < error.usage.output_tokens <= call(model).max_output_tokens

    async def test_for_want_of_time_is_charged_for_no_more_than_that_time_allows(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        simulator.post("silent")

        with pytest.raises(ProviderError) as caught:
            await provider.complete(call(model, seconds=0.2, max_output_tokens=60_000))

        assert caught.value.kind is FailureKind.TOTAL_TIMEOUT
        assert caught.value.usage is not None
        assert 0 < caught.value.usage.output_tokens < 60_000

    @pytest.mark.parametrize(("fault", "reported"), [("cut", FailureKind.TRUNCATED), ("stall", FailureKind.FIRST_TOKEN_TIMEOUT)])
    async def test_in_the_midst_of_a_whole_answer_is_charged_for_what_came(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str, reported: FailureKind
    ) -> None:
        simulator.post(fault)

        with pytest.raises(ProviderError) as caught:
            await provider.complete(call(model, seconds=0.5, max_output_tokens=400))

        error = caught.value
        assert (error.kind, error.status_code) == (reported, 200)
        assert error.provider_request_id
        [entry] = simulator.seen(1)
        assert entry.billed
        assert error.usage is not None
        assert not error.usage.confirmed
        assert error.usage.input_tokens > 0
        assert error.usage.output_tokens < 400

    async def test_inside_a_stream_is_reported_by_its_type(
        self, kind: ProviderKindName, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        simulator.post("stream-error", "stream-error-first")

        late = await failure(provider, model, streamed=True)
        early = await failure(provider, model, streamed=True)

        assert late.kind is early.kind is (FailureKind.OVERLOADED if kind is ANTHROPIC else FailureKind.SERVER_ERROR)
        assert late.usage is not None
        assert early.usage is None

    @pytest.mark.parametrize("fault", ["malformed", "truncate"])
    async def test_with_a_body_that_is_no_json_is_malformed(
        self, provider: Adapter, model: str, simulator: RunningSimulator, fault: str
    ) -> None:
        simulator.post(fault)

        error = await failure(provider, model, streamed=False)

        assert (error.kind, error.status_code) == (FailureKind.MALFORMED, 200)
        [entry] = simulator.ended(1)
        assert entry.billed
        assert error.usage is not None
        assert (error.usage.confirmed, error.usage.input_tokens > 0) == (False, True)
        assert 0 < error.usage.output_tokens <= call(model).max_output_tokens

    async def test_reports_what_the_providers_headers_say_is_left(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        simulator.post("status-500")

        error = await failure(provider, model, streamed=False)

        assert error.rate_limits is not None
        assert error.rate_limits.tokens_remaining is not None

    async def test_waits_as_long_as_the_provider_says(self, provider: Adapter, model: str, simulator: RunningSimulator) -> None:
        simulator.post("rate-limited", "rate-limited-ms", "rate-limited-date")

        seconds, milliseconds, date = [(await failure(provider, model, streamed=False)).retry_after for _ in range(3)]

        assert (seconds, milliseconds) == (timedelta(seconds=1), timedelta(milliseconds=250))
        assert date is not None
        assert timedelta(0) < date <= timedelta(seconds=2)

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_by_a_connection_that_is_refused_is_one_of_the_connection(
        self, kind: ProviderKindName, model: str, *, streamed: bool
    ) -> None:
        provider = adapter(kind, "http://127.0.0.1:9")

        error = await failure(provider, model, streamed=streamed)

        assert (error.kind, error.counts_for_breaker, error.usage) == (FailureKind.CONNECTION, True, None)
        await provider.close()

    async def test_never_shows_the_providers_words(self, provider: Adapter, model: str, simulator: RunningSimulator) -> None:
        simulator.post({"fault": "status", "status": 400, "error_message": "the prompt was: sk-secret"})

        error = await failure(provider, model, streamed=False)

        assert str(error) == "bad_request (400)"
        assert error.__suppress_context__


class TestTimeouts:
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_the_deadline_of_the_call_is_the_last_word(
        self, provider: Adapter, model: str, simulator: RunningSimulator, *, streamed: bool
    ) -> None:
        simulator.post("silent")

        error = await failure(provider, model, streamed=streamed, seconds=0.1)

        assert (error.kind, error.counts_for_breaker) == (FailureKind.TOTAL_TIMEOUT, False)

    async def test_a_deadline_that_has_passed_sends_nothing(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        error = await failure(provider, model, streamed=False, seconds=-1)

        assert (error.kind, simulator.log()) == (FailureKind.TOTAL_TIMEOUT, [])

    async def test_a_stream_that_flows_may_last_longer_than_one_wait(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        simulator.post({"token_delay_ms": 40, "answer": {"tokens": 20}})

        answer = end_of(await parts_of(provider, call(model))).answer

        assert answer.finish_reason is FinishReason.STOP

    async def test_a_long_whole_answer_gets_more_time_than_a_first_token(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        simulator.post({"headers_delay_ms": 500})

        answer = await provider.complete(call(model, max_output_tokens=4096))

        assert answer.finish_reason is FinishReason.STOP

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_half_of_the_calls_time_is_kept_for_another_target_and_the_caller_s_haste_is_no_failure_of_this_one(
        self, provider: Adapter, model: str, simulator: RunningSimulator, *, streamed: bool
    ) -> None:
        simulator.post("silent")
        wanted = replace(call(model, seconds=0.4), is_another_target_left=True)

        begun = time.monotonic()
        with pytest.raises(ProviderError) as caught:
            await (parts_of(provider, wanted) if streamed else provider.complete(wanted))

        assert (caught.value.kind, caught.value.counts_for_breaker) == (FailureKind.TOTAL_TIMEOUT, False)
        assert time.monotonic() - begun < 0.4

    async def test_a_silent_stream_is_left_sooner_if_another_target_is_left(
        self, provider: Adapter, model: str, simulator: RunningSimulator
    ) -> None:
        simulator.post({"fault": "silent", "count": None})
        seconds = []
        for is_another_left in (True, False):
            begun = time.monotonic()
            with pytest.raises(ProviderError) as caught:
                await parts_of(provider, replace(call(model, max_output_tokens=4096), is_another_target_left=is_another_left))
            seconds.append(time.monotonic() - begun)
            assert caught.value.kind is FailureKind.FIRST_TOKEN_TIMEOUT
        first_token = SHORT.first_token.total_seconds()
        assert first_token <= seconds[0]
        assert 2 * first_token <= seconds[1]
        assert seconds[0] < seconds[1]


class TestThePool:
    async def test_that_is_used_up_fails_here_and_not_at_the_provider(
        self, kind: ProviderKindName, model: str, base_url: str, simulator: RunningSimulator
    ) -> None:
        simulator.post("silent")
        slow = ProviderTimeouts(first_token=timedelta(seconds=3))
        provider = adapter(kind, base_url, pool_size=1, timeouts=slow)
        waiting = asyncio.create_task(failure(provider, model, streamed=False))
        await _sent(simulator)

        error = await failure(provider, model, streamed=False)
        waiting.cancel()

        assert (error.kind, error.counts_for_breaker, len(simulator.log())) == (FailureKind.POOL_EXHAUSTED, False, 1)
        assert error.usage is None
        await asyncio.gather(waiting, return_exceptions=True)
        await provider.close()

    async def test_is_whole_again_after_every_kind_of_end(
        self, kind: ProviderKindName, model: str, base_url: str, simulator: RunningSimulator
    ) -> None:
        provider = adapter(kind, base_url, pool_size=1, timeouts=SHORT)
        simulator.post("status-500", "cut", "malformed", "reset")
        for _ in range(4):
            await failure(provider, model, streamed=True)

        assert (await provider.complete(call(model))).text
        await provider.close()


async def _sent(simulator: RunningSimulator) -> None:
    for _ in range(1000):
        if await asyncio.to_thread(simulator.log):
            return
    raise TimeoutError


class TestKeys:
    async def test_a_refused_one_is_set_aside_and_the_next_one_answers(
        self, kind: ProviderKindName, model: str, base_url: str, simulator: RunningSimulator, tmp_path: Path
    ) -> None:
        keys = (key_file(tmp_path, "first", "sk-refused-1"), key_file(tmp_path, "second", "sk-good"))
        provider = adapter(kind, base_url, api_keys=keys)

        await provider.complete(call(model))
        await provider.complete(call(model))

        assert [entry.status for entry in simulator.ended(3)] == [401, 200, 200]
        await provider.close()

    @pytest.mark.parametrize("refusal", KEYS_FAULTS, ids=lambda step: f"{step['status']} {step['error_message']}")
    async def test_that_alone_is_at_fault_makes_way_for_the_next_one_whatever_the_status(
        self, kind: ProviderKindName, simulator: RunningSimulator, tmp_path: Path, refusal: StepFields
    ) -> None:
        simulator.post(refusal)
        base_url = simulator.anthropic_url if kind is ANTHROPIC else simulator.openai_url
        provider = adapter(kind, base_url, api_keys=(key_file(tmp_path, "a", "sk-1"), key_file(tmp_path, "b", "sk-2")))

        assert (await provider.complete(call(MODELS[kind]))).text

        assert [entry.status for entry in simulator.ended(2)] == [refusal["status"], 200]
        await provider.close()

    async def test_a_changed_secret_comes_into_use_without_a_restart(
        self, kind: ProviderKindName, model: str, base_url: str, tmp_path: Path
    ) -> None:
        provider = adapter(kind, base_url, api_keys=(key_file(tmp_path, "key", "sk-refused-1"),))
        await failure(provider, model, streamed=False)

        key_file(tmp_path, "key", "sk-good")

        assert (await provider.complete(call(model))).text
        await provider.close()

    async def test_none_left_is_a_refused_key_that_no_text_shows(
        self, kind: ProviderKindName, model: str, base_url: str, tmp_path: Path
    ) -> None:
        provider = adapter(kind, base_url, api_keys=(key_file(tmp_path, "key", "sk-refused-1"),))

        error = await failure(provider, model, streamed=True)

        assert (error.kind, error.counts_for_breaker, error.retryable) == (FailureKind.KEY_REFUSED, False, False)
        assert "sk-" not in f"{error!r}{vars(error)}"
        await provider.close()


class TestProbe:
    async def test_costs_nothing(self, provider: Adapter, simulator: RunningSimulator) -> None:
        await provider.probe()

        seen = simulator.ended(1)[0]
        assert (seen.operation, seen.billed, seen.status) == ("models", False, 200)

    async def test_fails_as_the_provider_does(self, provider: Adapter, simulator: RunningSimulator) -> None:
        simulator.post("overloaded")

        with pytest.raises(ProviderError) as caught:
            await provider.probe()

        assert caught.value.kind is FailureKind.OVERLOADED

    async def test_of_a_server_without_a_list_of_models_passes(self, provider: Adapter, simulator: RunningSimulator) -> None:
        simulator.post("status-404")

        await provider.probe()

        assert simulator.ended(1)[0].status == 404

    async def test_of_a_server_that_is_asked_too_often_passes(self, provider: Adapter, simulator: RunningSimulator) -> None:
        simulator.post("rate-limited-bare")

        await provider.probe()

        assert simulator.ended(1)[0].status == 429


class TestManyAtOnce:
    async def test_every_call_gets_its_own_answer(self, kind: ProviderKindName, base_url: str, model: str) -> None:
        clock, provider = SystemClock(), adapter(kind, base_url)
        asked = [f"question {number}" for number in range(60)]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(provider.complete(call(model, user(text), clock=clock))) for text in asked]
        alone = [await provider.complete(call(model, user(text))) for text in asked[:3]]

        assert [task.result().text for task in tasks[:3]] == [answer.text for answer in alone]
        assert len({task.result().provider_request_id for task in tasks}) == 60
        await provider.close()
