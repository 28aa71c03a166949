"""The private Chroma as a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest

from app.embedded.stores import PrivateStores
from app.vectors.chroma import Chroma
from app.vectors.store import IndexedChunk
from tests.app.vectors.opened_stores import everything, index_of, random_chunks

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chroma")


@pytest.fixture(scope="module")
def stores(folder: Path) -> Iterator[PrivateStores]:
    stores = PrivateStores.launch(folder, postgres=False, valkey=False, chroma=True)
    stores.wait()
    yield stores
    stores.stop()


def process_of(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "chroma" / "chroma.pid").read_text(encoding="utf-8")))


def is_up(url: str) -> bool:
    try:
        with urlopen(f"{url}/api/v2/heartbeat", timeout=1):
            return True
    except (URLError, OSError):
        return False


def test_listens_on_loopback_alone(stores: PrivateStores, folder: Path) -> None:
    listening = [each for each in process_of(folder).net_connections() if each.status == psutil.CONN_LISTEN]
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}


async def test_a_killed_server_comes_back_with_everything(stores: PrivateStores, folder: Path) -> None:
    url, index, chunks = stores.chroma.reveal(), index_of(), random_chunks(50)
    store = Chroma("chroma", url, 10)
    await store.create(index)
    await store.upsert(index, chunks)
    killed = process_of(folder)

    os.kill(killed.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while not is_up(url) or process_of(folder).pid == killed.pid:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)

    kept: list[IndexedChunk] = await everything(store, index)
    assert [(each.key, each.metadata) for each in kept] == [(each.key, each.metadata) for each in chunks]
    await store.close()


def test_ends_with_its_launcher_and_is_started_again_at_the_same_address(tmp_path: Path) -> None:
    addresses = []
    for _ in range(2):
        stores = PrivateStores.launch(tmp_path, postgres=False, valkey=False, chroma=True)
        stores.wait()
        addresses.append(stores.chroma.reveal())
        process = process_of(tmp_path)
        stores.stop()
        assert not process.is_running()

    assert addresses[0] == addresses[1]
    assert not is_up(addresses[0])
