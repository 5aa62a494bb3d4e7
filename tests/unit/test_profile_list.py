"""Profiles as KubeSpawner sees them, and the check of what people chose, against its own code."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import jupyterhub_fancy_profiles
import kubespawner.spawner
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from spawner.deployment import Deployment
from spawner.options import (
    BINDER_KEYS,
    MAX_OPTIONS_BYTES,
    OptionsError,
    effective_overrides,
    from_binderhub,
    normalise_options,
    resources,
    typed_overrides,
)
from spawner.profile_list import (
    DEFAULT_SHM,
    GPU_PRODUCT,
    Capabilities,
    GpuNode,
    compile_profiles,
)
from spawner.quota import Resources
from spawner.refusals import StartRefused
from spawner.spawner import ProfileSpawner
from studovna.profile_schema import Profile
from studovna.profiles import load_profiles
from studovna.site import Site, Volume, load_site
from studovna.text import Text
from studovna.units import GIB, MIB

ROOT = Path(__file__).resolve().parents[2]
SITE = load_site(ROOT / "site.yaml")
PROFILES = load_profiles(SITE.profiles_folder, SITE)
REGISTRY = "127.0.0.1:5000/binder/"
GPUS = {"nvidia.com/gpu": 4, "nvidia.com/mig-1g.10gb": 7, "nvidia.com/mig-2g.20gb": 1}
MODELS = ("NVIDIA-A40", "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3")
RICH = Capabilities([GpuNode({}, GPUS, GPUS)], registry=REGISTRY)
EACH = Capabilities([GpuNode({GPU_PRODUCT: model}, GPUS, GPUS) for model in MODELS], None, REGISTRY)
BARE = Capabilities(registry=REGISTRY)
LIST = compile_profiles(PROFILES, SITE, set(), EACH)


def profile(text: str) -> Profile:
    return Profile.model_validate(YAML(typ="safe", pure=True).load(text))


def compiled(text: str, capabilities: Capabilities = RICH, site: Site = SITE) -> dict[str, Any]:
    (item,) = compile_profiles({"a": profile(text)}, site, set(), capabilities)
    return item


def validate_options(profiles: list[dict[str, Any]], options: object) -> Text | None:
    """Why these options are refused; None when they are not."""
    try:
        normalise_options(profiles, options)
    except OptionsError as error:
        return error.text
    return None


def kubespawner_of(options: dict[str, Any]) -> ProfileSpawner:
    """A real KubeSpawner, only without the connection to a cluster that its making asks for."""
    with (
        patch.object(kubespawner.spawner, "load_config", lambda **_: None),
        patch.object(kubespawner.spawner, "shared_client", lambda *_: None),
    ):
        spawner = ProfileSpawner(_mock=True)
    spawner.user_options = options
    return spawner


def test_a_profile_as_a_whole() -> None:
    item = compiled(
        """
        title: {en: A, cs: B}
        description: D
        category: my-own
        icon: flask
        image: lab
        cpu: {request: 0.5, limit: 2}
        memory: {request: 1G, limit: 2G}
        shm: 1G
        env: {A: b}
        command: [run, me]
        default_url: /lab
        home: server
        node_selector: {disk: fast}
        tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
        walltime_hours: 1.5
        answer_seconds: 900
        options:
          size:
            title: S
            choices:
              one: {title: One, cpu: {limit: 1}}
              two: {title: Two, description: E, default: true, gpu: {count: 2}}
            unlisted:
              title: Cores
              pattern: "[0-9]"
              message: Write a digit.
              max_length: 1
              placeholder: "3"
              cpu: {limit: "{value}"}
        """
    )
    assert item == {
        "slug": "a",
        "display_name": "A",
        "description": "D",
        "default": True,
        "kubespawner_override": {
            "image": "localhost/studovna/lab:latest",
            "cpu_guarantee": 0.5,
            "cpu_limit": 2.0,
            "mem_guarantee": GIB,
            "mem_limit": 2 * GIB,
            "may_run_jobs": False,
            "shm_size": GIB,
            "environment": {"A": "b"},
            "cmd": ["run", "me"],
            "default_url": "/lab",
            "home_kind": "server",
            "node_selector": {"disk": "fast"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "walltime": 5400,
            "http_timeout": 900,
            "licences": [],
            "site_volumes": {},
            "web_port": 0,
            "web_prefix": "strip",
        },
        "profile_options": {
            "size": {
                "display_name": "S",
                "choices": {
                    "one": {
                        "display_name": "One",
                        "description": "",
                        "default": False,
                        "kubespawner_override": {"cpu_limit": 1.0},
                        "studovna": {
                            "title": {"en": "One", "cs": "One"},
                            "description": {"en": "", "cs": ""},
                            "unavailable": None,
                            "resources": {"cpu_limit": 1.0},
                            "gpus": None,
                            "image": None,
                        },
                    },
                    "two": {
                        "display_name": "Two",
                        "description": "E",
                        "default": True,
                        "kubespawner_override": {
                            "extra_resource_limits": {"nvidia.com/gpu": "2"},
                            "extra_resource_guarantees": {"nvidia.com/gpu": "2"},
                        },
                        "studovna": {
                            "title": {"en": "Two", "cs": "Two"},
                            "description": {"en": "E", "cs": "E"},
                            "unavailable": None,
                            "resources": {"gpus": {"nvidia.com/gpu": 2}},
                            "gpus": {"free": 4, "there": 4},
                            "image": None,
                        },
                    },
                },
                "unlisted_choice": {
                    "enabled": True,
                    "display_name": "Cores",
                    "display_name_in_choices": "Cores",
                    "description_in_choices": "Write a digit.",
                    "validation_regex": "^(?:[0-9])$",
                    "validation_message": "Write a digit.",
                    "kubespawner_override": {"cpu_limit": "{value}"},
                    "studovna": {
                        "title": {"en": "Cores", "cs": "Cores"},
                        "message": {"en": "Write a digit.", "cs": "Write a digit."},
                        "placeholder": "3",
                        "max_length": 1,
                        "unavailable": None,
                        "resources": {"cpu_limit": "{value}"},
                    },
                },
                "studovna": {
                    "title": {"en": "S", "cs": "S"},
                    "description": {"en": "", "cs": ""},
                },
            }
        },
        "studovna": {
            "title": {"en": "A", "cs": "B"},
            "description": {"en": "D", "cs": "D"},
            "category": "my-own",
            "category_title": {"en": "My own", "cs": "My own"},
            "icon": "flask",
            "hidden": False,
            "unavailable": None,
            "resources": {
                "cpu_request": 0.5,
                "cpu_limit": 2.0,
                "memory_request": GIB,
                "memory_limit": 2 * GIB,
                "shm": GIB,
            },
            "gpus": None,
            "image": None,
        },
    }


def test_the_cpu_profile_reaches_the_spawner() -> None:
    spawner = kubespawner_of({"profile": "cpu", "image": "scientific", "cpu": "large"})
    spawner._load_profile("cpu", spawner._get_initialized_profile_list(LIST))
    assert spawner.image == "localhost/studovna/scientific:latest"
    assert (spawner.cpu_guarantee, spawner.cpu_limit) == (1, 4)
    assert (spawner.mem_guarantee, spawner.mem_limit) == (512 * MIB, 2 * GIB)
    assert spawner.default_url == "/lab"
    assert (spawner.shm_size, spawner.home_kind, spawner.walltime) == (DEFAULT_SHM, "person", 0)
    assert spawner.extra_resource_limits == {}


CHOSEN = [
    *({"profile": "cpu", "cpu": c} for c in PROFILES["cpu"].options["cpu"].choices),
    *({"profile": "gpu", "gpu": c} for c in PROFILES["gpu"].options["gpu"].choices),
    {"profile": "custom-image", "image--unlisted-choice": "quay.io/a/b:1"},
    {"profile": "binder", "image--unlisted-choice": f"{REGISTRY}a:1"},
    {
        "profile": "binder",
        "image--unlisted-choice": f"{REGISTRY}a:1",
        "cpu-request--unlisted-choice": "1.5",
        "cpu-limit--unlisted-choice": "8",
        "memory-request--unlisted-choice": "512M",
        "memory-limit--unlisted-choice": "16G",
        "gpu--unlisted-choice": "2",
    },
]


@pytest.mark.parametrize("options", CHOSEN, ids=lambda o: "-".join(o.values())[:40])
def test_what_we_say_a_choice_sets_is_what_kubespawner_sets(options: dict[str, str]) -> None:
    full = normalise_options(LIST, options)
    expected = effective_overrides(LIST, full)
    spawner = kubespawner_of(full)
    initialised = spawner._get_initialized_profile_list(LIST)
    spawner._validate_user_options(initialised)
    spawner._load_profile(full["profile"], initialised)
    assert {name: getattr(spawner, name) for name in expected} == expected
    read = ("cpu_guarantee", "cpu_limit", "mem_guarantee", "mem_limit", "extra_resource_limits")
    reached = Resources.from_traits({name: getattr(spawner, name) for name in read})
    assert reached == resources(LIST, full)


def test_any_gpu_is_what_there_is_most_of() -> None:
    options = normalise_options(LIST, {"profile": "gpu"})
    assert resources(LIST, options).gpus == {"nvidia.com/mig-1g.10gb": 1}


def test_a_chosen_gpu_takes_another_one_back() -> None:
    item = compiled(
        """
        title: A
        gpu: {count: 1}
        options: {g: {title: G, choices: {m: {title: M, gpu: {resource: nvidia.com/mig-1g.10gb}}}}}
        """
    )
    spawner = kubespawner_of({"profile": "a"})
    spawner._load_profile("a", spawner._get_initialized_profile_list([item]))
    assert spawner.extra_resource_limits == {"nvidia.com/mig-1g.10gb": "1"}
    assert resources([item], {"profile": "a", "g": "m"}).gpus == {"nvidia.com/mig-1g.10gb": 1}


def test_kubespawners_own_form_draws_the_list() -> None:
    html = kubespawner.KubeSpawner._render_options_form(kubespawner_of({}), LIST)
    for item in LIST:
        assert f'value="{item["slug"]}"' in html
    assert 'name="profile-option-cpu--memory"' in html


def test_fancy_profiles_gets_the_list() -> None:
    spawner = kubespawner_of({})
    spawner.additional_profile_form_template_paths = jupyterhub_fancy_profiles.TEMPLATE_PATHS
    html = kubespawner.KubeSpawner._render_options_form(spawner, LIST)
    match = re.search(r"window\.profileList = (.*);$", html, re.M)
    assert match is not None
    for item in json.loads(match[1]):
        for option in item.get("profile_options", {}).values():
            # its form goes through the choices without asking whether there are any
            assert isinstance(option["choices"], dict)
            assert option["choices"] or option["unlisted_choice"]["enabled"]
    (own,) = (item for item in LIST if item["slug"] == "custom-image")
    assert own["profile_options"]["image"]["dynamic_image_building"] == {"enabled": True}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_browsers_read_the_patterns() -> None:
    typed = {
        (item["slug"], name): option["unlisted_choice"]["validation_regex"]
        for item in LIST
        for name, option in item.get("profile_options", {}).items()
        if option["unlisted_choice"]["enabled"]
    }
    patterns = [typed.pop((slug, "image")) for slug in ("custom-image", "binder")]
    patterns += typed.values()
    script = """
      const [patterns, good, bad] = JSON.parse(process.argv[1]);
      for (const p of patterns) { new RegExp(p, "g"); new RegExp(p, "v"); }
      for (const [i, v] of good) if (!new RegExp(patterns[i], "v").test(v)) throw "good " + v;
      for (const [i, v] of bad) if (new RegExp(patterns[i], "v").test(v)) throw "bad " + v;
    """
    good = [[0, "quay.io/jupyter/minimal-notebook:latest"], [1, f"{REGISTRY}a:1"]]
    bad = [[0, "lab"], [1, "127.0.0.1:5000/other/a:1"], [1, "127x0.0.1:5000/binder/a:1"]]
    argument = json.dumps([patterns, good, bad])
    subprocess.run(["node", "-e", script, argument], check=True, capture_output=True, timeout=60)


# Who may start what


@pytest.mark.parametrize(
    ("groups", "slugs"),
    [
        pytest.param(set(), ["all"], id="nobody"),
        pytest.param({"students"}, ["all"], id="another-group"),
        pytest.param({"teachers"}, ["all", "some"], id="teacher"),
        pytest.param({"staff", "students"}, ["all", "some"], id="one-of-two-groups"),
    ],
)
def test_profiles_are_for_their_groups(groups: set[str], slugs: list[str]) -> None:
    profiles = {
        "all": profile("title: A"),
        "some": profile("{title: S, access: {groups: [teachers, staff]}}"),
        "hid": profile("{title: H, hidden: true}"),
    }
    listed = compile_profiles(profiles, SITE, groups, BARE, include_hidden=False)
    assert [item["slug"] for item in listed] == slugs
    everything = compile_profiles(profiles, SITE, groups, BARE)
    assert [item["slug"] for item in everything] == [*slugs, "hid"]
    assert (validate_options(everything, {"profile": "some"}) is None) == ("some" in slugs)


def test_nobody_starts_a_default_when_nothing_is_theirs() -> None:
    listed = compile_profiles({"a": profile("{title: S, access: {groups: [x]}}")}, SITE, [], BARE)
    assert listed == []
    assert "no profile that you may start" in str(validate_options(listed, {}))


# What there is not


def test_gpus_that_are_not_there() -> None:
    by_slug = {item["slug"]: item for item in compile_profiles(PROFILES, SITE, set(), BARE)}
    reason = by_slug["gpu"]["studovna"]["unavailable"]
    assert isinstance(reason, Text)
    assert reason == "This machine has no GPU that servers could use."
    assert by_slug["cpu"]["studovna"]["unavailable"] is None
    listed = list(by_slug.values())
    assert validate_options(listed, {"profile": "gpu"}) == reason
    assert copy.deepcopy(reason).template == reason.template  # KubeSpawner copies the list


@pytest.mark.parametrize("engine", ["podman", "kubernetes"])
def test_a_model_of_gpu_is_counted_where_it_is(engine: str) -> None:
    site = SITE.model_copy(update={"engine": engine})
    some = {"nvidia.com/gpu": 2}
    node = GpuNode({GPU_PRODUCT: "NVIDIA-A40", "other": "label"}, some, {"nvidia.com/gpu": 1})
    [gpu] = compile_profiles({"gpu": PROFILES["gpu"]}, site, set(), Capabilities([node]))
    choices = gpu["profile_options"]["gpu"]["choices"]
    assert choices["a40"]["studovna"]["gpus"] == {"free": 1, "there": 2}
    assert choices["a40"]["studovna"]["unavailable"] is None
    assert "there are 0 here" in str(choices["h100"]["studovna"]["unavailable"])
    assert choices["one"]["studovna"]["unavailable"] is None


def test_a_default_that_is_not_there_gives_way() -> None:
    there = {"nvidia.com/mig-2g.20gb": 1}
    able = Capabilities([GpuNode({}, there, there)])
    item = compiled(
        """
        title: A
        options:
          g:
            title: G
            choices:
              one: {title: O, gpu: {count: 1}, default: true}
              slice: {title: S, gpu: {resource: nvidia.com/mig-2g.20gb}}
              two: {title: T, gpu: {resource: nvidia.com/mig-2g.20gb, count: 2}}
        """,
        able,
    )
    assert item["studovna"]["unavailable"] is None
    choices = item["profile_options"]["g"]["choices"]
    assert [slug for slug, choice in choices.items() if choice["default"]] == ["slice"]
    assert normalise_options([item], {}) == {"profile": "a", "g": "slice"}
    assert validate_options([item], {"g": "two"}) == (
        "This needs 2 of nvidia.com/mig-2g.20gb, and there are 1 here."
    )


def test_how_many_gpus_are_free_and_how_large_images_are() -> None:
    gpu = "nvidia.com/gpu"
    nodes = [
        GpuNode({"model": "a"}, {gpu: 4}, {gpu: 1}),
        GpuNode({"model": "b"}, {gpu: 2}, {gpu: -1}),  # a pod that still ends
    ]
    text = """
        title: A
        image: lab
        options:
          g:
            title: G
            choices:
              none: {title: N, env: {X: "1"}}
              all: {title: A, gpu: {count: 1}}
              model: {title: M, gpu: {count: 1}, node_selector: {model: b}}
        """
    cluster = SITE.model_copy(update={"engine": "kubernetes"})
    item = compiled(text, Capabilities(nodes, {"localhost/studovna/lab:latest": 700}), cluster)
    choices = item["profile_options"]["g"]["choices"]
    assert [choice["studovna"]["gpus"] for choice in choices.values()] == [
        None,
        {"free": 1, "there": 6},
        {"free": 0, "there": 2},
    ]
    assert item["studovna"]["image"] == {"size": 700}
    away = compiled("title: A\nimage: quay.io/a/b:1", Capabilities(images={}))
    assert away["studovna"]["image"] == {"size": None}
    # A machine has no labels to choose by.
    choices = compiled(text, Capabilities(nodes))["profile_options"]["g"]["choices"]
    assert choices["model"]["studovna"]["gpus"] == {"free": 1, "there": 6}


def test_licences_volumes_and_an_application() -> None:
    text = """
        title: M
        image: lab
        licences: [m]
        volumes: {/usr/local/M: programs}
        env: {A: b}
        application: {title: M, command: [/usr/local/M/bin/m, "{x}"], needs: [/usr/local/M/bin/m]}
        """
    assert compiled(text)["studovna"]["unavailable"] == "This site has set no licence server m."
    licences = {"m": {"MLM_LICENSE_FILE": "27000@l.example.org"}}
    site = SITE.model_copy(update={"licences": licences})
    assert compiled(text, site=site)["studovna"]["unavailable"] == (
        "This site has set no volume programs."
    )
    site = site.model_copy(update={"volumes": {"programs": Volume(path="/srv/m")}})
    item = compiled(text, site=site)
    assert item["studovna"]["unavailable"] is None
    spawner = kubespawner_of({})
    spawner.environment = item["kubespawner_override"]["environment"]
    found = spawner.get_env()
    assert (found["A"], found["MLM_LICENSE_FILE"]) == ("b", "27000@l.example.org")
    assert found["STUDOVNA_LICENCES"] == "MLM_LICENSE_FILE"
    assert json.loads(found["STUDOVNA_APPLICATION"]) == {
        "title": "M",
        "command": ["/usr/local/M/bin/m", "{x}"],
        "needs": ["/usr/local/M/bin/m"],
    }
    assert item["kubespawner_override"]["site_volumes"] == {"/usr/local/M": "programs"}
    assert item["kubespawner_override"]["licences"] == ["m"]


def test_images_that_are_not_built() -> None:
    able = Capabilities(images={"localhost/studovna/lab:latest": 1})
    cpu, *_ = compile_profiles(PROFILES, SITE, set(), able)
    assert cpu["studovna"]["unavailable"] is None
    assert validate_options([cpu], {"image": "lab"}) is None
    refusal = validate_options([cpu], {"image": "scientific"})
    assert str(refusal).endswith("builds it with: make images IMAGES=scientific")
    cpu, *_ = compile_profiles(PROFILES, SITE, set(), Capabilities(images={}))
    assert str(cpu["studovna"]["unavailable"]).startswith("The image lab is not built")


def test_no_more_servers_from_repositories_than_binder_lets() -> None:
    most = SITE.binder.servers
    project = SITE.project.model_copy(update={"servers": 10 * most})
    site = SITE.model_copy(update={"project": project})
    spawner = kubespawner_of({"profile": "binder"})
    spawner.deployment = Deployment(site, PROFILES, Path("/nowhere"))
    others = [
        SimpleNamespace(active=True, reserved=Resources(), user_options={"profile": kind})
        for kind in [*["binder"] * (most - 1), "cpu"]
    ]
    spawner.user = SimpleNamespace(spawners=dict(enumerate(others)))
    spawner._reserve()
    spawner.user.spawners["one more"] = others[0]
    with pytest.raises(StartRefused, match=f"{most} servers from repositories"):
        spawner._reserve()
    spawner.user_options = {"profile": "cpu"}
    spawner._reserve()


def test_images_that_were_not_pushed() -> None:
    cluster = SITE.cluster.model_copy(update={"images": ["lab"]})
    site = SITE.model_copy(update={"engine": "kubernetes", "cluster": cluster})
    cpu, *_ = compile_profiles(PROFILES, site, set(), Capabilities(images=None))
    assert cpu["studovna"]["unavailable"] is None
    assert validate_options([cpu], {"image": "scientific"}) == (
        "The image scientific is not in this site's registry yet."
    )


def test_only_images_of_the_sites_own_binder() -> None:
    def refusal(image: str, registry: str) -> Text | None:
        listed = compile_profiles(PROFILES, SITE, set(), Capabilities(registry=registry))
        return validate_options(listed, {"profile": "binder", "image--unlisted-choice": image})

    assert refusal(f"{REGISTRY}r2d-a:1", REGISTRY) is None
    for image in (
        "127.0.0.1:5000/other/a:1",
        "127x0.0.1:5000/binder/a:1",
        f"evil/{REGISTRY}a:1",
        f"{REGISTRY}../other/a:1",
        f"{REGISTRY}a/../../b:1",
        f"{REGISTRY}a//b:1",
    ):
        assert "Binder has built" in str(refusal(image, REGISTRY))
    assert "runs no Binder" in str(refusal("a:1", ""))


# What people send

IMAGE = "image--unlisted-choice"


@pytest.mark.parametrize(
    ("options", "full"),
    [
        pytest.param(None, {"profile": "cpu"}, id="nothing"),
        pytest.param({}, {"profile": "cpu"}, id="empty"),
        pytest.param({"profile": ""}, {"profile": "cpu"}, id="empty-profile"),
        pytest.param({"cpu": "large"}, {"profile": "cpu", "cpu": "large"}, id="no-profile"),
        pytest.param({"profile": "cpu", "cpu": ""}, {"profile": "cpu"}, id="empty-choice"),
        pytest.param(
            {"profile": "custom-image", IMAGE: "r.x/a:1"},
            {"profile": "custom-image", IMAGE: "r.x/a:1", "image": None},
            id="typed",
        ),
        pytest.param(
            {"profile": "custom-image", "image": "unlisted_choice", IMAGE: "r.x/a:1"},
            {"profile": "custom-image", IMAGE: "r.x/a:1", "image": None},
            id="typed-in-fancy-profiles",
        ),
        pytest.param(
            {"profile": "custom-image", "image": "--extra-selectable-item", IMAGE: "r.x/a:1"},
            {"profile": "custom-image", IMAGE: "r.x/a:1", "image": None},
            id="built-in-fancy-profiles",
        ),
    ],
)
def test_options_in_full(options: dict[str, str] | None, full: dict[str, Any]) -> None:
    defaults = {"image": "lab", "cpu": "small", "memory": "small"}
    expected = {name: value for name, value in (defaults | full).items() if value is not None}
    assert normalise_options(LIST, options) == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param([], "names and values", id="a-list"),
        pytest.param("cpu", "names and values", id="a-text"),
        pytest.param(
            {"profile": "no"}, "no profile no for you. Your profiles: cpu, ", id="profile"
        ),
        pytest.param({"profile": ["cpu"]}, "no profile ['cpu']", id="profile-list"),
        pytest.param({"profile": 0}, "no profile 0", id="profile-number"),
        pytest.param({"cpu": "huge"}, "small, medium, large, extra-large", id="choice"),
        pytest.param({"cpu": ["small"]}, "must be one text", id="choice-list"),
        pytest.param({"cpu": {"a": 1}}, "must be one text", id="choice-map"),
        pytest.param({"cpu": 1}, "must be one text", id="choice-number"),
        pytest.param({"cpus": "small"}, "options: cpu, image, memory", id="option"),
        pytest.param({IMAGE: "r.x/a:1"}, "has no option", id="typed-where-nothing-is"),
        pytest.param({"image": "unlisted_choice"}, "no choice", id="typed-choice-where-none-is"),
        pytest.param({"profile": "custom-image"}, "is missing", id="nothing-typed"),
        pytest.param(
            {"profile": "custom-image", "image": "unlisted_choice"},
            "is missing",
            id="nothing-typed-2",
        ),
        pytest.param({"profile": "custom-image", IMAGE: ["a"]}, "one text", id="typed-list"),
        pytest.param(
            {"profile": "custom-image", IMAGE: "quay.io/ok/img:1 anything"},
            "cannot be",
            id="pattern-matches-a-beginning-only",
        ),
        pytest.param({"profile": "custom-image", IMAGE: "r.x/a:1\n"}, "cannot be", id="newline"),
        pytest.param({"profile": "custom-image", IMAGE: "--help"}, "cannot be", id="hyphen"),
        pytest.param({"profile": "custom-image", IMAGE: "r.x/" + "a" * 300}, "255", id="long"),
        pytest.param(
            {
                "profile": "custom-image",
                "cpu": "small",
                "cpu--unlisted-choice": "1",
                IMAGE: "r.x/a",
            },
            "has no option",
            id="typed-for-an-option-of-choices",
        ),
        pytest.param(
            {
                "profile": "binder",
                IMAGE: f"{REGISTRY}a:1",
                "cpu-limit": "standard",
                "cpu-limit--unlisted-choice": "1",
            },
            "both a choice and a typed value",
            id="both",
        ),
        pytest.param(
            {"profile": "binder", IMAGE: f"{REGISTRY}a:1", "cpu-request--unlisted-choice": "4"},
            "A guarantee of 4 CPU is more than the limit of 2 CPU.",
            id="guarantee-above-limit",
        ),
        pytest.param(
            {"profile": "binder", IMAGE: f"{REGISTRY}a:1", "memory-limit--unlisted-choice": "512M"},
            "A guarantee of 1 GB is more than the limit of 0.5 GB.",
            id="memory-guarantee-above-limit",
        ),
        pytest.param({"x": "y" * MAX_OPTIONS_BYTES}, "too long", id="too-much"),
        pytest.param({"x": object()}, "plain JSON", id="no-json"),
    ],
)
def test_each_refusal(options: object, says: str) -> None:
    refusal = validate_options(LIST, options)
    assert isinstance(refusal, Text)
    assert says in refusal
    assert len(refusal) < 600
    with pytest.raises(OptionsError) as caught:
        normalise_options(LIST, options)
    assert caught.value.text == refusal


def test_what_binderhub_sends() -> None:
    sent = {"image": f"{REGISTRY}a:1", "repo_url": "https://x.example/r", "token": "t"}
    options = normalise_options(LIST, from_binderhub(sent), BINDER_KEYS)
    assert options["profile"] == "binder"
    assert options[IMAGE] == sent["image"]
    assert (options["repo_url"], options["token"]) == (sent["repo_url"], "t")
    assert from_binderhub({"image": "lab"}) == {"image": "lab"}


@pytest.mark.parametrize("value", ["x", "1e9", "nan", "inf", "-1", "", "1,5", "99999"])
def test_typed_cores_that_are_none(value: str) -> None:
    with pytest.raises(OptionsError):
        typed_overrides({"cpu_limit": value})
    with pytest.raises(OptionsError):
        typed_overrides({"mem_limit": value})


keys = st.sampled_from(
    ["profile", "cpu", "image", "memory", "gpu", IMAGE, "cpu-limit--unlisted-choice", "x", ""]
)
words = st.sampled_from(
    ["cpu", "gpu", "binder", "custom-image", "small", "lab", "any", "unlisted_choice", "r.x/a:1"]
)
values = st.one_of(words, st.text(max_size=20))
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), values),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(st.one_of(json_values, st.dictionaries(keys, st.one_of(values, json_values), max_size=5)))
def test_any_options_are_refused_or_taken_by_kubespawner(options: Any) -> None:
    before = copy.deepcopy(options)
    try:
        full = normalise_options(LIST, options)
    except OptionsError as error:
        assert error.text
        return
    finally:
        assert repr(options) == repr(before)
    assert normalise_options(LIST, full) == full
    spawner = kubespawner_of(full)
    initialised = spawner._get_initialized_profile_list(LIST)
    spawner._validate_user_options(initialised)
    spawner._load_profile(full["profile"], initialised)
    assert spawner.cpu_limit and spawner.mem_limit and spawner.image
