"""`greenlang serve`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from ipaddress import ip_address
from pathlib import Path

from app.cli.configuration import settings_of
from app.embedded.parent_death import die_with_parent
from app.runtime.clock import Clock
from app.settings import ServerSettings
from app.supervisor.first_key import FILE_NAME, write_first_key
from app.supervisor.serve import Started, serve
from app.telemetry.logging import configure_logging

APPLICATION = "app.asgi:create_app"
_EXPOSED = (
    "It listens on %s and has no TLS: keys, prompts and answers can be read on the way. Listen on 127.0.0.1, or put a proxy "
    "with TLS in front and name it in server.trusted_proxies (docs/behind-a-proxy.md)."
)
_log = logging.getLogger(__name__)


def run(options: argparse.Namespace, clock: Clock) -> int:
    if options.stop_with_parent:
        die_with_parent(signal.SIGTERM)
    settings = settings_of(options)
    configure_logging(settings.server.log_level, settings.server.log_format)
    if is_exposed(settings.server):
        _log.warning(_EXPOSED, settings.server.host)
    serve(settings, clock, APPLICATION, announce)
    print("Stopped.", flush=True)
    return 0


def is_exposed(server: ServerSettings) -> bool:
    """Whether other machines can connect although no proxy is configured."""
    if server.trusted_proxies or server.host == "localhost":
        return False
    try:
        return not ip_address(server.host).is_loopback
    except ValueError:
        return True


def announce(started: Started) -> None:
    providers = started.settings.providers
    if any(provider.simulated for provider in providers):
        found = "none is configured and neither ANTHROPIC_API_KEY nor OPENAI_API_KEY is set, so a SIMULATOR answers:\n"
        found += f"              no real model is asked and nothing is spent. It logs to {started.data_dir / 'simulator.jsonl'}"
    else:
        found = ", ".join(f"{each.name} ({each.kind.value})" for each in providers if each.enabled)
    print(f"GreenLang serves on {started.address}")
    if not started.settings.server.production:
        print(f"  console     {started.address}/graphql")
    print(f"  key         {_key(started)}")
    print(f"  providers   {found}")
    print(f"  data        {started.data_dir}", flush=True)


def _key(started: Started) -> str:
    """The first key is printed only on a terminal, because other output may be kept as a log."""
    greenlang, kept = Path(sys.executable).with_name("greenlang"), started.data_dir / FILE_NAME
    if started.first_key is None:
        shown = f"is in {kept}" if kept.exists() else "was shown at the first start"
        return f"{shown}; for another: {greenlang} keys create NAME --scope SCOPE --data-dir '{started.data_dir}'"
    if sys.stdout.isatty():
        return f"{started.first_key}\n              administrator of tenant default; it is shown this once"
    path = write_first_key(started.data_dir, started.first_key)
    return f"is in {path}\n              administrator of tenant default; only the file's owner can read it"
