"""What files of a data directory hold after the product has run: words of prompts and answers in none of them.

The words occur nowhere else. Labels are kept in clear on purpose: that their words are found shows that the search finds.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import aiohttp
import asyncpg
import psutil
import pytest
from redis import Redis

from app.secrets.sealing import Sealer
from simulator.structured import Json
from tests.drills.test_streams import EVENTS, START
from tests.file_search import files_with
from tests.servers import Client, RunningServer, start_server
from tests.simulators import RunningSimulator, start_simulator

pytestmark = [pytest.mark.anyio, pytest.mark.drill, pytest.mark.timeout(180)]

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it
LABEL, IDEMPOTENCY_KEY = "Etikettenwort", "Schluesselwort"
ASKED = ("Quixalorne", "Brüßelknöpfig", "Fenwarblestook", "Ostrogelbern", "Vrazzlepinth", "Wumbelstreif", "Jorxamundel")
ANSWERED = ("Glimmerwockel", "Zwürbelfünkchen", "Harxenpfundig", "Skrellimbatur", "Dwombelfratz")
SYSTEM, QUESTION, TOOL, RESULT, VECTOR, WRONG, INLINE = ASKED
TEXT, STREAMED, ARGUMENT, CUT, KILLED = ANSWERED
ANTHROPIC, OPENAI = "anthropic/claude-haiku-5-5", "openai/gpt-5.4-mini"
CREATE = """
mutation($input: CompletionInput!) {
  completionCreate(input: $input) { __typename ... on Completion { id text notes reasoning toolCalls { arguments } } }
}"""
FIND = "query($id: ID!) { completion(id: $id) { status text notes costUsd } }"
EMBED = "mutation($input: EmbeddingsInput!) { embeddingsCreate(input: $input) { __typename } }"


def said(word: str) -> str:
    return f"{word} said {word}, and {word} again."


def asking(text: str, **more: object) -> Mapping[str, object]:
    return {"input": {"messages": [{"role": "USER", "text": text}], "maxOutputTokens": 400, "model": ANTHROPIC, **more}}


@dataclass
class Caller:
    """One agent, which meets everything that may leave a trace."""

    session: aiohttp.ClientSession
    server: RunningServer
    simulator: RunningSimulator
    key: str

    async def run(self) -> list[str]:
        """Pieces of what the models said of their own accord; every answer has its words."""
        reasoning = await self._complete()
        await self._call_tools()
        await self._stream(STREAMED, {"answer": {"text": said(STREAMED)}})
        await self._stream(CUT, {"answer": {"text": said(CUT) * 20}, "fault": "cut", "after_tokens": 100})
        await self._embed()
        await self._be_refused()
        await self._watch_an_owner_die()
        return reasoning

    @property
    def _client(self) -> Client:
        return Client(self.session, self.server, self.key)

    def _will_answer(self, **step: Json) -> None:
        self.simulator.post({"operation": "completion", **step})

    async def _complete(self) -> list[str]:
        """A short one, repeated: PostgreSQL compresses what is long. Then one whose model thinks first."""
        self._will_answer(answer={"text": said(TEXT)}, count=2)
        messages = [{"role": "SYSTEM", "text": said(SYSTEM)}, {"role": "USER", "text": said(QUESTION)}]
        named = {"labels": [{"key": "project", "value": LABEL}], "idempotencyKey": IDEMPOTENCY_KEY}
        for more in (named, named, {"reasoningEffort": "LOW"}):
            data = await self._client.execute(CREATE, asking("", messages=messages, **more))
            answer = cast("Data", data["completionCreate"])
            assert answer["__typename"] == "Completion"
        assert answer["text"] == said(TEXT)
        thoughts = [text for text in _texts(answer["reasoning"]) if len(text) > 40 and " " in text]
        assert thoughts != []
        return [text[8:32] for text in thoughts]

    async def _call_tools(self) -> None:
        tool = {"name": "look_up", "description": said(TOOL), "parameters": {"type": "object", "properties": {"city": {}}}}
        for model in (ANTHROPIC, OPENAI):
            self._will_answer(answer={"tool": "look_up", "json": {"city": said(ARGUMENT)}})
            answer = await self._client.execute(CREATE, asking("where?", tools=[tool], model=model))
            (call,) = cast("Data", answer["completionCreate"])["toolCalls"]
            assert ARGUMENT in call["arguments"]
            self._will_answer(answer={"tool": "look_up", "json": {"city": said(ARGUMENT)}})
            events = await self._events(asking("where?", tools=[tool], model=model))
            assert "ToolCallDelta" in {event["__typename"] for event in events}
        results = [
            {"role": "USER", "text": "where?"},
            {"role": "ASSISTANT", "toolCalls": [{"id": "call_1", "name": "look_up", "arguments": "{}"}]},
            {"role": "TOOL", "toolResult": {"id": "call_1", "content": said(RESULT)}},
        ]
        await self._client.execute(CREATE, asking("", messages=results, tools=[tool]))

    async def _stream(self, word: str, step: Mapping[str, Json]) -> None:
        for model in (ANTHROPIC, OPENAI):
            self._will_answer(**step)
            events = await self._events(asking(said(QUESTION), model=model))
            assert word in "".join(event.get("text", "") for event in events)

    async def _events(self, variables: Mapping[str, object]) -> list[Data]:
        """Of a completion that is started by one process and watched by either."""
        started = cast("Data", (await self._client.execute(START, variables))["completionStart"])
        watched = await asyncio.gather(*(self.watch(started["id"]) for _ in range(4)))
        assert all(events[:-1] == watched[0][:-1] for events in watched)
        return watched[0]

    async def watch(self, completion: str, *, until_text: bool = False) -> list[Data]:
        headers = {"Authorization": f"Bearer {self.key}", "Accept": "text/event-stream", "Connection": "close"}
        body = {"query": EVENTS, "variables": {"id": completion}}
        events = []
        async with self.session.post(self.server.url, json=body, headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"data: ") and (data := json.loads(line[6:])):
                    assert "errors" not in data, data
                    events.append(data["data"]["completionEvents"])
                    if until_text and "text" in events[-1]:
                        break
        return [event for event in events if event["__typename"] != "Heartbeat"]

    async def _embed(self) -> None:
        texts = {"texts": [said(VECTOR), VECTOR], "model": "openai/text-embedding-3-small", "idempotencyKey": "vectors"}
        answer = await self._client.execute(EMBED, {"input": texts})
        assert answer["embeddingsCreate"] == {"__typename": "Embeddings"}

    async def _be_refused(self) -> None:
        """By the provider, in words of its own; and by us, before anything was asked."""
        self._will_answer(fault="status", status=400, error_message=f"no {said(WRONG)}", count=2)
        await self._client.execute(CREATE, asking(said(WRONG)))
        headers = {"Authorization": f"Bearer {self.key}"}
        inline = f'mutation {{ completionCreate(input: {{messages: [{{role: USER, text: "{INLINE}"}}]}}) {{ nothing }} }}'
        for body in (
            json.dumps({"query": inline}),
            json.dumps({"query": CREATE, "variables": {"input": {"messages": said(WRONG)}}}),
            json.dumps({"query": CREATE, "variables": asking(f"{WRONG}\ud800")}),
            json.dumps({"query": CREATE, "variables": asking(f"{WRONG}\0", labels=[{"key": "a", "value": "\0"}])}),
            '{"query": "' + said(WRONG),
        ):
            async with self.session.post(
                self.server.url, data=body, headers=headers | {"Content-Type": "application/json"}
            ) as got:
                await got.read()

    async def _watch_an_owner_die(self) -> None:
        step: Mapping[str, Json] = {"answer": {"text": said(KILLED) * 20}, "token_delay_ms": 8}
        self._will_answer(**step, count=None)
        started = cast("Data", (await self._client.execute(START, asking(said(QUESTION))))["completionStart"])
        assert await self.watch(started["id"], until_text=True) != []
        for process in self.server.servers:
            os.kill(process.pid, signal.SIGKILL)
        self.simulator.clear_scenario()
        for _ in range(200):
            try:
                events = await self.watch(started["id"])
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
                continue
            assert events[-1]["__typename"] == "CompletionFailed"
            return
        raise AssertionError("no server process came back")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for branch in value.values() for text in _texts(branch))
    elif isinstance(value, list):
        yield from (text for branch in value for text in _texts(branch))


@pytest.fixture
def simulator() -> Iterator[RunningSimulator]:
    with start_simulator() as running:
        yield running


@pytest.fixture
def configure(simulator: RunningSimulator, tmp_path: Path) -> Path:
    """A file of configuration, to be appended to; what the servers log goes beside the data."""
    (tmp_path / "kept").mkdir()
    file = tmp_path / "greenlang.toml"
    providers = (
        ("anthropic", simulator.anthropic_url, ["claude-haiku-5-5"]),
        ("openai", simulator.openai_url, ["gpt-5.4-mini", "text-embedding-3-small"]),
    )
    file.write_text(
        '[server]\nlog_level = "debug"\nworkers = 2\n'
        + "".join(
            f'[[providers]]\nname = "{name}"\nkind = "{name}"\nbase_url = "{url}"\nmodels = {json.dumps(models)}\n'
            'api_keys = [{ env = "TEST_KEY" }]\n'
            for name, url, models in providers
        ),
        encoding="utf-8",
    )
    return file


def start(configuration: Path, machine: str = "data", **environ: str) -> AbstractContextManager[RunningServer]:
    kept = configuration.parent / "kept"
    arguments, log = ("--config", str(configuration)), kept / f"{machine}.log"
    return start_server(kept / machine, *arguments, environ={"TEST_KEY": "sk-simulated", **environ}, log=log)


async def use(server: RunningServer, simulator: RunningSimulator, key: str) -> list[str]:
    """Uses everything, looks at the files meanwhile; the words that none may hold."""
    async with aiohttp.ClientSession() as session:
        words = [*ASKED, *ANSWERED, *await Caller(session, server, simulator, key).run()]
    assert files_with(server.data_dir.parent, words) == {}
    return words


async def find(server: RunningServer, key: str, completion: str) -> Data:
    async with aiohttp.ClientSession() as session:
        return cast("Data", (await Client(session, server, key).execute(FIND, {"id": completion}))["completion"])


async def ask(server: RunningServer, simulator: RunningSimulator, key: str) -> str:
    simulator.post({"operation": "completion", "answer": {"text": said(TEXT)}})
    async with aiohttp.ClientSession() as session:
        answer = await Client(session, server, key).execute(CREATE, asking(said(QUESTION)))
    return cast("str", cast("Data", answer["completionCreate"])["id"])


async def execute(server: RunningServer, statement: str, *values: object) -> object:
    connection = await asyncpg.connect((server.data_dir / "database.url").read_text().strip())
    try:
        return await connection.fetchval(statement, *values)
    finally:
        await connection.close()


class TestContentThatIsNotKept:
    async def test_no_file_holds_a_word_of_it(self, configure: Path, simulator: RunningSimulator) -> None:
        with configure.open("a") as file:
            file.write("[content]\nstore = false\n")
        with start(configure) as server:
            words = await use(server, simulator, cast("str", server.key))
            found = await find(server, cast("str", server.key), await ask(server, simulator, cast("str", server.key)))
            assert (found["status"], found["text"]) == ("FINISHED", None)
            processes = psutil.Process(server.process.pid).children(recursive=True)
            assert {process.rlimit(psutil.RLIMIT_CORE)[0] for process in processes if process.is_running()} == {0}
            assert await execute(server, "show log_parameter_max_length_on_error") == "0"
            server.stop()
        kept = configure.parent / "kept"
        assert files_with(kept, words) == {}
        assert set(files_with(kept, [LABEL, IDEMPOTENCY_KEY])) == {LABEL, IDEMPOTENCY_KEY}


class TestStoresOfOnesOwn:
    async def test_two_machines_share_a_stream_that_is_nowhere_in_clear(
        self, configure: Path, simulator: RunningSimulator, database_url: str, valkey_url: str
    ) -> None:
        own = {"GREENLANG_DATABASE__PRIMARY": database_url, "GREENLANG_REDIS__URL": valkey_url}
        with start(configure, "one", **own) as one, start(configure, "two", **own) as two:
            key = cast("str", one.key)
            step: Mapping[str, Json] = {"answer": {"text": said(STREAMED) * 10}, "token_delay_ms": 5}
            simulator.post({"operation": "completion", **step})
            async with aiohttp.ClientSession() as session:
                here, there = (Caller(session, server, simulator, key) for server in (one, two))
                started = cast("Data", (await Client(session, one, key).execute(START, asking("?")))["completionStart"])
                events, others = await asyncio.gather(here.watch(started["id"]), there.watch(started["id"]))
            assert others == events
            assert "".join(event.get("text", "") for event in events) == said(STREAMED) * 10
        with Redis.from_url(valkey_url) as redis:
            logs = [entry for name in redis.keys("greenlang:stream:*") for _, entry in redis.xrange(name)]
        assert logs != []
        assert [entry for entry in logs if b"text" in entry[b"e"] or entry[b"e"][:1] != b"\x01"] == []
        for machine in ("one", "two"):
            assert "answers are stored unencrypted" in (configure.parent / "kept" / f"{machine}.log").read_text()
            assert not (configure.parent / "kept" / machine / "content.key").exists()


class TestContentThatIsKept:
    async def test_no_file_holds_a_word_of_it_in_clear(self, configure: Path, simulator: RunningSimulator) -> None:
        with start(configure) as server:
            key = cast("str", server.key)
            words = await use(server, simulator, key)
            completion = await ask(server, simulator, key)
            server.stop()
        kept = configure.parent / "kept"
        assert files_with(kept, words) == {}
        assert set(files_with(kept, [LABEL, IDEMPOTENCY_KEY])) == {LABEL, IDEMPOTENCY_KEY}
        assert stat.S_IMODE((kept / "data" / "content.key").stat().st_mode) == 0o600
        with start(configure) as server:
            assert (await find(server, key, completion))["text"] == said(TEXT)

    @pytest.mark.long
    async def test_is_read_by_the_made_key_after_one_is_configured(self, configure: Path, simulator: RunningSimulator) -> None:
        with start(configure) as server:
            key = cast("str", server.key)
            before = await ask(server, simulator, key)
            server.stop()
        (configure.parent / "mine.key").write_text(base64.b64encode(os.urandom(32)).decode())
        with configure.open("a") as file:
            file.write(f'[content]\nencryption_keys = {{ file = "{configure.parent / "mine.key"}" }}\n')
        with start(configure) as server:
            after = await ask(server, simulator, key)
            assert [(await find(server, key, each))["text"] for each in (before, after)] == [said(TEXT)] * 2
            server.stop()
        (server.data_dir / "content.key").unlink()
        with start(configure) as server:
            assert (await find(server, key, after))["text"] == said(TEXT)
            assert not (server.data_dir / "content.key").exists()

    async def test_that_lies_there_in_clear_from_before_stays_readable(
        self, configure: Path, simulator: RunningSimulator
    ) -> None:
        with start(configure) as server:
            key = cast("str", server.key)
            completion = await ask(server, simulator, key)
            await self._as_older_versions_kept_it(server)
            server.stop()
        assert set(files_with(server.data_dir, [TEXT])) == {TEXT}
        (server.data_dir / "content.key").unlink()
        with start(configure) as server:
            assert (await find(server, key, completion))["text"] == said(TEXT)
            assert (server.data_dir / "content.key").exists()

    @pytest.mark.long
    async def test_is_gone_after_its_time_also_where_its_call_is_remembered(
        self, configure: Path, simulator: RunningSimulator
    ) -> None:
        with configure.open("a") as file:
            file.write('[content]\nttl = "1s"\n')
        with start(configure) as server:
            key = cast("str", server.key)
            completion = await ask(server, simulator, key)
            await asyncio.sleep(1.1)
            found = await find(server, key, completion)
            assert (found["status"], found["text"], found["notes"]) == (
                "FINISHED",
                None,
                ["The content of this completion was not kept."],
            )
            assert found["costUsd"] is not None
            await execute(server, "update maintenance set begun_at = '-infinity'")
            server.stop()
        with start(configure) as server:
            for _ in range(200):
                if not await execute(server, "select count(*) from completions where document is not null"):
                    break
                await asyncio.sleep(0.1)
            assert await execute(server, "select (count(*), count(document)) from completions") == (1, 0)
            server.stop()
        assert files_with(server.data_dir, [*ASKED, *ANSWERED]) == {}

    async def _as_older_versions_kept_it(self, server: RunningServer) -> None:
        sealer = Sealer([base64.b64decode((server.data_dir / "content.key").read_text())])
        key, tenant, sealed = cast(
            "tuple[Any, str, bytes]", await execute(server, "select (key, tenant, document) from completions")
        )
        clear = Sealer().seal(sealer.unseal(sealed, tenant.encode() + b"\0" + key.bytes), b"")
        await execute(server, "update completions set document = $1", clear)
