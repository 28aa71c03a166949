"""`greenlang`: serve, migrate, keys, exports, ingest, vectors, doctor, health, simulate.

Exit status: 0 done, 1 it could not be done, 2 the command or the configuration is wrong.

The modules of a command are imported only when it is chosen. Server processes share their parent's memory, so nothing of other
commands should be in it. Garbage collection is off during the imports, because there is no garbage; that saves a quarter of the
time.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from app.access.principal import Scope
from app.domain.errors import GreenLangError, Refused, SettingsError
from app.domain.problems import Conflict, InvalidInput, NotFound
from app.runtime.clock import SystemClock


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    gc.disable()
    try:
        status: int = import_module(f"app.cli.{options.command}").run(options, SystemClock())
    except SettingsError as error:
        return _complain(f"configuration: {error}", 2)
    except Refused as refused:
        reason = refused.reason
        return _complain(reason.message if isinstance(reason, (Conflict, InvalidInput, NotFound)) else str(refused), 1)
    except GreenLangError as error:
        return _complain(str(error), 1)
    return status


def _complain(problem: str, status: int) -> int:
    print(f"greenlang: {problem}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="greenlang", description="One GraphQL API between agents and model providers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    anywhere = argparse.ArgumentParser(add_help=False)
    anywhere.add_argument("--config", type=Path, metavar="FILE", help="default: ./greenlang.toml if it exists")
    anywhere.add_argument("--data-dir", type=Path, metavar="DIR", help="default: .greenlang")

    command = commands.add_parser("serve", parents=[anywhere], help="serve the API, with everything that it needs")
    command.add_argument("--host", help="default: 127.0.0.1")
    command.add_argument("--port", type=int, help="default: 8400")
    command.add_argument("--workers", type=int, metavar="N", help="server processes; default: 1")
    command.add_argument("--stop-with-parent", action="store_true", help="stop when the process that started this one has ended")
    command.set_defaults(command="serve")

    command = commands.add_parser("migrate", parents=[anywhere], help="bring the database to the newest schema")
    command.set_defaults(command="migrate")

    command = commands.add_parser("doctor", parents=[anywhere], help="check configuration, stores and provider keys")
    command.add_argument("--deep", action="store_true", help="also check names, connections, certificates and the clock")
    command.set_defaults(command="doctor")

    command = commands.add_parser("health", parents=[anywhere], help="ask a probe of the server on this machine")
    command.add_argument("--host", help="default: server.host")
    command.add_argument("--port", type=int, help="default: server.port")
    command.add_argument("--probe", choices=("healthz", "ready", "startup"), default="healthz", help="default: healthz")
    command.add_argument("--timeout", type=float, default=4.0, metavar="SECONDS", help="for each step; default: 4")
    command.set_defaults(command="health")

    command = commands.add_parser("simulate", help="run only the simulator of the providers")
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=int, default=0, help="default: a free port")
    command.add_argument("--log", type=Path, metavar="FILE", help="append every attempt to this file, a JSON line each")
    command.set_defaults(command="simulate")

    command = commands.add_parser("ingest", help="put text and Markdown files into a collection, over the API")
    command.add_argument("path", type=Path, metavar="PATH", help="a folder, with the folders in it, or one file")
    command.add_argument("--collection", required=True, metavar="NAME")
    command.add_argument("--url", default="http://127.0.0.1:8400", help="of the server; default: http://127.0.0.1:8400")
    command.add_argument("--agent", help="who pays for the embeddings, within the tenant of the key")
    command.add_argument(
        "--delete-missing", action="store_true", help="also delete documents that came from this folder and have no file any more"
    )
    command.epilog = "The API key is read from the environment variable GREENLANG_KEY."
    command.set_defaults(command="ingest")

    keys = commands.add_parser("keys", help="API keys").add_subparsers(required=True, metavar="ACTION")
    _add_keys_parsers(keys, anywhere)
    _add_maintenance_parsers(commands, anywhere)
    return parser


def _add_keys_parsers(keys: argparse._SubParsersAction[argparse.ArgumentParser], anywhere: argparse.ArgumentParser) -> None:
    command = keys.add_parser("create", parents=[anywhere], help="make a key; its secret is printed once")
    command.add_argument("name")
    command.add_argument("--tenant", help="default: default")
    command.add_argument(
        "--scope",
        action="append",
        type=_scope,
        help=f"required, repeatable: {', '.join(_scopes())}; or ADMIN, for every tenant and without --tenant and --agent",
    )
    command.add_argument("--agent", help="the only agent that the key may use")
    command.add_argument(
        "--expires",
        metavar="TIME",
        help="a time such as 2027-01-31T00:00:00+00:00, a length of time such as 90d, or never; default: 365d",
    )
    command.add_argument("--requests-per-minute", type=int, metavar="N")
    command.add_argument("--max-concurrent", type=int, metavar="N")
    command.set_defaults(command="keys", action="create")

    command = keys.add_parser("list", parents=[anywhere], help="every key, including revoked ones")
    command.add_argument("--tenant")
    command.set_defaults(command="keys", action="list")

    command = keys.add_parser("revoke", parents=[anywhere], help="revoke a key for good, in every process")
    command.add_argument("key", help="its id or its name")
    command.add_argument("--tenant", help="needed if keys of several tenants have the name")
    command.add_argument("--cancel", action="store_true", help="also end the calls that run with it, in every process")
    command.set_defaults(command="keys", action="revoke")


def _add_maintenance_parsers(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], anywhere: argparse.ArgumentParser
) -> None:
    exports = commands.add_parser("exports", help="links to cost exports").add_subparsers(required=True, metavar="ACTION")
    command = exports.add_parser(
        "rotate-secret", parents=[anywhere], help="sign links with a new secret, which ends all earlier links"
    )
    command.set_defaults(command="exports", action="rotate-secret")

    vectors = commands.add_parser("vectors", help="stores of vectors").add_subparsers(required=True, metavar="ACTION")
    command = vectors.add_parser(
        "repair", parents=[anywhere], help="put right what vector stores have otherwise than the database"
    )
    command.add_argument("--check", action="store_true", help="only compare; exit status 1 if something differs")
    command.set_defaults(command="vectors", action="repair")


def _scopes() -> list[str]:
    return [scope.value for scope in Scope if scope is not Scope.ADMIN]


def _scope(text: str) -> Scope:
    try:
        return Scope(text.upper())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a scope; the scopes are ADMIN, {', '.join(_scopes())}") from None
