"""The commands of docs/deploying.md, compared with what is rendered: folders, names, namespaces, labels, keys and options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator

import pytest
import yaml

from app.cli import main
from tests.k8s.rendering import K8S, Object, Rendered

PAGE = (K8S.parent / "docs" / "deploying.md").read_text(encoding="utf-8")
MINE = "k8s/overlays/mine"
KINDS = {
    "cluster": "Cluster",
    "deployment": "Deployment",
    "job": "Job",
    "service": "Service",
    "statefulset": "StatefulSet",
}
FOLDERS = ["overlays/three-zones", "references/namespace", "references/postgres", "references/redis"]


def commands(program: str) -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line))[:1] == [program]]


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


@pytest.fixture
def everything(rendered: Callable[[str], Rendered]) -> Rendered:
    return Rendered([each for folder in FOLDERS for each in rendered(folder).objects])


def names(objects: Rendered, kind: str, namespace: str | None) -> set[str]:
    return {each["metadata"]["name"] for each in objects.of_kind(kind) if each["metadata"].get("namespace") == namespace}


def test_there_are_as_many_commands_as_were_looked_at() -> None:
    assert (len(commands("kubectl")), len(commands("vault"))) == (25, 3)


def test_folders_that_are_applied_exist_and_all_are_applied() -> None:
    applied = {folder for words in commands("kubectl") if (folder := option(words, "-k")) is not None}
    assert {folder.replace("/mine", "/three-zones") for folder in applied} == {f"k8s/{folder}" for folder in FOLDERS}
    copied = {words[-2] for words in commands("cp")}
    assert copied == {"k8s/overlays/three-zones", "k8s/base/greenlang.toml"}
    assert all((K8S.parent / path).exists() for path in copied)


def test_objects_that_are_waited_for_exist_in_their_namespace(everything: Rendered) -> None:
    seen = set()
    for words in commands("kubectl"):
        text = " ".join(words)
        for kind, name in re.findall(rf"\b({'|'.join(KINDS)})[/ ]([a-z][a-z-]*)", text):
            assert name in names(everything, KINDS[kind], option(words, "-n")), text
            seen.add((kind, name))
    assert {kind for kind, _ in seen} == KINDS.keys()


def test_first_all_but_the_server_is_applied_and_the_job_is_waited_for(everything: Rendered) -> None:
    first = [words for words in commands("kubectl") if "-l" in words]
    assert first
    for words in first:
        label, _, value = (option(words, "-l") or "").partition("!=")
        left = [each["kind"] for each in everything.objects if each["metadata"].get("labels", {}).get(label) == value]
        assert sorted(left) == ["Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service"]
        following = commands("kubectl")[commands("kubectl").index(words) + 1]
        assert "job/greenlang-migrate" in following


def test_secrets_that_are_made_by_hand_are_those_that_the_stores_name(everything: Rendered) -> None:
    made = {}
    for words in commands("kubectl"):
        if words[3:6] == ["create", "secret", "generic"] and option(words, "-n") == "greenlang-stores":
            made[words[6]] = {
                each.removeprefix("--from-literal=").partition("=")[0] for each in words if "--from-literal" in each
            }
    cluster, valkey = everything.one("Cluster", "greenlang-postgres"), everything.one("StatefulSet", "greenlang-valkey")
    credentials = everything.one("ObjectStore", "greenlang-postgres")["spec"]["configuration"]["s3Credentials"]
    volumes = valkey["spec"]["template"]["spec"]["volumes"]
    [service] = cluster["spec"]["managed"]["roles"]
    assert made == {
        cluster["spec"]["bootstrap"]["initdb"]["secret"]["name"]: {"username", "password"},
        service["passwordSecret"]["name"]: {"username", "password"},
        credentials["accessKeyId"]["name"]: {each["key"] for each in credentials.values()},
        next(each["secret"]["secretName"] for each in volumes if "secret" in each): {"password"},
    }


def _fields(external: Object) -> set[str]:
    return set(
        re.findall(r"\.(\w+)", " ".join(re.findall(r"\{\{(.*?)\}\}", str(external["spec"]["target"]["template"]["data"]))))
    )


def test_fields_that_are_put_into_vault_are_those_that_the_secrets_need(everything: Rendered) -> None:
    put = {
        words[3]: {each.partition("=")[0] for each in words[4:] if "=" in each} for words in commands("vault") if words[1] == "kv"
    }
    mount = everything.one("SecretStore")["spec"]["provider"]["vault"]["path"]
    needed = {
        f"{mount}/{each['spec']['dataFrom'][0]['extract']['key']}": _fields(each) for each in everything.of_kind("ExternalSecret")
    }
    assert put == needed


def test_the_role_of_vault_is_bound_to_the_account_that_asks(everything: Rendered) -> None:
    [words] = [words for words in commands("vault") if words[1] == "write"]
    auth = everything.one("SecretStore")["spec"]["provider"]["vault"]["auth"]["kubernetes"]
    assert words[2] == f"auth/{auth['mountPath']}/role/{auth['role']}"
    account = everything.one("ServiceAccount", auth["serviceAccountRef"]["name"])["metadata"]
    assert f"bound_service_account_names={account['name']}" in words
    assert f"bound_service_account_namespaces={account['namespace']}" in words


def _of_greenlang() -> Iterator[list[str]]:
    for words in commands("kubectl"):
        if "--" in words:
            yield words[words.index("--") + 1 :]


@pytest.mark.parametrize("words", [*_of_greenlang()], ids=lambda words: " ".join(words[1:4]))
def test_commands_in_a_pod_are_known_and_read_the_mounted_configuration(words: list[str], everything: Rendered) -> None:
    assert words[0] == "greenlang"
    with pytest.raises(SystemExit) as ended:
        main([*words[1:], "--help"])
    assert ended.value.code == 0
    assert option(words, "--config") == everything.server.containers[0]["command"][-1]


def test_the_configuration_is_replaced_as_the_page_says() -> None:
    [block] = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    [generator] = yaml.safe_load(block)["configMapGenerator"]
    base = yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text())["configMapGenerator"]
    assert generator == {"name": base[0]["name"], "behavior": "replace", "files": ["greenlang.toml"]}


def test_files_with_the_keys_of_alertmanager_have_the_names_of_its_routes() -> None:
    words = next(words for words in commands("kubectl") if "greenlang-alertmanager-keys" in words)
    given = {each.removeprefix("--from-file=") for each in words if each.startswith("--from-file=")}
    routes = (K8S / "components" / "monitoring" / "alertmanager.yml").read_text()
    assert given == set(re.findall(r"key_file: /etc/alertmanager/keys/(\w+)", routes))
    assert "`/etc/alertmanager/keys`" in PAGE
