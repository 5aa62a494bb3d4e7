"""What the chart makes: valid for each Kubernetes, admitted, allowed no more than it needs."""

from __future__ import annotations

import functools
import ipaddress
import json
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate import SchemaNotFoundError
from kubernetes_validate import utils as validator
from ruamel.yaml import YAML

from spawner import kube_jobs
from studovna.paths import ROOT
from studovna.profile_schema import SIDECAR_PORT
from studovna.secrets import KINDS
from studovna.site import Site
from tests.chart.rendering import (
    CHART,
    COMPLETE,
    NEWEST,
    SITE,
    TAG,
    Manifest,
    complete,
    files,
    only,
    pods,
    render,
    run,
)
from tests.chart.restricted import broken

VERSIONS = [f"1.{minor}" for minor in range(24, int(NEWEST.split(".")[1]) + 1)]
OLDEST_SCHEMA = "1.25"  # of kubernetes-validate
OTHERS = {"Gateway", "HTTPRoute", "ServiceMonitor"}  # not Kubernetes' own

SECRETS = "/srv/studovna/secrets"
MINIMAL: dict[str, Any] = {"site": SITE}
EVERY: dict[str, dict[str, Any]] = {
    "minimal": MINIMAL,
    "complete": complete(),
    "no-binder": {"site": {**SITE, "binder": {"enabled": False}}},
    "own-registry": {
        "site": {
            **SITE,
            "registry": {
                "url": "https://r.example.org",
                "username": "bot",
                "password_file": f"{SECRETS}/push",
            },
            "binder": {
                "ssh_key_file": f"{SECRETS}/key",
                "ssh_known_hosts_file": f"{SECRETS}/hosts",
            },
        },
        "secrets": {"values": {"push": "secret", "key": "-----BEGIN", "hosts": "git.example.org"}},
    },
    "dockerfiles": {
        "site": {**SITE, "binder": {"dockerfiles": True}},
        "builds": {"quota": {"limits.cpu": "8"}},
    },
    "person-namespaces": {"site": {**SITE, "cluster": {"namespaces": "person"}}},
    "jobs": {
        "site": {**SITE, "cluster": {"namespaces": "person"}},
        "rbac": {"jobs": {"enabled": True, "apiServer": ["10.96.0.1/32", "192.0.2.10/32"]}},
    },
    "balancer": {
        "site": {**SITE, "public_url": "https://hub.example.org"},
        "service": {
            "type": "LoadBalancer",
            "tlsSecret": "hub-tls",
            "ipFamilyPolicy": "PreferDualStack",
            "ipFamilies": ["IPv4", "IPv6"],
            "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"],
        },
        "database": {"url": "postgresql+psycopg://hub:pw@db.example.org:5433/hub"},
    },
    "own-secret": {
        "site": SITE,
        "secrets": {"existingSecret": "mine"},
        "registry": {"pullSecret": "mine-pull"},
    },
}


@pytest.fixture(autouse=True, scope="module")
def schemas_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validator, "schema_contents", functools.cache(validator.schema_contents))
        yield


@pytest.fixture(params=EVERY)
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(EVERY[request.param])


def valid(objects: list[Manifest], version: str) -> None:
    unknown = set()
    for one in objects:
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except SchemaNotFoundError:
            unknown.add(one["kind"])
    assert unknown <= OTHERS


def test_lint() -> None:
    done = run("lint", "--strict", str(CHART), values=complete())
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_takes_the_complete_example(version: str) -> None:
    objects = render(complete(), version)
    valid(objects, max(version, OLDEST_SCHEMA))
    # The schemas begin with 1.25: nothing may differ between the two.
    if version < OLDEST_SCHEMA:
        assert _without_secrets(objects) == _without_secrets(render(complete(), OLDEST_SCHEMA))


@pytest.mark.parametrize("name", EVERY)
def test_every_choice_is_valid(name: str) -> None:
    valid(render(EVERY[name]), NEWEST)


