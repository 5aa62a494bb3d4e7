"""repo2docker with buildah, in a pod: what a cluster does with a repository that needs a builder.

Two containers of `binder.dockerfile_pod` run this, one after the other:

- ``buildah unshare -- python -m binder.engine_buildah build`` makes the image, and leaves it as a
  folder (an OCI layout). A Dockerfile's steps are root of a user namespace here, and user 1000 of
  the container. It is the one place where a site on a cluster needs more than *restricted*, and it
  has no credential at all.
- ``python -m binder.engine_buildah export`` pushes that folder. It runs nothing of the repository.

Both write messages to their logs as the containers of a build pod do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

from studovna.build_settings import MOUNT
from studovna.text import Text

from . import staging
from .builder_room import StockBuild
from .buildpod import MAX_FILES
from .cluster import copy_environment
from .dockerfile_pod import BUILD, IMAGE, JOB, PUSH, REGISTRIES, SOURCE, STORE
from .engine_repo2docker import (
    BUILT,
    DONE,
    Log,
    PodmanBuildEngine,
    Refusal,
    make,
    told,
    watch,
    why_not_pushed,
)
from .registry import docker_login
from .stock import not_staged

_SETTINGS = "/run/studovna"
_TERMINATION = Path("/dev/termination-log")
_CGROUP = Path("/sys/fs/cgroup")
_TAG = "done"


class PodRoom:
    """A store in a folder of the pod. The pod bounds memory and cores, and its network is used."""

    def __init__(self, folder: Path, registries: Path) -> None:
        own = {name: value for name, value in os.environ.items() if name.startswith("_CONTAINERS_")}
        self._folder = folder
        self._registries = [f"--registries-conf={registries}"] if registries.is_file() else []
        self._driver = "overlay"
        self.environment = {
            **copy_environment(os.environ),
            **own,  # so buildah knows that it is in its user namespace already
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
        }

    def enter(self) -> None:
        """Make the folders, and see what kind of store there can be. Raises OSError."""
        for name in ("tmp", "home", "run", "root"):
            (self._folder / name).mkdir(mode=0o700)
        (self._folder / "nobody.json").write_text("{}")
        os.environ["TMPDIR"] = self.environment["TMPDIR"]
        asked = subprocess.run(
            self.argv("info"), env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, check=False,
        )  # fmt: skip
        if asked.returncode != 0:
            # A kernel before 5.11, or a file system that overlays do not work on: whole copies.
            self._driver = "vfs"

    def argv(self, *args: str) -> list[str]:
        """`buildah ARGS` with the store of this pod."""
        own = [f"--root={self._folder / 'root'}", f"--runroot={self._folder / 'run/store'}"]
        return ["buildah", *own, f"--storage-driver={self._driver}", *self._registries, *args]

    def show(self, names: Set[str]) -> None:
        """There is nothing here yet: all images come from registries."""

    def limits(self) -> list[str]:
        """The pod's own hold."""
        return []

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of this container for its memory."""
        for name in ("memory.events", "memory/memory.oom_control"):
            with contextlib.suppress(OSError):
                text = (_CGROUP / name).read_text()
                if any(int(n) for n in re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE)):
                    return True
        return False


class BuildahBuildEngine(PodmanBuildEngine):
    """The same with buildah, which needs no runtime and no daemon: it changes root by itself."""

    isolation = "chroot"

    def inspect_config(self) -> dict[str, Any]:
        found = json.loads(self._said("inspect", "--type=image", BUILT))
        return dict(found["OCIv1"].get("config") or {})

    def _settings(self, bases: set[str]) -> tuple[dict[str, str], list[str]]:
        env, volumes = super()._settings(bases)
        # A step sees the pod's own /dev, and nothing can be mounted there.
        for file in Path(self._build.folder, "settings").iterdir():
            if file.is_file():
                file.write_text(_moved(file.read_text()))
        return {name: _moved(text) for name, text in env.items()}, [_moved(one) for one in volumes]

    def _mounted(self) -> str:
        return self._said("mount", self._said("from", "--pull-never", BUILT).strip()).strip()

    def leave(self, folder: Path) -> None:
        """Leave the finished image in a folder. Raises Refusal."""
        self._said("push", "--quiet", "--format=oci", DONE, f"oci:{folder}:{_TAG}")


def _moved(text: str) -> str:
    return text.replace(MOUNT, _SETTINGS)


def build_image(build: StockBuild, log: Log) -> None:
    """From the fetched files to an image in a folder. Raises Refusal."""
    folder = Path(build.folder)
    wanted = {"source": SOURCE, "target": str(folder / "src"), "size": build.disk}
    wrong = staging.request({**wanted, "files": MAX_FILES})
    if wrong:
        raise Refusal(not_staged(wrong["kind"], wrong["name"], build.disk))
    room = PodRoom(folder, Path(JOB, REGISTRIES))
    room.enter()
    watch(build, log)
    engine = make(build, room, log, BuildahBuildEngine)
    assert isinstance(engine, BuildahBuildEngine)
    engine.leave(Path(IMAGE))


def push_image(build: StockBuild, log: Log) -> None:
    """From the folder to the registry. Raises Refusal."""
    log.say("step", name="export")
    log.say("note", Text("Pushing the image"))
    given = json.loads(Path(PUSH, "credential.json").read_text())
    login = Path(os.environ["HOME"], "login.json")
    host = build.push_to.partition("/")[0]
    login.touch(mode=0o600)
    login.write_text(
        json.dumps(docker_login(host, given.get("username", ""), given.get("password", "")))
    )
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", f"--dest-authfile={login}"]
    argv += ["--dest-tls-verify=false"] if build.insecure else []
    done = subprocess.run(
        [*argv, "--", f"oci:{IMAGE}:{_TAG}", f"docker://{build.push_to}"],
        env=copy_environment(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Refusal(why_not_pushed(done.stderr.strip()))


def main(role: str) -> int:
    """`build` or `export`; 0 when it worked out."""
    build = StockBuild(**json.loads(Path(JOB, "build.json").read_text()))
    assert build.folder == STORE
    work = build_image if role == BUILD else push_image
    log = Log(os.dup(1), build.log)
    return told(lambda: work(build, log), log, _TERMINATION)


if __name__ == "__main__":
    # Nothing is left to do at the end, and threads of libraries must not hold it up.
    os._exit(main(sys.argv[1]))
