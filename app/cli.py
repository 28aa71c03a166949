"""`greenlang`: serve, migrate, keys, doctor, simulate.

Exit status: 0 done, 1 it could not be done, 2 the command or the configuration is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from app.access.key_rows import ApiKey, NewKey
from app.access.keys import KeyStore
from app.access.principal import Scope
from app.clock import Clock, SystemClock
from app.db.engines import build_engines
from app.db.migrate import migrate
from app.db.sessions import Sessions
from app.embedded.tether import follow_parent
from app.errors import GreenLangError, Refused, SettingsError
from app.problems import Conflict, InvalidInput, NotFound
from app.settings import Settings
from app.settings.load import load_settings
from app.supervisor.doctor import examine
from app.supervisor.preparation import FIRST_TENANT
from app.supervisor.reach import reachable_stores
from app.supervisor.serve import Started, serve
from app.supervisor.simulator import simulate
from app.telemetry import configure_logging

APPLICATION = "app.asgi:create_app"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace, Clock], int] = options.run
    try:
        return run(options, SystemClock())
    except SettingsError as error:
        return _complain(f"configuration: {error}", 2)
    except Refused as refused:
        reason = refused.reason
        return _complain(reason.message if isinstance(reason, (Conflict, InvalidInput, NotFound)) else str(refused), 1)
    except GreenLangError as error:
        return _complain(str(error), 1)


def _complain(problem: str, status: int) -> int:
    print(f"greenlang: {problem}", file=sys.stderr)
    return status


def _settings(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Settings:
    names = ("host", "port", "data_dir", "workers")
    return load_settings(options.config, environ, {f"server.{name}": getattr(options, name, None) for name in names})


def _serve(options: argparse.Namespace, clock: Clock) -> int:
    if options.stop_with_parent:
        follow_parent(signal.SIGTERM)
    settings = _settings(options)
    configure_logging(settings.server.log_level)
    serve(settings, clock, APPLICATION, _announce)
    print("Stopped.", flush=True)
    return 0


def _announce(started: Started) -> None:
    providers = started.settings.providers
    if any(provider.simulated for provider in providers):
        found = "none is configured and neither ANTHROPIC_API_KEY nor OPENAI_API_KEY is set, so a SIMULATOR answers:\n"
        found += f"              no real model is asked and nothing is spent. It logs to {started.data_dir / 'simulator.jsonl'}"
    else:
        found = ", ".join(f"{each.name} ({each.kind.value})" for each in providers if each.enabled)
    if started.first_key is None:
        key = "was shown at the first start; make another with `greenlang keys create NAME`"
    else:
        key = f"{started.first_key}\n              administrator of tenant {FIRST_TENANT}; it is shown this once"
    print(f"GreenLang serves on {started.address}")
    print(f"  console     {started.address}/graphql")
    print(f"  key         {key}")
    print(f"  providers   {found}")
    print(f"  data        {started.data_dir}", flush=True)


def _migrate(options: argparse.Namespace, clock: Clock) -> int:
    with reachable_stores(_settings(options), clock, redis=False) as settings:
        assert settings.database.primary is not None
        print(f"The database is at revision {asyncio.run(migrate(settings.database.primary.reveal()))}.")
    return 0


def _keys(options: argparse.Namespace, clock: Clock) -> int:
    with reachable_stores(_settings(options), clock, redis=False) as settings:
        asyncio.run(_with_keys(options, settings, clock))
    return 0


async def _with_keys(options: argparse.Namespace, settings: Settings, clock: Clock) -> None:
    assert settings.database.primary is not None
    url = settings.database.primary.reveal()
    await migrate(url)
    engines = build_engines(url, (), settings.database)
    try:
        await options.act(KeyStore(Sessions(engines), clock), options)
    finally:
        await engines.close()


async def _create_key(keys: KeyStore, options: argparse.Namespace) -> None:
    new = NewKey(
        name=options.name,
        tenant=options.tenant or FIRST_TENANT,
        scopes=frozenset(options.scope or [Scope.ADMIN]),
        agent=options.agent,
        expires_at=options.expires,
        requests_per_minute=options.requests_per_minute,
        max_concurrent=options.max_concurrent,
    )
    created = await keys.create(new)
    print(created.secret)
    print(f"{_described(created.key)}; the secret is shown this once", file=sys.stderr)


async def _list_keys(keys: KeyStore, options: argparse.Namespace) -> None:
    for key in await keys.list(options.tenant):
        print(_described(key))


async def _revoke_key(keys: KeyStore, options: argparse.Namespace) -> None:
    print(_described(await keys.revoke(options.key, options.tenant)))


def _described(key: ApiKey) -> str:
    scopes = ",".join(sorted(scope.value for scope in key.scopes))
    facts = [key.id, f"name={key.name}", f"tenant={key.tenant}", f"scopes={scopes}"]
    facts += [f"agent={key.agent}"] if key.agent else []
    facts += [f"expires={key.expires_at.isoformat()}"] if key.expires_at else []
    facts += [f"revoked={key.revoked_at.isoformat()}"] if key.revoked_at else []
    return "  ".join(facts)


def _doctor(options: argparse.Namespace, clock: Clock) -> int:
    well = True
    for finding in examine(lambda: _settings(options), clock):
        well = well and finding.ok
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.subject:<24}  {finding.detail}", flush=True)
    return 0 if well else 1


def _simulate(options: argparse.Namespace, _clock: Clock) -> int:
    simulate(options.host, options.port, options.log)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="greenlang", description="One GraphQL API between agents and model providers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    anywhere = argparse.ArgumentParser(add_help=False)
    anywhere.add_argument("--config", type=Path, metavar="FILE", help="default: ./greenlang.toml where it exists")
    anywhere.add_argument("--data-dir", type=Path, metavar="DIR", help="default: .greenlang")

    command = commands.add_parser("serve", parents=[anywhere], help="serve the API, with everything that it needs")
    command.add_argument("--host", help="default: 127.0.0.1")
    command.add_argument("--port", type=int, help="default: 8400")
    command.add_argument("--workers", type=int, metavar="N", help="server processes; default: 1")
    command.add_argument("--stop-with-parent", action="store_true", help="stop when the process that started this one is gone")
    command.set_defaults(run=_serve)

    command = commands.add_parser("migrate", parents=[anywhere], help="bring the database to the newest schema")
    command.set_defaults(run=_migrate)

    command = commands.add_parser("doctor", parents=[anywhere], help="check configuration, stores and provider keys")
    command.set_defaults(run=_doctor)

    command = commands.add_parser("simulate", help="run the simulator of the providers alone")
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=int, default=0, help="default: a free one")
    command.add_argument("--log", type=Path, metavar="FILE", help="append every attempt to this file, a JSON line each")
    command.set_defaults(run=_simulate)

    keys = commands.add_parser("keys", help="API keys").add_subparsers(required=True, metavar="ACTION")
    _add_keys_parsers(keys, anywhere)
    return parser


def _add_keys_parsers(keys: argparse._SubParsersAction[argparse.ArgumentParser], anywhere: argparse.ArgumentParser) -> None:
    command = keys.add_parser("create", parents=[anywhere], help="make a key; its secret is printed once")
    command.add_argument("name")
    command.add_argument("--tenant", help=f"default: {FIRST_TENANT}")
    command.add_argument("--scope", action="append", type=_scope, help=f"ADMIN (default), {', '.join(_scopes())}; repeatable")
    command.add_argument("--agent", help="the one agent that the key may name")
    command.add_argument("--expires", type=_moment, metavar="TIME", help="as 2027-01-31T00:00:00+00:00")
    command.add_argument("--requests-per-minute", type=int, metavar="N")
    command.add_argument("--max-concurrent", type=int, metavar="N")
    command.set_defaults(run=_keys, act=_create_key)

    command = keys.add_parser("list", parents=[anywhere], help="every key, with those that are revoked")
    command.add_argument("--tenant")
    command.set_defaults(run=_keys, act=_list_keys)

    command = keys.add_parser("revoke", parents=[anywhere], help="end a key's right, for good, in every process")
    command.add_argument("key", help="its id or its name")
    command.add_argument("--tenant", help="where keys of several tenants have the name")
    command.set_defaults(run=_keys, act=_revoke_key)


def _scopes() -> list[str]:
    return [scope.value for scope in Scope if scope is not Scope.ADMIN]


def _scope(text: str) -> Scope:
    try:
        return Scope(text.upper())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no scope; there are ADMIN, {', '.join(_scopes())}") from None


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no time; write it as 2027-01-31T00:00:00+00:00") from None


if __name__ == "__main__":
    sys.exit(main())
