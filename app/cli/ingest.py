"""`greenlang ingest`: text and Markdown files into a collection, over the API of a server that runs.

The server neither embeds nor writes what it has already. So a run that was interrupted is resumed by the same command.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import msgspec

from app.cli.document_files import DocumentFile, UnreadableFile, find_files
from app.domain.errors import GreenLangError, SettingsError
from app.runtime.clock import Clock

KEY_VARIABLE: Final = "GREENLANG_KEY"
_ENDPOINT = "/graphql"
_MAX_DOCUMENTS = 100
_MAX_CHARACTERS = 1_000_000
_MAX_PATHS = 500
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""In seconds. After the last one a run gives up."""
_TIMEOUT_SECONDS = 600.0
_PASSING: Final = frozenset({"STORE_UNAVAILABLE", "OVERLOADED", "TIMEOUT"})
_PASSING_PROBLEMS: Final = frozenset({"RATE_LIMITED", "PROVIDER_ERROR", "CIRCUIT_OPEN", "TIMEOUT"})
"""Why a document may be written when it is sent again."""
_UPSERT: Final = """
mutation Ingest($input: DocumentsUpsertInput!) {
  documentsUpsert(input: $input) {
    __typename
    ... on DocumentsUpserted { upsertedCount unchangedCount costUsd failures { id problem { code message } } }
    ... on RateLimited { retryAfterMs }
    ... on InvalidInput { path }
    ... on Problem { message }
  }
}"""
_DELETE: Final = """
mutation DeleteMissing($input: DocumentsDeleteInput!) {
  documentsDelete(input: $input) { __typename ... on DocumentsDeleted { deletedCount } ... on Problem { message } }
}"""


@dataclass(frozen=True, slots=True)
class Ingestion:
    """What a run is asked for. `url` is the address of the API."""

    path: Path
    collection: str
    url: str
    agent: str | None
    delete_missing: bool


class Stopped(GreenLangError):
    """The run cannot go on. What was written so far stays written."""


class NotNow(GreenLangError):
    """The server cannot do it now. `seconds` is when it can be tried again, if the server said so."""

    def __init__(self, problem: str, seconds: float | None = None) -> None:
        super().__init__(problem)
        self.seconds = seconds


class Api:
    """Operations that are tried again while the server is away, busy or at a limit."""

    def __init__(self, client: httpx2.AsyncClient, url: str, clock: Clock) -> None:
        self._client = client
        self._url = url
        self._clock = clock

    async def run(self, document: str, asked: Mapping[str, object]) -> dict[str, Any]:
        """Returns the result of the one field. Raises Stopped."""
        pauses = iter(_PAUSES)
        while True:
            try:
                return await self._try(document, asked)
            except NotNow as problem:
                pause = next(pauses, None)
                await self.pause(pause if pause is None or problem.seconds is None else problem.seconds, str(problem))

    async def pause(self, seconds: float | None, problem: str) -> None:
        """Raises Stopped if there is no pause left."""
        if seconds is None:
            raise Stopped(problem)
        await self._clock.sleep(seconds)

    async def _try(self, document: str, asked: Mapping[str, object]) -> dict[str, Any]:
        body = msgspec.json.encode({"query": document, "variables": {"input": asked}})
        try:
            response = await self._client.post(self._url, content=body, headers={"content-type": "application/json"})
        except httpx2.TransportError as error:
            raise NotNow(f"no answer from {self._url}: {error}") from None
        try:
            answer = msgspec.json.decode(response.content, type=dict[str, Any])
        except (msgspec.DecodeError, msgspec.ValidationError):
            if response.status_code >= 500:
                raise NotNow(f"{self._url} answered with the status {response.status_code}") from None
            raise Stopped(f"{self._url} is not a GreenLang server: it answered with the status {response.status_code}") from None
        if answer.get("errors"):
            first = answer["errors"][0]
            code = first.get("extensions", {}).get("code")
            raise NotNow(first["message"]) if code in _PASSING else Stopped(f"{first['message']} ({code})")
        found: dict[str, Any] = next(iter(answer["data"].values()))
        if found["__typename"] == "RateLimited":
            raise NotNow(found["message"], found["retryAfterMs"] / 1000)
        return found


