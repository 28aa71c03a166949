"""What every overlay promises. Each check yields a sentence for each promise that is broken; it says what to set."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from app.db.server_report import most_connections
from app.settings import Settings, load_settings
from tests.k8s.egress import unreachable_hosts
from tests.k8s.rendering import K8S, Object, Rendered
from tests.k8s.scheduler import broken_in_zones

MARGIN = timedelta(seconds=10)
SERVER = {"app.kubernetes.io/name": "greenlang", "app.kubernetes.io/component": "server"}
_SECRET_FOLDER = Path("/run/secrets/greenlang")
_DATA_FOLDER = "/var/lib/greenlang"
_WAYS_IN = {("http", "everyone"), ("metrics", "monitoring")}


def broken_promises(rendered: Rendered) -> list[str]:
    return [sentence for check in _CHECKS for sentence in check(rendered)]


def settings_of(rendered: Rendered) -> Settings:
    """The configuration that the pods have: the file of the ConfigMap, and what the container has in its environment."""
    names = [volume["configMap"]["name"] for volume in rendered.server.spec["volumes"] if "configMap" in volume]
    text = rendered.one("ConfigMap", names[0])["data"]["greenlang.toml"]
    environ = {each["name"]: each.get("value", "set") for each in rendered.server.containers[-1].get("env", ())}
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        return load_settings(Path(file.name), environ)


def zones_of(rendered: Rendered) -> int:
    return int(rendered.one("Deployment")["metadata"].get("annotations", {}).get("greenlang/zones", "1"))


def _scheduling(rendered: Rendered) -> Iterator[str]:
    yield from broken_in_zones(rendered, zones_of(rendered))


def _capacity(rendered: Rendered) -> Iterator[str]:
    scaling, zones = rendered.one("HorizontalPodAutoscaler")["spec"], zones_of(rendered)
    if rendered.one("Deployment")["spec"].get("replicas") is not None:
        yield "capacity: remove replicas from the Deployment; each apply would undo what the autoscaler has decided"
    if scaling["minReplicas"] != 3 * zones:
        yield f"capacity: set minReplicas to {3 * zones}, three pods a zone"
    if zones == 3 and scaling["maxReplicas"] != 100:
        yield "capacity: set maxReplicas to 100"
    targets = {each["resource"]["name"]: each["resource"]["target"] for each in scaling["metrics"]}
    for name, percent in (("cpu", 70), ("memory", 80)):
        if targets.get(name) != {"type": "Utilization", "averageUtilization": percent}:
            yield f"capacity: set the autoscaler's target for {name} to {percent} %"
    down = scaling["behavior"]["scaleDown"]
    if down["stabilizationWindowSeconds"] < 300 or any(each["type"] != "Pods" or each["value"] > 1 for each in down["policies"]):
        yield "capacity: scale down by one pod at a time, after at least 300 s"
    allowed = _postgresql_connections()
    settings = settings_of(rendered)
    if settings.database.pods < scaling["maxReplicas"]:
        yield f"capacity: set database.pods to {scaling['maxReplicas']}, the maxReplicas of the autoscaler"
    if not settings.database.pooled and (most := most_connections(settings.database, settings.server.workers)) > allowed:
        yield f"capacity: all pods can open {most} connections, and PostgreSQL allows {allowed}; lower database.pool_size"


@cache
def _postgresql_connections() -> int:
    cluster: dict[str, Any] = yaml.safe_load((K8S / "references" / "postgres" / "cluster.yaml").read_text())
    return int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])


def _rollout(rendered: Rendered) -> Iterator[str]:
    strategy = rendered.one("Deployment")["spec"]["strategy"]
    if strategy["rollingUpdate"] != {"maxUnavailable": 0, "maxSurge": 1}:
        yield "rollout: set maxUnavailable to 0 and maxSurge to 1"
    jobs = [each for each in rendered.of_kind("Job") if each["metadata"]["labels"]["app.kubernetes.io/component"] == "migration"]
    if len(jobs) != 1:
        yield "rollout: a Job migrates before the pods are replaced; it is missing"
    images = {each["image"] for pods in rendered.pods() for each in pods.containers}
    if len(images) != 1:
        yield f"rollout: the Job and the Deployment need the same image, not {sorted(images)}"


def _probes(rendered: Rendered) -> Iterator[str]:
    container = rendered.server.containers[-1]
    for probe, path in (("startupProbe", "/startup"), ("livenessProbe", "/healthz"), ("readinessProbe", "/ready")):
        if container.get(probe, {}).get("httpGet") != {"path": path, "port": "http"}:
            yield f"probes: the {probe} of the server asks {path} on the port http"


def _draining(rendered: Rendered) -> Iterator[str]:
    server, spec = settings_of(rendered).server, rendered.server.spec
    needed = int((server.drain_delay + server.shutdown_grace + MARGIN).total_seconds())
    if spec.get("terminationGracePeriodSeconds") != needed:
        yield f"draining: set terminationGracePeriodSeconds to {needed}: drain_delay + shutdown_grace + {MARGIN.seconds} s"
    if any("preStop" in each.get("lifecycle", {}) for each in rendered.server.containers):
        yield "draining: remove preStop; it runs before SIGTERM, so /ready does not know of it"
    notes = rendered.one("Service")["metadata"].get("annotations", {})
    prefix = "service.beta.kubernetes.io/aws-load-balancer-healthcheck"
    if f"{prefix}-interval" in notes:
        noticed = int(notes[f"{prefix}-interval"]) * int(notes[f"{prefix}-unhealthy-threshold"])
        if server.drain_delay.total_seconds() < noticed:
            yield f"draining: set server.drain_delay to {noticed}s; the load balancer needs it to notice"
    probe = rendered.server.containers[-1].get("readinessProbe", {})
    if probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3) <= server.drain_delay.total_seconds():
        yield "draining: the readinessProbe fails before drain_delay has passed; raise its failureThreshold"


def hardening(rendered: Rendered) -> Iterator[str]:
    for pods in rendered.pods():
        spec = pods.spec
        context = spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or context.get("runAsUser", 0) == 0:
            yield f"security: {pods.name} needs runAsNonRoot and a runAsUser that is not 0"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"security: {pods.name} needs the seccompProfile RuntimeDefault"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"security: set automountServiceAccountToken of {pods.name} to false"
        if any("hostPath" in each for each in spec.get("volumes", ())) or spec.get("hostNetwork"):
            yield f"security: {pods.name} uses files or the network of its host"
        for container in pods.containers:
            yield from _hardening_of(container, f"{container['name']} of {pods.name}")


def _hardening_of(container: Object, name: str) -> Iterator[str]:
    own = container.get("securityContext", {})
    if not own.get("readOnlyRootFilesystem"):
        yield f"security: set readOnlyRootFilesystem of the container {name}"
    if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
        yield f"security: set allowPrivilegeEscalation of the container {name} to false and drop ALL capabilities"
    if own.get("privileged") or own.get("runAsUser", 1) == 0:
        yield f"security: the container {name} must not run as root"
    resources = container.get("resources", {})
    if not all({"cpu", "memory"} <= resources.get(each, {}).keys() for each in ("requests", "limits")):
        yield f"security: set requests and limits for cpu and memory of the container {name}"


def _files(rendered: Rendered) -> Iterator[str]:
    for pods in rendered.pods():
        writable = {each["name"] for each in pods.spec["volumes"] if "emptyDir" in each}
        for container in pods.containers:
            mounts = {each["mountPath"] for each in container["volumeMounts"] if each["name"] in writable}
            if missing := {_DATA_FOLDER, "/tmp"} - mounts:
                yield f"files: mount an emptyDir at {' and '.join(sorted(missing))} in {container['name']} of {pods.name}"


def _service(rendered: Rendered) -> Iterator[str]:
    service = rendered.one("Service")
    spec = service["spec"]
    if (spec["type"], spec.get("externalTrafficPolicy")) != ("LoadBalancer", "Local"):
        yield "service: set type LoadBalancer and externalTrafficPolicy Local"
    if spec.get("sessionAffinity") != "ClientIP" or spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] != 10800:
        yield "service: set sessionAffinity ClientIP for 10800 s"
    if spec["selector"] != SERVER:
        yield f"service: it selects {spec['selector']}, which is not the server"
    if not any("ssl-cert" in name or "tls" in name for name in service["metadata"].get("annotations", {})):
        yield "service: the load balancer has no certificate; set it in load-balancer.yaml, by annotation"
    settings, container = settings_of(rendered).server, rendered.server.containers[-1]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    if ports != {"http": settings.port, "metrics": settings.metrics_port} or settings.workers != 1:
        yield "service: one worker a pod, with server.port as the port http and server.metrics_port as the port metrics"


def _image(rendered: Rendered) -> Iterator[str]:
    for image in sorted({each["image"] for pods in rendered.pods() for each in pods.containers}):
        name, _, digest = image.partition("@sha256:")
        if len(digest) != 64:
            yield f"image: {name} is named by a tag, which may lead to another image tomorrow; set its digest under images"


def _secrets(rendered: Rendered) -> Iterator[str]:
    made = {each["metadata"]["name"]: {*each.get("data", {}), *each.get("stringData", {})} for each in rendered.of_kind("Secret")}
    for each in rendered.of_kind("ExternalSecret"):
        made[each["spec"]["target"]["name"]] = set(each["spec"]["target"]["template"]["data"])
    for name, key in sorted(_needed_secrets(rendered)):
        if name not in made:
            yield f"secrets: nothing makes the Secret {name}; add components/secrets-vault or components/secrets-aws"
        elif key not in made[name]:
            yield f"secrets: the Secret {name} has no key {key}; add it, or remove it from greenlang.toml"


def _needed_secrets(rendered: Rendered) -> set[tuple[str, str]]:
    needed = set()
    for pods in rendered.pods():
        mounted = next(each["secret"]["secretName"] for each in pods.spec["volumes"] if "secret" in each)
        files = _secret_files(settings_of(rendered).model_dump(mode="json"))
        needed |= {(mounted, path.name) for path in files if path.parent == _SECRET_FOLDER}
        for container in pods.containers:
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    needed.add((reference["name"], reference["key"]))
    return needed


def _secret_files(value: object) -> Iterator[Path]:
    match value:
        case {"env": _, "file": str(path)}:
            yield Path(path)
        case dict():
            for each in value.values():
                yield from _secret_files(each)
        case list():
            for each in value:
                yield from _secret_files(each)


def _owner(rendered: Rendered) -> Iterator[str]:
    serving = {each["name"] for each in rendered.server.containers[-1].get("env", ())}
    if "GREENLANG_DATABASE__OWNER" in serving or settings_of(rendered).database.owner is not None:
        yield "security: only the Job that migrates has database.owner; remove it from the server"


def _network(rendered: Rendered) -> Iterator[str]:
    policies = [each["spec"] for each in rendered.of_kind("NetworkPolicy")]
    if {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} not in policies:
        yield "network: the policy default-deny is missing"
    ways_in = {
        (port["port"], _who(rule))
        for spec in policies
        for rule in spec.get("ingress", ())
        for port in rule.get("ports", ({"port": "all"},))
    }
    for port, who in sorted(ways_in - _WAYS_IN):
        yield f"network: {who} may come in to the port {port}, which no caller needs"
    for port, who in sorted(_WAYS_IN - ways_in):
        yield f"network: {who} may not come in to the port {port}"
    for spec in policies:
        for rule in spec.get("egress", ()):
            if not rule.get("to") or not rule.get("ports"):
                yield "network: a rule lets pods out to everywhere or to every port; name both"
    yield from unreachable_hosts(rendered, settings_of(rendered), rendered.server.labels)


def _who(rule: Object) -> str:
    selectors = [each.get("namespaceSelector", {}).get("matchLabels", {}) for each in rule.get("from", ())]
    return " and ".join(each.get("kubernetes.io/metadata.name", "?") for each in selectors) or "everyone"


_CHECKS = (
    _scheduling,
    _capacity,
    _rollout,
    _probes,
    _draining,
    hardening,
    _files,
    _service,
    _image,
    _secrets,
    _owner,
    _network,
)
