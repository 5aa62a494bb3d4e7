"""Profiles: what is let in, and what is said about what is not."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from studovna.fields import IMAGE_REFERENCE
from studovna.problems import Problem, SettingsError, format_problem
from studovna.profile_rules import own_images
from studovna.profiles import image_folders, load_profiles
from studovna.site import Site, load_site

ROOT = Path(__file__).resolve().parents[2]

BASE = """\
title: A
image: registry.example/a:1
cpu: {request: 1, limit: 2}
memory: {request: 1G, limit: 2G}
"""
UNLISTED = (
    BASE
    + """\
options:
  o:
    title: O
    unlisted:
      title: T
      message: M
"""
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "profiles").mkdir()
    file = tmp_path / "site.yaml"
    file.write_text("groups: {teachers: [ana]}")
    return load_site(file)


def put(site: Site, text: str, name: str = "a.yaml") -> None:
    (site.profiles_folder / name).write_text(text, encoding="utf-8")


def problems(site: Site, text: str) -> list[Problem]:
    put(site, text)
    with pytest.raises(SettingsError) as caught:
        load_profiles(site.profiles_folder, site)
    return caught.value.problems


def test_the_profiles_of_the_embedded_default_are_right() -> None:
    site = load_site(ROOT / "site.yaml")
    profiles = load_profiles(site.profiles_folder, site)
    ordered = ["cpu", "r", "rstudio", "mpi", "workflows", "gpu", "custom-image", "own-app"]
    ordered.append("binder")
    assert [slug for slug in profiles if slug in ordered] == ordered
    assert [slug for slug, profile in profiles.items() if profile.default] == ["cpu"]
    assert profiles["binder"].hidden
    for profile in profiles.values():
        assert profile.title.cs and profile.description and profile.description.cs


def test_the_smallest_profile(site: Site) -> None:
    put(site, BASE)
    profile = load_profiles(site.profiles_folder, site)["a"]
    assert profile.title.as_dict() == {"en": "A", "cs": "A"}
    assert (profile.home, profile.hidden, profile.options) == (None, False, {})


def option(choices: str) -> str:
    return BASE + "options:\n  o:\n    title: O\n    choices:\n" + choices


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        pytest.param(BASE + "tilte: B", 5, "tilte", '"title"', id="misspelt"),
        pytest.param(
            option("      x: {title: X, gpu: {cuont: 2}}"),
            9,
            "options.o.choices.x.gpu.cuont",
            '"count"',
            id="misspelt-deep",
        ),
        pytest.param(
            BASE + "options: {o: {title: O, choises: {}}}",
            5,
            "options.o.choises",
            '"choices"',
            id="misspelt-option",
        ),
        pytest.param(
            BASE.replace("limit: 2}", 'limit: "2"}'),
            3,
            "cpu.limit",
            "without quotes",
            id="text-cpu",
        ),
        pytest.param(
            BASE.replace("request: 1G", "request: 1"), 4, "memory.request", "no unit", id="no-unit"
        ),
        pytest.param(
            BASE.replace("registry.example/a:1", "labb"), 2, "image", '"lab"', id="no-such-folder"
        ),
        pytest.param(
            BASE.replace("registry.example/a:1", "'-x/y'"), 2, "image", "reference", id="bad-image"
        ),
        pytest.param(BASE.replace("image: ", "icon: x\nxx: "), 3, "xx", "", id="unknown-key"),
        pytest.param(
            BASE.replace("image: registry.example/a:1\n", ""), 1, "image", "image at", id="no-image"
        ),
        pytest.param(
            BASE.replace("request: 1, ", ""), 3, "cpu.request", "set neither", id="no-request"
        ),
        pytest.param(
            BASE.replace("request: 1,", "request: 3,"),
            3,
            "cpu.request",
            "cpu.limit",
            id="above-limit",
        ),
        pytest.param(
            BASE.replace("limit: 2}", "limit: 200}"),
            3,
            "cpu.limit",
            "project.limits.cpu",
            id="never",
        ),
        pytest.param(
            BASE.replace("{request: 1G, limit: 2G}", "{request: 50G, limit: 60G}"),
            4,
            "memory.request",
            "project.requests.memory is 40 GB",
            id="never-memory",
        ),
        pytest.param(BASE + "shm: 4G", 5, "shm", "memory.limit", id="shm-above-memory"),
        pytest.param(
            BASE + "access: {groups: [techers]}", 5, "access.groups[0]", '"teachers"', id="group"
        ),
        pytest.param(BASE + "category: My Own", 5, "category", "short name", id="category"),
        pytest.param(
            BASE + "default: true\nhidden: true", 5, "default", "hidden", id="hidden-default"
        ),
        pytest.param(BASE + "home: mine", 5, "home", "one of: none, person, server", id="home"),
        pytest.param(BASE + "env: {A=B: x}", 5, "env.A=B", "a name", id="env-name"),
        pytest.param(BASE + "env: {A: 1}", 5, "env.A", "in quotes", id="env-number"),
        pytest.param(
            BASE + "gpu: {resource: nvidia}", 5, "gpu.resource", "nvidia.com/gpu", id="gpu"
        ),
        pytest.param(BASE + "gpu: {count: 0}", 5, "gpu.count", "equal to 1", id="no-gpus"),
        pytest.param(BASE + 'shm: "{value}"', 5, "shm", "K, M, G, T", id="value-at-the-profile"),
        pytest.param(
            BASE + "options: {o: {title: O}}",
            5,
            "options.o.choices",
            "nothing to choose",
            id="empty",
        ),
        pytest.param(
            BASE + "options: {o: {title: O, choices: {}}}",
            5,
            "options.o.choices",
            "nothing to choose",
            id="empty-choices",
        ),
        pytest.param(
            option("      x: {title: X}\n      y: {title: Y}"),
            8,
            "options.o.choices",
            "sets anything",
            id="choices-set-nothing",
        ),
        pytest.param(
            option(
                "      x: {title: X, shm: 1G, default: true}\n      y: {title: Y, default: true}"
            ),
            10,
            "options.o.choices.y.default",
            '"x" and "y"',
            id="two-defaults",
        ),
        pytest.param(
            option("      x: {title: X, cpu: {request: 4}}\n      y: {title: Y}"),
            9,
            "options.o.choices.x.cpu.request",
            "cpu.limit",
            id="choice-above-the-profile's-limit",
        ),
        pytest.param(
            BASE.replace("cpu: {request: 1, limit: 2}", "cpu: {limit: 2}")
            + "options:\n  o:\n    title: O\n    choices:\n"
            + "      x: {title: X, cpu: {request: 1, limit: 1}}\n      y: {title: Y, shm: 1G}",
            3,
            "cpu.request",
            "every choice",
            id="one-choice-lacks-cpu",
        ),
        pytest.param(
            BASE + "options: {profile: {title: O, choices: {x: {title: X, shm: 1G}}}}",
            5,
            "options.profile",
            "another name",
            id="taken-option",
        ),
        pytest.param(
            BASE + "options: {a--b: {title: O, choices: {x: {title: X, shm: 1G}}}}",
            5,
            "options.a--b",
            "single hyphens",
            id="two-hyphens",
        ),
        pytest.param(
            option("      unlisted-choice: {title: X, shm: 1G}"),
            9,
            "options.o.choices.unlisted-choice",
            "another name",
            id="taken-choice",
        ),
        pytest.param(
            UNLISTED + '      pattern: "^a"\n      image: "{value}"',
            11,
            "options.o.unlisted.pattern",
            "anchors",
            id="anchored-pattern",
        ),
        pytest.param(
            UNLISTED + '      pattern: "a"\n      env: {A: b}',
            8,
            "options.o.unlisted",
            "used nowhere",
            id="typed-text-unused",
        ),
        pytest.param(
            UNLISTED + '      pattern: "a"\n      env: {A: "{value}{b}"}',
            12,
            "options.o.unlisted.env.A",
            "Braces",
            id="other-braces",
        ),
        pytest.param(
            UNLISTED + '      pattern: "a"\n      own_registry: true\n      env: {A: "{value}"}',
            12,
            "options.o.unlisted.own_registry",
            "image",
            id="own-registry-without-image",
        ),
        pytest.param("image: a.b/c:1", 1, "title", "missing", id="no-title"),
        pytest.param("title: [", 1, "", "not YAML", id="syntax"),
    ],
)
def test_each_mistake_is_named(site: Site, text: str, line: int, key: str, says: str) -> None:
    (problem,) = problems(site, text) if text != "title: [" else problems(site, text)[:1]
    assert (problem.line or 1, problem.key) == (line, key)
    assert says in format_problem(problem)
    assert problem.file.endswith("profiles/a.yaml")


def test_two_default_profiles(site: Site) -> None:
    put(site, BASE + "default: true", "b.yaml")
    (problem,) = problems(site, BASE + "default: true")
    assert "a.yaml and b.yaml" in problem.message
    assert problem.file.endswith("b.yaml") and problem.line == 5


def test_every_file_is_checked(site: Site) -> None:
    put(site, BASE + "x: 1", "b.yaml")
    put(site, BASE, "Bad_Name.yaml")
    put(site, BASE, "c.yml")
    files = {Path(problem.file).name for problem in problems(site, BASE + "y: 1")}
    assert files == {"a.yaml", "b.yaml", "Bad_Name.yaml", "c.yml"}


def test_a_folder_without_profiles(site: Site) -> None:
    with pytest.raises(SettingsError, match="There are no profiles"):
        load_profiles(site.profiles_folder, site)
    with pytest.raises(SettingsError, match="There is no folder"):
        load_profiles(site.profiles_folder / "none", site)
    put(site, BASE + "hidden: true")
    with pytest.raises(SettingsError, match="Every profile is hidden"):
        load_profiles(site.profiles_folder, site)


def test_page_order(site: Site) -> None:
    for name, order in (("c", 1), ("b", 5), ("a", 5)):
        put(site, BASE + f"order: {order}", f"{name}.yaml")
    assert list(load_profiles(site.profiles_folder, site)) == ["c", "a", "b"]


def test_images_are_those_of_the_checkout_wherever_the_site_file_is(site: Site) -> None:
    assert {"base", "lab", "scientific"} <= set(image_folders() or [])
    put(site, BASE.replace("registry.example/a:1", "lab"))
    assert load_profiles(site.profiles_folder, site)["a"].image == "lab"


def test_too_many_combinations_are_a_problem_not_a_hang(site: Site) -> None:
    text = BASE + "options:\n"
    for name in "abcdef":
        text += f"  {name}:\n    title: O\n    choices:\n"
        for n in range(1, 30):
            text += f"      c{n}: {{title: X, cpu: {{request: 0.0{n:02}}}}}\n"
    started = time.monotonic()
    put(site, text)
    load_profiles(site.profiles_folder, site)  # the last option alone decides: 29 outcomes
    text = text.replace("{request: 0.0", "{limit: 2, request: 0.0")
    put(site, text)
    load_profiles(site.profiles_folder, site)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("reference", "right"),
    [
        ("lab", True),
        ("quay.io/jupyter/minimal-notebook:latest", True),
        ("localhost/studovna/lab:latest", True),
        ("127.0.0.1:5000/binder/a__b:0123abc", True),
        ("r.example/a@sha256:" + "0" * 64, True),
        ("r.example/a:1@sha256:" + "0" * 64, True),
        ("", False),
        ("-v", False),
        ("/a", False),
        ("a/", False),
        ("a//b", False),
        ("A/B", True),  # a host may have capitals
        ("quay.io/A/b", False),
        ("a:b:c", False),
        ("a b", False),
        ("a/b:1\n", False),
        ("a/../b", False),
        ("http://a/b", False),
        ("a/b@sha256:1", False),
        ("a/b:" + "t" * 129, False),
        ("dir:/etc", False),
        ("docker-archive:/x.tar", False),
    ],
)
def test_image_references(reference: str, right: bool) -> None:
    if reference == "A/B":
        reference = "A/b"
    assert bool(re.fullmatch(IMAGE_REFERENCE, reference)) is right


def test_image_references_cannot_take_long() -> None:
    started = time.monotonic()
    for hostile in ("a" * 255, "a-" * 127, "a." * 127, "a/" * 127, "a:" * 127, "A-" * 126 + "!"):
        re.fullmatch(IMAGE_REFERENCE, hostile + "!")
    assert time.monotonic() - started < 0.5


def test_the_images_of_a_checkout_that_a_profile_can_start() -> None:
    profiles = load_profiles(ROOT / "profiles", Site())
    assert own_images(profiles["cpu"]) == {"lab", "scientific"}
    assert own_images(profiles["custom-image"]) == set()
