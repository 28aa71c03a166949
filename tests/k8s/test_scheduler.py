"""The promises of overlays/three-zones about zones, on a simulated scheduler, and manifests that would break them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.k8s.rendering import Object, Rendered
from tests.k8s.scheduler import HOST, ZONE, Cluster, broken_in_zones


@pytest.fixture
def three_zones(rendered: Callable[[str], Rendered]) -> Rendered:
    return rendered("overlays/three-zones")


@pytest.fixture
def cluster(three_zones: Rendered) -> Cluster:
    return Cluster.of_zones(three_zones.one("Deployment"), 3, nodes_per_zone=5)


def spread(spec: Object) -> Object:
    constraint: Object = spec["template"]["spec"]["topologySpreadConstraints"][0]
    return constraint


def one_a_zone(spec: Object) -> None:
    term = {"topologyKey": ZONE, "labelSelector": spec["selector"]}
    spec["template"]["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = [term]


class TestPromises:
    def test_hold(self, three_zones: Rendered) -> None:
        assert [*broken_in_zones(three_zones, 3)] == []

    def test_nine_pods_are_three_in_each_zone(self, cluster: Cluster) -> None:
        cluster.scale(9)
        assert cluster.by_zone() == [3, 3, 3]

    def test_six_pods_serve_when_a_zone_is_lost_and_nine_are_back_in_two_zones(self, cluster: Cluster) -> None:
        cluster.scale(9)
        cluster.lose("a")
        assert cluster.ready == 6
        cluster.scale(9)
        assert cluster.by_zone() == [5, 4]

    def test_a_rollout_has_never_less_than_nine_ready_pods(self, cluster: Cluster) -> None:
        cluster.scale(9)
        seen = [*cluster.roll(9, "2")]
        assert min(seen) == 9
        assert max(seen) == 10
        assert cluster.by_zone("2") == [3, 3, 3]

    def test_the_fourth_eviction_is_blocked(self, cluster: Cluster, three_zones: Rendered) -> None:
        cluster.scale(9)
        assert [cluster.evict(three_zones.one("PodDisruptionBudget")) for _ in range(4)] == [True, True, True, False]
        assert cluster.ready == 6

    def test_a_hundred_pods_are_at_most_one_apart(self, cluster: Cluster) -> None:
        cluster.scale(100)
        assert cluster.by_zone() == [34, 33, 33]

    def test_hosts_are_a_preference_so_a_small_zone_takes_all_its_pods(self, three_zones: Rendered) -> None:
        affinity = three_zones.server.spec["affinity"]["podAntiAffinity"]
        assert [*affinity] == ["preferredDuringSchedulingIgnoredDuringExecution"]
        assert affinity["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"]["topologyKey"] == HOST
        crowded = Cluster.of_zones(three_zones.one("Deployment"), 3, nodes_per_zone=1)
        crowded.scale(9)
        assert crowded.by_zone() == [3, 3, 3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_a_zone, "spreading: 9 pods are not [3, 3, 3] by zone but [1, 1, 1], 6 of them waiting"),
        (lambda spec: spread(spec).update(minDomains=3), "loss of a zone: 9 pods should be back in the other zones"),
        (lambda spec: spread(spec).update(whenUnsatisfiable="ScheduleAnyway"), "by zone but [9, 0, 0]"),
        (lambda spec: spec["strategy"]["rollingUpdate"].update(maxUnavailable=1), "rollout: only 8 of 9 pods are ready"),
        (lambda spec: spread(spec).pop("nodeTaintsPolicy"), "loss of a zone: 9 pods should be back in the other zones"),
        (lambda spec: spread(spec).pop("matchLabelKeys"), "rollout: the new pods are not [3, 3, 3] by zone"),
        (lambda spec: spread(spec).update(maxSkew=2), "spreading: 9 pods are not [3, 3, 3] by zone"),
    ],
    ids=[
        "anti-affinity by zone",
        "minDomains 3",
        "ScheduleAnyway",
        "maxUnavailable 1",
        "tainted nodes count",
        "old pods count",
        "skew 2",
    ],
)
def test_a_wrong_manifest_is_caught(three_zones: Rendered, change: Callable[[Object], object], said: str) -> None:
    change(three_zones.one("Deployment")["spec"])
    assert any(said in sentence for sentence in broken_in_zones(three_zones, 3)), [*broken_in_zones(three_zones, 3)]


def test_a_disruption_budget_that_is_too_small_is_caught(three_zones: Rendered) -> None:
    three_zones.one("PodDisruptionBudget")["spec"]["minAvailable"] = 5
    assert [*broken_in_zones(three_zones, 3)] == [
        "evictions: 4 pods can be evicted at once, not 3; set minAvailable of the PodDisruptionBudget"
    ]
