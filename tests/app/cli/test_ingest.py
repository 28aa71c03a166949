from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from app.cli.document_files import MAX_FILE_BYTES, find_files
from app.cli.ingest import Api, Ingestion, Stopped, endpoint, ingest
from app.domain.errors import GreenLangError, SettingsError
from tests.clocks import ManualClock

pytestmark = pytest.mark.anyio
URL = "http://server/graphql"
Answer = Callable[[dict[str, Any]], dict[str, Any]]


class ImpatientClock(ManualClock):
    """Sleeps take no time, and it remembers how long they were meant to be."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.move(seconds)


class Server:
    """Answers operations as it is made to, and remembers their inputs."""

    def __init__(self, *answers: httpx2.Response | httpx2.TransportError | dict[str, Any]) -> None:
        self._answers = list(answers)
        self.inputs: list[dict[str, Any]] = []
        self.clock = ImpatientClock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        asked = msgspec.json.decode(request.content)["variables"]["input"]
        self.inputs.append(asked)
        answer = self._answers.pop(0) if self._answers else upserted(len(asked.get("documents", [])))
        if isinstance(answer, httpx2.TransportError):
            raise answer
        return answer if isinstance(answer, httpx2.Response) else httpx2.Response(200, json={"data": {"field": answer}})

    async def ingest(self, path: Path, *, delete_missing: bool = False) -> int:
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(self)) as client:
            return await ingest(Ingestion(path, "notes", URL, "reader", delete_missing), Api(client, URL, self.clock))


def upserted(count: int = 0, unchanged: int = 0, failures: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    failed = [{"id": document, "problem": {"code": code, "message": f"It failed: {code}."}} for document, code in failures]
    counts = {"upsertedCount": count, "unchangedCount": unchanged, "costUsd": "0.001", "failures": failed}
    return {"__typename": "DocumentsUpserted", **counts}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "guide"
    for name in ("b.md", "a.txt", "deep/er/C.MD", ".hidden.md", ".git/x.md", "code.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"This is {name}.")
    (root / "link.md").symlink_to(root / "b.md")
    return root


class TestFiles:
    def test_are_text_and_markdown_below_the_folder_in_order(self, folder: Path) -> None:
        found = find_files(folder)

        assert [(file.id, file.kind) for file in found] == [
            ("guide/a.txt", "text"),
            ("guide/b.md", "markdown"),
            ("guide/deep/er/C.MD", "markdown"),
        ]
        assert found[2].metadata == {"root": "guide", "path": "deep/er/C.MD", "kind": "markdown"}
        assert found[0].read() == "This is a.txt."

    def test_one_file_has_the_id_that_it_has_in_its_folder(self, folder: Path) -> None:
        assert [file.id for file in find_files(folder / "b.md")] == ["guide/b.md"]

    def test_none_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(GreenLangError, match="no files"):
            find_files(tmp_path)
        with pytest.raises(GreenLangError, match="does not exist"):
            find_files(tmp_path / "missing")


class TestIngest:
    async def test_sends_documents_with_their_metadata(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        server = Server()

        assert await server.ingest(folder) == 0

        (asked,) = server.inputs
        assert (asked["collection"], asked["agent"]) == ("notes", "reader")
        assert asked["documents"][1] == {
            "id": "guide/b.md",
            "text": "This is b.md.",
            "source": "guide/b.md",
            "metadata": {"root": "guide", "path": "b.md", "kind": "markdown"},
        }
        assert "3 of 3 documents: 3 written, 0 unchanged, 0 failed, 0.001 USD" in capsys.readouterr().out

    async def test_goes_in_batches_and_shows_each(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for number in range(250):
            (tmp_path / f"{number:03}.md").write_text("Text.")
        server = Server(upserted(100), upserted(60, unchanged=40))

        assert await server.ingest(tmp_path) == 0

        assert [len(asked["documents"]) for asked in server.inputs] == [100, 100, 50]
        assert [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()] == ["100", "200", "250"]

    async def test_reports_what_cannot_be_read_and_goes_on(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "latin.md").write_bytes(b"caf\xe9")
        (folder / "empty.md").write_text(" \n")
        (folder / "large.md").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
        server = Server()

        assert await server.ingest(folder) == 1

        said = capsys.readouterr()
        assert "guide/latin.md: is not UTF-8" in said.err
        assert "guide/empty.md: is empty" in said.err
        assert "guide/large.md: has 4194305 bytes" in said.err
        assert "3 written, 0 unchanged, 3 failed" in said.out

    async def test_leaves_out_a_document_that_the_server_refuses(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        wrong = {"__typename": "InvalidInput", "message": "The text is odd.", "path": ["documents", "1", "text"]}
        server = Server(wrong, upserted(1, failures=(("guide/a.txt", "INVALID_INPUT"),)))

        assert await server.ingest(folder) == 1

        assert [document["id"] for document in server.inputs[1]["documents"]] == ["guide/a.txt", "guide/deep/er/C.MD"]
        said = capsys.readouterr()
        assert said.err.splitlines() == ["guide/b.md: The text is odd.", "guide/a.txt: It failed: INVALID_INPUT."]
        assert "3 of 3 documents: 1 written, 0 unchanged, 2 failed" in said.out

    async def test_waits_for_a_server_that_is_away_busy_or_at_a_limit(self, folder: Path) -> None:
        away = httpx2.ConnectError("refused")
        busy = httpx2.Response(503, text="busy")
        gone = httpx2.Response(200, json={"errors": [{"message": "no", "extensions": {"code": "STORE_UNAVAILABLE"}}]})
        limited = {"__typename": "RateLimited", "message": "Slow down.", "retryAfterMs": 20000}
        server = Server(away, busy, gone, limited)

        assert await server.ingest(folder) == 0

        assert len(server.inputs) == 5
        assert server.clock.slept == [0.5, 1.0, 2.0, 20.0]

    async def test_sends_what_a_provider_has_failed_on_again(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        server = Server(upserted(2, failures=(("guide/b.md", "PROVIDER_ERROR"),)))

        assert await server.ingest(folder) == 0

        assert [[document["id"] for document in asked["documents"]] for asked in server.inputs[1:]] == [["guide/b.md"]]
        assert server.clock.slept == [0.5]
        assert "3 of 3 documents: 3 written, 0 unchanged, 0 failed" in capsys.readouterr().out

    async def test_gives_up_on_a_document_that_a_provider_fails_on_for_long(self, folder: Path) -> None:
        server = Server(*[upserted(failures=(("guide/b.md", "RATE_LIMITED"),))] * 6)

        with pytest.raises(Stopped, match="RATE_LIMITED"):
            await server.ingest(folder)
        assert server.clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0]

    async def test_says_what_was_written_before_a_budget_was_spent(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server = Server(upserted(2, failures=(("guide/b.md", "BUDGET_EXCEEDED"),)))

        with pytest.raises(Stopped, match="Run the same command again"):
            await server.ingest(folder)
        assert "2 of 3 documents: 2 written" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            ({"__typename": "BudgetExceeded", "message": "The budget is spent."}, "The budget is spent"),
            ({"__typename": "NotFound", "message": "No such collection."}, "No such collection"),
            ({"__typename": "InvalidInput", "message": "No model.", "path": ["collection"]}, "No model"),
            (httpx2.Response(200, json={"errors": [{"message": "no", "extensions": {"code": "FORBIDDEN"}}]}), "FORBIDDEN"),
            (httpx2.Response(404, text="not here"), "is not a GreenLang server"),
        ],
    )
    async def test_stops_when_it_cannot_go_on(self, folder: Path, answer: dict[str, Any] | httpx2.Response, said: str) -> None:
        server = Server(answer)

        with pytest.raises(Stopped, match=said):
            await server.ingest(folder)
        assert len(server.inputs) == 1

    async def test_gives_up_on_a_server_that_stays_away(self, folder: Path) -> None:
        server = Server(*[httpx2.ConnectError("refused")] * 6)

        with pytest.raises(Stopped, match="no answer from"):
            await server.ingest(folder)
        assert server.clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0]

    async def test_deletes_documents_of_the_folder_that_have_no_file(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "latin.md").write_bytes(b"caf\xe9")
        server = Server(upserted(3), {"__typename": "DocumentsDeleted", "deletedCount": "2"})

        await server.ingest(folder, delete_missing=True)

        paths = ["a.txt", "b.md", "deep/er/C.MD", "latin.md"]
        assert server.inputs[1]["filter"] == {
            "all": [
                {"where": {"field": "root", "op": "EQ", "value": "guide"}},
                {"none": [{"where": {"field": "path", "op": "IN", "value": paths}}]},
            ]
        }
        assert "2 documents deleted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "found"),
    [("http://a:1", "http://a:1/graphql"), ("https://a/", "https://a/graphql"), ("http://a/x/graphql", "http://a/x/graphql")],
)
def test_the_address_of_a_server_is_that_of_its_api(url: str, found: str) -> None:
    assert endpoint(url) == found


@pytest.mark.parametrize("url", ["a:1", "ftp://a", "http://", os.sep])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        endpoint(url)
