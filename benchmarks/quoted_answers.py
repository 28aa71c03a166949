"""Quotes in answers: how many are shown that are not verbatim in their passage, if the model mixes false ones in.

The corpus is the language reference that every CPython carries. The simulator answers each question with a good quote, a false
one, one of another passage, one stitched together and one that is too short. Each shown quote is compared with the corpus itself.

Run: python -m benchmarks.quoted_answers [--answers 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics

import aiohttp

from tests.servers import Client, start_server

COLLECTION = "language-reference"
PARALLEL = 16
WRONG_PER_ANSWER = 4
CREATE = "mutation C($i: CollectionInput!) { collectionCreate(input: $i) { __typename } }"
UPSERT = """mutation U($i: DocumentsUpsertInput!) {
  documentsUpsert(input: $i) { ... on DocumentsUpserted { upsertedCount failures { id } } } }"""
ANSWER = """mutation A($i: AnswerInput!) { answerCreate(input: $i) {
  __typename ... on Answer { citations { quote hit { id chunk { start end } } } } ... on Problem { message } } }"""


@dataclass
class Quotes:
    """What 1,000 answers have shown. `wrong` are not verbatim in the part of the document that they cite."""

    answers: int = 0
    shown: int = 0
    wrong: int = 0


def documents() -> Mapping[str, str]:
    return {name: str(text) for name, text in topics.topics.items() if text.strip()}


async def measure_quotes(client: Client, count: int) -> Quotes:
    corpus = documents()
    await client.execute(CREATE, {"i": {"name": COLLECTION}})
    given = [{"id": name, "text": text} for name, text in corpus.items()]
    await client.execute(UPSERT, {"i": {"collection": COLLECTION, "documents": given}})
    names, found, places = sorted(corpus), Quotes(), asyncio.Semaphore(PARALLEL)

    async def ask(number: int) -> None:
        async with places:
            await _ask(client, corpus, names, number, found)

    await asyncio.gather(*(ask(number) for number in range(count)))
    return found


async def _ask(client: Client, corpus: Mapping[str, str], names: Sequence[str], number: int, found: Quotes) -> None:
    question = f"What does part {number} of the reference say about {names[number % len(names)]}? [[simulator quotes=mixed]]"
    asked = {"question": question, "search": {"collection": COLLECTION, "topK": 4}}
    answer = (await client.execute(ANSWER, {"i": asked}))["answerCreate"]
    assert isinstance(answer, dict)
    assert answer["__typename"] == "Answer", answer
    found.answers += 1
    for citation in answer["citations"]:
        hit, quote = citation["hit"], citation["quote"]
        passage = corpus[hit["id"]][hit["chunk"]["start"] : hit["chunk"]["end"]]
        found.shown += 1
        found.wrong += quote not in passage


async def main(count: int) -> int:
    with tempfile.TemporaryDirectory() as folder, start_server(Path(folder) / "data") as server:
        assert server.key is not None
        async with aiohttp.ClientSession() as session:
            found = await measure_quotes(Client(session, server, server.key), count)
    print(f"{found.answers} answers, {WRONG_PER_ANSWER * found.answers} wrong quotes mixed in: {found.shown} shown,", end=" ")
    print(f"{found.wrong} of them not verbatim in their passage (must be 0)")
    return int(found.wrong > 0 or found.shown < found.answers // 2)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--answers", type=int, default=1000)
    raise SystemExit(asyncio.run(main(arguments.parse_args().answers)))
