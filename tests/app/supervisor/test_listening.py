"""Sockets of the supervisor, and what stands in their way."""

from __future__ import annotations

import socket

import pytest

from app.supervisor.listening import NotListening, PortInUse, bind, listen


class TestBind:
    @pytest.mark.parametrize("processes", [1, 3])
    def test_every_process_has_a_socket_on_the_one_port(self, processes: int) -> None:
        sockets = bind("127.0.0.1", 0, processes)
        try:
            assert len({each.getsockname() for each in sockets}) == 1
            assert len(sockets) == processes
        finally:
            for each in sockets:
                each.close()

    @pytest.mark.parametrize("processes", [1, 2])
    def test_a_taken_port_is_named(self, processes: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1 is taken"):
                bind("127.0.0.1", port, processes)

    def test_an_address_of_another_machine_is_refused(self) -> None:
        with pytest.raises(NotListening, match=r"192\.0\.2\.1"):
            bind("192.0.2.1", 0, 1)


class TestListen:
    def test_another_program_was_faster(self) -> None:
        (bound,) = bind("127.0.0.1", 0, 1)
        with bound, socket.create_server(bound.getsockname()), pytest.raises(PortInUse):
            listen((bound,))
