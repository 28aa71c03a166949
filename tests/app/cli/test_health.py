"""`greenlang health` against a server that answers its probes, or does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from app.cli import main
from app.cli.health import own_host
from app.settings import ServerSettings


@contextmanager
def answering(**statuses: int) -> Iterator[str]:
    """Yields the port of a server that answers these probes."""

    class Probes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path.removeprefix("/"), 404))
            self.end_headers()
            self.wfile.write(b'{"status":"as asked"}')

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name in the standard library)
            pass

    with HTTPServer(("127.0.0.1", 0), Probes) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield str(server.server_port)
        server.shutdown()


class TestHealth:
    def test_of_a_server_that_answers_is_good(self, capsys: pytest.CaptureFixture[str]) -> None:
        with answering(healthz=200, ready=503) as port:
            assert main(["health", "--port", port]) == 0
        assert capsys.readouterr().out == '{"status":"as asked"}\n'

    def test_is_that_of_the_probe_that_is_asked_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        with answering(healthz=200, ready=503) as port:
            assert main(["health", "--port", port, "--probe", "ready"]) == 1
        assert capsys.readouterr().err == 'greenlang: /ready answers 503: {"status":"as asked"}\n'

    def test_of_a_server_that_is_not_there_is_bad(self, free_tcp_port: int, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["health", "--port", str(free_tcp_port)]) == 1
        assert f"127.0.0.1 port {free_tcp_port} does not answer: " in capsys.readouterr().err

    def test_needs_a_port_that_is_known(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["health", "--port", "0"]) == 2
        assert "server.port: the server takes any free port if it is 0" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("listening", "asked"),
        [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.7", "192.0.2.7"), ("localhost", "localhost")],
    )
    def test_is_asked_where_the_server_listens(self, listening: str, asked: str) -> None:
        assert own_host(ServerSettings(host=listening)) == asked
