"""What differs on a cluster, without one: image names, the registry's gate, copying, pushing."""

from __future__ import annotations

import base64
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from ruamel.yaml import YAML

from binder.buildpod import CA_FILE, BuildPod, make_build_pod
from binder.cluster import copy_argv, copy_environment
from binder.embedded_registry import Gate
from binder.handlers.base import came_through
from binder.registry import docker_login
from spawner.podman_translate import CA_PATH
from spawner.trust import trusting
from studovna import __version__, images_push
from studovna.image_files import checkout_files, write_files
from studovna.images import BuildError, ImageStatus, read_images
from studovna.images_push import chart_values, tag_of, target_folder
from studovna.paths import ROOT
from studovna.release import read_release

ENVIRONMENT = {
    "STUDOVNA_RELEASE": "hub-studovna",
    "STUDOVNA_INSTANCE": "hub",
    "STUDOVNA_NAMESPACE": "site",
    "STUDOVNA_BUILDS_NAMESPACE": "site-builds",
    "STUDOVNA_REGISTRY_PORT": "30500",
    "STUDOVNA_REGISTRY_URL": "http://hub-studovna-registry.site.svc:5000",
}


def test_images_are_pulled_by_another_name_than_they_are_pushed_to() -> None:
    release = read_release(ENVIRONMENT)
    assert release is not None
    assert release.registry_host == "127.0.0.1:30500"
    assert release.registry_url == "http://hub-studovna-registry.site.svc:5000"
    assert release.url("proxy-api", 8001) == "http://hub-studovna-proxy-api.site:8001"


def test_one_machine_has_no_release() -> None:
    assert read_release({"HOME": "/root"}) is None


@pytest.mark.parametrize(
    ("user", "password", "method", "who"),
    [
        pytest.param("studovna", "own", "PUT", True, id="the site writes"),
        pytest.param("studovna", "pulled", "GET", False, id="a node's password is not the site's"),
        pytest.param("pull", "pulled", "GET", True, id="a node reads"),
        pytest.param("pull", "pulled", "HEAD", True, id="a node asks"),
        pytest.param("pull", "pulled", "PUT", False, id="a node does not write"),
        pytest.param("pull", "pulled", "DELETE", False, id="a node does not delete"),
        pytest.param("pull", "own", "GET", False, id="the site's password is not a node's"),
        pytest.param("pull", "", "GET", False, id="no password"),
    ],
)
def test_who_may_do_what_at_the_gate(user: str, password: str, method: str, who: bool) -> None:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = make_mocked_request(method, "/v2/", headers={"Authorization": f"Basic {pair}"})
    assert Gate("registry.sock", "own", "pulled")._who(request) is who


def test_a_machine_has_no_password_for_nodes() -> None:
    pair = base64.b64encode(b"pull:").decode()
    request = make_mocked_request("GET", "/v2/", headers={"Authorization": f"Basic {pair}"})
    assert Gate("registry.sock", "own")._who(request) is False


def test_a_password_is_on_no_command_line(tmp_path: Path) -> None:
    login = tmp_path / "login.json"
    argv = copy_argv(
        "registry.example.org/studovna/lab:latest", "registry:5000/binder/site/lab:1",
        login=login, plain_http=True, images_login=tmp_path / "none",
        registries=tmp_path / "none", folder=tmp_path,
    )  # fmt: skip
    assert f"--dest-authfile={login}" in argv and "--src-no-creds" in argv
    assert argv[-3:] == [
        "--",
        "docker://registry.example.org/studovna/lab:latest",
        "docker://registry:5000/binder/site/lab:1",
    ]
    assert docker_login("registry:5000", "studovna", "own") == {
        "auths": {"registry:5000": {"auth": "c3R1ZG92bmE6b3du"}}
    }


def test_skopeo_sees_no_token() -> None:
    given = {"PATH": "/bin", "JUPYTERHUB_API_TOKEN": "secret", "https_proxy": "http://proxy:1"}
    assert copy_environment(given) == {"PATH": "/bin", "https_proxy": "http://proxy:1"}


def test_a_build_trusts_the_certificates_of_the_site() -> None:
    build = BuildPod("build-1", "image", {"url": "x"}, {"password": "p"}, ca="PEM")
    pod, data = make_build_pod(build)
    assert data[0].data[CA_FILE] == "PEM"
    for container in [*pod.spec.init_containers, *pod.spec.containers]:
        env = {one.name: one.value for one in container.env}
        assert env["SSL_CERT_FILE"] == f"/build/job/{CA_FILE}"
    pod, data = make_build_pod(BuildPod("build-1", "image", {}, {}))
    assert CA_FILE not in data[0].data and not pod.spec.containers[0].env


@pytest.mark.parametrize(
    "to",
    [
        pytest.param("https://registry.example.org", id="an address"),
        pytest.param("registry.example.org/Studovna", id="capital letters"),
        pytest.param("-v", id="an option"),
        pytest.param("registry.example.org/a b", id="a space"),
        pytest.param("registry.example.org/lab:1", id="a tag"),
    ],
)
def test_what_names_no_registry_is_refused(to: str) -> None:
    with pytest.raises(BuildError, match="names no registry"):
        target_folder(to)


