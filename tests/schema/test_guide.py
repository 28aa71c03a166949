"""The guides: every operation on these pages works as it is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from app.access.principal import Principal
from tests.schema.api import ACME, ADMIN, Api, Data

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"api.md": 15, "caching.md": 3, "runbooks/provider-trouble.md": 3, "runbooks/spending.md": 4, "runbooks/leaked-key.md": 1}
"""Each with how many operations it has at least."""
BLOCK = re.compile(r"```graphql\n(?P<document>.*?)```(?:\n\n *```json\n(?P<variables>.*?)```)?", re.DOTALL)
ADMINISTRATORS = {"runbooks/provider-trouble.md"}
ID = re.compile(r'"((?:cmp|bud)_)[0-9a-f]{32}"')


class TestTheGuide:
    @pytest.mark.parametrize("page", PAGES)
    async def test_every_operation_runs_without_an_error(self, api: Api, page: str) -> None:
        seen: dict[str, str] = {}
        text = (DOCS / page).read_text(encoding="utf-8")
        caller = ADMIN if page in ADMINISTRATORS else ACME
        operations = list(BLOCK.finditer(text))
        assert len(operations) == text.count("```graphql") >= PAGES[page]
        for operation in operations:
            document, variables = operation["document"].strip(), with_ids(operation["variables"] or "{}", seen)
            results = await run(api, document, variables, caller)
            assert results
            assert all(value is not None for result in results for value in result.values()), document
            seen.update({found[1]: found[0].strip('"') for found in ID.finditer(json.dumps(results))})


async def run(api: Api, document: str, variables: Data, caller: Principal) -> list[Data]:
    if document.startswith("subscription"):
        return [event async for event in api.events(document, caller, **variables)]
    return [await api.data(document, caller, **variables)]


def with_ids(text: str, seen: dict[str, str]) -> Data:
    for kind, found in seen.items():
        text = text.replace(f'"{kind}…"', f'"{found}"')
    variables: Data = json.loads(text)
    return variables
