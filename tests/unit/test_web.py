"""Applications that are no Jupyter server: their pods, settings and what is said of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import V1EnvVar
from kubespawner.objects import make_pod

from spawner.answering import has_ended
from spawner.engine import ContainerState, PodState
from spawner.kube_objects import port_of
from spawner.kube_states import pod_state
from spawner.kubernetes_spawner import held_by
from spawner.manifest import plain
from spawner.options import OptionsError, normalise_options, resources, typed_overrides
from spawner.podman_translate import translate
from spawner.podman_volumes import Settings
from spawner.profile_list import Capabilities, compile_profiles
from spawner.quota import Resources
from spawner.web import SIDECAR, Web, with_sidecar
from studovna.catalogue import catalogue
from studovna.paths import ROOT
from studovna.problems import SettingsError
from studovna.profile_rules import own_images
from studovna.profiles import load_profiles
from studovna.site import Site, check, load_site

SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
SECRETS = {
    "JUPYTERHUB_API_TOKEN": "secret",
    "JPY_API_TOKEN": "secret",
    "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES": "[]",
}
ENVIRONMENT = SECRETS | {
    "JUPYTERHUB_SERVICE_PREFIX": "/user/ana/app/",
    "JUPYTERHUB_USER": "ana",
    "MEM_LIMIT": "1",
    "COLOUR": "blue",
    "JUPYTER_IMAGE": "r.example/app:1",
}


def server(**more: Any) -> Any:
    """KubeSpawner's own pod of a server."""
    return make_pod(
        name="jupyter-ana--app",
        cmd=None,
        port=18888,
        image="r.example/app:1",
        image_pull_policy="IfNotPresent",
        uid=1000,
        gid=100,
        fs_gid=100,
        container_security_context=dict(SECURITY),
        env=dict(ENVIRONMENT),
        volumes=[{"name": "home", "persistentVolumeClaim": {"claimName": "home-ana"}}],
        volume_mounts=[{"name": "home", "mountPath": "/home/jovyan"}],
        labels={"hub.jupyter.org/username": "ana"},
        cpu_limit=1,
        cpu_guarantee=0.25,
        mem_limit=2**31,
        mem_guarantee=2**29,
        **more,
    )


WEB = Web(
    8080, "keep", "r.example/sidecar:latest", args=["serve", "a b"],
    variables=["COLOUR", "ABSENT"], home="/home/jovyan",
)  # fmt: skip


def test_a_pod_as_a_whole() -> None:
    before = plain(server())
    given = server()
    made = plain(with_sidecar(given, WEB))
    assert plain(given) == before  # nothing of what is given is changed
    (main,) = before["spec"]["containers"]
    context = {"runAsUser": 1000, "runAsGroup": 100, **SECURITY}
    assert made == {
        **before,
        "spec": {
            **before["spec"],
            "containers": [
                {
                    "name": "sidecar",
                    "image": "r.example/sidecar:latest",
                    "imagePullPolicy": "IfNotPresent",
                    "ports": [{"name": "notebook-port", "containerPort": 18888}],
                    "env": [
                        {"name": "JUPYTERHUB_API_TOKEN", "value": "secret"},
                        {"name": "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES", "value": "[]"},
                        {"name": "JUPYTERHUB_SERVICE_PREFIX", "value": "/user/ana/app/"},
                        {"name": "JUPYTERHUB_USER", "value": "ana"},
                        {"name": "STUDOVNA_WEB_PORT", "value": "8080"},
                        {"name": "STUDOVNA_WEB_PREFIX", "value": "keep"},
                    ],
                    "resources": {
                        "requests": {"cpu": "0.05", "memory": str(96 * 2**20)},
                        "limits": {"cpu": "0.5", "memory": str(256 * 2**20)},
                    },
                    "securityContext": context,
                },
                {
                    "name": "notebook",
                    "image": "r.example/app:1",
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["serve", "a b"],
                    "env": [
                        {"name": "JUPYTERHUB_SERVICE_PREFIX", "value": "/user/ana/app/"},
                        {"name": "JUPYTERHUB_USER", "value": "ana"},
                        {"name": "PORT", "value": "8080"},
                        {"name": "HOME", "value": "/home/jovyan"},
                        {"name": "COLOUR", "value": "blue"},
                    ],
                    "resources": main["resources"],
                    "securityContext": context,
                    "volumeMounts": [{"name": "home", "mountPath": "/home/jovyan"}],
                },
            ],
        },
    }


def test_an_application_without_a_home_or_a_command_has_its_images() -> None:
    made = plain(with_sidecar(server(), Web(8080, "strip", "r.example/sidecar:latest")))
    sidecar, application = made["spec"]["containers"]
    assert "args" not in application and "command" not in application
    assert "HOME" not in {one["name"] for one in application["env"]}
    assert "volumeMounts" not in sidecar


