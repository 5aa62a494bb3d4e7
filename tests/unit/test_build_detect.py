"""What a repository asks for: repo2docker's detection, with the site's buildpack in front."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from binder.providers.addresses import AddressRules
from binder.providers.addresses import is_host as service_is_host
from binder.providers.addresses import is_public as service_is_public
from studovna.paths import ROOT

sys.path.insert(0, str(ROOT / "images/builder"))
from buildpack import addresses, detect, fetch, framework, report, submodules  # noqa: E402

Choose = Callable[[Path], detect.Choice]


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the builder image keeps of repo2docker's application, asked in a process of its own."""
    code = "import json; from buildpack import framework; print(json.dumps(framework.record()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "images/builder", capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("framework") / "repo2docker.json"
    path.write_text(done.stdout)
    return path


@pytest.fixture
def choose(record: Path, monkeypatch: pytest.MonkeyPatch) -> Choose:
    monkeypatch.setattr(framework, "FRAMEWORK", record)
    monkeypatch.setattr(framework.recorded, "__defaults__", (record,))
    return lambda repo: detect.choose(repo, record)


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_order_is_repo2dockers_own(record):
    found = framework.recorded(record)
    names = [one.rpartition(":")[2] for one in found["buildpacks"]]
    assert names[:2] == ["LegacyBinderDockerBuildPack", "DockerBuildPack"]
    assert names[-1] == "PythonBuildPack" and found["default"].endswith(":PythonBuildPack")


def test_the_sites_buildpack_is_one_of_repo2dockers(choose, tmp_path):
    choose(tmp_path)
    from buildpack.sitepack import SiteBuildPack
    from repo2docker.buildpacks import BuildPack

    assert issubclass(SiteBuildPack, BuildPack)


def test_detection_leaves_what_it_does_not_use(record):
    """Loading repo2docker's classes is a part of every build."""
    code = (
        "import sys; from pathlib import Path; from buildpack import framework;"
        "framework.recorded.__defaults__ = (Path(sys.argv[1]),);"
        "framework.load_provider(); import repo2docker.contentproviders.git;"
        "framework.buildpacks(framework.recorded());"
        "heavy = {'urllib3', 'jinja2', 'docker.api', 'argparse', 'repo2docker.app'};"
        "print(heavy & set(sys.modules)); import requests; print(requests.get)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(record)], cwd=ROOT / "images/builder",
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "set()" and "function get" in done.stdout


PROJECT = '[project]\nname = "a"\n'
SYSTEM = '[build-system]\nrequires = ["setuptools"]\n'


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, {}),
        ({"requirements.txt": ""}, {"requirements": ["requirements.txt"]}),
        ({"setup.py": ""}, {"project": True}),
        ({"pyproject.toml": PROJECT + SYSTEM}, {"project": True}),
        ({"pyproject.toml": PROJECT}, {"requirements": ["pyproject.toml"]}),
        ({"pyproject.toml": "[tool.ruff]\n"}, {"requirements": [], "project": False}),
        ({"pyproject.toml": PROJECT, "requirements.txt": ""},
         {"requirements": ["requirements.txt"], "project": False}),
        ({"binder/requirements.txt": "", "requirements.txt": "", "setup.py": ""},
         {"requirements": ["binder/requirements.txt"], "project": False}),
        ({"binder/x": "", "apt.txt": "gdal"}, {"stock": None}),
        ({".binder/postBuild": "", ".binder/start": ""},
         {"post_build": ".binder/postBuild", "start": ".binder/start"}),
        ({".resources": "cpul=2", "binder/x": ""}, {"resources": "cpul=2"}),
        ({"environment.yml": "dependencies: [pip, {pip: [numpy, -e .]}]"},
         {"lines": ["numpy", "-e ."], "lines_from": "environment.yml"}),
        ({"environment.yml": "dependencies: ['python>=3', pip]", "setup.py": ""},
         {"project": False, "stock": None}),
        ({"environment.yml": "name: a"}, {"lines": []}),
    ],
)  # fmt: skip
def test_what_a_repository_asks_for(tmp_path, choose, files, wanted):
    choice = choose(tree(tmp_path, files))
    assert choice.stock is None
    for name, value in wanted.items():
        assert getattr(choice, name) == value


