"""What docs/cluster.md shows is taken by the chart."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from studovna.paths import ROOT
from tests.chart.rendering import SITE, render

GUIDE = (ROOT / "docs/cluster.md").read_text()
BLOCKS = [
    block
    for block in (
        YAML(typ="safe").load(text) for text in re.findall(r"(?s)```yaml\n(.*?)```", GUIDE)
    )
    if "apiVersion" not in block
]
SECRETS = ("client-secret", "registry-push-password")


def test_there_is_something_to_try() -> None:
    assert len(BLOCKS) > 5


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "-".join(block))
def test_example(block: dict[str, Any]) -> None:
    values = {**block, "site": {**SITE, **block.get("site", {})}}
    text = str(block)
    given = {name: "x" for name in SECRETS if f"/secrets/{name}" in text}
    if given:
        values["secrets"] = {"values": given}
    if "ingress" in block or "gateway" in block:
        values["site"].setdefault("public_url", "https://hub.example.org")
    render(values)


def test_names_of_keys_exist() -> None:
    """Every `a.b` of the values that the text names is one of values.yaml or of the site."""
    shown = YAML(typ="safe").load((ROOT / "helm/studovna/values.yaml").read_text())
    for path in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)`", GUIDE):
        first, *rest = path.split(".")
        if first not in shown or first == "site":
            continue
        here: Any = shown[first]
        for key in rest:
            if here == {}:
                break
            assert isinstance(here, dict) and key in here, path
            here = here[key]
