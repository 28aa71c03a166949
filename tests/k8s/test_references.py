"""The references for stores: what their objects promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.k8s.promises import hardening
from tests.k8s.rendering import REFERENCES, Rendered


@pytest.mark.parametrize("reference", REFERENCES)
def test_pods_and_networks_are_as_strict_as_those_of_the_server(rendered: Callable[[str], Rendered], reference: str) -> None:
    found = rendered(f"references/{reference}")
    assert [*hardening(found)] == []
    specs = [each["spec"] for each in found.of_kind("NetworkPolicy")]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in specs
    assert all(rule["from"] and rule["ports"] for spec in specs for rule in spec.get("ingress", ()))


class TestPostgresql:
    def test_three_instances_over_the_zones_with_one_synchronous_standby(self, rendered: Callable[[str], Rendered]) -> None:
        cluster = rendered("references/postgres").one("Cluster", "greenlang-postgres")["spec"]
        assert cluster["instances"] == 3
        assert cluster["affinity"]["topologyKey"] == "topology.kubernetes.io/zone"
        assert cluster["postgresql"]["synchronous"] == {"method": "any", "number": 1, "dataDurability": "required"}
        assert cluster["postgresql"]["parameters"]["wal_log_hints"] == "on"

    def test_archives_its_log_and_is_backed_up_every_night(self, rendered: Callable[[str], Rendered]) -> None:
        found = rendered("references/postgres")
        [plugin] = found.one("Cluster", "greenlang-postgres")["spec"]["plugins"]
        archive = plugin["parameters"]["barmanObjectName"]
        assert plugin["isWALArchiver"]
        assert found.one("ObjectStore", archive)["spec"]["retentionPolicy"] == "30d"
        assert found.one("ScheduledBackup", archive)["spec"]["cluster"] == {"name": "greenlang-postgres"}
        assert found.one("PodMonitor", archive)["spec"]["selector"]["matchLabels"] == {"cnpg.io/cluster": "greenlang-postgres"}


class TestValkey:
    def test_three_servers_and_three_sentinels_over_the_zones(self, rendered: Callable[[str], Rendered]) -> None:
        found = rendered("references/redis")
        for name in ("greenlang-valkey", "greenlang-sentinel"):
            spec = found.one("StatefulSet", name)["spec"]
            [constraint] = spec["template"]["spec"]["topologySpreadConstraints"]
            assert spec["replicas"] == 3
            assert (constraint["topologyKey"], constraint["maxSkew"]) == ("topology.kubernetes.io/zone", 1)
            assert found.one("PodDisruptionBudget", name)["spec"]["minAvailable"] == 2

    def test_pods_know_one_another_by_names_that_lead_to_pods_that_are_not_ready_yet(
        self, rendered: Callable[[str], Rendered]
    ) -> None:
        found = rendered("references/redis")
        for name, peers in (("greenlang-valkey", "PEERS"), ("greenlang-sentinel", "SENTINELS")):
            assert found.one("Service", name)["spec"]["publishNotReadyAddresses"]
            container = found.one("StatefulSet", name)["spec"]["template"]["spec"]["containers"][0]
            environ = {each["name"]: each.get("value", "") for each in container["env"]}
            selves = {environ["SELF"].replace("$(POD)", f"{name}-{index}") + f":{environ['PORT']}" for index in range(3)}
            assert set(environ[peers].split()) == selves
            assert "10." not in "".join(environ.values())
