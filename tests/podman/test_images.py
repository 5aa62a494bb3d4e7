"""The images as podman builds and runs them here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from studovna import build_settings
from studovna.images import LABEL_NAME, BuildError, build, images_status
from studovna.paths import ROOT
from studovna.podman import Podman, PodmanError
from studovna.text import Text
from tests.support import need_image

IMAGES = ROOT / "images"
LAB = "localhost/studovna/lab:latest"
RESTRICTED = ("--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", "none")


class Heard:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def begin(self, image: str, number: int, count: int) -> None:
        self.events.append(("begin", image, f"{number}/{count}"))

    def step(self, image: str, step: Text) -> None:
        self.events.append(("step", image, step))

    def line(self, image: str, line: str) -> None:
        self.events.append(("line", image, line))

    def done(self, image: str, seconds: float, size: int) -> None:
        self.events.append(("done", image, str(size)))


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    podman = Podman(tmp_path_factory.mktemp("state"))
    podman.probe()
    return podman


@pytest.fixture(scope="module")
def lab(podman: Podman) -> str:
    build(podman, IMAGES, ["lab"], Heard())
    return LAB


@pytest.fixture
def folder(tmp_path: Path, podman: Podman, lab: str) -> Iterator[tuple[Path, str]]:
    """A folder with one image of a name of its own, which is gone afterwards."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "image.yaml").write_text(
        "description: a test\nbootstrap: {suite: trixie, packages: [git]}\n"
    )
    yield tmp_path, name
    for image in json.loads(
        podman.run("images", "--format", "json", "--filter", f"label={LABEL_NAME}={name}")
    ):
        podman.run("rmi", "--force", image["Id"])


def run(podman: Podman, *args: str, command: list[str]) -> str:
    return podman.run("run", "--rm", *RESTRICTED, *args, LAB, *command)


@pytest.mark.slow
def test_the_second_build_builds_nothing(podman: Podman, lab: str) -> None:
    heard = Heard()
    assert build(podman, IMAGES, ["lab"], heard) == []
    assert heard.events == []
    status = {row.name: row for row in images_status(podman, IMAGES)}
    assert status["lab"].up_to_date
    assert status["lab"].size > status["base"].size > 0
    assert status["lab"].built_at is not None


def test_nothing_of_this_machine_is_in_the_image(podman: Podman, lab: str) -> None:
    """Its certificates, indexes and mounts are neither in the configuration nor in a file."""
    settings = build_settings.of_this_machine()
    strange = [str(path) for path, name in settings.mounts if not name.startswith("ca")]
    strange += [build_settings.MOUNT, "PIP_CERT", "NODE_EXTRA_CA_CERTS", "UV_INDEX"]
    inspected = podman.run("inspect", lab) + podman.run("history", "--no-trunc", lab)
    assert [word for word in strange if word in inspected] == []
    assert "SSL_CERT_FILE" not in inspected

    own = podman.run("run", "--rm", "--network", "none", lab, "cat", str(build_settings.CA_BUNDLE))
    ours = set(build_settings.CA_BUNDLE.read_text().split()) - set(own.split())
    strange = [str(path) for path, name in settings.mounts if not name.startswith("ca")]
    strange += [build_settings.MOUNT, *sorted(line for line in ours if len(line) == 64)[:50]]
    search = ["grep", "-rlFI", "--exclude-dir=proc", "--exclude-dir=sys", "--exclude-dir=dev"]
    found = podman.run(
        *("run", "--rm", "--interactive", "--user", "0:0", "--network", "none", lab, "sh", "-c"),
        'cat > /tmp/words; "$@" -f /tmp/words --exclude=words / 2>/dev/null || true',
        "sh",
        *search,
        input="\n".join(strange) + "\n",
        timeout=120,
    )
    assert found == ""
    changed = podman.run("run", "--rm", "--network", "none", lab, "ls", "-A", "/mnt", "/dev")
    assert "studovna" not in changed


def test_a_notebook_runs_restricted_with_an_empty_home(podman: Podman, lab: str) -> None:
    code = (
        "import nbformat, nbclient; v = nbformat.v4; "
        "nb = v.new_notebook(cells=[v.new_code_cell('import no_such_module'), "
        "v.new_code_cell('import os; print(os.getuid(), os.getgid())')]); "
        "nbclient.NotebookClient(nb, allow_errors=True).execute(); "
        "print(nb.cells[1].outputs[0]['text'])"
    )
    out = run(
        podman, "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/home/jovyan:mode=1777,notmpcopyup",
        command=["python", "-c", code],
    )  # fmt: skip
    assert out.strip() == "1000 100"


def test_login_shells_find_the_venv(podman: Podman, lab: str) -> None:
    out = run(podman, command=["bash", "-lc", "command -v python3 pip uv git; umask; date +%Z"])
    assert out.splitlines()[:3] == [f"/opt/venv/bin/{name}" for name in ("python3", "pip", "uv")]


