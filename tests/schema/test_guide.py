"""docs/api.md: every operation on the page works as it is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.schema.api import ACME, Api, Data

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```graphql\n(?P<document>.*?)```(?:\n\n```json\n(?P<variables>.*?)```)?", re.DOTALL)
ID = re.compile(r'"((?:cmp|bud)_)[0-9a-f]{32}"')


class TestTheGuide:
    async def test_every_operation_runs_without_an_error(self, api: Api) -> None:
        seen: dict[str, str] = {}
        operations = list(BLOCK.finditer(PAGE))
        assert len(operations) == PAGE.count("```graphql") > 8
        for operation in operations:
            document, variables = operation["document"], with_ids(operation["variables"] or "{}", seen)
            results = await run(api, document, variables)
            assert results
            assert all(value is not None for result in results for value in result.values()), document
            seen.update({found[1]: found[0].strip('"') for found in ID.finditer(json.dumps(results))})


async def run(api: Api, document: str, variables: Data) -> list[Data]:
    if document.startswith("subscription"):
        return [event async for event in api.events(document, ACME, **variables)]
    return [await api.data(document, ACME, **variables)]


def with_ids(text: str, seen: dict[str, str]) -> Data:
    for kind, found in seen.items():
        text = text.replace(f'"{kind}…"', f'"{found}"')
    variables: Data = json.loads(text)
    return variables