def test_a_profiles_own_variables_win_and_no_secret_gets_in_by_their_names() -> None:
    pod = server()
    pod.spec.containers[0].env.append(V1EnvVar(name="PORT", value="9"))
    web = Web(8080, "strip", "r.example/sidecar:latest", variables=["PORT"])
    application = plain(with_sidecar(pod, web))["spec"]["containers"][1]
    values = {one["name"]: one["value"] for one in application["env"]}
    assert values["PORT"] == "9"
    assert "secret" not in values.values()


def test_a_pod_that_is_taken_over_is_reached_at_its_sidecar() -> None:
    made = plain(with_sidecar(server(), WEB))
    assert port_of(made) == 18888
    assert held_by(made) == Resources(0.25, 1, 2**29, 2**31) + SIDECAR
    alone = made | {"spec": made["spec"] | {"containers": [{"ports": [{"containerPort": 8888}]}]}}
    assert port_of(alone) == 8888


def test_podman_publishes_the_sidecars_port_alone(tmp_path: Path) -> None:
    plan = translate(with_sidecar(server(), WEB), Settings("st1", tmp_path, (), None))
    published = {
        one.name: [word for word in one.argv if word.startswith("127.0.0.1:")]
        for one in plan.containers
    }
    assert published == {"sidecar": ["127.0.0.1::18888/tcp"], "notebook": []}
    sidecar, application = plan.containers
    assert sidecar.podman_name == "st1-jupyter-ana--app"
    assert "container:st1-jupyter-ana--app" in application.argv
    assert application.argv[-3:] == ("r.example/app:1", "serve", "a b")


# --- how it ended ---------------------------------------------------------------------------------

RUNS, ENDS = ContainerState("running"), ContainerState("ended", 1)


@pytest.mark.parametrize(
    ("containers", "ended"),
    [
        pytest.param({"notebook": RUNS}, False, id="a server"),
        pytest.param({"sidecar": RUNS, "notebook": RUNS}, False, id="both"),
        pytest.param({"sidecar": RUNS, "notebook": ENDS}, True, id="the application ended"),
        pytest.param({"sidecar": ENDS, "notebook": RUNS}, True, id="the sidecar ended"),
        pytest.param({"notebook": RUNS, "other": ENDS}, False, id="some other container"),
    ],
)
def test_a_server_is_over_when_a_part_that_it_needs_is(
    containers: dict[str, ContainerState], ended: bool
) -> None:
    assert has_ended(PodState("Running", containers)) is ended


def test_on_a_cluster_a_program_that_is_not_there_is_told_while_the_sidecar_runs() -> None:
    said = 'exec: "no-such": executable file not found in $PATH'
    terminated = {"exitCode": 128, "reason": "StartError", "message": said}
    pod = {
        "metadata": {},
        "spec": {"containers": [{"name": "sidecar"}, {"name": "notebook"}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": "sidecar", "state": {"running": {"startedAt": _now()}}},
                {"name": "notebook", "state": {"terminated": terminated}},
            ],
        },
    }
    state = pod_state(pod)
    assert has_ended(state)
    assert said in str(state.reason)


def _now() -> str:
    return datetime.now(UTC).isoformat()


# --- settings -------------------------------------------------------------------------------------

OWN = {"profile": "own-app", "image--unlisted-choice": "r.example/a:1"}


@pytest.fixture(scope="module")
def profiles() -> list[dict[str, Any]]:
    site = Site()
    return compile_profiles(load_profiles(ROOT / "profiles", site), site, set(), Capabilities())


def own(profiles: list[dict[str, Any]], **typed: str) -> dict[str, Any]:
    return normalise_options(
        profiles, OWN | {f"{name}--unlisted-choice": text for name, text in typed.items()}
    )


def test_the_sidecar_counts_for_the_quota_and_is_told_on_the_page(
    profiles: list[dict[str, Any]],
) -> None:
    wanted = resources(profiles, own(profiles))
    assert wanted == Resources(0.25, 1, 2**29, 2**31) + SIDECAR
    item = next(one for one in profiles if one["slug"] == "own-app")
    assert item["studovna"]["resources"]["sidecar"] == SIDECAR.as_dict()
    assert item["kubespawner_override"]["cmd"] == []
    jupyter = next(one for one in profiles if one["slug"] == "cpu")
    assert "sidecar" not in jupyter["studovna"]["resources"]
    assert "cmd" not in jupyter["kubespawner_override"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serve", ["serve"]),
        ("serve --name 'a b'  \"c d\"", ["serve", "--name", "a b", "c d"]),
        ("a; $(b) `c` > d && e # f", ["a;", "$(b)", "`c`", ">", "d", "&&", "e", "#", "f"]),
        ("--privileged -v /:/host", ["--privileged", "-v", "/:/host"]),
        (r"a\ b '\n' {value} {0}", ["a b", r"\n", "{value}", "{0}"]),
        ("''", [""]),
    ],
)
def test_a_command_is_words_and_nothing_else(
    profiles: list[dict[str, Any]], text: str, words: list[str]
) -> None:
    options = own(profiles, command=text)
    assert options["command--unlisted-choice"] == text
    assert typed_overrides({"cmd": text}) == {"cmd": words}


