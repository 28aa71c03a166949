"""Which hosts the configuration and the secrets name, and whether a NetworkPolicy lets the pods out to them.

A name of a service leads to its namespace. Every other name counts as public, unless it ends as names of private networks do.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from app.settings import Settings
from tests.k8s.rendering import Object, Rendered
from tests.k8s.scheduler import selected

_URL = re.compile(r"([a-z+]+)://(?:[^@/\s]*@)?([^/?\s\"']+)")
_PORTS = {
    "https": 443,
    "http": 80,
    "postgresql": 5432,
    "redis": 6379,
    "rediss": 6379,
    "redis+sentinel": 26379,
    "rediss+sentinel": 26379,
}
_PRIVATE = (".internal", ".local", ".lan", ".intranet", ".corp", ".home.arpa")
_PUBLIC_ADDRESSES = ("93.184.215.14", "8.8.8.8")
PRIVATE_ADDRESSES = (
    "10.1.2.3",
    "172.16.0.9",
    "172.31.255.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "127.0.0.1",
    "fd00::1",
    "fe80::1",
    "::1",
)


def unreachable_hosts(rendered: Rendered, settings: Settings, labels: dict[str, str]) -> Iterator[str]:
    rules = _rules(rendered, labels)
    for place, host, port in [*_of_settings(settings), *_of_secrets(rendered)]:
        if not any(_lets_out(rule, host, port) for rule in rules):
            yield (
                f"network: no NetworkPolicy lets the server out to {host}:{port} ({place}); "
                "add an egress rule with this address and port to your overlay"
            )
    for address in PRIVATE_ADDRESSES:
        if any(_by_block(peer, address) for rule in rules for peer in rule.get("to", ()) if "ipBlock" in peer and _is_wide(peer)):
            yield f"network: pods may go out to the private address {address}; add its range to except"
    if not any(_resolves(rule) for rule in rules):
        yield "network: pods may not ask kube-dns in kube-system on port 53, UDP and TCP"


def _of_settings(settings: Settings) -> Iterator[tuple[str, str, int]]:
    for index, provider in enumerate(settings.providers):
        base_url = (
            provider.base_url
            or {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com"}[provider.kind.value]
        )
        yield from _found(f"providers[{index}].base_url", str(base_url))
    if settings.telemetry.otlp_endpoint is not None:
        yield from _found("telemetry.otlp_endpoint", str(settings.telemetry.otlp_endpoint))
    for index, webhook in enumerate(settings.webhooks):
        yield from _found(f"webhooks[{index}].url", str(webhook.url))
    if settings.secrets.vault is not None:
        yield from _found("secrets.vault.address", str(settings.secrets.vault.address))
    for index, store in enumerate(settings.vectors.stores):
        if store.host is not None:
            yield from _found(f"vectors.stores[{index}].host", str(store.host))


def _of_secrets(rendered: Rendered) -> Iterator[tuple[str, str, int]]:
    for each in rendered.of_kind("ExternalSecret"):
        for key, text in each["spec"]["target"]["template"]["data"].items():
            yield from _found(f"the key {key} of the Secret {each['spec']['target']['name']}", text)
    for each in rendered.of_kind("Secret"):
        decoded = {key: b64decode(value).decode() for key, value in each.get("data", {}).items()}
        for key, text in {**decoded, **each.get("stringData", {})}.items():
            yield from _found(f"the key {key} of the Secret {each['metadata']['name']}", text)


def _found(place: str, text: str) -> Iterator[tuple[str, str, int]]:
    for scheme, hosts in _URL.findall(re.sub(r"\{\{.*?\}\}", "x", text)):
        for host in hosts.split(","):
            name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
            yield place, name.strip("[]"), int(port or _PORTS.get(scheme, 443))


def _rules(rendered: Rendered, labels: dict[str, str]) -> list[Object]:
    specs = [each["spec"] for each in rendered.of_kind("NetworkPolicy")]
    return [rule for spec in specs if selected(spec["podSelector"], labels) for rule in spec.get("egress", ())]


def _lets_out(rule: Object, host: str, port: int) -> bool:
    if "ports" in rule and port not in {each["port"] for each in rule["ports"]}:
        return False
    namespace = re.fullmatch(r"[^.]+(?:\.[^.]+)?\.([^.]+)\.svc(?:\.cluster\.local)?", host)
    if namespace is not None:
        return any(_of_namespace(peer) == namespace[1] for peer in rule.get("to", ()))
    try:
        ip_address(host)
    except ValueError:
        if host.endswith(_PRIVATE) or "." not in host:
            return False
        return any(_by_block(peer, _PUBLIC_ADDRESSES[0]) and _by_block(peer, _PUBLIC_ADDRESSES[1]) for peer in rule.get("to", ()))
    return any(_by_block(peer, host) for peer in rule.get("to", ()))


def _of_namespace(peer: Object) -> str | None:
    name: str | None = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
    return name


def _by_block(peer: Object, address: str) -> bool:
    block = peer.get("ipBlock")
    if block is None or ip_address(address) not in ip_network(block["cidr"]):
        return False
    return not any(ip_address(address) in ip_network(each) for each in block.get("except", ()))


def _is_wide(peer: Object) -> bool:
    """A rule for a network of the operator's own may name private addresses; one for the internet may not."""
    return ip_network(peer["ipBlock"]["cidr"]).prefixlen == 0


def _resolves(rule: Object) -> bool:
    ports = {(each["port"], each["protocol"]) for each in rule.get("ports", ())}
    return ports == {(53, "UDP"), (53, "TCP")} and any(_of_namespace(peer) == "kube-system" for peer in rule.get("to", ()))
