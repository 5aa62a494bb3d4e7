"""The schema of the Helm chart's values: site and profiles as the models say, the rest here.

Helm refuses what it does not allow, and names the path. Descriptions are in ``values.yaml``.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from .profile_schema import Profile
from .schema import json_schema
from .site import Site

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "pattern": "^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$"}
IMAGE: Schema = {"type": "string", "pattern": "^([a-z0-9][A-Za-z0-9._:/@-]{0,500})?$"}
QUANTITY: Schema = {
    "type": ["string", "number"],
    "pattern": "^[0-9]+(\\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$",
}
NODE_PORT: Schema = {"type": "integer", "minimum": 1024, "maximum": 65535}
CIDR: Schema = {"type": "string", "pattern": "^[0-9a-fA-F.:]{2,39}/[0-9]{1,3}$"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
OBJECT: Schema = {"type": "object"}
OBJECTS: Schema = {"type": "array", "items": OBJECT}
QUANTITIES: Schema = {"type": "object", "additionalProperties": QUANTITY}


def closed(**properties: Schema) -> Schema:
    """An object that has these keys and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def named(pattern: str, value: Schema) -> Schema:
    """A map whose keys are all of this form. (Helm names a wrong path for `propertyNames`.)"""
    return {"type": "object", "additionalProperties": False, "patternProperties": {pattern: value}}


def several(items: Schema) -> Schema:
    """A list of different things."""
    return {"type": "array", "items": items, "uniqueItems": True}


def choice(*values: str | int | None) -> Schema:
    """One of these values."""
    return {"enum": list(values)}


def or_null(schema: Schema) -> Schema:
    """A value that need not be there."""
    return {**schema, "type": [schema["type"], "null"]}


ENVIRONMENT = named("^[A-Za-z_][A-Za-z0-9_]*$", {"type": ["string", "number", "boolean"]})
RULES = closed(egress=OBJECTS)
STORAGE = closed(
    **{"class": or_null(NAME)},
    size=QUANTITY,
    accessMode=choice("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"),
    existingClaim=NAME,
)
PLACEMENT: dict[str, Schema] = {"nodeSelector": TEXTS, "tolerations": OBJECTS}
WORKLOAD: dict[str, Schema] = {
    **PLACEMENT,
    "affinity": OBJECT,
    "priorityClassName": NAME,
    "resources": closed(requests=QUANTITIES, limits=QUANTITIES),
}

CHART: dict[str, Schema] = {
    # Helm passes it to charts that are a part of another one.
    "global": OBJECT,
    "fullnameOverride": NAME,
    "images": closed(
        tag={"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"},
        pushed=several(NAME),
        hub=IMAGE,
        binder=IMAGE,
        pullPolicy=choice("Always", "IfNotPresent", "Never"),
        pullSecrets=several(NAME),
        registriesConf=TEXT,
    ),
    "service": closed(
        type=choice("ClusterIP", "LoadBalancer", "NodePort"),
        annotations=TEXTS,
        loadBalancerClass=or_null(TEXT),
        loadBalancerSourceRanges=several(CIDR),
        nodePort=or_null(NODE_PORT),
        tlsSecret=NAME,
        ipFamilyPolicy=choice("SingleStack", "PreferDualStack", "RequireDualStack", None),
        ipFamilies=several(choice("IPv4", "IPv6")),
    ),
    "ingress": closed(enabled=FLAG, className=or_null(NAME), annotations=TEXTS, tlsSecret=NAME),
    "gateway": closed(
        enabled=FLAG, annotations=TEXTS, parentRefs=OBJECTS, className=NAME, tlsSecret=NAME
    ),
    "caConfigMap": NAME,
    "database": closed(
        url={"type": "string", "pattern": "^(postgresql(\\+[a-z0-9]+)?://.+)?$"},
        existingSecret=closed(name=NAME, key=TEXT),
    ),
    "secrets": closed(
        values=named("^[a-z0-9][a-z0-9.-]{0,100}$", {"type": "string", "minLength": 1}),
        existingSecret=NAME,
    ),
    "hub": closed(storage=STORAGE, env=ENVIRONMENT, **WORKLOAD),
    "proxy": closed(**WORKLOAD),
    "binder": closed(storage=STORAGE, env=ENVIRONMENT, **WORKLOAD),
    "builds": closed(namespace=NAME, createNamespace=FLAG, quota=QUANTITIES),
    "registry": closed(nodePort=NODE_PORT, storage=STORAGE, pullSecret=NAME, **WORKLOAD),
    "prePuller": closed(
        enabled=FLAG, images=several({**IMAGE, "minLength": 1}), skip=several(TEXT), **PLACEMENT
    ),
    "rbac": closed(nodes=FLAG, allPods=FLAG, jobs=closed(enabled=FLAG, apiServer=several(CIDR))),
    "networkPolicy": closed(
        enabled=FLAG,
        blockedRanges=several(CIDR),
        apiServerPorts=several({"type": "integer", "minimum": 1, "maximum": 65535}),
        servers=RULES,
        builds=RULES,
        hub=RULES,
        binder=RULES,
        metricsFrom=OBJECTS,
    ),
    "podDisruptionBudget": closed(enabled=FLAG, maxUnavailable=choice(0, 1)),
    "metrics": closed(
        serviceMonitor=closed(enabled=FLAG, interval=TEXT, labels=TEXTS),
        dashboards=closed(enabled=FLAG, namespace=NAME, labels=TEXTS, annotations=TEXTS),
    ),
}


def chart_schema() -> Schema:
    """helm/studovna/values.schema.json"""
    site, site_parts = _embedded(Site, "site")
    profile, profile_parts = _embedded(Profile, "profile")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Written by `studovna schema`. Do not edit.",
        "$defs": {**site_parts, **profile_parts},
        **closed(
            site=site,
            profiles=named(
                "^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$",
                # Not anyOf: its refusals say what else it might have been, not what is wrong.
                {
                    "if": {"type": "object"},
                    "then": profile,
                    "else": {"type": ["string", "null"]},
                },
            ),
            **CHART,
        ),
    }


def _embedded(model: type[BaseModel], name: str) -> tuple[Schema, dict[str, Schema]]:
    """A model's schema as a part of a larger one: itself, and its definitions."""
    schema = json_schema(model)
    del schema["$schema"]
    parts = schema.pop("$defs", {})

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [renamed(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            key: item.replace("#/$defs/", f"#/$defs/{name}-")
            if key == "$ref" and isinstance(item, str)
            else renamed(item)
            for key, item in value.items()
        }

    schema, parts = told_apart(schema), told_apart(parts)
    return renamed(schema), {f"{name}-{part}": renamed(item) for part, item in parts.items()}


def told_apart(value: Any) -> Any:
    """Models that are told apart by one key as `if` and `then`.

    A validator that is given `oneOf` says that none fits; so it says what is wrong with the one
    that was meant. Without the key it is the first.
    """
    if isinstance(value, list):
        return [told_apart(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "discriminator" not in value:
        return {key: told_apart(item) for key, item in value.items()}
    mapping, key = value["discriminator"]["mapping"], value["discriminator"]["propertyName"]
    default = value["oneOf"][0]
    cases = [{"if": {"not": {"required": [key]}}, "then": default}]
    for one, reference in mapping.items():
        meant = {"properties": {key: {"const": one}}, "required": [key]}
        cases.append({"if": meant, "then": {"$ref": reference}})
    kept = {name: item for name, item in value.items() if name not in ("oneOf", "discriminator")}
    return {**kept, "type": "object", "properties": {key: {"enum": [*mapping]}}, "allOf": cases}
