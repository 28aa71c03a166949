"""The private Chroma: on loopback only, with a folder in the data directory.

Its server knows no passwords, so every account of this machine can reach it. It holds vectors and metadata, never texts.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from app.domain.errors import SettingsError
from app.embedded.addresses import CHROMA_URL, HOST, keep_address, read_address
from app.embedded.child import Child, start_child

CHROMA_FOLDER = "chroma"
PROGRAM = "chromadb_rust_bindings"
_START_SECONDS = 60.0
_CODE = f"import os, sys, {PROGRAM} as chroma; os.environ['RUST_LOG'] = 'error'; chroma.cli(['chroma', *sys.argv[1:]])"
"""At its usual level the server logs every request."""


def require_chroma() -> None:
    """Raises SettingsError if the extra is not installed."""
    if find_spec(PROGRAM) is None:
        raise SettingsError(
            "vectors.stores",
            "no Chroma runs on this machine; install the extra: pip install 'greenlang[chroma]', "
            "or name a server: url of the store",
        )


@dataclass(frozen=True, slots=True)
class Chroma:
    data_dir: Path
    name: str = "Chroma"

    def prepare(self, _lock: int) -> None:
        """Call it only while no server runs in the folder."""
        (self.data_dir / CHROMA_FOLDER).mkdir(mode=0o700, exist_ok=True)
        keep_address(self.data_dir / CHROMA_URL)

    def start(self, lock: int) -> Child:
        """Starts a server and returns when it answers. Raises StoreFailed."""
        folder = self.data_dir / CHROMA_FOLDER
        port = read_address(self.data_dir / CHROMA_URL).port
        command = [sys.executable, "-c", _CODE, "run", "--path", ".", "--host", HOST, "--port", str(port)]
        child = start_child(command, folder, self.data_dir / "log" / "chroma.log", signal.SIGTERM, lock)
        (folder / "chroma.pid").write_text(f"{child.process.pid}\n", encoding="utf-8")
        child.wait_until(lambda: _is_ready(port), _START_SECONDS)
        return child


def _is_ready(port: int) -> bool:
    with suppress(URLError, OSError), _DIRECT.open(f"http://{HOST}:{port}/api/v2/heartbeat", timeout=1) as answer:
        return bool(answer.status == 200)
    return False


_DIRECT = build_opener(ProxyHandler({}))
"""Without the proxy of the environment."""
