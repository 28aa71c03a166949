"""Renders overlays as `kubectl kustomize` does, and finds objects in what came out."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
REFERENCES = ["postgres", "redis"]
_OLDEST_KUBECTL = 27

Object: TypeAlias = dict[str, Any]


def why_not() -> str | None:
    """The reason why nothing can be rendered on this machine, or None."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return "there is no kubectl"
    answer = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False)
    minor = int(json.loads(answer.stdout)["clientVersion"]["minor"].rstrip("+"))
    return (
        None
        if minor >= _OLDEST_KUBECTL
        else f"kubectl 1.{minor} is older than 1.{_OLDEST_KUBECTL}: its kustomize has no components"
    )


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of a Deployment, Job or StatefulSet."""

    owner: Object
    template: Object

    @property
    def name(self) -> str:
        return f"{self.owner['kind']} {self.owner['metadata']['name']}"

    @property
    def spec(self) -> Object:
        spec: Object = self.template["spec"]
        return spec

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


class Rendered:
    def __init__(self, objects: Sequence[Object]) -> None:
        self.objects = list(objects)

    def of_kind(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str = "greenlang") -> Object:
        found = [each for each in self.of_kind(kind) if each["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} objects are a {kind} {name}"
        return found[0]

    def find(self, kind: str, name: str) -> Object | None:
        return next((each for each in self.of_kind(kind) if each["metadata"]["name"] == name), None)

    def pods(self) -> Iterator[Pods]:
        for kind in ("Deployment", "StatefulSet", "Job"):
            for owner in self.of_kind(kind):
                yield Pods(owner, owner["spec"]["template"])

    @property
    def server(self) -> Pods:
        owner = self.one("Deployment")
        return Pods(owner, owner["spec"]["template"])


def render(folder: Path) -> Rendered:
    answer = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return Rendered([each for each in yaml.load_all(answer.stdout, yaml.CSafeLoader) if each])