class Progress:
    """Counts documents. Unreadable and refused ones are failed."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._written = self._unchanged = self._failed = 0
        self._cost_usd: Decimal | None = Decimal(0)

    @property
    def has_failures(self) -> bool:
        return self._failed > 0

    def failed(self, document: str, problem: str) -> None:
        self._failed += 1
        print(f"{document}: {problem}", file=sys.stderr)

    def upserted(self, result: Mapping[str, Any]) -> None:
        self._written += result["upsertedCount"]
        self._unchanged += result["unchangedCount"]
        cost = result["costUsd"]
        self._cost_usd = None if cost is None or self._cost_usd is None else self._cost_usd + Decimal(cost)

    def show(self) -> None:
        done = self._written + self._unchanged + self._failed
        cost = "an unknown cost" if self._cost_usd is None else f"{self._cost_usd.normalize():f} USD"
        counts = f"{self._written} written, {self._unchanged} unchanged, {self._failed} failed"
        print(f"{done} of {self._total} documents: {counts}, {cost}", flush=True)


def run(options: argparse.Namespace, clock: Clock) -> int:
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise SettingsError(KEY_VARIABLE, "is not set: it must hold an API key with the scope VECTORS")
    if options.delete_missing and not options.path.is_dir():
        raise SettingsError("--delete-missing", "needs a folder: one file says nothing about the others")
    asked = Ingestion(options.path, options.collection, endpoint(options.url), options.agent, options.delete_missing)
    return asyncio.run(_ingest_over_http(asked, key, clock))


def endpoint(url: str) -> str:
    """The address of the API of a server. Raises SettingsError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SettingsError("--url", f"{url} is not an address such as http://127.0.0.1:8400")
    return url if parts.path.strip("/") else url.rstrip("/") + _ENDPOINT


async def _ingest_over_http(asked: Ingestion, key: str, clock: Clock) -> int:
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT_SECONDS) as client:
        return await ingest(asked, Api(client, asked.url, clock))


async def ingest(asked: Ingestion, api: Api) -> int:
    """Returns 0, or 1 if some documents failed. Raises GreenLangError if the run cannot begin or cannot go on."""
    files = find_files(asked.path)
    progress = Progress(len(files))
    try:
        for batch in _batches(files, progress):
            await _upsert(asked, batch, api, progress)
            progress.show()
        if asked.delete_missing:
            print(f"{await _delete_missing(asked, files, api)} documents deleted, because their files are gone")
    except Stopped as stopped:
        progress.show()
        raise Stopped(f"{stopped}. Run the same command again to go on.") from None
    return int(progress.has_failures)


def _batches(files: Iterable[DocumentFile], progress: Progress) -> Iterator[list[dict[str, Any]]]:
    """Reads the files as they are needed."""
    batch: list[dict[str, Any]] = []
    characters = 0
    for file in files:
        try:
            text = file.read()
        except UnreadableFile as problem:
            progress.failed(file.id, str(problem))
            continue
        if batch and (len(batch) == _MAX_DOCUMENTS or characters + len(text) > _MAX_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append({"id": file.id, "text": text, "source": file.id, "metadata": file.metadata})
        characters += len(text)
    if batch:
        yield batch


async def _upsert(asked: Ingestion, batch: list[dict[str, Any]], api: Api, progress: Progress) -> None:
    """Leaves out documents that the server finds wrong. Sends those again that a provider or a limit has kept out, after a
    pause."""
    pauses = iter(_PAUSES)
    while batch:
        found = await api.run(_UPSERT, {"collection": asked.collection, "documents": batch, "agent": asked.agent})
        if found["__typename"] == "DocumentsUpserted":
            progress.upserted(found)
            again = _handle_failures(found["failures"], progress)
            batch = [document for document in batch if document["id"] in again]
            if batch:
                await api.pause(next(pauses, None), next(iter(again.values())))
            continue
        wrong = _wrong_document(found)
        if wrong is None or wrong >= len(batch):
            raise Stopped(found["message"])
        progress.failed(batch[wrong]["id"], found["message"])
        batch = batch[:wrong] + batch[wrong + 1 :]


def _handle_failures(failures: Iterable[Mapping[str, Any]], progress: Progress) -> dict[str, str]:
    """Returns the documents that can be sent again, and why they were not written. Raises Stopped if a budget is spent."""
    again = {}
    for failure in failures:
        code, message = failure["problem"]["code"], failure["problem"]["message"]
        if code == "BUDGET_EXCEEDED":
            raise Stopped(message)
        if code in _PASSING_PROBLEMS:
            again[failure["id"]] = message
        else:
            progress.failed(failure["id"], message)
    return again


def _wrong_document(found: Mapping[str, Any]) -> int | None:
    path = found.get("path") or []
    is_of_document = len(path) > 1 and path[0] == "documents" and path[1].isdecimal()
    return int(path[1]) if is_of_document else None


async def _delete_missing(asked: Ingestion, files: Sequence[DocumentFile], api: Api) -> int:
    """Deletes the documents of this folder whose file is not there any more. Files that could not be read are there."""
    paths = [file.path for file in files]
    present = [
        {"where": {"field": "path", "op": "IN", "value": paths[start : start + _MAX_PATHS]}}
        for start in range(0, len(paths), _MAX_PATHS)
    ]
    of_this_folder = {"where": {"field": "root", "op": "EQ", "value": files[0].root}}
    gone = {"all": [of_this_folder, {"none": present}]}
    found = await api.run(_DELETE, {"collection": asked.collection, "filter": gone})
    if found["__typename"] != "DocumentsDeleted":
        raise Stopped(found["message"])
    return int(found["deletedCount"])
