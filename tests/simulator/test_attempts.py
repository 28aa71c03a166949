from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from simulator.attempts import Entry, fingerprint
from tests.simulators import RunningSimulator, start_simulator

pytestmark = pytest.mark.anyio
CLAUDE, GPT = "claude-haiku-5-5", "gpt-5.4-mini"


async def call(client: AsyncOpenAI, text: str = "Hello", **headers: str) -> dict[str, object]:
    completion = await client.chat.completions.create(
        model=GPT,
        messages=[{"role": "user", "content": text}],
        extra_headers={name.replace("_", "-"): headers[name] for name in headers},
    )
    assert completion.usage is not None
    return completion.usage.model_dump(exclude_none=True)


def lines(path: Path) -> list[Entry]:
    return [msgspec.json.decode(line, type=Entry) for line in path.read_bytes().splitlines()]


class TestEntry:
    async def test_is_in_the_file_when_the_client_has_its_answer(
        self, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        assert simulator.log_file is not None
        usage = await call(openai_client)
        (entry,) = lines(simulator.log_file)

        assert (entry.state, entry.billed, entry.usage_sent) == ("completed", True, True)
        assert entry.usage == usage

    async def test_correlates_and_keeps_no_key(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        await call(openai_client, x_greenlang_attempt="att_1", idempotency_key="once", x_private="no")
        (entry,) = simulator.ended(1)

        assert entry.headers["x-greenlang-attempt"] == "att_1"
        assert entry.headers["idempotency-key"] == "once"
        assert not {"x-private", "authorization"} & set(entry.headers)
        assert entry.key == fingerprint("sk-test")

    async def test_reports_a_repeated_body(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        await call(openai_client, "one")
        await call(openai_client, "one")
        await call(openai_client, "two")
        first, second, third = [entry.body_hash for entry in simulator.ended(3)]

        assert first == second != third

    async def test_can_be_read_from_a_number_on(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        await call(openai_client)
        (first,) = simulator.ended(1)
        await call(openai_client)

        assert [entry.sequence for entry in simulator.log(first.sequence)] == [first.sequence + 1]

    async def test_clearing_empties_file_and_totals(self, openai_client: AsyncOpenAI, simulator: RunningSimulator) -> None:
        await call(openai_client)
        simulator.reset()

        assert simulator.log() == []
        assert simulator.usage() == {}
        assert simulator.log_file is not None
        assert simulator.log_file.read_bytes() == b""


class TestTotals:
    async def test_sum_every_figure_that_was_billed(
        self, anthropic_client: AsyncAnthropic, openai_client: AsyncOpenAI, simulator: RunningSimulator
    ) -> None:
        simulator.post("reset", {"fault": "cut", "after_tokens": 8, "provider": "anthropic"})
        with pytest.raises(Exception, match="Connection error"):
            await call(openai_client)
        await call(openai_client, "[[simulator tokens=30]]")
        await call(openai_client, "[[simulator tokens=40]]")
        with pytest.raises(Exception, match="incomplete chunked read"):
            async for _ in await anthropic_client.messages.create(
                model=CLAUDE, max_tokens=90, messages=[{"role": "user", "content": "Hello"}], stream=True
            ):
                pass
        simulator.ended(4)
        totals = simulator.usage()

        assert (totals["openai"][GPT].attempts, totals["openai"][GPT].answered, totals["openai"][GPT].billed) == (3, 2, 2)
        assert totals["openai"][GPT].usage["completion_tokens"] == 70
        assert totals["openai"][GPT].usage["completion_tokens_details.reasoning_tokens"] == 0
        assert (totals["anthropic"][CLAUDE].aborted, totals["anthropic"][CLAUDE].usage["output_tokens"]) == (1, 8)


class TestFile:
    async def test_is_appended_to_by_the_next_process(self, tmp_path: Path) -> None:
        log = tmp_path / "attempts.jsonl"
        for _ in range(2):
            with start_simulator(log=log) as running:
                async with AsyncOpenAI(base_url=running.openai_url, api_key="sk", max_retries=0) as client:
                    await call(client)

        assert [entry.state for entry in lines(log)] == ["completed"] * 2
