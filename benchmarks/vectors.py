"""Vectors, store by store: what a search finds of what it should, and what the API costs beside the store's own client.

The corpus: the language reference that every CPython carries, embedded by the simulator, and seeded random vectors, which are the
worst case for an index. Answers with false quotes mixed in are asked of the default store once, since their check is the same in
every store.

Chroma is the private one; Pinecone is the simulator, which compares with every vector.

Run: python -m benchmarks.vectors [--stores pgvector chroma pinecone] [--rows speed recall tenants corpus quotes]
[--vectors 10000] [--answers 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import math
import random
import re
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from pydoc_data import topics
from typing import TypeAlias
from uuid import uuid4

import aiohttp

from app.access.key_rows import NewKey
from app.access.keys import KeyStore
from app.access.principal import Scope
from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.embedded.addresses import DATABASE_URL
from app.runtime.clock import SystemClock
from app.settings import DatabaseSettings
from benchmarks.quoted_answers import measure_quotes
from benchmarks.vector_clients import CLIENTS, PINECONE_ADDRESS, OwnClient, Row
from tests.pinecone_simulators import start_pinecone
from tests.servers import Client, RunningServer, start_server

DIMENSIONS = 384
QUERIES = 20
TOP_K = 10
BATCH = 1000
TENANTS = 20
ROWS = ("speed", "recall", "tenants", "corpus", "quotes")
FILTERS: Mapping[str, int | None] = {"none": None, "10 %": 10, "1 %": 100}
CREATE = "mutation C($i: CollectionInput!) { collectionCreate(input: $i) { __typename ... on Problem { message } } }"
UPSERT = """mutation U($i: DocumentsUpsertInput!) { documentsUpsert(input: $i) {
  __typename ... on DocumentsUpserted { upsertedCount failures { id } } ... on Problem { message } } }"""
SEARCH = """query S($i: SearchInput!) { search(input: $i) {
  __typename ... on SearchHits { hits { id score } } ... on Problem { message } } }"""

STORES = """
[[vectors.stores]]
name = "chroma"
kind = "chroma"
[[vectors.stores]]
name = "pinecone"
kind = "pinecone"
api_key = {{ env = "PINECONE_API_KEY" }}
host = "{host}"
"""

Numbers: TypeAlias = "array[float]"


@dataclass(frozen=True)
class Point:
    """A unit vector, and the fields that filters test: `f10` is 0 for 10 % of them, `f100` for 1 %."""

    name: str
    vector: Numbers
    metadata: Mapping[str, int]


def random_points(count: int, seed: int = 7) -> list[Point]:
    chance = random.Random(seed)
    return [
        Point(f"p{number}", unit([chance.gauss(0, 1) for _ in range(DIMENSIONS)]), {"f10": number % 10, "f100": number % 100})
        for number in range(count)
    ]


def unit(numbers: Sequence[float]) -> Numbers:
    length = math.hypot(*numbers)
    return array("f", [number / length for number in numbers])


def exact(points: Sequence[Point], vector: Numbers, field: str | None) -> list[str]:
    matching = points if field is None else [point for point in points if point.metadata[field] == 0]
    best = sorted(matching, key=lambda point: -sum(map(mul, point.vector, vector)))
    return [point.name for point in best[:TOP_K]]


def sentences() -> list[str]:
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    found = (" ".join(part.split()) for part in re.split(r"(?<=[.!?])\s+|\n\n+", text))
    return [part for part in dict.fromkeys(found) if 40 <= len(part) <= 1000]


def packed(vector: Numbers) -> str:
    return base64.b64encode(vector.tobytes()).decode()


def where(field: str | None) -> dict[str, object]:
    return {} if field is None else {"filter": {"where": {"field": field, "value": 0}}}


async def create(client: Client, store: str, name: str) -> None:
    asked = {"name": name, "store": store, "embeddingModel": "none", "dimensions": DIMENSIONS}
    answer = (await client.execute(CREATE, {"i": asked}))["collectionCreate"]
    assert isinstance(answer, dict)
    assert answer["__typename"] == "Collection", answer


async def upsert(client: Client, name: str, points: Sequence[Point]) -> None:
    documents = [
        {"id": point.name, "text": point.name, "vectorBase64": packed(point.vector), "metadata": point.metadata}
        for point in points
    ]
    answer = (await client.execute(UPSERT, {"i": {"collection": name, "documents": documents}}))["documentsUpsert"]
    assert isinstance(answer, dict)
    assert answer.get("upsertedCount") == len(points), answer


async def search(client: Client, name: str, vector: Numbers, field: str | None) -> list[str]:
    asked = {"collection": name, "vectorBase64": packed(vector), "topK": TOP_K, **where(field)}
    answer = (await client.execute(SEARCH, {"i": asked}))["search"]
    assert isinstance(answer, dict)
    return [hit["id"] for hit in answer["hits"]]


async def timed(times: int, act: Callable[[], Awaitable[object]]) -> list[float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await act()
        taken.append(time.perf_counter() - began)
    return taken


async def measure_recall(client: Client, store: str, points: Sequence[Point]) -> None:
    name = f"recall-{store}"
    await create(client, store, name)
    for start in range(0, len(points), BATCH):
        await upsert(client, name, points[start : start + BATCH])
    queries = [point.vector for point in random_points(QUERIES, seed=8)]
    for label, one_in in FILTERS.items():
        field = None if one_in is None else f"f{one_in}"
        found = [(set(await search(client, name, query, field)), set(exact(points, query, field))) for query in queries]
        recall = sum(len(given & best) for given, best in found) / sum(len(best) for _, best in found)
        report(store, f"recall@{TOP_K} of {len(points)} random vectors, filter {label}", f"{recall:.3f}", "≥ 0.95")


async def measure_tenants(clients: Sequence[Client], store: str) -> None:
    given = possible = 0
    for number, client in enumerate(clients):
        name = f"tenant-{store}"
        points = random_points(500, seed=100 + number)
        await create(client, store, name)
        await upsert(client, name, points)
        for field, matching in ((None, 500), ("f10", 50), ("f100", 5)):
            given += len(await search(client, name, points[0].vector, field))
            possible += min(TOP_K, matching)
    report(store, f"hits given of hits possible, {len(clients)} tenants", f"{given / possible:.3f}", "1.00")


async def measure_speed(client: Client, own: OwnClient, store: str, points: Sequence[Point]) -> None:
    """Both write to a collection of their own, in turn, so both meet the same moments of the machine."""
    name = f"speed-{store}"
    await create(client, store, name)
    through, beside = list[float](), list[float]()
    for start in range(0, len(points), BATCH):
        batch = points[start : start + BATCH]
        rows: list[Row] = [(uuid4(), list(point.vector), point.metadata) for point in batch]
        beside += await timed(1, lambda rows=rows: own.upsert(rows))  # type: ignore[misc]  # bound now
        through += await timed(1, lambda batch=batch: upsert(client, name, batch))  # type: ignore[misc]  # bound now
    api, alone = statistics.median(through), statistics.median(beside)
    report(store, f"upsert of {BATCH}, API to own client", f"{api / alone:.2f}", "≤ 3")
    report(store, "vectors a second, API / own client", f"{BATCH / api:.0f} / {BATCH / alone:.0f}", "printed")
    queries = [point.vector for point in random_points(60, seed=9)]
    through, beside = [], []
    for query in queries:
        beside += await timed(1, lambda query=query: own.search(list(query), TOP_K, "f10", 0))  # type: ignore[misc]  # bound now
        through += await timed(1, lambda query=query: search(client, name, query, "f10"))  # type: ignore[misc]  # bound now
    api, alone = statistics.median(through), statistics.median(beside)
    report(store, "search with a filter, p50, API to own client", f"{api / alone:.2f}", "≤ 3")
    report(store, "search with a filter, p50 ms, API / own client", f"{api * 1000:.1f} / {alone * 1000:.1f}", "printed")


async def measure_corpus(client: Client, store: str) -> None:
    """The sentences of the language reference, embedded by the simulator: each is the best hit for its own words."""
    name, found = f"reference-{store}", sentences()
    await client.execute(CREATE, {"i": {"name": name, "store": store, "dimensions": DIMENSIONS}})
    began = time.perf_counter()
    for start in range(0, len(found), BATCH):
        documents = [{"id": str(start + place), "text": text} for place, text in enumerate(found[start : start + BATCH])]
        await client.execute(UPSERT, {"i": {"collection": name, "documents": documents}})
    report(
        store, f"{len(found)} sentences embedded and written, a second", f"{len(found) / (time.perf_counter() - began):.0f}", ""
    )
    right = 0
    asked = range(0, len(found), max(1, len(found) // 100))
    for number in asked:
        answer = (await client.execute(SEARCH, {"i": {"collection": name, "text": found[number], "topK": 1}}))["search"]
        assert isinstance(answer, dict)
        right += [hit["id"] for hit in answer["hits"]] == [str(number)]
    report(store, "sentences found first by their own words", f"{right / len(asked):.3f}", "printed")


def report(store: str, what: str, figure: str, must: str) -> None:
    print(f"{store:10} {what:58} {figure:>16}   {must}", flush=True)


async def measure_answers(client: Client, count: int) -> None:
    found = await measure_quotes(client, count)
    what = f"quotes not verbatim in their passage, of {found.shown} in {found.answers} answers"
    report("pgvector", what, str(found.wrong), "0")


async def run(server: RunningServer, options: argparse.Namespace) -> None:
    points = random_points(options.vectors)
    assert server.key is not None
    async with aiohttp.ClientSession() as session:
        client = Client(session, server, server.key)
        tenants = [Client(session, server, key) for key in await new_keys(server.data_dir, TENANTS)]
        for store in options.stores:
            if "speed" in options.rows:
                async with CLIENTS[store](server.data_dir, DIMENSIONS) as own:
                    await measure_speed(client, own, store, points)
            if "recall" in options.rows:
                await measure_recall(client, store, points)
            if "tenants" in options.rows:
                await measure_tenants(tenants, store)
            if "corpus" in options.rows:
                await measure_corpus(client, store)
        if "quotes" in options.rows:
            await measure_answers(client, options.answers)


async def new_keys(data_dir: Path, count: int) -> list[str]:
    """Keys of as many tenants."""
    engines = build_engines((data_dir / DATABASE_URL).read_text(encoding="utf-8").strip(), [], DatabaseSettings())
    keys = KeyStore(Sessions(engines), SystemClock())
    made = [await keys.create(NewKey(f"key {n}", f"tenant {n}", frozenset({Scope.VECTORS}))) for n in range(count)]
    await engines.close()
    return [key.secret for key in made]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", nargs="+", default=list(CLIENTS), choices=list(CLIENTS))
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument("--vectors", type=int, default=10_000)
    parser.add_argument("--answers", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_pinecone() as pinecone:
        (Path(folder) / PINECONE_ADDRESS).write_text(pinecone.address, encoding="utf-8")
        configuration = Path(folder) / "greenlang.toml"
        configuration.write_text(STORES.format(host=pinecone.address), encoding="utf-8")
        environ = {"PINECONE_API_KEY": "any"}
        with start_server(Path(folder) / "data", "--config", str(configuration), environ=environ) as server:
            asyncio.run(run(server, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
