"""Which stores a configuration opens, and what it is refused for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from app.db.engines import build_engines
from app.db.sessions import Sessions
from app.domain.errors import Refused, SettingsError, StoreUnavailable
from app.domain.problems import InvalidInput
from app.runtime.clock import SystemClock
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings, VectorSettings, VectorStoreKind, VectorStoreSettings
from app.vectors.metrics import VectorMetrics
from app.vectors.registry import VectorStores, build_vector_stores
from tests.pinecone_simulators import RunningPinecone

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sessions(postgres_url: str) -> AsyncIterator[Sessions]:
    engines = build_engines(postgres_url, [], DatabaseSettings())
    yield Sessions(engines)
    await engines.close()


def opened(sessions: Sessions, *stores: VectorStoreSettings, default: str = "pgvector") -> VectorStores:
    settings = VectorSettings(stores=stores, default_store=default)
    return build_vector_stores(settings, sessions, SystemClock(), VectorMetrics(CollectorRegistry()))


def secret(folder: Path, text: str) -> SecretReference:
    file = folder / "secret"
    file.write_text(text, encoding="utf-8")
    return SecretReference(file=file)


async def test_the_configured_stores_are_beside_the_one_in_the_database(
    sessions: Sessions, pinecone: RunningPinecone, tmp_path: Path
) -> None:
    far = VectorStoreSettings(
        name="far", kind=VectorStoreKind.PINECONE, api_key=secret(tmp_path, "any"), host=pinecone.address, index_prefix="team"
    )
    stores = opened(sessions, far, default="far")

    assert [store.name for store in stores] == ["pgvector", "far"]
    assert stores.choose(None).name == "far"
    assert stores.choose("pgvector").name == "pgvector"
    await stores.named("far").check()
    with pytest.raises(StoreUnavailable):
        stores.named("gone")
    with pytest.raises(Refused) as refused:
        stores.choose("gone")
    assert isinstance(refused.value.reason, InvalidInput)
    await stores.close()


@pytest.mark.parametrize("url", ["chroma:8000", "ftp://chroma:8000", "http://", "http://chroma:99999", "http://chroma/path"])
async def test_an_address_of_chroma_that_is_none_is_refused(sessions: Sessions, tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"vectors\.stores\.near\.url: it should be"):
        opened(sessions, VectorStoreSettings(name="near", kind=VectorStoreKind.CHROMA, url=secret(tmp_path, url)))


async def test_a_key_that_cannot_be_read_is_refused(sessions: Sessions, tmp_path: Path) -> None:
    missing = SecretReference(file=tmp_path / "missing")
    with pytest.raises(SettingsError, match=r"vectors\.stores\.far: .*missing"):
        opened(sessions, VectorStoreSettings(name="far", kind=VectorStoreKind.PINECONE, api_key=missing))
