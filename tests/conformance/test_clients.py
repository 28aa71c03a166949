"""The field's own suite and clients against our server: Node programs from npm, exact versions, run as a other_caller would."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import cast

import pytest

from tests import npm
from tests.app.graphql.serving import serving
from tests.app.graphql.shop import KEY, Shop

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node project, installed from its lock file."""
    return npm.install(Path(__file__).parent, tmp_path_factory.mktemp("npm"))


async def run_node(project: Path, script: str, url: str) -> object:
    process = await asyncio.create_subprocess_exec(
        "node", script, url, KEY, cwd=project, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return json.loads(out)


async def test_every_audit_of_graphql_over_http_passes(project: Path) -> None:
    async with serving(Shop().app()) as port:
        found = await run_node(project, "audits.mjs", f"http://127.0.0.1:{port}/graphql")
    results = cast("list[dict[str, str]]", found)
    assert [result for result in results if result["status"] != "ok"] == []
    assert len(results) == 61


async def test_the_graphql_ws_client(project: Path) -> None:
    async with serving(Shop().app()) as port:
        found = await run_node(project, "websocket.mjs", f"ws://127.0.0.1:{port}/graphql")
    assert found == {
        "query": {"events": [{"hello": "hello ws"}]},
        "mutation": {"events": [{"rename": "b"}]},
        "typo": {"events": [], "error": "GRAPHQL_VALIDATION_FAILED"},
        "syntax": {"events": [], "error": "GRAPHQL_PARSE_FAILED"},
        "slow": {"events": [{"count": {"number": number}} for number in range(3)]},
        "wrongKey": {"events": [], "error": "closed 4403"},
        "closed": [1000, 4403],
    }


async def test_the_graphql_sse_client(project: Path) -> None:
    async with serving(Shop().app()) as port:
        found = await run_node(project, "sse.mjs", f"http://127.0.0.1:{port}/graphql")
    assert found == {
        "query": {"events": [{"hello": "hello sse"}]},
        "mutation": {"events": [{"rename": "b"}]},
        "subscription": {"events": [{"count": {"number": number}} for number in range(3)]},
        "typo": {"events": ["GRAPHQL_VALIDATION_FAILED"]},
        "wrongKey": {"events": [], "error": 401},
    }