def test_on_1_20_only_what_it_has() -> None:
    versions = {(o["apiVersion"], o["kind"]) for o in render(complete(), "1.20")}
    assert ("policy/v1beta1", "PodDisruptionBudget") in versions
    kinds = {api for api, kind in versions if kind not in OTHERS}
    assert kinds == {
        "v1",
        "apps/v1",
        "networking.k8s.io/v1",
        "policy/v1beta1",
        "rbac.authorization.k8s.io/v1",
    }
    # Namespaces have their name as a label only since 1.22.
    builds = only(render(complete(), "1.20"), "NetworkPolicy", "hub-studovna-builds")
    peer = builds["spec"]["egress"][-1]["to"][0]
    assert peer["namespaceSelector"] == {}
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "registry"


def test_every_pod_is_restricted(objects: list[Manifest]) -> None:
    assert {name: broken(pod) for name, pod in pods(objects)} == {
        name: [] for name, _ in pods(objects)
    }


def test_every_pod_has_a_read_only_root_and_probes(objects: list[Manifest]) -> None:
    for name, pod in pods(objects):
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name
            if name.startswith("Deployment/"):
                for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                    assert probe in container, name
        if "serviceAccountName" not in pod["spec"]:
            assert pod["spec"]["automountServiceAccountToken"] is False, name


def test_every_mount_has_its_volume(objects: list[Manifest]) -> None:
    for name, pod in pods(objects):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        boxes = pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
        mounts = {mount["name"] for box in boxes for mount in box.get("volumeMounts", [])}
        assert mounts == volumes, name


def test_selectors_find_their_pods_and_survive_an_upgrade(objects: list[Manifest]) -> None:
    templates = [(name, pod["metadata"]["labels"]) for name, pod in pods(objects)]
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            assert any(spec["selector"].items() <= labels.items() for _, labels in templates)
        if one["kind"] in ("Deployment", "DaemonSet"):
            labels = spec["template"]["metadata"]["labels"]
            assert spec["selector"]["matchLabels"] == labels
            assert "helm.sh/chart" not in labels


