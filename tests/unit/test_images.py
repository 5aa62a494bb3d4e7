"""Image folders, their hashes and order, and what podman's settings become: no podman needed."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from studovna.build_settings import (
    BuildSettings,
    _add_pip,
    apt_acquire,
    apt_sources,
    pip_options,
)
from studovna.image_files import folder_files
from studovna.images import build_steps, family, hashes, inputs_hash, on_request, read_images
from studovna.paths import ROOT
from studovna.podman import enforcement, explain, merge, needed_settings, registries_conf, to_toml
from studovna.problems import SettingsError


def make(folder: Path, name: str, yaml: str, containerfile: str = "FROM x\n") -> Path:
    image = folder / name
    image.mkdir(parents=True)
    (image / "image.yaml").write_text(yaml)
    (image / "Containerfile").write_text(containerfile)
    return image


BASE = "description: d\nbootstrap: {suite: trixie, packages: [git]}\n"
CHILD = "description: d\nparent: base\n"


def test_our_own_folders_are_right() -> None:
    images = read_images(ROOT / "images")
    assert [image.name for image in family(images, ["scientific"])] == ["base", "lab", "scientific"]


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("description: d\n", "starts from one thing"),
        (
            "description: d\nparent: base\nbootstrap: {suite: trixie, packages: [git]}\n",
            "one thing",
        ),
        (
            "description: d\nbootstrap: {suite: trixie, packages: [git]}\npackages: [less]\n",
            "packages once",
        ),
        ("description: d\nparent: base\npackages: ['-o x']\n", "packages"),
        ("description: d\nparent: bse\n", '"base"'),
        ("description: d\nparent: child\n", "circle"),
        ("description: d\nparent: base\nargz: {}\n", '"args"'),
        ("description: d\nbootstrap: {suite: trixie, packages: ['-o x']}\n", "packages"),
        ("description: d\nbootstrap: {suite: 'a b', packages: [git]}\n", "suite"),
    ],
)
def test_a_wrong_image_file_is_refused(tmp_path: Path, yaml: str, said: str) -> None:
    make(tmp_path, "base", BASE)
    make(tmp_path, "child", yaml)
    with pytest.raises(SettingsError) as raised:
        read_images(tmp_path)
    assert said in str(raised.value)
    assert "child" in str(raised.value)


def test_a_folder_without_containerfile_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "base", BASE)
    (tmp_path / "base/Containerfile").unlink()
    with pytest.raises(SettingsError, match="no Containerfile"):
        read_images(tmp_path)


def test_an_image_of_packages_alone_needs_no_containerfile(tmp_path: Path) -> None:
    make(tmp_path, "base", BASE)
    child = make(tmp_path, "child", CHILD + "packages: [octave, g++]\n")
    with pytest.raises(SettingsError, match="packages, and a Containerfile too"):
        read_images(tmp_path)
    (child / "Containerfile").unlink()
    images = read_images(tmp_path)
    files = images["child"].files()
    assert b"-- octave g++\n" in files["install.sh"][1]
    before = hashes(images, None)["child"]
    (child / "image.yaml").write_text(CHILD + "packages: [octave]\n")
    assert hashes(read_images(tmp_path), None)["child"] != before


def test_what_is_built_on_demand_is_kept_once_it_is_there(tmp_path: Path) -> None:
    make(tmp_path, "base", BASE)
    make(tmp_path, "child", CHILD + "on_demand: true\n")
    images = read_images(tmp_path)
    assert on_request(images, []) == {"child"}
    assert on_request(images, ["child"]) == set()


def test_times_play_no_part_and_content_does(tmp_path: Path) -> None:
    base = make(tmp_path, "base", BASE)
    make(tmp_path, "child", CHILD)
    before = hashes(read_images(tmp_path), None)
    os.utime(base / "Containerfile", (1, 1))
    (base / "notes.md").write_text("for people")
    (base / "__pycache__").mkdir()
    (base / "__pycache__/x.pyc").write_bytes(b"x")
    assert hashes(read_images(tmp_path), None) == before
    (base / "Containerfile").chmod(0o755)
    after = hashes(read_images(tmp_path), None)
    assert after["base"] != before["base"]
    assert after["child"] != before["child"], "a child follows its parent"


def test_the_image_to_start_from_is_an_input(tmp_path: Path) -> None:
    make(tmp_path, "base", BASE)
    images = read_images(tmp_path)
    assert hashes(images, "docker.io/library/debian:trixie") != hashes(images, None)


def test_names_and_contents_cannot_be_confused() -> None:
    one = inputs_hash({"a": (False, b"b"), "c": (False, b"")}, "", {})
    assert one != inputs_hash({"a": (False, b""), "c": (False, b"b")}, "", {})
    assert one != inputs_hash({"a": (True, b"b"), "c": (False, b"")}, "", {})


def test_no_trace_of_a_machine_in_the_locked_files() -> None:
    for name in ("lab", "scientific"):
        for path, (_, content) in folder_files(ROOT / "images" / name).items():
            if path == "requirements.txt":
                assert b"://" not in content
                assert b"--index" not in content
                assert b"--find-links" not in content


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("STEP 3/5: RUN sh x", "step 3 of 5 (RUN)"),
        ("COMMIT localhost/x", "writing the image"),
        ("I: extracting archives...", "unpacking Debian"),
        ("something else", None),
    ],
)
def test_steps(line: str, step: str | None) -> None:
    assert build_steps(line) == step


# --- podman's settings ---


def settings(**changes: object) -> dict[str, dict[str, object]]:
    machine: dict[str, object] = {
        "default_runtime": "crun",
        "has_runc": True,
        "cgroups": 2,
        "systemd": True,
        "journald": True,
        "pin_limits": False,
        "hard_limits": {"nofile": 1000},
    }
    return needed_settings(**(machine | changes))  # type: ignore[arg-type]


def test_a_machine_that_needs_nothing_gets_nothing() -> None:
    assert settings() == {}


def test_each_setting_has_its_reason() -> None:
    assert settings(cgroups=1) == {"engine": {"runtime": "runc"}}
    assert settings(cgroups=1, has_runc=False) == {}
    assert settings(systemd=False) == {"engine": {"cgroup_manager": "cgroupfs"}}
    assert settings(journald=False) == {"engine": {"events_logger": "file"}}
    assert settings(pin_limits=True) == {"containers": {"default_ulimits": ["nofile=1000:1000"]}}


def test_toml_is_read_back() -> None:
    tables = {"a": {"x": ["1", "2"], "b c": {"y": True, "z": 'quote " and \\'}}, "n": 3}
    assert tomllib.loads(to_toml(tables)) == tables


def test_merge_keeps_what_is_not_ours() -> None:
    assert merge({"engine": {"a": 1, "b": 2}}, {"engine": {"b": 3}}) == {"engine": {"a": 1, "b": 3}}


@pytest.mark.parametrize(
    "machine",
    [
        "",
        '# note\nshort-name-mode = "permissive"\n',
        "[broken",
        "[registries.search]\nregistries = []\n",
    ],
)
def test_only_our_registry_is_insecure(machine: str) -> None:
    made = tomllib.loads(registries_conf(machine, 5055))
    assert made["registry"] == [{"location": "127.0.0.1:5055", "insecure": True}]


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("Error: writing blob: no space left on device", "disk is full"),
        ("Error: open /dev/net/tun: permission denied", "chmod 0666 /dev/net/tun"),
        ("cannot find newuidmap: not in PATH", "usermod --add-subuids"),
        ("a\nError: something odd\n", "something odd"),
        ("", "no reason"),
    ],
)
def test_errors_say_what_to_do(stderr: str, said: str) -> None:
    assert said in explain(stderr, user="ana", rootless=True)


def test_whether_limits_hold() -> None:
    assert enforcement(False, 1, ["cpuset", "cpu", "cpuacct", "memory"])[0]
    assert enforcement(False, 2, ["cpu", "memory", "pids"])[0]
    assert "memory" in enforcement(False, 1, ["cpu"])[1]
    assert not enforcement(False, 2, [])[0]
    assert enforcement(True, 2, ["cpu", "memory", "pids"])[0]
    assert "cgroups v1" in enforcement(True, 1, [])[1]
    assert "cpu" in enforcement(True, 2, ["memory", "pids"])[1]


# --- the machine's settings ---


def test_pip_settings_of_files_and_environment(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://one/simple\nextra-index-url = a\n  b\n")
    options = pip_options([file], {"PIP_INDEX_URL": "https://two/simple"})
    assert options == {"index-url": ["https://two/simple"], "extra-index-url": ["a", "b"]}


def test_folders_are_mounted_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "pypi/simple").mkdir(parents=True)
    made = BuildSettings()
    _add_pip(
        made,
        {
            "extra-index-url": [f"file://{tmp_path}/pypi/simple", "https://host/simple"],
            "find-links": ["/nowhere"],
        },
    )
    assert str(tmp_path) not in made.files["pip.conf"] + str(made.env)
    assert made.mounts == [(tmp_path / "pypi", "index0")]
    assert made.env["UV_INDEX"].split() == [
        "file:///dev/studovna/index0/simple",
        "https://host/simple",
    ]
    assert "UV_FIND_LINKS" not in made.env


def test_apt_takes_how_to_reach_mirrors_and_nothing_else() -> None:
    dump = (
        'Acquire::http::Proxy "http://proxy:3128";\nAcquire::Retries "3";\n'
        'Acquire::http::Proxy-Auto-Detect "/bin/x";\nAPT::Install-Recommends "1";\n'
        'Acquire::https::CaInfo "";\n'
    )
    assert apt_acquire(dump) == [
        'Acquire::http::Proxy "http://proxy:3128";',
        'Acquire::Retries "3";',
    ]


def test_debian_mirror_of_the_machine() -> None:
    assert apt_sources("Ubuntu|http://mirror/ubuntu/\n", "trixie") == []
    lines = apt_sources("Debian|http://mirror/debian/\nDebian-Security|http://m/s\n", "trixie")
    assert lines == [
        "deb http://mirror/debian trixie main",
        "deb http://mirror/debian trixie-updates main",
        "deb http://m/s trixie-security main",
    ]