def test_every_module_has_byte_code(podman: Podman, lab: str) -> None:
    code = (
        "import importlib.util as u, pathlib, sysconfig\n"
        "for top in {sysconfig.get_path('stdlib'), sysconfig.get_path('purelib')}:\n"
        "    for p in pathlib.Path(top).rglob('*.py'):\n"
        "        if not pathlib.Path(u.cache_from_source(str(p))).exists(): print(p)\n"
    )
    missing = run(podman, command=["python", "-c", code]).splitlines()
    assert [path for path in missing if "/tests/" not in path and "template" not in path] == []


def test_the_server_starts_without_what_it_does_not_use(podman: Podman, lab: str) -> None:
    code = (
        "import sys, studovna_singleuser as s; s.sys.meta_path.insert(0, s._LateFinder)\n"
        "s._import_shared(); import jupyterhub.singleuser.extension\n"
        "assert not {'lark', 'alembic', 'sqlalchemy', 'git'} & set(sys.modules)\n"
        "assert type(sys.modules['jupyterhub.orm']).__name__ == '_LazyModule'\n"
        "import jupyterhub.orm, jupyterhub.handlers.pages, sqlalchemy.exc, requests.adapters, git\n"
        "print(jupyterhub.orm.User.__name__, jupyterhub.handlers.pages.HealthCheckHandler.get,\n"
        "      jupyterhub.scopes.orm.User is jupyterhub.orm.User, git.Repo, requests.Session,\n"
        "      jupyterhub.scopes.sa.inspect, sqlalchemy.exc.SQLAlchemyError.__module__)\n"
    )
    out = run(podman, command=["python", "-c", code])
    assert out.startswith("User <function") and out.endswith("sqlalchemy.exc\n")


def test_a_failed_build_says_where_and_what(podman: Podman, folder: tuple[Path, str]) -> None:
    images, name = folder
    (images / name / "Containerfile").write_text(
        "ARG PARENT\nFROM ${PARENT}\nRUN echo here it is; exit 3\n"
    )
    heard = Heard()
    with pytest.raises(BuildError) as raised:
        build(podman, images, [name], heard, base="localhost/studovna/base:latest")
    said = str(raised.value)
    assert name in said and "(RUN)" in said and "here it is" in said
    assert raised.value.log is not None and str(raised.value.log) in said
    assert "here it is" in raised.value.log.read_text()
    with pytest.raises(PodmanError):
        podman.run("image", "inspect", f"localhost/studovna/{name}:latest")


def test_a_new_build_replaces_the_old_tag(podman: Podman, folder: tuple[Path, str]) -> None:
    images, name = folder
    base = "localhost/studovna/base:latest"
    tags = []
    for text in ("one", "two"):
        (images / name / "Containerfile").write_text(
            f"ARG PARENT\nFROM ${{PARENT}}\nENV A={text}\n"
        )
        assert build(podman, images, [name], Heard(), base=base) == [name]
        listed = json.loads(
            podman.run("images", "--format", "json", "--filter", f"label={LABEL_NAME}={name}")
        )
        assert len({entry["Id"] for entry in listed}) == 1, "the image before is gone"
        tags.append(sorted(listed[0]["Names"]))
    assert tags[0] != tags[1]
    assert all(f"localhost/studovna/{name}:latest" in each for each in tags)


COMPUTE = {
    "gpu": "import torch, torchvision; a = torch.ones(9, 9); "
    "print(torch.version.cuda, float((a @ a).sum()))",
    "gpu-tensorflow": "import tensorflow as tf; a = tf.ones((9, 9)); "
    "print(tf.test.is_built_with_cuda(), float(tf.reduce_sum(a @ a)))",
}
"""What the images for GPUs do without one; their libraries for CUDA are loaded all the same."""


@pytest.mark.parametrize("name", COMPUTE)
def test_the_images_for_gpus_compute_on_a_processor(podman: Podman, name: str) -> None:
    image = need_image(podman, name)
    said = podman.run(
        "run", "--rm", *RESTRICTED, image, "/opt/venv/bin/python", "-c", COMPUTE[name], timeout=120
    )
    assert "729" in said and said.split()[0] not in ("None", "False")


def test_an_unknown_name_gets_the_nearest(podman: Podman) -> None:
    with pytest.raises(BuildError, match="lab"):
        build(podman, IMAGES, ["lap"], Heard())


async def test_podman_without_blocking_and_its_errors(podman: Podman) -> None:
    assert (await podman.arun("version", "--format", "{{.Client.Version}}")).strip()
    with pytest.raises(PodmanError) as raised:
        await podman.arun("image", "inspect", "localhost/studovna/no-such-image")
    assert raised.value.returncode
    with pytest.raises(PodmanError, match="within"):
        await podman.arun("events", "--stream", timeout=0.3)


def test_podman_sees_no_secret(podman: Podman, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_CRYPT_KEY", "secret")
    assert "secret" not in str(podman.environment)
