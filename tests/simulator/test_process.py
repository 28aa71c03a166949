from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from openai import AsyncOpenAI

from tests.simulators import start_simulator

ROOT = Path(__file__).parents[2]


@contextmanager
def started(*flags: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "simulator", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ready(process: subprocess.Popen[bytes]) -> dict[str, str]:
    assert process.stdout is not None
    line: dict[str, str] = json.loads(process.stdout.readline())
    return line


class TestStart:
    def test_says_where_it_listens(self, tmp_path: Path) -> None:
        where = tmp_path / "ready.json"
        with started("--ready-file", str(where)) as process:
            line = ready(process)
            assert line == json.loads(where.read_text())
            assert line["anthropic"] == line["address"] + "/anthropic"
            assert line["openai"] == line["address"] + "/v1"

    def test_imports_nothing_of_the_server(self) -> None:
        code = (
            "import sys, simulator.__main__\n"
            "foreign = {'app', 'schema', 'resolvers', 'anthropic', 'openai', 'pydantic'}\n"
            "print([name for name in sys.modules if name.partition('.')[0] in foreign])"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "[]"


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_in_order(self, number: signal.Signals) -> None:
        with started() as process:
            ready(process)
            process.send_signal(number)
            assert process.wait(timeout=10) == 0

    def test_it_ends_with_its_input(self) -> None:
        with started("--exit-with-stdin") as process:
            ready(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=10) == 0

    def test_it_ends_with_a_parent_that_was_killed(self, tmp_path: Path) -> None:
        where = tmp_path / "ready.json"
        code = (
            "import os, subprocess, sys, time\n"
            f"flags = ['--ready-file', {str(where)!r}, '--parent-pid', str(os.getpid())]\n"
            "subprocess.Popen([sys.executable, '-m', 'simulator', *flags])\n"
            "time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL) as parent:
            deadline = time.monotonic() + 15
            while not where.exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            child = psutil.Process(json.loads(where.read_text())["pid"])
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()

        assert psutil.wait_procs([child], timeout=10)[1] == []

    @pytest.mark.anyio
    async def test_open_calls_do_not_hold_it_up_and_are_written_down(self, tmp_path: Path) -> None:
        log = tmp_path / "attempts.jsonl"
        with start_simulator(log=log) as running:
            running.post("stall")
            async with AsyncOpenAI(base_url=running.openai_url, api_key="sk", max_retries=0) as client:
                stream = await client.chat.completions.create(
                    model="gpt-5.4-mini", messages=[{"role": "user", "content": "Hello"}], stream=True
                )
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        break
                os.kill(running.pid, signal.SIGTERM)
                assert psutil.wait_procs([psutil.Process(running.pid)], timeout=10)[1] == []
                await stream.close()

        assert json.loads(log.read_text())["billed"] is True


class TestPace:
    @pytest.mark.anyio
    async def test_latency_and_tokens_per_second_hold_for_every_call(self) -> None:
        with start_simulator("--latency-ms", "50", "--latency-spread", "0.1", "--tokens-per-second", "200") as running:
            async with AsyncOpenAI(base_url=running.openai_url, api_key="sk", max_retries=0) as client:
                began = time.monotonic()
                await client.chat.completions.create(
                    model="gpt-5.4-mini", messages=[{"role": "user", "content": "[[simulator tokens=40]]"}]
                )

        assert time.monotonic() - began >= 0.2
