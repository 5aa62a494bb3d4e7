"""The Gateway and its routes: no Kubernetes has their schemas, so what is used of them is here.

https://gateway-api.sigs.k8s.io/reference/spec/ (v1)
"""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from tests.chart.rendering import SITE, Manifest, only, render

NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"}
HOST = {"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


def several(items: Any, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


KIND = {"type": "string", "pattern": "^[a-zA-Z]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$"}
REFERENCE = {"group": {"type": "string"}, "kind": KIND, "namespace": NAME, "name": NAME}
FILTER = closed(
    "type",
    type={"enum": ["RequestRedirect"]},
    requestRedirect=closed(
        scheme={"enum": ["http", "https"]},
        statusCode={"enum": [301, 302]},
        hostname=HOST,
        port=PORT,
    ),
)
PATH = closed(
    type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
    value={"type": "string", "pattern": "^/"},
)
RULE = closed(
    matches=several(closed(path=PATH), 64),
    filters=several(FILTER, 16),
    backendRefs=several(
        closed("name", "port", **REFERENCE, port=PORT, weight={"type": "integer"}), 16
    ),
)
ROUTE = closed(
    "parentRefs",
    "rules",
    parentRefs=several(closed("name", **REFERENCE, sectionName=NAME, port=PORT), 32),
    hostnames=several(HOST, 16),
    rules=several(RULE, 16),
)
LISTENER = closed(
    "name",
    "port",
    "protocol",
    name=NAME,
    hostname=HOST,
    port=PORT,
    protocol={"enum": ["HTTP", "HTTPS"]},
    tls=closed(
        "certificateRefs",
        mode={"enum": ["Terminate"]},
        certificateRefs=several(closed("name", **REFERENCE), 64),
    ),
    allowedRoutes=closed(namespaces=closed("from", **{"from": {"enum": ["All", "Same"]}})),
)
GATEWAY = closed(
    "gatewayClassName", "listeners", gatewayClassName=NAME, listeners=several(LISTENER, 64)
)
SCHEMAS = {"HTTPRoute": ROUTE, "Gateway": GATEWAY}

HTTPS = {**SITE, "public_url": "https://hub.example.org"}
SHARED = [{"name": "shared", "namespace": "gateways", "sectionName": "https"}]
WAYS: dict[str, dict[str, Any]] = {
    "https": {"site": HTTPS, "gateway": {"enabled": True, "className": "envoy"}},
    "http": {
        "site": {**SITE, "public_url": "http://hub.example.org"},
        "gateway": {"enabled": True, "className": "envoy"},
    },
    "a certificate that is there": {
        "site": HTTPS,
        "gateway": {"enabled": True, "className": "envoy", "tlsSecret": "mine"},
    },
    "shared": {"site": HTTPS, "gateway": {"enabled": True, "parentRefs": SHARED}},
}


@pytest.fixture(params=WAYS)
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(WAYS[request.param])


def ours(objects: list[Manifest]) -> list[Manifest]:
    return [one for one in objects if one["kind"] in SCHEMAS]


def test_what_is_written_is_of_the_apis_form(objects: list[Manifest]) -> None:
    assert ours(objects)
    for one in ours(objects):
        assert one["apiVersion"] == "gateway.networking.k8s.io/v1"
        jsonschema.validate(one["spec"], SCHEMAS[one["kind"]])
        for rule in one["spec"].get("rules", []):
            # A rule that redirects leads nowhere else, and the other way round.
            assert ("filters" in rule) != ("backendRefs" in rule)
        for listener in one["spec"].get("listeners", []):
            assert ("tls" in listener) == (listener["protocol"] == "HTTPS")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rules": []},
        {"parentRefs": [{"sectionName": "https"}]},
        {"rules": [{"backendRefs": [{"name": "x"}]}]},
        {"rules": [{"matches": [{"path": {"type": "Prefix"}}]}]},
        {"hostname": "x"},
    ],
)
def test_the_form_is_a_closed_one(wrong: dict[str, Any]) -> None:
    route = only(render(WAYS["https"]), "HTTPRoute", "hub-studovna")["spec"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**route, **wrong}, ROUTE)


def test_every_route_begins_at_a_listener_and_ends_at_a_port(objects: list[Manifest]) -> None:
    listeners = {
        (one["metadata"]["name"], listener["name"]): listener
        for one in ours(objects)
        if one["kind"] == "Gateway"
        for listener in one["spec"]["listeners"]
    }
    ports = {
        (one["metadata"]["name"], port["port"])
        for one in objects
        if one["kind"] == "Service"
        for port in one["spec"]["ports"]
    }
    begun = set()
    for route in (one["spec"] for one in ours(objects) if one["kind"] == "HTTPRoute"):
        for parent in route["parentRefs"]:
            if "namespace" not in parent:
                key = (parent["name"], parent["sectionName"])
                begun.add(key)
                assert [listeners[key]["hostname"]] == route["hostnames"]
        for rule in route["rules"]:
            for backend in rule.get("backendRefs", []):
                assert (backend["name"], backend["port"]) in ports
    assert begun == set(listeners)


def test_a_gateway_that_is_there_gets_the_route_alone() -> None:
    objects = render(WAYS["shared"])
    assert [one["kind"] for one in ours(objects)] == ["HTTPRoute"]
    spec = only(objects, "HTTPRoute", "hub-studovna")["spec"]
    assert spec["parentRefs"] == SHARED
    assert spec["hostnames"] == ["hub.example.org"]


def test_http_leads_to_https() -> None:
    objects = render(WAYS["https"])
    [rule] = only(objects, "HTTPRoute", "hub-studovna-to-https")["spec"]["rules"]
    assert rule["filters"][0]["requestRedirect"] == {"scheme": "https", "statusCode": 301}
    names = {one["metadata"]["name"] for one in ours(render(WAYS["http"]))}
    assert names == {"hub-studovna"}