@pytest.mark.parametrize(
    ("files", "buildpack", "file", "why"),
    [
        ({"Dockerfile": ""}, "DockerBuildPack", "Dockerfile", "an image of its own"),
        ({"binder/apt.txt": ""}, "PythonBuildPack", "binder/apt.txt", "as root"),
        ({"DESCRIPTION": ""}, "RBuildPack", "DESCRIPTION", "R"),
        ({"runtime.txt": "r-4.4-2025-01-01"}, "RBuildPack", "runtime.txt", "asks for R"),
        ({"runtime.txt": "r-4.4"}, "PythonBuildPack", "runtime.txt", "r-4.4"),
        ({"runtime.txt": "python-2.7"}, "PythonBuildPack", "runtime.txt", "Python 2.7"),
        ({"binder/Project.toml": "", "requirements.txt": ""}, "JuliaProjectTomlBuildPack",
         "binder/Project.toml", "Julia"),
        ({"REQUIRE": "julia 1"}, "JuliaRequireBuildPack", "REQUIRE", "Julia"),
        ({"default.nix": "", "environment.yml": ""}, "NixBuildPack", "default.nix", "Nix"),
        ({"Pipfile": "", "requirements.txt": ""}, "PipfileBuildPack", "Pipfile", "pipenv"),
        ({"environment.yml": "dependencies: [conda-forge::gdal>=3]"}, "CondaBuildPack",
         "environment.yml", "gdal"),
        ({"environment.yml": "dependencies: ['python=2.7']"}, "CondaBuildPack",
         "environment.yml", "Python 2.7"),
        ({"environment.yaml": "dependencies: [pip]", "apt.txt": "a"}, "CondaBuildPack", "apt.txt",
         "as root"),
    ],
)  # fmt: skip
def test_what_needs_a_builder_is_named_with_repo2dockers_class(
    tmp_path, choose, files, buildpack, file, why
):
    stock = choose(tree(tmp_path, files)).stock
    assert stock is not None and (stock.buildpack, stock.file) == (buildpack, file)
    assert why in stock.reason


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"environment.yml": "dependencies: {a: b}"}, "must be a list"),
        ({"environment.yml": "dependencies: [{conda: [a]}]"}, "is not understood"),
        ({"environment.yml": "- a"}, "name: value"),
        ({"environment.yml": "a: b: c"}, "is not YAML (line 1)"),
        ({"pyproject.toml": "[["}, "pyproject.toml is not TOML"),
        ({"binder/a": "", ".binder/a": ""}, "only one can count"),
        ({"environment.yml": "#" * (2**20 + 1)}, "larger than 1 MB"),
        ({"Dockerfile": "FROM andrewosh/binder-base\n"}, "first version of Binder"),
        ({"runtime.txt": "python"}, "repo2docker cannot read the repository: Invalid runtime.txt"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, choose, files, sentence):
    with pytest.raises(report.Refusal, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        choose(tree(tmp_path, files))


@pytest.mark.parametrize(
    ("version", "fits"),
    [("", True), ("=3.13", True), ("==3.13.1", True), ("3.13", True), (">=3.9", True),
     (">=3.9,<3.12", False), ("=3", True), ("3.*", True), ("=3.1", False), ("<4", True),
     (">3.13", False), ("!=3.13", False), ("~=3.10", True), ("evil; rm", False)],
)  # fmt: skip
def test_condas_versions_of_python(choose, monkeypatch, version, fits):
    from buildpack import sitepack

    monkeypatch.setattr(sitepack, "PYTHON", (3, 13))
    assert sitepack.python_fits(version) is fits


def test_other_encodings(tmp_path):
    (tmp_path / "r").write_bytes("č==1".encode("utf-16"))
    assert detect.read(tmp_path / "r", "r") == "č==1"
    (tmp_path / "r").write_bytes(b"# caf\xe9\nnumpy")
    assert detect.read(tmp_path / "r", "r") == "# café\nnumpy"


# --- handed to a builder --------------------------------------------------------------------------


def test_the_plan_of_a_builder(tmp_path, choose, capsys):
    files = {"environment.yml": "dependencies: [gdal]", ".resources": "cpul=2"}
    choice = choose(tree(tmp_path, files))
    assert json.loads(json.dumps(fetch.plan(choice)))["stock"] == {
        "buildpack": "CondaBuildPack",
        "file": "environment.yml",
        "template": "it asks for conda packages ({names})",
        "params": {"names": "gdal"},
    }
    fetch._hand_over(choice.stock, choice.resources)
    said = json.loads(capsys.readouterr().out.removeprefix(report.MARK))
    assert (said["kind"], said["buildpack"], said["file"], said["resources"]) == (
        "stock", "CondaBuildPack", "environment.yml", "cpul=2",
    )  # fmt: skip
    assert "{file} needs a builder" in said["template"]


def test_what_is_not_used_is_said(tmp_path, choose):
    notes = choose(tree(tmp_path, {"install.R": "", "requirements.txt": ""})).notes
    assert ["install.R is not used" in one for one in notes] == [True]
    files = {"environment.yml": "dependencies: [pip]", "requirements.txt": ""}
    assert "not requirements.txt" in choose(tree(tmp_path, files)).notes[0]


def test_no_file_of_a_repository_leads_to_a_secret(tmp_path):
    """A process of its own: what is sealed stays so."""
    secret = tree(tmp_path / "secret", {"config.json": "t0ken"})
    repo = tree(tmp_path / "repo", {"a": "fine"})
    (repo / ".resources").symlink_to(secret / "config.json")
    (repo / "binder").symlink_to(secret)
    code = (
        "import sys; from pathlib import Path; from buildpack import fetch, report\n"
        "fetch._seal(Path(sys.argv[1]))\n"
        "print(open('a').read())\n"
        "for name in ('.resources', 'binder/config.json', sys.argv[1] + '/config.json'):\n"
        "    try: print(open(name).read())\n"
        "    except report.Refusal as error: print(error.text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(secret)], cwd=repo, text=True, capture_output=True,
        check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "images/builder")},
    )  # fmt: skip
    assert "fine" in done.stdout and "t0ken" not in done.stdout
    assert done.stdout.count("leads out of it") == 3


