"""The system's nginx, HAProxy and Caddy in front of a port of ours: processes of the test, on free ports of loopback."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.servers import ROOT

_STARTS = 3
_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/proxy.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{text}
}}
"""
_HAPROXY = """
global
    maxconn 256
{text}
"""
_CADDY = """
{{
    admin off
    auto_https disable_redirects
    storage file_system {folder}/caddy
}}
{text}
"""
_PROGRAMS: dict[str, tuple[str, str, Callable[[Path], list[str]]]] = {
    "nginx": ("nginx", _NGINX, lambda file: ["-e", "stderr", "-p", str(file.parent), "-c", str(file)]),
    "haproxy": ("haproxy", _HAPROXY, lambda file: ["-f", str(file), "-db"]),
    "caddy": ("caddy", _CADDY, lambda file: ["run", "--adapter", "caddyfile", "--config", str(file)]),
}


def documented(language: str) -> str:
    """The configuration that docs/behind-a-proxy.md shows."""
    text = (ROOT / "docs" / "behind-a-proxy.md").read_text(encoding="utf-8")
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@contextmanager
def start_proxy(name: str, folder: Path, text: str) -> Iterator[int]:
    """The port it listens on, `LISTEN` in the text. Skips the test if the program is not installed."""
    program, frame, arguments = _PROGRAMS[name]
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if path is None:
        pytest.skip(f"the system has no {program}: apt install {program}")
    file = folder / f"{name}.conf"
    for attempt in range(1, _STARTS + 1):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        file.write_text(frame.format(folder=folder, text=text.replace("LISTEN", str(port))), encoding="utf-8")
        with (folder / "proxy.out").open("wb") as out:
            process = subprocess.Popen(
                [path, *arguments(file)],
                stdout=out,
                stderr=out,
                cwd=folder,
                env={"HOME": str(folder), "PATH": "/usr/bin:/usr/sbin"},
            )
        try:
            if _listens(process, port):
                yield port
                return
            assert attempt < _STARTS, (folder / "proxy.out").read_text()
        finally:
            process.kill()
            process.wait()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.02)
    return False
