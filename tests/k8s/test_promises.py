"""Every folder in k8s/overlays keeps the promises, and an overlay that breaks one is refused in words."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

import pytest

from tests.k8s.conftest import Edited
from tests.k8s.egress import PRIVATE_ADDRESSES
from tests.k8s.promises import MARGIN, broken_promises, settings_of
from tests.k8s.rendering import OVERLAYS, Object, Rendered

ZONES = "overlays/three-zones"
KUSTOMIZATION = f"{ZONES}/kustomization.yaml"
PROVIDER = 'name = "local"\nkind = "openai-compatible"\nbase_url = "{url}"\nmodels = ["m"]\n'


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_keeps_its_promises(rendered: Callable[[str], Rendered], overlay: str) -> None:
    """A folder of your own beside these is checked too."""
    assert broken_promises(rendered(f"overlays/{overlay}")) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_the_time_that_draining_takes(rendered: Callable[[str], Rendered], overlay: str) -> None:
    found = rendered(f"overlays/{overlay}")
    server = settings_of(found).server
    needed = server.drain_delay + server.shutdown_grace + MARGIN
    assert found.server.spec["terminationGracePeriodSeconds"] == needed.total_seconds() == 80


class TestEditedOverlays:
    @pytest.mark.parametrize(
        ("edits", "said"),
        [
            (
                {KUSTOMIZATION: "  - ../../components/secrets-vault\n => "},
                "secrets: nothing makes the Secret greenlang-secrets; add components/secrets-vault or components/secrets-aws",
            ),
            (
                {KUSTOMIZATION: f"digest: sha256:{64 * '0'} => newTag: v1.2.3"},
                "image: registry.example.com/greenlang:v1.2.3 is named by a tag, which may lead to another image tomorrow",
            ),
            (
                {
                    "base/greenlang.toml": '[[providers]]\nname = "openai" => [[providers]]\n'
                    + PROVIDER.format(url="http://llm.internal:8000/v1")
                    + '\n[[providers]]\nname = "openai"'
                },
                "network: no NetworkPolicy lets the server out to llm.internal:8000 (providers[1].base_url); add an egress rule",
            ),
            (
                {"components/secrets-vault/secrets.yaml": "greenlang-postgres-rw.greenlang-stores.svc:5432 => db.corp:6432"},
                "lets the server out to db.corp:6432 (the key database-url of the Secret greenlang-secrets)",
            ),
            (
                {f"{ZONES}/three-zones.yaml": "whenUnsatisfiable: DoNotSchedule => whenUnsatisfiable: ScheduleAnyway"},
                "spreading: 9 pods are not",
            ),
            ({f"{ZONES}/three-zones.yaml": "minAvailable: 6 => minAvailable: 3"}, "evictions: 6 pods can be evicted at once"),
            (
                {"base/greenlang.toml": 'shutdown_grace = "60s" => shutdown_grace = "120s"'},
                "draining: set terminationGracePeriodSeconds to 140",
            ),
        ],
        ids=["no secrets", "image by tag", "private provider", "private database", "spreading", "evictions", "draining"],
    )
    def test_breaks_a_promise_and_the_test_names_it(self, edited: Edited, edits: dict[str, str], said: str) -> None:
        sentences = broken_promises(edited(ZONES, edits))
        assert any(said in sentence for sentence in sentences), sentences

    def test_may_bring_its_secrets_itself(self, rendered: Callable[[str], Rendered]) -> None:
        found = rendered(ZONES)
        for each in found.of_kind("ExternalSecret"):
            found.objects.remove(each)
            target = each["spec"]["target"]
            values = {key: b64encode(text.encode()).decode() for key, text in target["template"]["data"].items()}
            found.objects.append({"kind": "Secret", "metadata": {"name": target["name"]}, "data": values})
        assert broken_promises(found) == []
        found.one("Secret", "greenlang-secrets")["data"]["redis-url"] = b64encode(b"redis://cache.corp:6380/0").decode()
        del found.one("Secret", "greenlang-secrets")["data"]["openai-key"]
        missing, unreachable = broken_promises(found)
        assert missing == "secrets: the Secret greenlang-secrets has no key openai-key; add it, or remove it from greenlang.toml"
        assert "lets the server out to cache.corp:6380 (the key redis-url of the Secret greenlang-secrets)" in unreachable

    def test_may_not_ask_a_vault_that_no_policy_lets_pods_out_to(self, rendered: Callable[[str], Rendered]) -> None:
        found = rendered(ZONES)
        config = next(each for each in found.of_kind("ConfigMap") if "greenlang.toml" in each["data"])
        config["data"]["greenlang.toml"] += (
            '\n[secrets.vault]\naddress = "https://vault:8200"\nauth = "kubernetes"\nrole = "greenlang"\n'
        )
        [sentence] = broken_promises(found)
        assert "lets the server out to vault:8200 (secrets.vault.address)" in sentence

    def test_may_let_pods_out_to_a_private_address_of_its_own(self, rendered: Callable[[str], Rendered]) -> None:
        found = rendered(ZONES)
        config = next(each for each in found.of_kind("ConfigMap") if "greenlang.toml" in each["data"])
        config["data"]["greenlang.toml"] += "\n[[providers]]\n" + PROVIDER.format(url="http://10.0.7.3:8000/v1")
        assert len(broken_promises(found)) == 1
        rule = {"to": [{"ipBlock": {"cidr": "10.0.7.0/24"}}], "ports": [{"port": 8000, "protocol": "TCP"}]}
        found.one("NetworkPolicy", "greenlang-providers")["spec"]["egress"].append(rule)
        assert broken_promises(found) == []


def container(found: Rendered) -> Object:
    each: Object = found.server.containers[0]
    return each


def providers(found: Rendered) -> Object:
    rule: Object = found.one("NetworkPolicy", "greenlang-providers")["spec"]["egress"][0]
    return rule


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.one("Deployment")["spec"].update(replicas=9), "capacity: remove replicas"),
        (lambda found: found.one("HorizontalPodAutoscaler")["spec"].update(minReplicas=6), "capacity: set minReplicas to 9"),
        (lambda found: found.one("HorizontalPodAutoscaler")["spec"].update(maxReplicas=50), "capacity: set maxReplicas to 100"),
        (lambda found: container(found).pop("startupProbe"), "probes: the startupProbe"),
        (lambda found: container(found)["livenessProbe"]["httpGet"].update(path="/ready"), "probes: the livenessProbe"),
        (lambda found: container(found).update(lifecycle={"preStop": {"sleep": {"seconds": 5}}}), "draining: remove preStop"),
        (
            lambda found: container(found)["securityContext"].update(readOnlyRootFilesystem=False),
            "security: set readOnlyRootFilesystem",
        ),
        (lambda found: container(found)["securityContext"].pop("capabilities"), "drop ALL capabilities"),
        (lambda found: container(found)["resources"].pop("limits"), "security: set requests and limits"),
        (lambda found: found.server.spec["securityContext"].pop("seccompProfile"), "seccompProfile RuntimeDefault"),
        (lambda found: found.server.spec["securityContext"].update(runAsNonRoot=False), "needs runAsNonRoot"),
        (
            lambda found: found.server.spec.pop("automountServiceAccountToken"),
            "automountServiceAccountToken of Deployment greenlang",
        ),
        (lambda found: container(found)["volumeMounts"].pop(), "files: mount an emptyDir at /tmp"),
        (lambda found: found.one("Service")["spec"].update(externalTrafficPolicy="Cluster"), "externalTrafficPolicy Local"),
        (lambda found: found.one("Service")["spec"].pop("sessionAffinity"), "sessionAffinity ClientIP for 10800 s"),
        (lambda found: found.one("Service")["metadata"].pop("annotations"), "service: the load balancer has no certificate"),
        (
            lambda found: found.objects.remove(found.one("NetworkPolicy", "default-deny")),
            "network: the policy default-deny is missing",
        ),
        (lambda found: found.objects.remove(found.one("NetworkPolicy", "greenlang-metrics")), "monitoring may not come in"),
        (lambda found: found.objects.remove(found.one("NetworkPolicy", "greenlang-dns")), "may not ask kube-dns"),
        (
            lambda found: found.objects.remove(found.one("NetworkPolicy", "greenlang-stores")),
            "lets the server out to greenlang-postgres-rw",
        ),
        (lambda found: found.objects.remove(found.one("Job", "greenlang-migrate")), "rollout: a Job migrates before"),
        (
            lambda found: providers(found)["to"][0]["ipBlock"]["except"].remove("169.254.0.0/16"),
            "private address 169.254.169.254",
        ),
        (lambda found: providers(found).pop("ports"), "network: a rule lets pods out to everywhere or to every port"),
    ],
)
def test_a_promise_that_is_broken_by_hand_is_named(
    rendered: Callable[[str], Rendered], change: Callable[[Rendered], object], said: str
) -> None:
    found = rendered(ZONES)
    change(found)
    sentences = broken_promises(found)
    assert any(said in sentence for sentence in sentences), sentences


def test_no_private_range_is_reachable_through_the_rule_for_providers(rendered: Callable[[str], Rendered]) -> None:
    blocks = [each["ipBlock"] for each in providers(rendered(ZONES))["to"]]
    assert [each["cidr"] for each in blocks] == ["0.0.0.0/0", "::/0"]
    assert len(PRIVATE_ADDRESSES) == 10
