"""What the operator gives to a build, and how a later build knows it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from studovna import build_times
from studovna.image_args import (
    ArgumentError,
    check,
    command,
    from_label,
    missing,
    read_words,
    to_label,
)
from studovna.images import build_commands, hashes, read_images
from studovna.paths import ROOT
from studovna.problems import SettingsError

RSTUDIO = read_images(ROOT / "images")["rstudio"].spec.asks
RIGHT = {"RSTUDIO_DEB": "https://example.org/rstudio-server.deb", "RSTUDIO_SHA256": "a" * 64}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"RSTUDIO_DEP": "x"}, '"RSTUDIO_DEB"'),
        ({"RSTUDIO_SHA256": "A" * 64}, "64 digits"),
        ({"RSTUDIO_SHA256": "a" * 64 + "\n"}, "64 digits"),
        ({"RSTUDIO_DEB": "file:///etc/passwd.deb"}, "the address"),
        ({"RSTUDIO_DEB": "https://ana:secret@example.org/a.deb"}, "the address"),
        ({"RSTUDIO_DEB": "https://example.org/a.deb; id"}, "the address"),
        ({"RSTUDIO_DEB": f"https://example.org/{'a' * 500}.deb"}, "the address"),
    ],
    ids=["misspelt", "capitals", "a line more", "a file", "a password", "a shell", "long"],
)
def test_a_wrong_argument_is_refused_by_name(values: dict[str, str], said: str) -> None:
    with pytest.raises(ArgumentError, match=next(iter(values))) as raised:
        check(values, RSTUDIO)
    assert said in str(raised.value)


def test_an_image_that_asks_for_nothing_takes_nothing() -> None:
    with pytest.raises(ArgumentError, match="take no build argument A"):
        check({"A": "b"}, {})
    with pytest.raises(ArgumentError, match="NAME=value"):
        read_words(["A"])


def test_what_is_missing_is_said_with_the_command() -> None:
    check(RIGHT, RSTUDIO)
    assert missing("rstudio", RSTUDIO, RIGHT) is None
    said = missing("rstudio", RSTUDIO, {"RSTUDIO_DEB": RIGHT["RSTUDIO_DEB"]})
    assert said is not None
    assert said.endswith('make images IMAGES=rstudio ARGS="RSTUDIO_DEB=https://… RSTUDIO_SHA256=…"')
    assert build_commands(ROOT / "images") == {"rstudio": command("rstudio", RSTUDIO)}
    assert missing("lab", {}, {}) is None


def test_the_label_gives_back_what_is_still_right() -> None:
    assert from_label(to_label(RIGHT), RSTUDIO) == RIGHT
    assert from_label(to_label(RIGHT | {"GONE": "x"}), RSTUDIO) == RIGHT
    assert from_label(to_label(RIGHT | {"RSTUDIO_SHA256": "?"}), RSTUDIO).keys() == {"RSTUDIO_DEB"}
    for broken in (None, "", "{", "[1]", '{"RSTUDIO_SHA256": 1}'):
        assert from_label(broken, RSTUDIO) == {}


def test_what_was_given_is_an_input_of_that_image_alone() -> None:
    images = read_images(ROOT / "images")
    plain, given = hashes(images, None), hashes(images, None, given={"rstudio": RIGHT})
    assert {name for name in plain if plain[name] != given[name]} == {"rstudio"}
    other = RIGHT | {"RSTUDIO_SHA256": "b" * 64}
    assert hashes(images, None, given={"rstudio": other})["rstudio"] != given["rstudio"]


def test_an_argument_is_not_set_and_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/Containerfile").touch()
    (tmp_path / "a/image.yaml").write_text(
        "description: d\nbootstrap: {suite: trixie, packages: [git]}\nargs: {A: x}\n"
        "asks: {A: {what: w, pattern: p, example: e}}\n"
    )
    with pytest.raises(SettingsError, match="A is both set and asked for"):
        read_images(tmp_path)


def test_build_times_are_kept_by_image(tmp_path: Path) -> None:
    assert build_times.read(tmp_path) == {}
    build_times.record(tmp_path, "lab", build_times.BuildTime("x", 1.5))
    build_times.record(tmp_path, "r", build_times.BuildTime("y", 60))
    build_times.record(tmp_path, "lab", build_times.BuildTime("z", 2))
    kept = build_times.read(tmp_path)
    assert kept == {"lab": build_times.BuildTime("z", 2), "r": build_times.BuildTime("y", 60)}
    (tmp_path / "log/images/times.json").write_text("[]")
    assert build_times.read(tmp_path) == {}


@pytest.mark.parametrize("image", ["gpu", "gpu-tensorflow", "mpi", "workflows", "rstudio"])
def test_images_hold_the_versions_of_what_they_stand_on(image: str) -> None:
    """Everything is installed with --no-deps: a second version would replace the first."""

    def pinned(name: str) -> dict[str, str]:
        lines = (ROOT / "images" / name / "requirements.txt").read_text().splitlines()
        return dict(line.split(" ")[0].split("==") for line in lines if "==" in line)

    below = pinned("lab") | (pinned("scientific") if image.startswith("gpu") else {})
    own = pinned(image)
    assert {name: own[name] for name in own.keys() & below} == {
        name: below[name] for name in own.keys() & below
    }


def test_r_in_rstudio_gets_what_is_listed_and_can_be_written() -> None:
    module = runpy.run_path(str(ROOT / "images/rstudio/studovna_renviron.py"))
    environ = {
        "CPU_LIMIT": "2.0",
        "JUPYTERHUB_API_TOKEN": "secret",
        "TZ": "a'b",
        "STUDOVNA_CRAN": "https://cran.example.org/${HOME}",
        "STUDOVNA_RENVIRON": "LICENCE NOT.A.NAME MISSING LINES",
        "LICENCE": "27000@licences.example.org",
        "NOT.A.NAME": "x",
        "LINES": "a\nB=c",
    }
    text = module["renviron"](environ)
    assert text == "CPU_LIMIT='2.0'\nLICENCE='27000@licences.example.org'\n"


def test_examples_are_copied_once(tmp_path: Path) -> None:
    module = runpy.run_path(str(ROOT / "images/shared/examples/studovna_examples.py"))
    source, home = tmp_path / "opt", tmp_path / "home"
    for name in ("mpi", "r"):
        (source / name).mkdir(parents=True)
        (source / name / "one.ipynb").write_text("new")
        (source / name / "one.ipynb").chmod(0o444)
    (home / "examples/r").mkdir(parents=True)
    (home / "examples/r/one.ipynb").write_text("the person's own")
    copied = module["copy_examples"](source, home)
    assert copied == [home / "examples/mpi"]
    assert (home / "examples/r/one.ipynb").read_text() == "the person's own"
    (home / "examples/mpi/one.ipynb").write_text("changed")
    assert module["copy_examples"](source, home) == []
    assert sorted(path.name for path in (home / "examples").iterdir()) == ["mpi", "r"]
