"""Every fault that PyPI's llmock can inject, met by a whole server over both wire formats: its verdict on us, and what the caller
sees. The caller is an agent that asks again if a stream broke off and the error said that this may help."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest

from tests.integration.llmock import (
    ANSWER,
    CASES,
    CONTEXT_TOKENS,
    FAMILIES,
    FOR_EVER,
    KEY_REFUSED,
    REFUSED,
    Case,
    configuration,
    install,
    start,
)
from tests.servers import RunningServer, start_server

pytestmark = pytest.mark.timeout(180)

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

FIELDS = "status text finishReason toolCalls { name arguments } attempts { outcome statusCode }"
PROBLEM = "... on Problem { code } ... on ProvidersFailed { retryable attempts { outcome statusCode } }"
CREATE = (
    f"mutation($input: CompletionInput!) {{ completionCreate(input: $input) {{ ... on Completion {{ {FIELDS} }} {PROBLEM} }} }}"
)
STREAM = f"""subscription($input: CompletionInput!) {{ completionStream(input: $input) {{
  __typename
  ... on CompletionDelta {{ text }}
  ... on CompletionFinished {{ completion {{ {FIELDS} }} }}
  ... on CompletionFailed {{ problem {{ {PROBLEM} }} }}
}} }}"""
QUOTA_TOKENS = 30_000
UNLABELLED = {"none", "late", "silent", "first-token-late", "first-token-never", "malformed-arguments", "unknown-tool"}
"""Faults that llmock's journal has no word for."""
PAUSES = (0.3, 1.2)
"""Before the agent asks again, and once more."""


@dataclass
class Seen:
    """What the caller of one case saw: the last answer or problem, the text shown with it, and every attempt reported."""

    completion: Data | None = None
    problem: Data | None = None
    shown: str = ""
    ends: int = 0
    attempts: list[Data] = field(default_factory=list)

    def note(self, found: Data) -> None:
        self.completion, self.problem = (found, None) if "status" in found else (None, found)
        self.attempts += [each for each in found["attempts"] if not each["outcome"].startswith("SKIPPED")]


@dataclass(frozen=True)
class Run:
    """All cases, at once: one server, one llmock."""

    seen: dict[Case, Seen]
    requests: list[Data]
    verdict: Data

    def requests_of(self, case: Case) -> list[Data]:
        return [each for each in self.requests if (each["provider"], each["model"]) == (case.family, case.model)]


def question(case: Case, number: int, cap: int) -> Data:
    text = "word " * (CONTEXT_TOKENS + 500) if case.fault == "context-too-long" else f"Question {number}: {case.name}"
    asked: Data = {
        "model": f"{case.provider}/{case.model}",
        "messages": [{"role": "USER", "text": text}],
        "maxOutputTokens": cap,
    }
    if case.fault in {"malformed-arguments", "unknown-tool"}:
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        asked["tools"] = [{"name": "weather", "parameters": parameters}]
    return asked


async def ask(session: aiohttp.ClientSession, url: str, case: Case, number: int, cap: int) -> Seen:
    seen = Seen()
    for pause in (*PAUSES, None):
        seen.shown, seen.ends = "", 0
        if not case.streamed:
            body = {"query": CREATE, "variables": {"input": question(case, number, cap)}}
            async with session.post(url, json=body) as response:
                seen.note((await response.json(content_type=None))["data"]["completionCreate"])
            return seen
        async for event in follow(session, url, case, number, cap):
            if event["__typename"] == "CompletionDelta":
                seen.shown += event["text"]
            elif event["__typename"] in {"CompletionFinished", "CompletionFailed"}:
                seen.ends += 1
                seen.note(event.get("completion") or event["problem"])
        if pause is None or seen.problem is None or not seen.shown or not seen.problem["retryable"]:
            break
        await asyncio.sleep(pause)
    return seen


async def follow(session: aiohttp.ClientSession, url: str, case: Case, number: int, cap: int) -> AsyncIterator[Data]:
    body = {"query": STREAM, "variables": {"input": question(case, number, cap)}}
    async with session.post(url, json=body, headers={"Accept": "text/event-stream"}) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])["data"]["completionStream"]


async def ask_all(server: RunningServer, cases: Sequence[Case], cap: int) -> list[tuple[Case, Seen]]:
    headers = {"Authorization": f"Bearer {server.key}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(90)) as session:
        found = await asyncio.gather(*(ask(session, server.url, case, number, cap) for number, case in enumerate(cases)))
    return list(zip(cases, found, strict=True))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("llmock") / "environment")


