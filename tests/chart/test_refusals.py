"""Values that the chart does not take: the answer names the key and says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from studovna.chart_schema import CHART as SECTIONS
from tests.chart.rendering import CHART, SITE, refusal, render

OPENID = {
    "type": "openid-connect",
    "issuer": "https://login.example.org",
    "client_id": "studovna",
    "client_secret_file": "/srv/studovna/secrets/client-secret",
    "admins": ["ana"],
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown-section": ({"hbu": {}}, "at '': additional properties 'hbu' not allowed"),
    "unknown-key": ({"hub": {"storge": {}}}, "at '/hub': additional properties 'storge'"),
    "unknown-deep": (
        {"hub": {"resources": {"limit": {}}}},
        "at '/hub/resources': additional properties 'limit'",
    ),
    "unknown-site": (
        {"site": {**SITE, "binder": {"enabeld": True}}},
        "at '/site/binder': additional properties 'enabeld'",
    ),
    "site-value": (
        {"site": {**SITE, "project": {"servers": 0}}},
        "at '/site/project/servers'",
    ),
    "unknown-profile-key": (
        {"profiles": {"x": {"title": "X", "titel": "X"}}},
        "at '/profiles/x': additional properties 'titel'",
    ),
    "profile-name": (
        {"profiles": {"A B": None}},
        "at '/profiles': additional properties 'A B' not allowed",
    ),
    "service-type": ({"service": {"type": "Ingress"}}, "at '/service/type'"),
    "range": ({"networkPolicy": {"blockedRanges": ["10.0.0.0"]}}, "blockedRanges/0"),
    "database": ({"database": {"url": "mysql://x"}}, "at '/database/url'"),
    "no-auth": ({"site": {"images": "r/x"}}, "site.auth is not set: choose how people sign in"),
    "auth-without-type": (
        {"site": {"images": "r/x", "auth": {"admins": ["a"]}}},
        "site.auth.type is not set",
    ),
    "no-images": ({"site": {"auth": SITE["auth"]}}, "site.images is not set"),
    "no-tag": ({"images": {"tag": ""}}, "images.tag is not set: give the tag that"),
    "tag-of-the-site": (
        {"site": {**SITE, "cluster": {"image_tag": "1"}}},
        "site.cluster.image_tag is what the chart sets",
    ),
    "podman": ({"site": {**SITE, "engine": "podman"}}, "site.engine is podman"),
    "bind": ({"site": {**SITE, "bind": "0.0.0.0:8000"}}, "site.bind is for one machine"),
    "profiles-folder": ({"site": {**SITE, "profiles": "p"}}, "site.profiles is a folder"),
    "catalogue": (
        {"site": {**SITE, "catalogue": ["streamlitt"]}},
        "site.catalogue names streamlitt, and the catalogue has: ",
    ),
    "ingress-without-host": ({"ingress": {"enabled": True}}, "site.public_url is not set"),
    "gateway-without-gateway": (
        {
            "site": {**SITE, "public_url": "https://hub.example.org"},
            "gateway": {"enabled": True},
        },
        "gateway.parentRefs and gateway.className are both empty",
    ),
    "gateway-before-https": (
        {
            "site": {**SITE, "public_url": "https://hub.example.org"},
            "gateway": {"enabled": True, "className": "envoy"},
            "service": {"tlsSecret": "hub-tls"},
        },
        "gateway.enabled is true, and service.tlsSecret is set",
    ),
    "jobs-without-namespaces": (
        {"rbac": {"jobs": {"enabled": True, "apiServer": ["192.0.2.1/32"]}}},
        "rbac.jobs needs a namespace for each person",
    ),
    "jobs-without-api-server": (
        {
            "site": {**SITE, "cluster": {"namespaces": "person"}},
            "rbac": {"jobs": {"enabled": True}},
        },
        "rbac.jobs.apiServer is empty",
    ),
    "two-databases": (
        {"database": {"url": "postgresql://x", "existingSecret": {"name": "x"}}},
        "database.url and database.existingSecret.name are both set",
    ),
    "two-secrets": (
        {"secrets": {"existingSecret": "x", "values": {"password-admin": "y"}}},
        "secrets.existingSecret and secrets.values are both set",
    ),
    "auth-value": (
        {"site": {**SITE, "auth": {**OPENID, "isuer": "x"}}},
        "at '/site/auth': additional properties 'isuer'",
    ),
    "auth-type": ({"site": {**SITE, "auth": {"type": "ldap"}}}, "at '/site/auth/type'"),
    "auth-without-secret": (
        {"site": {**SITE, "auth": OPENID}},
        "site.auth.client_secret_file is set, but secrets.values.client-secret is not",
    ),
    "registry-password-file": (
        {"site": {**SITE, "registry": {"url": "https://r.example.org", "password_file": "x"}}},
        "Set it to /srv/studovna/secrets/x",
    ),
    "registry-without-password": (
        {"site": {**SITE, "registry": {"url": "https://r.example.org", "username": "bot"}}},
        "site.registry.password_file is not",
    ),
    "unreadable-secret": (
        {"secrets": {"existingSecret": "mine"}},
        "Helm cannot read registry-pull-password in the Secret mine",
    ),
    "profile-no-yaml": ({"profiles": {"x": "title: {"}}, "profiles.x is no YAML"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    values, sentence = REFUSED[name]
    assert sentence in refusal({"site": SITE, **values})


def test_every_value_is_in_the_schema() -> None:
    """A default that the schema does not know would refuse everybody's values."""
    render({"site": SITE})
    text = (CHART / "values.yaml").read_text()
    for section in SECTIONS.keys() - {"global"}:
        assert f"\n{section}:" in text, f"values.yaml does not show {section}"
