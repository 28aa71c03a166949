from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.cluster_check import find_cluster
from app.db.migrate import prepare_database
from app.db.urls import Host
from app.domain.errors import SettingsError, StoreUnavailable
from app.secrets.reference import SecretReference
from app.settings import DatabaseSettings
from tests.clusters import DATABASE, HOST, PASSWORD, SERVICE, SUPERUSER, Cluster, Node, running_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def other() -> Iterator[Cluster]:
    with running_cluster(1) as cluster:
        yield cluster


def settings_for(folder: Path, primary: str, *replicas: str) -> DatabaseSettings:
    references = []
    for number, url in enumerate((primary, *replicas)):
        file = folder / str(number)
        file.write_text(url, encoding="utf-8")
        references.append(SecretReference(file=file))
    return DatabaseSettings(primary=references[0], replicas=tuple(references[1:]))


def hosts(*nodes: Node) -> str:
    return f"postgresql://{SERVICE}:{PASSWORD}@{','.join(node.address for node in nodes)}/{DATABASE}"


class TestHosts:
    async def test_of_one_cluster_are_found_with_their_primary(self, cluster: Cluster, tmp_path: Path) -> None:
        primary, replica = cluster.nodes
        found = await find_cluster(settings_for(tmp_path, hosts(replica, primary)))
        assert found is not None
        assert found.primary is not None
        assert found.primary.hosts == (Host(HOST, primary.port),)
        assert len(found.answering) == 2

    async def test_of_another_cluster_stop_the_start(self, cluster: Cluster, other: Cluster, tmp_path: Path) -> None:
        node = other.primary
        for primary, replicas in ((hosts(*cluster.nodes, node), ()), (hosts(*cluster.nodes), (hosts(node),))):
            with pytest.raises(SettingsError, match=f"{node.address} belongs to another cluster"):
                await prepare_database(settings_for(tmp_path, primary, *replicas))

    async def test_of_another_database_stop_the_start(self, cluster: Cluster, tmp_path: Path) -> None:
        primary, replica = cluster.nodes
        asked = settings_for(tmp_path, hosts(primary), replica.url(SUPERUSER, "postgres"))
        with pytest.raises(SettingsError, match=f"{replica.address} leads to another database"):
            await prepare_database(asked)

    async def test_one_alone_is_not_asked(self, cluster: Cluster, tmp_path: Path) -> None:
        assert await find_cluster(settings_for(tmp_path, hosts(cluster.primary))) is None


class TestStartWithoutPrimary:
    async def test_goes_on_if_a_replica_has_the_newest_schema_and_not_if_none_answers(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        asked = settings_for(tmp_path, hosts(*cluster.nodes))
        newest = await prepare_database(asked)
        await asyncio.to_thread(cluster.primary.kill)
        assert await prepare_database(asked) == newest
        await asyncio.to_thread(cluster.nodes[1].kill)
        with pytest.raises(StoreUnavailable):
            await prepare_database(asked)