def test_service_ports_lead_somewhere(objects: list[Manifest]) -> None:
    for service in (o for o in objects if o["kind"] == "Service"):
        # A part of the key in server-side apply, which Helm uses; 1.20 does not fill it in.
        assert all(port["protocol"] == "TCP" for port in service["spec"]["ports"])
        selector = service["spec"]["selector"]
        pod = next(p for _, p in pods(objects) if p["metadata"]["labels"] == selector)
        names = {port["name"] for box in pod["spec"]["containers"] for port in box.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


# --- who may do what ------------------------------------------------------------------------------


def rules(objects: list[Manifest]) -> Iterator[tuple[str, str, str, set[str]]]:
    """Each allowed thing: object, namespace, resource, verbs."""
    for one in objects:
        if one["kind"] in ("Role", "ClusterRole"):
            for rule in one["rules"]:
                for resource in rule["resources"]:
                    where = one["metadata"].get("namespace", "")
                    yield one["kind"], where, resource, set(rule["verbs"])


def test_nobody_reads_secrets(objects: list[Manifest]) -> None:
    for kind, namespace, resource, verbs in rules(objects):
        assert "*" not in verbs and resource != "*"
        if resource == "secrets":
            assert (kind, verbs) == ("Role", {"create", "delete"})
            assert namespace in ("site-builds", "site-dockerfiles")


def test_cluster_roles_come_with_their_switches_only() -> None:
    bare = render({"site": SITE, "rbac": {"nodes": False}})
    assert not [one for one in bare if one["kind"].startswith("ClusterRole")]
    nodes, pods_ = (
        ("ClusterRole", "", "nodes", {"get", "list"}),
        ("ClusterRole", "", "pods", {"list"}),
    )
    # Other people's pods are nobody's business unless an operator says so.
    assert [rule for rule in rules(render(MINIMAL)) if rule[0] == "ClusterRole"] == [nodes]
    every = render({"site": SITE, "rbac": {"allPods": True}})
    assert [rule for rule in rules(every) if rule[0] == "ClusterRole"] == [nodes, pods_]


def secrets_of(objects: list[Manifest]) -> dict[str, set[str]]:
    """The keys of the site's Secret that each pod gets."""
    seen = {}
    for name, pod in pods(objects):
        keys = set()
        for volume in pod["spec"].get("volumes", []):
            sources = [volume, *volume.get("projected", {}).get("sources", [])]
            for source in sources:
                keys |= {item["key"] for item in source.get("secret", {}).get("items", [])}
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                keys |= {reference["key"]} if reference else set()
        if keys:
            seen[name.partition("-studovna-")[2]] = keys
    return seen


def test_each_pod_gets_the_secrets_that_it_needs() -> None:
    assert secrets_of(render(MINIMAL)) == {
        "hub": {
            "cookie-secret",
            "crypt-key",
            "proxy-token",
            "service-token-operator",
            "service-token-binder",
            "service-token-metrics",
            "password-people",
            "password-admin",
        },
        "proxy": {"proxy-token"},
        "binder": {"service-token-binder", "build-token-secret", "registry-password"},
        "registry": {"registry-password", "registry-pull-password"},
    }


def test_the_files_that_settings_name_come_from_the_secret() -> None:
    seen = secrets_of(render(EVERY["own-registry"]))
    assert seen["binder"] == {"service-token-binder", "build-token-secret", "push", "key", "hosts"}
    assert {"push", "key", "hosts"} <= seen["hub"]
    # Signing in at a provider needs no passwords of ours.
    complete_hub = secrets_of(render(complete()))["hub"]
    assert "client-secret" in complete_hub and "password-admin" not in complete_hub


def test_a_namespace_a_person_needs_more_rights_and_gets_network_rules() -> None:
    objects = render(EVERY["person-namespaces"])
    allowed = {resource: verbs for kind, _, resource, verbs in rules(objects) if kind != "Role"}
    assert allowed["namespaces"] == {"create", "get"} and "secrets" not in allowed
    made = json.loads(files(objects)["namespace.json"])["items"]
    valid([{**one, "metadata": {**one["metadata"], "namespace": "x"}} for one in made], NEWEST)
    assert made[0]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    home = made[1]["spec"]["ingress"][0]["from"][0]["namespaceSelector"]
    assert home == {"matchLabels": {"kubernetes.io/metadata.name": "site"}}
    assert [one for one in PRIVATE if reaches(made[1], one, 443)] == []


def test_servers_that_run_jobs_get_their_rights_from_one_role() -> None:
    before, objects = render(EVERY["person-namespaces"]), render(EVERY["jobs"])
    roles = {one["metadata"]["name"]: one for one in objects if one["kind"] == "ClusterRole"}
    name = "site-hub-studovna-jobs"
    assert {
        (resource, verb)
        for rule in roles[name]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    } == {
        ("jobs", "create"),
        ("jobs", "delete"),
        ("jobs/status", "get"),
        ("pods", "list"),
        ("pods/log", "get"),
    }
    # The hub has none of these for jobs: it may only bind that role.
    old = next(one for one in before if one["metadata"]["name"] == "site-hub-studovna-hub")
    new = [rule for rule in roles["site-hub-studovna-hub"]["rules"] if rule not in old["rules"]]
    assert [(rule["resources"], rule["verbs"], rule.get("resourceNames")) for rule in new] == [
        (["serviceaccounts"], ["create"], None),
        (["rolebindings"], ["create"], None),
        (["clusterroles"], ["bind"], [name]),
    ]
    hub = only(objects, "Deployment", "hub-studovna-hub")
    environment = hub["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "STUDOVNA_JOBS_ROLE", "value": name} in environment


def test_a_job_reaches_the_internet_and_its_server_the_api_server_alone() -> None:
    made = json.loads(files(render(EVERY["jobs"]))["namespace.json"])["items"]
    valid([{**one, "metadata": {**one["metadata"], "namespace": "x"}} for one in made], NEWEST)
    api, jobs = (one["spec"] for one in made[2:])
    assert api["podSelector"]["matchLabels"] == kube_jobs.LABELS
    assert api["policyTypes"] == ["Egress"]
    addresses = [to["ipBlock"]["cidr"] for rule in api["egress"] for to in rule["to"]]
    assert addresses == ["10.96.0.1/32", "192.0.2.10/32"]
    assert jobs["podSelector"]["matchLabels"] == {"studovna.job": "true"}
    assert "ingress" not in jobs and jobs["policyTypes"] == ["Ingress", "Egress"]
    assert [one for one in PRIVATE if reaches(made[3], one, 443)] == []


def test_changed_network_rules_reach_peoples_namespaces() -> None:
    """The hub applies them at a person's next start, once in its life: so it has to begin anew."""
    rule = {"networkPolicy": {"servers": {"egress": [{"ports": [{"port": 27000}]}]}}}

    def annotations(mode: str, **more: Any) -> dict[str, str]:
        objects = render({"site": {**SITE, "cluster": {"namespaces": mode}}, **more})
        hub = only(objects, "Deployment", "hub-studovna-hub")["spec"]["template"]["metadata"]
        return {key: value for key, value in hub["annotations"].items() if "secrets" not in key}

    assert annotations("person") != annotations("person", **rule)
    assert annotations("shared") == annotations("shared", **rule)


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_are_made_as_the_programs_want_them() -> None:
    objects = render({"site": SITE, "secrets": {"values": {"password-admin": "x" * 32}}})
    secret = only(objects, "Secret", "hub-studovna")
    values = {key: b64decode(value).decode() for key, value in secret["data"].items()}
    assert values.keys() >= KINDS.keys()
    for key in ("cookie-secret", "crypt-key", "proxy-token", "build-token-secret"):
        assert len(bytes.fromhex(values[key])) == 32
    # JupyterHub takes tokens of 64 characters for its own hashes.
    assert all(len(values[key]) == 48 for key in values if key.startswith("service-token-"))
    assert len(values["password-people"]) >= 8
    assert values["password-admin"] == "x" * 32
    assert len(set(values.values())) == len(values)
    login = json.loads(
        b64decode(only(objects, "Secret", "hub-studovna-pull")["data"][".dockerconfigjson"])
    )
    password = b64decode(login["auths"]["127.0.0.1:30500"]["auth"]).decode()
    assert password == f"pull:{values['registry-pull-password']}"


def test_the_volumes_and_their_keys_outlive_the_release() -> None:
    objects = render(MINIMAL)
    kept = {
        (one["kind"], one["metadata"]["name"])
        for one in objects
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {
        ("Secret", "hub-studovna"),
        ("PersistentVolumeClaim", "hub-studovna-hub"),
        ("PersistentVolumeClaim", "hub-studovna-binder"),
        ("PersistentVolumeClaim", "hub-studovna-registry"),
    }


def test_a_changed_setting_restarts_who_reads_it_and_not_the_proxy() -> None:
    given = {"secrets": {"values": dict.fromkeys([*KINDS, "service-token-metrics"], "same")}}

    def sums(**site: Any) -> dict[str, Any]:
        objects = render({"site": {**SITE, **site}, **given})
        return {
            one["metadata"]["name"].removeprefix("hub-studovna-"): one["spec"]["template"]
            for one in objects
            if one["kind"] == "Deployment"
        }

    before, after = sums(), sums(name="Another")
    assert {name for name in before if before[name] != after[name]} == {"hub", "binder"}
    assert before == sums()


def test_what_replaces_binder_finds_its_builds() -> None:
    """State that ended with the pod would end every running build at each change of a setting."""
    objects = render(MINIMAL)
    binder = only(objects, "Deployment", "hub-studovna-binder")["spec"]["template"]["spec"]
    [home] = [one["mountPath"] for one in binder["containers"][0]["volumeMounts"]
              if one["name"] == "state"]  # fmt: skip
    assert home == "/srv/studovna"
    [state] = [volume for volume in binder["volumes"] if volume["name"] == "state"]
    claim = state["persistentVolumeClaim"]["claimName"]
    assert only(objects, "PersistentVolumeClaim", claim)["spec"]["accessModes"] == ["ReadWriteOnce"]
    own = render({"site": SITE, "binder": {"storage": {"existingClaim": "mine"}}})
    names = {o["metadata"]["name"] for o in own if o["kind"] == "PersistentVolumeClaim"}
    assert names == {"hub-studovna-hub", "hub-studovna-registry"}


# --- settings and profiles ------------------------------------------------------------------------


def test_the_site_is_the_values_and_what_the_chart_knows() -> None:
    found = files(render(complete()))
    site = YAML(typ="safe").load(found["site.yaml"])
    assert site == {
        **complete()["site"],
        "engine": "kubernetes",
        "profiles": "profiles",
        "cluster": {
            "image_tag": "2026.11",
            "pull_secrets": ["registry-login", "hub-studovna-pull"],
        },
    }


def test_one_tag_for_every_image_of_ours(objects: list[Manifest]) -> None:
    """An upgrade brings all of them, and a rollback brings all of them back."""
    site = YAML(typ="safe").load(files(objects)["site.yaml"])
    tag = site["cluster"]["image_tag"]
    settings = Site.model_validate({key: site[key] for key in ("engine", "images", "cluster")})
    for name in ("lab", "builder", "dockerfiles"):
        assert settings.image_reference(name) == f"{site['images']}/{name}:{tag}"
    images = {
        box["image"]
        for _, pod in pods(objects)
        for box in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    }
    ours = {image for image in images if image.startswith(site["images"])}
    assert len(ours) >= 2 and all(image.endswith(f":{tag}") for image in ours)


def test_profiles_are_the_distributions_and_the_values() -> None:
    given = "# a file\ntitle: B\noptions: {z: {}, a: {}}\n"
    profiles = {"gpu": None, "cpu": {"title": "A"}, "course": given}
    found = files(render({"site": SITE, "profiles": profiles}))
    names = {path.removeprefix("profiles/") for path in found if path.startswith("profiles/")}
    ours = {file.name for file in (ROOT / "profiles").glob("*.yaml")}
    assert names == (ours - {"gpu.yaml"}) | {"course.yaml"}
    assert found["profiles/course.yaml"] == given
    assert YAML(typ="safe").load(found["profiles/cpu.yaml"]) == {"title": "A"}
    for name in ours - {"gpu.yaml", "cpu.yaml"}:
        assert found[f"profiles/{name}"] == (ROOT / "profiles" / name).read_text()


def test_the_puller_pulls_what_profiles_name() -> None:
    values = {"site": SITE, "prePuller": {"images": ["a.example/b:1"], "skip": ["scientific"]}}
    puller = only(render(values), "DaemonSet", "hub-studovna-image-puller")
    spec = puller["spec"]["template"]["spec"]
    # Those that run before others would keep them waiting for an image that cannot be pulled.
    assert "initContainers" not in spec
    images = [box["image"] for box in spec["containers"]]
    assert f"registry.example.org/studovna/lab:{TAG}" in images
    assert "a.example/b:1" in images
    assert not [image for image in images if "scientific" in image or "{" in image]


def test_what_was_not_pushed_is_neither_pulled_nor_offered() -> None:
    pushed = ["hub", "binder", "builder", "lab"]
    objects = render({"site": SITE, "images": {"tag": TAG, "pushed": pushed}})
    puller = only(objects, "DaemonSet", "hub-studovna-image-puller")
    images = {box["image"] for box in puller["spec"]["template"]["spec"]["containers"]}
    assert f"registry.example.org/studovna/lab:{TAG}" in images
    assert not [image for image in images if "scientific" in image]
    assert YAML(typ="safe").load(files(objects)["site.yaml"])["cluster"]["images"] == pushed


def test_the_catalogue_is_among_the_profiles_and_its_images_are_pulled() -> None:
    objects = render({"site": {**SITE, "catalogue": ["streamlit"]}})
    found = files(objects)
    assert (
        found["profiles/streamlit.yaml"]
        == (ROOT / "profiles" / "catalogue" / "streamlit.yaml").read_text()
    )
    assert "profiles/tensorboard.yaml" not in found
    assert "catalogue" not in YAML(typ="safe").load(found["site.yaml"])
    puller = only(objects, "DaemonSet", "hub-studovna-image-puller")
    images = {box["image"] for box in puller["spec"]["template"]["spec"]["containers"]}
    ours = {f"registry.example.org/studovna/{name}:{TAG}" for name in ("streamlit", "sidecar")}
    assert ours <= images
    mine = {"site": {**SITE, "catalogue": ["streamlit"]}, "profiles": {"streamlit": {"title": "A"}}}
    assert files(render(mine))["profiles/streamlit.yaml"].strip() == "title: A"


# --- the network ----------------------------------------------------------------------------------

PRIVATE = [
    "10.1.2.3",
    "172.20.0.1",
    "192.168.1.1",
    "100.64.0.1",  # carriers' and some clusters' own
    "100.127.255.254",
    "169.254.169.254",  # metadata of clouds
    "168.63.129.16",  # Azure's, which is a public address
    "198.19.255.254",
    "240.0.0.1",
    "fd00:ec2::254",
    "fe80::1",
]
PUBLIC = [
    "8.8.8.8",
    "151.101.1.69",
    "100.128.0.1",
    "172.32.0.1",
    "168.63.129.17",
    "198.20.0.1",
    "2606:4700::1111",
    "64:ff9b::808:808",  # 8.8.8.8 from an IPv6-only cluster
]
NAT64 = int(ipaddress.ip_address("64:ff9b::"))  # RFC 6052
PRIVATE += [
    str(ipaddress.ip_address(NAT64 + int(ipaddress.ip_address(one))))
    for one in PRIVATE
    if "." in one
]


def reaches(policy: Manifest, address: str, port: int) -> bool:
    """Whether a policy lets its pods go to an address that is no pod's."""
    ip = ipaddress.ip_address(address)
    for rule in policy["spec"]["egress"]:
        ports = {entry["port"] for entry in rule.get("ports", [])}
        if ports and port not in ports:
            continue
        if "to" not in rule:
            return True
        for peer in rule["to"]:
            block = peer.get("ipBlock")
            if block and ip in ipaddress.ip_network(block["cidr"]):
                if not any(ip in ipaddress.ip_network(one) for one in block.get("except", [])):
                    return True
    return False


@pytest.mark.parametrize("name", ["servers", "builds"])
def test_the_code_of_people_reaches_the_internet_and_no_private_range(name: str) -> None:
    policy = only(render(MINIMAL), "NetworkPolicy", f"hub-studovna-{name}")
    assert [one for one in PRIVATE if reaches(policy, one, 443)] == []
    assert [one for one in PUBLIC if not reaches(policy, one, 443)] == []


@pytest.mark.parametrize("name", ["hub", "binder"])
def test_the_service_reaches_the_api_server_and_no_metadata(name: str) -> None:
    policy = only(render(MINIMAL), "NetworkPolicy", f"hub-studovna-{name}")
    assert reaches(policy, "10.96.0.1", 443) and reaches(policy, "192.168.1.1", 6443)
    assert not reaches(policy, "169.254.169.254", 443)
    assert not reaches(policy, "169.254.169.254", 80)
    assert not reaches(policy, "10.0.0.7", 22)


def peers(policy: Manifest, way: str) -> set[str]:
    """The components that a policy names."""
    found = set()
    for rule in policy["spec"].get(way, []):
        for peer in rule.get("from", rule.get("to", [])):
            if "podSelector" in peer:
                found.add(peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
    return found


def test_people_meet_the_service_and_not_each_other() -> None:
    objects = render(MINIMAL)
    policy = only(objects, "NetworkPolicy", "hub-studovna-servers")
    assert peers(policy, "ingress") == {"hub", "proxy"}
    # Jupyter's, and the sign-in's before an application; not the application's own.
    (rule,) = policy["spec"]["ingress"]
    assert [entry["port"] for entry in rule["ports"]] == [8888, SIDECAR_PORT]
    assert peers(policy, "egress") == {"hub", "proxy", "binder"}
    builds = only(objects, "NetworkPolicy", "hub-studovna-builds")
    assert builds["spec"]["podSelector"] == {} and peers(builds, "ingress") == set()
    assert peers(builds, "egress") == {"registry"}
    deny = only(objects, "NetworkPolicy", "hub-studovna-default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


LEVEL = "pod-security.kubernetes.io/enforce"


def test_dockerfiles_are_built_in_the_one_namespace_that_is_not_restricted() -> None:
    objects = render(EVERY["dockerfiles"])
    levels = {
        one["metadata"]["name"]: one["metadata"]["labels"][LEVEL]
        for one in objects
        if one["kind"] == "Namespace"
    }
    assert levels == {"site-builds": "restricted", "site-dockerfiles": "privileged"}
    policy = only(objects, "NetworkPolicy", "hub-studovna-dockerfiles")
    assert policy["spec"] == only(objects, "NetworkPolicy", "hub-studovna-builds")["spec"]
    assert policy["metadata"]["namespace"] == "site-dockerfiles"
    quota = only(objects, "ResourceQuota", "hub-studovna-dockerfiles")
    assert quota["spec"] == {"hard": {"limits.cpu": "8"}}
    roles = {one["metadata"].get("namespace"): one for one in objects if one["kind"] == "Role"}
    assert roles["site-dockerfiles"]["rules"] == roles["site-builds"]["rules"]
    site = YAML(typ="safe").load(files(objects)["site.yaml"])
    assert site["binder"] == {"dockerfiles": True}
    binder = only(objects, "Deployment", "hub-studovna-binder")["spec"]["template"]["spec"]
    env = {one["name"]: one.get("value") for one in binder["containers"][0]["env"]}
    assert env["STUDOVNA_DOCKERFILES_NAMESPACE"] == "site-dockerfiles"


@pytest.mark.parametrize("name", EVERY.keys() - {"dockerfiles"})
def test_without_the_setting_nothing_of_it_is_there(name: str) -> None:
    assert "dockerfiles" not in json.dumps(render(EVERY[name]))


def test_every_way_out_has_a_way_in() -> None:
    """A pod that may go to another one is let in there, on the same port."""
    policies = {
        one["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component"): one
        for one in render(MINIMAL)
        if one["kind"] == "NetworkPolicy"
    }
    for source, policy in policies.items():
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                if "podSelector" not in peer or source is None:
                    continue
                target = peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
                let_in = [
                    entry
                    for entry in policies[target]["spec"]["ingress"]
                    if "from" not in entry
                    or source
                    in {
                        p.get("podSelector", {})
                        .get("matchLabels", {})
                        .get("app.kubernetes.io/component")
                        for p in entry["from"]
                    }
                ]
                assert [e for e in let_in if rule.get("ports") in (e.get("ports"), None)] or any(
                    port in entry.get("ports", [port])
                    for entry in let_in
                    for port in rule.get("ports", [])
                ), f"{source} → {target}"


def test_the_addresses_of_ingress_and_gateway() -> None:
    objects = render(complete())
    ingress = only(objects, "Ingress", "hub-studovna")["spec"]
    assert ingress["tls"] == [{"hosts": ["hub.example.org"], "secretName": "hub-studovna-tls"}]
    assert ingress["rules"][0]["host"] == "hub.example.org"
    gateway = only(objects, "Gateway", "hub-studovna")["spec"]["listeners"]
    assert [one["protocol"] for one in gateway] == ["HTTPS", "HTTP"]
    assert only(objects, "HTTPRoute", "hub-studovna")["spec"]["hostnames"] == ["hub.example.org"]
    assert only(objects, "Service", "hub-studovna-proxy-public")["spec"]["type"] == "ClusterIP"


HTTP01 = {"acme.cert-manager.io/http01-solver": "true"}
GATEWAY_POD = {"gateway.networking.k8s.io/gateway-name": "hub-studovna"}


def policies_of(objects: list[Manifest], labels: dict[str, str]) -> list[Manifest]:
    """The policies that open something for the pods with exactly these labels."""
    return [
        one
        for one in objects
        if one["kind"] == "NetworkPolicy"
        and one["spec"]["podSelector"].get("matchLabels") == labels
    ]


@pytest.mark.parametrize(
    ("way", "solver", "data_plane"),
    [
        ({}, 0, 0),
        ({"ingress": {"enabled": True}}, 1, 0),
        ({"gateway": {"enabled": True, "className": "istio"}}, 1, 1),
        ({"gateway": {"enabled": True, "parentRefs": [{"name": "shared"}]}}, 1, 0),
    ],
    ids=["none", "ingress", "own gateway", "shared gateway"],
)
def test_a_certificate_and_a_gateway_come_through_the_closed_network(
    way: dict[str, Any], solver: int, data_plane: int
) -> None:
    objects = render({"site": {**SITE, "public_url": "https://hub.example.org"}, **way})
    assert [p["spec"]["ingress"][0]["ports"][0]["port"] for p in policies_of(objects, HTTP01)] == [
        8089
    ] * solver
    found = policies_of(objects, GATEWAY_POD)
    assert len(found) == data_plane
    for policy in found:
        assert policy["spec"]["ingress"] == [{}]
        assert reaches(policy, "10.1.2.3", 8000) and not reaches(policy, "169.254.169.254", 80)
        assert {"namespaceSelector": {}} in policy["spec"]["egress"][1]["to"]


def test_the_balancer_speaks_https_itself() -> None:
    objects = render(EVERY["balancer"])
    service = only(objects, "Service", "hub-studovna-proxy-public")["spec"]
    assert [(port["name"], port["port"]) for port in service["ports"]] == [
        ("https", 443),
        ("http", 80),
    ]
    assert service["ipFamilies"] == ["IPv4", "IPv6"]
    hub = only(objects, "NetworkPolicy", "hub-studovna-hub")
    assert reaches(hub, "10.0.0.7", 5433) and not reaches(hub, "10.0.0.7", 5432)
    assert not [o for o in objects if o["metadata"]["name"] == "hub-studovna-hub" and
                o["kind"] == "PersistentVolumeClaim"]  # fmt: skip


def test_the_complete_example_has_every_part() -> None:
    """What a template can make, the example makes, so that each line is rendered."""
    kinds = {one["kind"] for one in render(complete())}
    assert kinds == {
        *OTHERS, "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "Deployment",
        "Ingress", "Namespace", "NetworkPolicy", "PersistentVolumeClaim", "Pod",
        "PodDisruptionBudget", "ResourceQuota", "Role", "RoleBinding", "Secret", "Service",
        "ServiceAccount",
    }  # fmt: skip
    assert COMPLETE.read_text().startswith("# A complete installation")


def _without_secrets(objects: list[Manifest]) -> list[Manifest]:
    """Without what is made anew at each rendering."""
    text = json.dumps([one for one in objects if one["kind"] != "Secret"], sort_keys=True)
    kept = json.loads(text)
    for _, pod in pods(kept):
        pod["metadata"].get("annotations", {}).pop("checksum/secrets", None)
    return kept
