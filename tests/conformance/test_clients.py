"""The field's own suite and clients against our server: Node programs from npm, exact versions, run as a stranger would."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest

from tests.app.graphql.serving import serving
from tests.app.graphql.shop import KEY, Shop

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
IN_CI = os.environ.get("CI") == "true"


def unavailable(reason: str) -> None:
    """A machine without Node skips these; CI never does."""
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node project, installed from its lock file."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        unavailable("needs node and npm")
    folder = tmp_path_factory.mktemp("conformance")
    for path in (*HERE.glob("*.mjs"), *HERE.glob("package*.json"), HERE / ".npmrc"):
        shutil.copy(path, folder)
    installed = subprocess.run(
        ["npm", "ci", "--ignore-scripts"], cwd=folder, capture_output=True, text=True, timeout=110, check=False
    )
    if installed.returncode:
        unavailable(f"npm ci failed: {installed.stderr[-500:]}")
    return folder


async def run_node(project: Path, script: str, url: str) -> object:
    process = await asyncio.create_subprocess_exec(
        "node", script, url, KEY, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE
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