@pytest.fixture(scope="module")
def run(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("server")
    with start(program, "--context-window", str(CONTEXT_TOKENS), "--stream-chunk-delay-ms", "5") as mock:
        (folder / "greenlang.toml").write_text(configuration(mock, CASES), encoding="utf-8")
        mock.script([behavior for case in CASES for behavior in case.behaviors])
        arguments = ("--config", str(folder / "greenlang.toml"))
        with start_server(folder / "data", *arguments, environ={"LLMOCK_KEY": "sk-mock"}) as server:
            seen = asyncio.run(ask_all(server, CASES, 100))
        return Run(dict(seen), mock.requests(), mock.verdict())


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def was_asked_again(finding: Data, requests: Sequence[Data]) -> bool:
    """llmock takes a stream that it had sent to its end, before its client could leave at the broken chunk, for one that was
    applied, and what followed for another call. It is the same call where the same was asked again after it."""
    if finding["code"] != "malformed_chunk_ignored":
        return False
    broken = next(each for each in requests if each["seq"] == finding["requests"][-1])
    return any(each["fingerprint"] == broken["fingerprint"] and each["seq"] > broken["seq"] for each in requests)


def test_the_verdict_is_clean(run: Run) -> None:
    findings = [finding for finding in run.verdict["findings"] if not was_asked_again(finding, run.requests)]
    assert findings == [], findings
    assert run.verdict["passed"]


def code_of(case: Case) -> str | None:
    """The problem that the caller is to be reported; None where the whole answer is right."""
    fault, _, often = case.fault.partition("-")
    if often == "once" and fault in {str(status) for status in (*REFUSED, *KEY_REFUSED)}:
        return "CONTEXT_TOO_LONG" if fault == "413" else "PROVIDER_ERROR"
    if often == "for-ever" and fault in map(str, FOR_EVER):
        return "RATE_LIMITED" if fault == "429" else "PROVIDER_ERROR"
    if case.fault == "context-too-long":
        return "CONTEXT_TOO_LONG"
    if case.fault in {"silent", "first-token-never"} or case.fault.startswith("stall-unseen"):
        return "TIMEOUT"
    if case.fault.endswith("-for-ever"):
        return "TIMEOUT" if fault == "stall" else "PROVIDER_ERROR"
    return None


def test_the_caller_gets_the_whole_answer_or_a_problem(run: Run, case: Case) -> None:
    seen, code = run.seen[case], code_of(case)
    assert seen.ends == (1 if case.streamed else 0)
    if code is not None:
        assert seen.problem is not None, seen.completion
        assert seen.problem["code"] == code
        return
    assert seen.completion is not None, seen.problem
    assert seen.completion["status"] == "FINISHED"
    if case.fault in {"malformed-arguments", "unknown-tool"}:
        assert [call["name"] for call in seen.completion["toolCalls"]] != []
        assert seen.completion["finishReason"] == "TOOL_CALLS"
        return
    assert seen.completion["text"].split() == ANSWER.split()
    assert not case.streamed or seen.shown == seen.completion["text"]


def test_the_caller_is_informed_of_every_request_that_was_made(run: Run, case: Case) -> None:
    requests = run.requests_of(case)
    assert len(run.seen[case].attempts) == len(requests)
    assert 1 <= len(requests) <= 6
    assert any(each["fault"] for each in requests) == (case.fault not in UNLABELLED)
    if case.fault in {"silent", "first-token-never", "first-token-late", "late", "context-too-long"}:
        assert len(requests) == 1


@pytest.mark.long
class TestAQuota:
    """llmock charges the whole output cap and says in its headers what is left; a call too many gets the real time to wait. Here
    are two too many for each provider."""

    def test_is_waited_for_and_the_verdict_is_clean(self, program: Path, tmp_path: Path) -> None:
        cases = [Case("none", family, streamed) for family in FAMILIES for streamed in (True, False)]
        with start(program, "--tpm", str(QUOTA_TOKENS)) as mock:
            limits = ("tokens_per_minute = 1000000000", f"tokens_per_minute = {QUOTA_TOKENS}")
            (tmp_path / "greenlang.toml").write_text(configuration(mock, cases).replace(*limits), encoding="utf-8")
            arguments = ("--config", str(tmp_path / "greenlang.toml"))
            with start_server(tmp_path / "data", *arguments, environ={"LLMOCK_KEY": "sk-mock"}) as server:
                found = asyncio.run(ask_all(server, cases * 11, QUOTA_TOKENS // 20))
            verdict, requests = mock.verdict(), mock.requests()
        assert [seen.problem for _, seen in found if seen.problem is not None] == []
        assert verdict["findings"] == [], verdict["findings"]
        assert any(each["status"] == 429 for each in requests)
        assert len(requests) <= 2 * len(found)