# --- submodules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parent", "found"),
    [
        ("https://example.org/a", "https://h/x", "https://example.org/a"),
        ("../b.git", "https://h:8/g/a.git", "https://h:8/g/b.git"),
        ("../../o/b", "https://h/g/a", "https://h/o/b"),
        ("./b", "git://h/a", "git://h/a/b"),
        ("git@github.com:g/b.git", "https://h/x", "ssh://git@github.com/g/b.git"),
        ("http://[2001:db8::1]:80/a", "https://h/x", "http://[2001:db8::1]:80/a"),
    ],
)
def test_addresses_of_submodules(url, parent, found):
    assert submodules.resolved(submodules.Entry("m", "m", url), parent) == found


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc", "/etc", "ext::sh -c x", "-u", "--upload-pack=x", "https://-h/a",
        "ssh://-oProxyCommand=x/a", "-h:a", "ftp://h/a", "../../../b", "https://h/a\nb",
        "https://h/a b", "https:///a", "https://h:0/a", "https://h:99999/a", "ssh://-l@h/a",
        "https://h/" + "a" * 2000, "", ".\0", "https://h/-a",
    ],
)  # fmt: skip
def test_addresses_of_submodules_that_are_never_fetched(url):
    with pytest.raises(report.Refusal, match="The submodule m is at"):
        submodules.resolved(submodules.Entry("m", "m", url), "https://h/g/a")


def test_gitmodules_are_read_whatever_is_in_them():
    listed = (
        "submodule.a.b.path\nx\0submodule.a.b.url\nhttps://h\nq\0core.x\ny\0submodule.c.url\nu\0"
    )
    assert submodules.read(listed) == [submodules.Entry("a.b", "x", "https://h\nq")]
    assert submodules.read("") == []


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "2001:4860:4860::8888", "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1",
     "2002:a00:1::", "2001:0:4136:e378:8000:63bf:f5ff:fffe", "::a00:1", "fec0::1", "fe80::1%eth0",
     "fd00::1", "x", ""],
)  # fmt: skip
def test_the_rule_is_the_services(address):
    assert addresses.is_public(address) == service_is_public(address)


@pytest.mark.parametrize("host", ["a.example", "-a", "a b", "", "::1", "1.2.3.4", "a" * 254, "a_b"])
def test_hosts_are_the_services(host):
    assert addresses.is_host(host) == service_is_host(host)
    for allowed in ([], ["a.example"], ["a.example:80"], ["[::1]:80", "1.2.3.4:81"]):
        rules = AddressRules.of(allowed)
        for port in (80, 443):
            assert addresses.allowed_by_name(host, port, allowed) == rules.allows_by_name(
                host, port
            )
