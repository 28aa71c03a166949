"""Whatever streams a provider sends, an answer is finished only with all of the words that were sent, and else fails typed.

A second reader says what a stream means (`stream_meaning`). `FUZZING_SEED` chooses other streams, and the drill sends 2,000.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.fuzzing_provider import GOOD, StreamFuzzingProvider, start_fuzzing_provider
from tests.integration.payload_mutations import TEXT
from tests.integration.stream_meaning import marks, meaning_of
from tests.integration.stream_mutations import StreamPayload
from tests.integration.test_fuzzing import CONCURRENT, STOP_SECONDS, Case, Ending, configured, read_records, stream
from tests.servers import RunningServer, start_server

pytestmark = pytest.mark.timeout(480)
SEED = int(os.environ.get("FUZZING_SEED", "20261130"))
CASES = 300


@dataclass(frozen=True)
class Seen:
    endings: list[Ending]
    records: list[dict[str, Any]]
    log: str
    left_open: int
    seconds_to_stop: float
    provider: StreamFuzzingProvider

    def answered_with(self, ending: Ending) -> StreamPayload | None:
        """The stream of the last attempt; None if it was the other target's."""
        if ending.attempts and ending.attempts[-1]["model"] == GOOD:
            return None
        return self.all_sent(ending)[-1]

    def all_sent(self, ending: Ending) -> list[StreamPayload]:
        """The streams of all attempts at the odd target. What is shown of a call that may begin anew can be that of any."""
        case = ending.case
        return [
            self.provider.payload(case.number, attempt, anthropic=case.provider == "anthropic", streamed=True)
            for attempt in range(self.provider.sent[case.number, "odd"])
        ]

    def describe(self, ending: Ending) -> str:
        payload = self.answered_with(ending)
        return f"FUZZING_SEED={self.provider.seed}, {ending.case}: {payload and payload.body[:3000]!r} became {ending}"


def case_of(number: int) -> Case:
    """Only the streamed ones of the numbers that stand for a kind of call."""
    return Case(4 * (number // 2) + number % 2 + 2)


async def ask_all(server: RunningServer, cases: int) -> tuple[list[Ending], list[dict[str, Any]]]:
    room = asyncio.Semaphore(CONCURRENT)
    headers = {"Authorization": f"Bearer {server.key}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=90)) as session:

        async def one(case: Case) -> Ending:
            async with room:
                return await stream(session, server.url, case)

        endings = await asyncio.gather(*(one(case_of(number)) for number in range(cases)))
        return endings, await read_records(session, server.url)


def run(folder: Path, seed: int, cases: int) -> Seen:
    logging.getLogger(__name__).warning("FUZZING_SEED=%s", seed)
    with start_fuzzing_provider(StreamFuzzingProvider(seed)) as provider:
        configuration, log = folder / "greenlang.toml", folder / "log"
        configuration.write_text(configured(provider))
        with start_server(
            folder / "data", "--config", str(configuration), environ={"FUZZING_KEY": "sk-fuzzing"}, log=log
        ) as server:
            endings, records = asyncio.run(ask_all(server, cases))
            left_open, begun = provider.open, time.monotonic()
            server.stop()
            seconds = time.monotonic() - begun
        return Seen(endings, records, log.read_text(), left_open, seconds, provider)


def check_words(seen: Seen) -> Counter[str]:
    """An answer has the words that were sent, an end, and nothing that says that it failed. Returns how many ended how."""
    counted = Counter[str]()
    for ending in seen.endings:
        payload = seen.answered_with(ending)
        counted[(ending.problem or {}).get("code", "FINISHED")] += 1
        if payload is None:
            assert ending.completion is not None, seen.describe(ending)
            assert ending.completion["text"] == ending.shown == TEXT, seen.describe(ending)
            continue
        is_anthropic = ending.case.provider == "anthropic"
        sent = meaning_of(payload.body, is_anthropic=is_anthropic, is_cut=payload.cut)
        shown = marks(ending.shown)
        if ending.completion is not None:
            assert (ending.completion["text"] or "") == ending.shown, seen.describe(ending)
            assert shown == sent.words, (sent, seen.describe(ending))
            assert sent.is_ended or "‹other›" in ending.shown, (sent, seen.describe(ending))
            assert not sent.is_broken, (sent, seen.describe(ending))
        else:
            assert not payload.is_harmless, seen.describe(ending)
            each = [meaning_of(one.body, is_anthropic=is_anthropic, is_cut=one.cut) for one in seen.all_sent(ending)]
            assert any(one.is_odd or shown == one.words[: len(shown)] for one in each), (each, seen.describe(ending))
    return counted


def check_typed(seen: Seen) -> None:
    for ending in seen.endings:
        assert not ending.errors, seen.describe(ending)
        assert (ending.completion is None) != (ending.problem is None), seen.describe(ending)
        assert ending.problem is None or ending.problem["code"] in {"PROVIDER_ERROR", "TIMEOUT"}, seen.describe(ending)
        if "with-another" in ending.case.model and not ending.shown:
            assert ending.completion is not None, seen.describe(ending)


def check_ledger(seen: Seen) -> None:
    sent = Counter(model for (_, model), times in seen.provider.sent.items() for _ in range(times))
    assert Counter(record["model"] for record in seen.records) == sent
    assert sum(len(ending.attempts) for ending in seen.endings) == sent.total()


def check_server(seen: Seen) -> None:
    for words in ("Traceback", "unforeseen", "never retrieved", "was destroyed but it is pending"):
        assert words not in seen.log
    assert seen.left_open == 0
    assert seen.seconds_to_stop < STOP_SECONDS


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return run(tmp_path_factory.mktemp("streams"), SEED, CASES)


class TestFuzzedStreams:
    def test_are_finished_only_with_all_words_that_were_sent(self, seen: Seen) -> None:
        counted = check_words(seen)
        assert counted["FINISHED"] > CASES // 2
        assert counted["PROVIDER_ERROR"] > CASES // 20

    def test_fail_typed(self, seen: Seen) -> None:
        check_typed(seen)

    def test_have_every_attempt_in_the_ledger(self, seen: Seen) -> None:
        check_ledger(seen)

    def test_leave_no_traceback_and_no_task(self, seen: Seen) -> None:
        check_server(seen)


@pytest.mark.drill
@pytest.mark.long
def test_two_thousand_streams_are_whole_or_fail_typed(tmp_path: Path) -> None:
    seen = run(tmp_path, SEED + 1, 2000)
    assert len(seen.endings) == 2000
    check_words(seen)
    check_typed(seen)
    check_ledger(seen)
    check_server(seen)
