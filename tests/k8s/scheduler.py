"""A scheduler that obeys what a Deployment demands and nothing else: of the nodes that a pod may go to, it takes the first.

Preferences and ScheduleAnyway decide nothing here, so what holds in this simulation is promised by the manifest and not by luck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.k8s.rendering import Object, Rendered

ZONE = "topology.kubernetes.io/zone"
HOST = "kubernetes.io/hostname"
_HASH = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    zone: str

    def label(self, key: str) -> str:
        return {ZONE: self.zone, HOST: self.name}[key]


@dataclass(slots=True, eq=False)
class Pod:
    labels: dict[str, str]
    node: Node | None = None

    @property
    def ready(self) -> bool:
        return self.node is not None


def selected(selector: Object, labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


@dataclass
class Cluster:
    """`deployment` is applied once. `pods` are those that exist; those without a node wait."""

    deployment: Object
    nodes: list[Node]
    tainted: set[str] = field(default_factory=set)
    pods: list[Pod] = field(default_factory=list)

    @classmethod
    def of_zones(cls, deployment: Object, zones: int, nodes_per_zone: int = 4) -> Cluster:
        return cls(deployment, [Node(f"{zone}-{index:02}", zone) for zone in "abcdef"[:zones] for index in range(nodes_per_zone)])

    @property
    def ready(self) -> int:
        return sum(pod.ready for pod in self.pods)

    def by_zone(self, version: str | None = None) -> list[int]:
        """How many pods each zone has, the fullest first; zones without a pod and without a taint count too."""
        counts = Counter({node.zone: 0 for node in self.nodes if node.name not in self.tainted})
        counts.update(pod.node.zone for pod in self.pods if pod.node and version in {None, pod.labels[_HASH]})
        return sorted(counts.values(), reverse=True)

    def scale(self, replicas: int, version: str = "1") -> None:
        """Adds pods of `version` until there are `replicas` of it, and schedules what waits."""
        labels = self.deployment["spec"]["template"]["metadata"]["labels"] | {_HASH: version}
        missing = replicas - sum(pod.labels[_HASH] == version for pod in self.pods)
        self.pods.extend(Pod(dict(labels)) for _ in range(missing))
        self.schedule()

    def schedule(self) -> None:
        for pod in self.pods:
            if pod.node is None:
                pod.node = next((node for node in self.nodes if self._may(pod, node)), None)

    def lose(self, zone: str) -> None:
        """The nodes get the taint of nodes that are away; after tolerationSeconds their pods are gone."""
        self.tainted |= {node.name for node in self.nodes if node.zone == zone}
        self.pods = [pod for pod in self.pods if pod.node is None or pod.node.zone != zone]

    def roll(self, replicas: int, version: str) -> Iterator[int]:
        """Replaces every pod, and yields how many are ready after each step."""
        rolling = self.deployment["spec"]["strategy"]["rollingUpdate"]
        surge, unavailable = rolling["maxSurge"], rolling["maxUnavailable"]
        while old := [pod for pod in self.pods if pod.labels[_HASH] != version]:
            begun = len(self.pods) - len(old)
            stops = old[: max(self.ready - (replicas - unavailable), 0)]
            self.pods = [pod for pod in self.pods if pod not in stops]
            yield self.ready
            before = self.ready
            self.scale(min(replicas, begun + replicas + surge - len(self.pods)), version)
            yield self.ready
            if not stops and self.ready == before:
                return  # it goes no further

    def evict(self, disruption_budget: Object) -> bool:
        """Whether one more pod may be evicted; if so, it is gone."""
        if self.ready - 1 < disruption_budget["spec"]["minAvailable"]:
            return False
        self.pods.remove(next(pod for pod in self.pods if pod.ready))
        return True

    def _may(self, pod: Pod, node: Node) -> bool:
        spec = self.deployment["spec"]["template"]["spec"]
        terms = spec.get("affinity", {}).get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", ())
        constraints = spec.get("topologySpreadConstraints", ())
        return (
            node.name not in self.tainted
            and all(self._apart(pod, node, term) for term in terms)
            and all(self._even(pod, node, each) for each in constraints if each["whenUnsatisfiable"] == "DoNotSchedule")
        )

    def _apart(self, pod: Pod, node: Node, term: Object) -> bool:
        domain = node.label(term["topologyKey"])
        return not any(
            other.node and other.node.label(term["topologyKey"]) == domain and selected(term["labelSelector"], other.labels)
            for other in self.pods
        )

    def _even(self, pod: Pod, node: Node, constraint: Object) -> bool:
        key = constraint["topologyKey"]
        ignores_tainted = constraint.get("nodeTaintsPolicy", "Ignore") == "Honor"
        counts = Counter({each.label(key): 0 for each in self.nodes if not (ignores_tainted and each.name in self.tainted)})
        same = {name: pod.labels[name] for name in constraint.get("matchLabelKeys", ())}
        counts.update(
            other.node.label(key)
            for other in self.pods
            if other.node
            and selected(constraint["labelSelector"], other.labels)
            and same == {name: other.labels[name] for name in same}
        )
        least = 0 if len(counts) < constraint.get("minDomains", 1) else min(counts.values())
        skew: int = constraint["maxSkew"]
        return counts[node.label(key)] + 1 - least <= skew


def broken_in_zones(rendered: Rendered, zones: int) -> Iterator[str]:
    """What does not hold when the scheduler runs on it, a sentence each."""
    deployment, budget = rendered.one("Deployment"), rendered.one("PodDisruptionBudget")
    scaling = rendered.one("HorizontalPodAutoscaler")["spec"]
    least, most = scaling["minReplicas"], scaling["maxReplicas"]
    even = [least // zones] * zones
    cluster = Cluster.of_zones(deployment, zones)
    cluster.scale(least)
    if cluster.by_zone() != even:
        yield f"spreading: {least} pods are not {even} by zone but {cluster.by_zone()}, {least - cluster.ready} of them waiting"
    seen = [*cluster.roll(least, "2")]
    if min(seen) < least:
        yield f"rollout: only {min(seen)} of {least} pods are ready at one time; set maxUnavailable to 0"
    if cluster.by_zone("2") != even:
        yield f"rollout: the new pods are not {even} by zone but {cluster.by_zone('2')}; set matchLabelKeys to pod-template-hash"
    yield from _broken_by_eviction(cluster, budget, zones)
    if zones > 1:
        yield from _broken_by_loss(Cluster.of_zones(deployment, zones), least, zones)
    cluster = Cluster.of_zones(deployment, zones)
    cluster.scale(most)
    if cluster.ready < most or cluster.by_zone()[0] - cluster.by_zone()[-1] > 1:
        yield f"spreading: {most} pods are {cluster.by_zone()} by zone, which should differ by one at most"


def _broken_by_eviction(cluster: Cluster, budget: Object, zones: int) -> Iterator[str]:
    evicted = 0
    while cluster.pods and cluster.evict(budget):
        evicted += 1
    if evicted != (promised := max(zones, 1)):
        yield f"evictions: {evicted} pods can be evicted at once, not {promised}; set minAvailable of the PodDisruptionBudget"


def _broken_by_loss(cluster: Cluster, least: int, zones: int) -> Iterator[str]:
    cluster.scale(least)
    cluster.lose("b")
    serving = least - least // zones
    if cluster.ready != serving:
        yield f"loss of a zone: {cluster.ready} pods serve, not {serving}"
    cluster.scale(least)
    if cluster.ready != least or max(cluster.by_zone()) - min(cluster.by_zone()) > 1:
        yield f"loss of a zone: {least} pods should be back in the other zones, but they are {cluster.by_zone()}"
