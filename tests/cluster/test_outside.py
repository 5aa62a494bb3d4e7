"""A release whose database and whose sign-in are elsewhere: PostgreSQL and OpenID Connect."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.bench.hubs import free_port
from tests.binder.outside_registry import Authority
from tests.cluster.installed import FULLNAME, RELEASE, Installed, Person, installed, node_address
from tests.cluster.postgres import postgres
from tests.openid_provider import CLIENT_ID, SECRET, Provider, need_provider, sign_in
from tests.site import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ACCOUNTS: dict[str, dict[str, Any]] = {
    "ana": {"preferred_username": "ana", "realm_access": {"roles": ["students"]}},
    "petr": {"preferred_username": "petr", "realm_access": {"roles": ["students", "/teachers"]}},
    "olga": {"preferred_username": "olga", "realm_access": {"roles": ["students", "operators"]}},
    "eve": {"preferred_username": "eve", "realm_access": {"roles": ["visitors"]}},
}
FOR_TEACHERS = {
    "title": {"en": "For teachers", "cs": "Pro učitele"},
    "category": "notebooks",
    "image": "lab",
    "cpu": {"request": 0.02, "limit": 2},
    "memory": {"request": "128M", "limit": "1G"},
    "access": {"groups": ["/teachers"]},
}


@dataclass
class Place:
    """The release, its provider, and people who signed in there."""

    release: Installed
    provider: Provider
    authority: Authority
    people: dict[str, Person] = field(default_factory=dict)

    def browser(self) -> httpx.Client:
        trust = ssl.create_default_context(cafile=str(self.authority.ca))
        return httpx.Client(base_url=self.release.url, verify=trust, timeout=60, trust_env=False)

    def person(self, name: str) -> Person:
        if name not in self.people:
            browser = self.browser()
            page = sign_in(browser, name)
            assert page.is_success and "/hub/" in str(page.url), page.text
            self.people[name] = Person(browser, name)
        return self.people[name]


@pytest.fixture(scope="module")
def place(
    values: dict[str, Any], here: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    need_provider()
    folder = tmp_path_factory.mktemp("outside")
    authority = Authority(folder, here)
    issuer = f"https://{here}:{free_port()}"
    # Where the provider sends people back to has to be known before there is a Service.
    port = 31000 + secrets.randbelow(1000)
    url = f"http://{node_address()}:{port}"
    provider = Provider(
        issuer, f"{url}/hub/oauth_callback", ACCOUNTS,
        authority.certificate_file, authority.key_file,
    )  # fmt: skip
    auth = {
        "type": "openid-connect",
        "issuer": issuer,
        "client_id": CLIENT_ID,
        "client_secret_file": "/srv/studovna/secrets/client-secret",
        "scopes": ["openid", "profile", "roles"],
        "groups_claim": "realm_access.roles",
        "allowed_groups": ["students"],
        "admin_groups": ["operators"],
    }
    here_too = [{"to": [{"ipBlock": {"cidr": f"{here}/32"}}]}]
    with postgres(here) as database:
        changed = {
            **values,
            "site": {
                **values["site"],
                "public_url": url,
                "auth": auth,
                "binder": {"enabled": False},
            },
            "service": {"type": "NodePort", "nodePort": port},
            "profiles": {"teachers": FOR_TEACHERS},
            "secrets": {"values": {"client-secret": SECRET}},
            "database": {"url": database},
            "caConfigMap": "site-ca",
            "networkPolicy": {"hub": {"egress": here_too}, "servers": {"egress": here_too}},
        }
        provider.start()
        try:
            with installed(folder, changed, authority.bundle) as release:
                yield Place(release, provider, authority)
        finally:
            provider.stop()


def test_groups_of_the_provider_open_profiles_and_the_admin_page(place: Place) -> None:
    petr, ana, olga = (place.person(name) for name in ("petr", "ana", "olga"))
    groups = petr.client.get("/hub/api/user").json()["groups"]
    assert sorted(groups) == ["/teachers", "students"]
    assert "For teachers" in petr.browser.get("/hub/spawn/petr/one").text
    page = ana.browser.get("/hub/spawn/ana/one")
    assert page.is_success and "For teachers" not in page.text
    refused = ana.client.post("/hub/api/users/ana/servers/one", json={"profile": "teachers"})
    # Told at once, or by the start that was begun.
    assert refused.status_code >= 400 or ana.progress("one")[-1].get("failed"), refused.text
    assert olga.client.get("/hub/api/user").json()["admin"] is True
    assert place.release.pods("component=singleuser-server") == []


def test_who_is_in_no_group_is_told_so(place: Place) -> None:
    page = sign_in(place.browser(), "eve")
    assert page.status_code == 403 and "this site is for certain groups" in page.text


def test_servers_trust_what_the_site_trusts_and_outlive_the_hub(place: Place) -> None:
    petr = place.person("petr")
    petr.start("one", profile="teachers")
    asked = f"{place.provider.issuer}/.well-known/openid-configuration"
    code = f"import urllib.request as u; print(u.urlopen({asked!r}, timeout=20).status)"
    assert petr.run_cell("one", code).strip() == "200"

    # The database is elsewhere: the hub has no volume to lose.
    release = place.release
    assert f"{FULLNAME}-hub" not in release.kubectl("get", "pvc", "-oname")
    [before] = release.server_pods("petr")
    labels = f"app.kubernetes.io/component=hub,app.kubernetes.io/instance={RELEASE}"
    release.kubectl("delete", "pod", "-l", labels, "--grace-period=0", "--force")
    release.wait()
    wait_for(lambda: petr.servers().get("one", {}).get("ready"), 90, 0.5)
    [after] = release.server_pods("petr")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert petr.run_cell("one", "print(1 + 1)").strip() == "2"
    petr.stop("one")