@pytest.mark.parametrize("text", ["'", '"a', "a\\", "   ", "a\0b"])
def test_what_is_no_command_is_refused(profiles: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(OptionsError):
        own(profiles, command=text)
    with pytest.raises(OptionsError, match="no command"):
        typed_overrides({"cmd": text})


@pytest.mark.parametrize(
    "text", ["0", "80", "1023", "65536", "99999", "-1", "8080 ", "٨٠٨٠", "1e4"]
)
def test_what_is_no_port_is_refused(profiles: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(OptionsError):
        own(profiles, port=text)
    with pytest.raises(OptionsError, match="no port"):
        typed_overrides({"web_port": text})


def test_the_sidecars_port_is_taken() -> None:
    with pytest.raises(OptionsError, match="sign-in listens on port 18888"):
        typed_overrides({"web_port": "18888"})
    assert typed_overrides({"web_port": "8888"}) == {"web_port": 8888}


APP = "title: A\nimage: lab\ncpu: {request: 1, limit: 1}\nmemory: {request: 1G, limit: 1G}\n"
OPTION = "options:\n  o:\n    title: O\n    choices:\n      a: {title: A, web: {port: 3000}}\n"


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        pytest.param("web: {prefix: keep}\n", "web.port", "set neither", id="no port"),
        pytest.param(
            OPTION + "      b: {title: B}\n", "web.port", "every choice", id="not every choice"
        ),
        pytest.param("web: {port: 80}\n", "web.port", "1024", id="a port of root's"),
        pytest.param("web: {port: 18888}\n", "web.port", "the sign-in's", id="the sidecar's port"),
        pytest.param("web: {port: 3000, path: /}\n", "web.path", "port", id="an unknown key"),
        pytest.param(
            "default_url: /lab\nweb: {port: 3000}\n", "default_url", "Jupyter", id="default_url"
        ),
    ],
)
def test_a_profile_that_cannot_be(tmp_path: Path, text: str, key: str, words: str) -> None:
    (tmp_path / "a.yaml").write_text(APP + text)
    with pytest.raises(SettingsError) as refused:
        load_profiles(tmp_path, Site())
    found = [problem for problem in refused.value.problems if problem.key == key]
    assert found and words in str(found[0])


@pytest.mark.parametrize("text", ["web: {port: 3000}\n", OPTION], ids=["profile", "choices"])
def test_the_sidecars_image_is_one_of_an_applications(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(APP + text)
    profile = load_profiles(tmp_path, Site())["a"]
    assert own_images(profile) == {"lab", "sidecar"}
    here = Capabilities(images={"localhost/studovna/lab:latest": 1})
    (item,) = compile_profiles({"a": profile}, Site(), set(), here)
    assert "image sidecar is not built" in str(item["studovna"]["unavailable"])


# --- the catalogue --------------------------------------------------------------------------------


def site_of(tmp_path: Path, text: str) -> Path:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "a.yaml").write_text(APP)
    file = tmp_path / "site.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", catalogue())
def test_the_catalogue_is_right_and_off_until_a_site_takes_it(tmp_path: Path, name: str) -> None:
    without = load_site(site_of(tmp_path, ""))
    assert list(load_profiles(without.profiles_folder, without)) == ["a"]
    (tmp_path / "site.yaml").write_text(f"catalogue: [{name}]")
    site = load_site(tmp_path / "site.yaml")
    found = load_profiles(site.profiles_folder, site)
    assert found.keys() == {"a", name}
    assert found[name].description and found[name].description.cs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("catalogue: [streamlitt]", '"streamlit", or another', id="misspelt"),
        pytest.param("catalogue: [shiny, shiny]", "there twice", id="twice"),
        pytest.param("catalogue: [../../etc]", "short name", id="a path"),
        pytest.param("catalogue: shiny", "a list", id="no list"),
    ],
)
def test_a_choice_that_cannot_be_names_what_can(tmp_path: Path, text: str, words: str) -> None:
    (problem,) = check(site_of(tmp_path, text))
    assert "catalogue" in problem.key and problem.line == 1
    assert words in str(problem)


def test_a_name_that_the_site_has_itself_is_told(tmp_path: Path) -> None:
    file = site_of(tmp_path, "catalogue: [shiny]")
    (tmp_path / "profiles" / "shiny.yaml").write_text(APP)
    (problem,) = check(file)
    assert "is there already, from shiny.yaml" in str(problem)
