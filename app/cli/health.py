"""`greenlang health`: asks a probe of the server on this machine, for a container whose image has no other HTTP client."""

from __future__ import annotations

import argparse
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address

from app.cli.configuration import settings_of
from app.domain.errors import GreenLangError, SettingsError
from app.runtime.clock import Clock
from app.settings import ServerSettings

_MAX_ANSWER_BYTES = 65536


class NotWell(GreenLangError):
    """The server does not answer, or it answers the probe with another status than 200."""


def run(options: argparse.Namespace, _: Clock) -> int:
    server = settings_of(options).server
    if server.port == 0:
        raise SettingsError("server.port", "the server takes any free port if it is 0; name the port: --port PORT")
    print(ask(own_host(server), server.port, options.probe, options.timeout))
    return 0


def ask(host: str, port: int, probe: str, timeout_seconds: float) -> str:
    """Returns the body of the answer. Raises NotWell. A proxy of the environment is not used."""
    connection = HTTPConnection(host, port, timeout=timeout_seconds)
    try:
        connection.request("GET", f"/{probe}")
        answer = connection.getresponse()
        body = answer.read(_MAX_ANSWER_BYTES).decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise NotWell(f"{host} port {port} does not answer: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise NotWell(f"/{probe} answers {answer.status}: {body}")
    return body


def own_host(server: ServerSettings) -> str:
    """The address at which this machine reaches the server. One that listens everywhere also listens on loopback."""
    try:
        address = ip_address(server.host)
    except ValueError:
        return server.host
    if not address.is_unspecified:
        return server.host
    return "127.0.0.1" if address.version == 4 else "::1"
