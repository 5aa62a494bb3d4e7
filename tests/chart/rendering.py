"""Rendering the chart with helm, and finding one's way in what comes out."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML

from studovna.paths import ROOT
from tests.kubetools import helm

CHART = ROOT / "helm/studovna"
COMPLETE = CHART / "ci/values.yaml"
NEWEST = "1.37"
TAG = "0.1.0-5f1c"
SITE: dict[str, Any] = {
    "auth": {"type": "shared-password", "admins": ["admin"]},
    "images": "registry.example.org/studovna",
}
"""The least that a site on a cluster says."""

Manifest = dict[str, Any]


def complete() -> dict[str, Any]:
    """The values of ci/values.yaml."""
    return YAML(typ="safe").load(COMPLETE.read_text())


def run(*arguments: str, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """helm with these arguments and values; JSON is YAML."""
    argv = [str(helm()), *arguments, "--values", "-"]
    return subprocess.run(argv, input=json.dumps(values), capture_output=True, text=True)


def tagged(values: dict[str, Any]) -> dict[str, Any]:
    """Values with a tag of images, which has no default either."""
    return {**values, "images": {"tag": TAG, **values.get("images", {})}}


def refusal(values: dict[str, Any]) -> str:
    """What helm says about values that it does not take."""
    done = run("template", "hub", str(CHART), values=tagged(values))
    assert done.returncode != 0, "helm took the values"
    return done.stderr


def render(values: dict[str, Any], kubernetes: str = NEWEST) -> list[Manifest]:
    """Every object of a release `hub` in namespace `site`."""
    return _render(json.dumps(tagged(values)), kubernetes)


@functools.cache
def _render(values: str, kubernetes: str) -> list[Manifest]:
    words = ("template", "hub", str(CHART), "--namespace", "site", "--kube-version", kubernetes)
    done = run(*words, values=json.loads(values))
    assert done.returncode == 0, done.stderr
    return [one for one in YAML(typ="safe").load_all(done.stdout) if one]


def only(objects: list[Manifest], kind: str, name: str) -> Manifest:
    """The one object of this kind and name."""
    found = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, [(o["kind"], o["metadata"]["name"]) for o in objects]
    return found[0]


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod, and every template of pods, with the name of its object."""
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield name, one
        elif "template" in one.get("spec", {}):
            yield name, one["spec"]["template"]


def files(objects: list[Manifest]) -> dict[str, str]:
    """What the hub's pod sees in /etc/studovna: file → text."""
    volumes = only(objects, "Deployment", "hub-studovna-hub")["spec"]["template"]["spec"]["volumes"]
    site = next(volume["configMap"] for volume in volumes if volume["name"] == "site")
    data = only(objects, "ConfigMap", site["name"])["data"]
    return {item["path"]: data[item["key"]] for item in site["items"]}
