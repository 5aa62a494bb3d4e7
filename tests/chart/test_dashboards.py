"""The dashboards ask for metrics that the hub, the proxy and Binder have."""

from __future__ import annotations

import json
import re

import jupyterhub.metrics  # noqa: F401 - registers the hub's
import pytest
from prometheus_client import REGISTRY

import binder.metrics  # noqa: F401 - registers Binder's
from studovna.paths import ROOT
from tests.chart.rendering import CHART, SITE, only, render

DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
PROXY = ROOT / "node_modules/configurable-http-proxy/lib/metrics.js"
# Of every Node.js process (prom-client), and of every Python one (prometheus_client).
PROCESS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "nodejs_eventloop_lag_p99_seconds",
    "up",
}
WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?=\{)")


def known() -> set[str]:
    """Names of samples that the three parts can tell."""
    names = set(PROCESS)
    for family in REGISTRY.collect():
        names.add(family.name)
        ends = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}
        names |= {family.name + end for end in ends.get(family.type, ())}
    if PROXY.exists():
        for kind, name in re.findall(r'new client\.(\w+)\(\{\s*name: "(\w+)"', PROXY.read_text()):
            names |= {name} | ({f"{name}_sum", f"{name}_count"} if kind == "Summary" else set())
    return names


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboard(file) -> None:
    if not PROXY.exists():
        pytest.skip("configurable-http-proxy is not installed")
    dashboard = json.loads(file.read_text())
    assert dashboard["uid"] == f"studovna-{file.stem}"
    used = set()
    for panel in dashboard["panels"]:
        assert panel["title"] and panel["description"]
        for target in panel["targets"]:
            found = set(WORDS.findall(target["expr"]))
            assert found, target["expr"]
            used |= found
    assert used <= known(), used - known()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_dashboards_are_loaded_and_monitors_find_their_services() -> None:
    values = {
        "site": SITE,
        "metrics": {"serviceMonitor": {"enabled": True}, "dashboards": {"enabled": True}},
    }
    objects = render(values)
    data = only(objects, "ConfigMap", "hub-studovna-dashboards")["data"]
    assert {name: json.loads(text)["title"] for name, text in data.items()} == {
        f"studovna-{file.name}": json.loads(file.read_text())["title"] for file in DASHBOARDS
    }
    for monitor in (one for one in objects if one["kind"] == "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        services = [
            one
            for one in objects
            if one["kind"] == "Service" and selector.items() <= one["metadata"]["labels"].items()
        ]
        assert len(services) == 1, monitor["metadata"]["name"]
        ports = {port["name"] for port in services[0]["spec"]["ports"]}
        assert {end["port"] for end in monitor["spec"]["endpoints"]} <= ports
