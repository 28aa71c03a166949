"""Every rendered object against the schemas of Kubernetes, or against those of k8s/schemas for kinds of operators."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from kubernetes_validate import SchemaNotFoundError, ValidationError, validate

from tests.k8s.rendering import K8S, OVERLAYS, REFERENCES, Object, Rendered

VERSIONS = ["1.32", "1.37"]
FOLDERS = [*(f"overlays/{name}" for name in OVERLAYS), *(f"references/{name}" for name in REFERENCES)]


@cache
def _own_schema(kind: str, api_version: str) -> Draft202012Validator | None:
    path = K8S / "schemas" / f"{kind.lower()}-{api_version.replace('/', '-')}.json"
    return Draft202012Validator(json.loads(path.read_text())) if path.exists() else None


@cache
def _problem(text: str, version: str) -> str | None:
    each: dict[str, Any] = json.loads(text)
    name = f"{each['kind']} {each['metadata']['name']}"
    try:
        used = validate(each, version, strict=True)
    except ValidationError as error:
        return f"{name}: {error.message}"
    except SchemaNotFoundError:
        own = _own_schema(each["kind"], each["apiVersion"])
        if own is None:
            return f"{name}: no schema; add one to k8s/schemas, or the kind or its apiVersion is misspelt"
        return next((f"{name}: {error.json_path} {error.message}" for error in own.iter_errors(each)), None)
    assert used == version
    return None


def problems(rendered: Rendered, version: str) -> list[str]:
    found = [_problem(json.dumps(each, sort_keys=True), version) for each in rendered.objects]
    return [each for each in found if each is not None]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_is_valid(rendered: Callable[[str], Rendered], folder: str, version: str) -> None:
    assert problems(rendered(folder), version) == []


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("Deployment", lambda each: each["spec"]["template"]["spec"].update(terminationGracePeriod=80), "terminationGracePeriod"),
        ("ExternalSecret", lambda each: each["spec"].update(refreshIntervall="1m"), "refreshIntervall"),
        ("SecretStore", lambda each: each["spec"].update(provider={}), "$.spec.provider"),
        ("Job", lambda each: each.update(kind="Jobb"), "no schema"),
        ("PodMonitor", lambda each: each.update(apiVersion="monitoring.coreos.com/v2"), "no schema"),
    ],
)
def test_a_misspelt_object_is_refused(
    rendered: Callable[[str], Rendered], kind: str, change: Callable[[Object], None], said: str
) -> None:
    found = rendered("overlays/three-zones")
    change(found.of_kind(kind)[0])
    [problem] = problems(found, VERSIONS[0])
    assert said in problem