def test_an_image_sees_what_it_names_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "pages/__pycache__").mkdir(parents=True)
    (tmp_path / "pages/page.html").write_text("x")
    (tmp_path / "pages/__pycache__/a.pyc").write_text("x")
    (tmp_path / "run").write_text("#!/bin/sh\n")
    (tmp_path / "run").chmod(0o700)
    files = checkout_files(["pages", "run"], tmp_path)
    assert files == {
        "checkout/pages/page.html": (False, b"x"),
        "checkout/run": (True, b"#!/bin/sh\n"),
    }
    write_files(files, tmp_path / "pages")
    assert (tmp_path / "pages/checkout/run").stat().st_mode & 0o777 == 0o755
    with pytest.raises(FileNotFoundError):
        checkout_files(["nothing"], tmp_path)


def test_hub_and_binder_hold_the_same_code() -> None:
    images = read_images(ROOT / "images")
    assert images["hub"].spec.checkout == images["binder"].spec.checkout
    for name in images["hub"].spec.checkout:
        assert (ROOT / name).exists(), name


def test_a_server_trusts_the_authorities_of_the_site() -> None:
    own = {"name": "PIP_CERT", "value": "/mine"}
    pod = {
        "volumes": [{"name": "home"}],
        "containers": [{"name": "notebook", "env": [own], "volumeMounts": [{"name": "home"}]}],
    }
    spec = trusting(pod, "university-ca")
    (container,) = spec["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env["PIP_CERT"] == "/mine" and env["SSL_CERT_FILE"] == CA_PATH
    mount = container["volumeMounts"][1]
    assert mount["mountPath"] == CA_PATH and mount["readOnly"]
    source = spec["volumes"][1]["configMap"]
    assert source["name"] == "university-ca" and source["items"][0]["path"] == mount["subPath"]
    assert "initContainers" not in spec and len(pod["volumes"]) == 1


@pytest.mark.parametrize(
    ("forwarded", "chain"),
    [
        pytest.param("", [], id="nobody"),
        pytest.param("203.0.113.9", ["203.0.113.9"], id="the proxy's word"),
        pytest.param("203.0.113.9, 10.0.0.7", ["10.0.0.7", "203.0.113.9"], id="an Ingress"),
        pytest.param("192.0.2.1,203.0.113.9,::ffff:10.0.0.7", ["10.0.0.7", "203.0.113.9"],
                     id="what a client claims is left of itself"),
        pytest.param("8.8.8.8, 10.9.9.9, 10.0.0.7", ["10.0.0.7", "10.9.9.9", "8.8.8.8"],
                     id="a client in the private network is among them"),
        pytest.param("unknown, 10.0.0.7", ["10.0.0.7"], id="no address"),
        pytest.param("2001:db8::1, 10.0.0.7", ["10.0.0.7", "2001:db8::1"], id="IPv6"),
    ],
)  # fmt: skip
def test_where_a_request_came_through(forwarded: str, chain: list[str]) -> None:
    trusted = [ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8")]
    assert [str(one) for one in came_through(forwarded, trusted)] == chain


def test_a_push_has_one_tag_that_other_images_never_have() -> None:
    ids = {"hub": "a" * 64, "lab": "b" * 64}
    tag = tag_of(ids)
    assert re.fullmatch(re.escape(__version__) + "-[0-9a-f]{12}", tag)
    assert tag == tag_of(dict(reversed(ids.items())))
    assert len({tag, tag_of({**ids, "lab": "c" * 64}), tag_of({"hub": "a" * 64})}) == 3


def test_a_pushs_values_are_the_charts() -> None:
    text = chart_values("registry.example.org:5000", "2026.11", ["lab", "hub"])
    assert YAML(typ="safe").load(text) == {
        "site": {"images": "registry.example.org:5000/studovna"},
        "images": {"tag": "2026.11", "pushed": ["hub", "lab"]},  # and no number
    }


class Pushing:
    """Podman, as far as pushing goes."""

    def __init__(self) -> None:
        self.targets: list[str] = []

    def run(self, verb: str, *words: str, timeout: float) -> None:
        assert verb == "push"
        self.targets.append(words[-1])


class Silent:
    def begin(self, *_: Any) -> None: ...

    def done(self, *_: Any) -> None: ...


def test_all_images_of_a_push_are_under_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ImageStatus(name, "", True, True, id=name) for name in ("base", "lab", "hub")]
    monkeypatch.setattr(images_push, "images_status", lambda *_: rows)
    podman: Any = Pushing()
    pushed = images_push.push(podman, ROOT / "images", [], "r.example.org", Silent())
    tag = tag_of({"base": "base", "lab": "lab", "hub": "hub"})
    assert {one.tag for one in pushed} == {tag}
    folder = "r.example.org/studovna"
    assert podman.targets == [
        f"{folder}/{name}:{each}" for name in ("base", "lab", "hub") for each in (tag, "latest")
    ]
    # A part of them is under the tag of all: what else is built is what the tag means.
    podman = Pushing()
    assert (
        images_push.push(podman, ROOT / "images", ["lab"], "r.example.org", Silent())[0].tag == tag
    )
    podman = Pushing()
    images_push.push(podman, ROOT / "images", ["lab"], "r.example.org", Silent(), tag="latest")
    assert podman.targets == [f"{folder}/lab:latest"]
    with pytest.raises(BuildError, match="is no tag"):
        images_push.push(podman, ROOT / "images", [], "r.example.org", Silent(), tag="a b")
