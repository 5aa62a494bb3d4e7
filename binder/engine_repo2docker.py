"""repo2docker with podman, for what the site's own way of building cannot do.

A Dockerfile's steps run as root of a container, so this is a builder and no restricted pod: it is
for a site that has decided to build such things. What holds it:

- It is started in the network of a pod, so that neither its steps nor its own downloads reach more
  than a pod does, and in process and mount namespaces of its own: when its first process ends, the
  kernel ends all of them, and nothing stays mounted.
- Podman works in a store in the build's folder. It sees of this machine's images only those that
  are meant to be built upon, and a half-made image is nowhere else.
- Memory, processes and cores are bounded by a cgroup, time and disk by a thread of this process.

``python -m binder.engine_repo2docker FOLDER`` reads ``build.json`` there and writes ``log``: lines
of output, and messages as the containers of a build pod write them. `binder.stock` starts it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from repo2docker.app import Repo2Docker
from repo2docker.contentproviders import Local
from repo2docker.engine import ContainerEngine, Image

from studovna import build_settings, images
from studovna.paths import ROOT
from studovna.podman import Podman
from studovna.text import Text

from . import builder_room
from .builder_room import AnyRoom, Room, StockBuild

MARK = "@studovna "
BUILT = "localhost/studovna-stock/built:latest"
DONE = "localhost/studovna-stock/done:latest"
ENTRY = Path(__file__).with_name("stock_entry.sh")
REPO = "/srv/repo"
UID, GID = 1000, 100
SERVER = "jupyterhub-singleuser"
LONGEST_LINE = 65536
_STEP = re.compile(
    r'Error: building at STEP "(?P<step>.*)": (?:while running runtime: )?(?P<how>.*)'
)
_CODE = re.compile(r"exit status (\d+)")
_FROM = re.compile(r"(?:\[\d+/\d+\] )?STEP \d+/\d+: FROM (\S+).*", re.IGNORECASE)
_STAGE = re.compile(r"\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+\S+)?\s*", re.IGNORECASE)
_REJECTED = re.compile(r"Running image (\S+) is rejected by policy")
_NO_BASE = re.compile(r"Error: creating build container: (.*)|Error: (short-name .*)")


_FOR_STEPS = {
    "APT_CONFIG", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT",
    "PIP_CONFIG_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "UV_SYSTEM_CERTS",
}  # fmt: skip


class Refusal(Exception):
    """The build ends here, with this sentence for the person."""

    def __init__(self, text: Text) -> None:
        super().__init__(str(text))
        self.text = text


class Log:
    """The file that is followed: output, up to a bound, and messages, always."""

    def __init__(self, path: Path | int, limit: int) -> None:
        """`path` may also be an open file's number."""
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as this is
        self._left = limit
        self._lock = threading.Lock()
        self._open = ""

    def line(self, text: str) -> None:
        """One line of output; it cannot look like a message."""
        if text.startswith(MARK):
            text = f" {text}"
        data = text.encode(errors="replace") + b"\n"
        with self._lock:
            if self._left > 0:
                self._left -= len(data)
                self._file.write(data)

    def say(self, kind: str, text: Text | None = None, **more: str) -> None:
        """One message."""
        said: dict[str, object] = {"kind": kind, **more}
        if text is not None:
            said |= text.as_json()
        with self._lock:
            self._file.write(f"{MARK}{json.dumps(said)}\n".encode())

    # What Python's logging needs of a stream.

    def write(self, text: str) -> int:
        """Text of any length; it becomes a line when the line is complete."""
        *lines, self._open = (self._open + text).split("\n")
        for line in lines:
            if line.strip():
                self.line(line)
        return len(text)

    def flush(self) -> None:
        """Lines are written as they come."""


class PodmanBuildEngine(ContainerEngine):
    """Podman as repo2docker's container engine: it builds, and runs nothing else."""

    isolation = "oci"

    def __init__(self, *, parent: Any, build: StockBuild, room: AnyRoom, log: Log) -> None:
        super().__init__(parent=parent)
        self._build = build
        self._room = room
        self._log = log

    def inspect_image(self, image: str) -> Image | None:
        """None: the store is new with each build."""
        del image
        return None

    def build(
        self,
        *,
        buildargs: Mapping[str, str] | None = None,
        dockerfile: str = "",
        fileobj: Any = None,
        path: str = "",
        labels: Mapping[str, str] | None = None,
        **_more: Any,
    ) -> Iterator[str]:
        """Build what repo2docker has chosen, as `BUILT`. Raises Refusal. Lines go to the log."""
        if fileobj is not None:
            path = str(Path(self._build.folder) / "context")
            with tarfile.open(fileobj=fileobj) as tar:
                tar.extractall(path, filter=_as_written)  # noqa: S202 - made by repo2docker
            fileobj.close()
        given = Path(path) / (dockerfile or "Dockerfile")
        text = given.read_text(errors="surrogateescape")
        env, volumes = self._settings(stages(text))
        file = Path(self._build.folder) / "Dockerfile"
        file.write_text(with_args(text, sorted(env)), errors="surrogateescape")
        options = [f"--label={name}={value}" for name, value in (labels or {}).items()]
        arguments = {**(buildargs or {}), **env}
        options += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        self.podman_build(BUILT, path, str(file), [*options, *volumes])
        yield from ()

    def _settings(self, bases: set[str]) -> tuple[dict[str, str], list[str]]:
        """This machine's settings for the steps: variables, which stay in no image, and volumes."""
        own = bool(bases) and all(_full(one) in self._build.visible for one in bases)
        # The site's own images have no list of packages' sources, for that would name its mirror.
        settings = build_settings.of_this_machine(suite=_suite() if own else None)
        # An npmrc, or an index with a password, is no business of the repository's code.
        settings.files.pop("npmrc", None)
        env = {name: settings.env[name] for name in sorted(settings.env.keys() & _FOR_STEPS)}
        place = Path(self._build.folder) / "settings"
        place.mkdir()
        return env, settings.write(place)

    def podman_build(self, tag: str, context: str, file: str, options: Sequence[str]) -> None:
        """Raises Refusal."""
        build = self._build
        argv = ["build", "--layers=false", "--force-rm", "--format=oci", f"--tag={tag}"]
        # The host's network is the pod's here.
        argv += [f"--isolation={self.isolation}", "--network=host"]
        argv += self._room.limits()
        argv += [f"--authfile={Path(build.folder) / 'nobody.json'}", *options]
        code, last = self.run([*argv, f"--file={file}", "--", context])
        if code != 0:
            raise Refusal(why(code, last, self._room.out_of_memory(), build.memory))

    def finish(self) -> None:
        """Put the repository's files and the start of a server around what was built, as `DONE`."""
        inner = self.inspect_config()
        folder = Path(self._build.folder) / "finish"
        folder.mkdir()
        (folder / "entry").write_bytes(ENTRY.read_bytes())
        (folder / "ignore").touch()
        entry = ["/usr/local/bin/studovna-repository", *(inner.get("Entrypoint") or [])]
        lines = [
            f"FROM {BUILT}",
            "COPY --chmod=755 entry /usr/local/bin/studovna-repository",
            f"ENTRYPOINT {json.dumps(entry)}",
            f"CMD {json.dumps(inner.get('Cmd') or [SERVER])}",
        ]
        if not self.has(REPO):
            lines.insert(2, f"COPY --from=repository --chown={UID}:{GID} . {REPO}/")
        (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
        options = [f"--build-context=repository={Path(self._build.folder) / 'src'}"]
        options += [f"--ignorefile={folder / 'ignore'}"]
        options += [f"--label={name}={value}" for name, value in self._build.labels.items()]
        options += [f"--env={name}={value}" for name, value in self._build.env.items()]
        self.podman_build(DONE, str(folder), str(folder / "Dockerfile"), options)

    def inspect_config(self) -> dict[str, Any]:
        """What the image that was built says of itself. Raises Refusal."""
        found = json.loads(self._said("image", "inspect", "--", BUILT))[0]
        return dict(found.get("Config") or {})

    def has(self, path: str) -> bool:
        """Whether there is such a path in the image that was built."""
        return builder_room.found_in(self._mounted(), [path])

    def serves(self) -> bool:
        """Whether a server can start: its program is in the image."""
        env = dict(one.split("=", 1) for one in self.inspect_config().get("Env") or [])
        folders = (env.get("PATH") or "/usr/local/bin:/usr/bin:/bin").split(":")
        names = [f"{folder}/{SERVER}" for folder in folders if folder.startswith("/")]
        return builder_room.found_in(self._mounted(), names)

    def _mounted(self) -> str:
        return self._said("image", "mount", "--", BUILT).strip()

    def push(self) -> None:
        """Raises Refusal."""
        build = self._build
        argv = ["push", "--quiet", "--format=oci"]
        argv += [f"--authfile={Path(build.folder) / 'auth.json'}"]
        argv += ["--tls-verify=false"] if build.insecure else []
        code, last = self.run([*argv, "--", DONE, f"docker://{build.push_to}"])
        if code != 0:
            raise Refusal(why_not_pushed(_error(last)))

    def run(self, argv: Sequence[str]) -> tuple[int, list[str]]:
        """Run podman, passing on what it writes; its exit code and its last lines."""
        process = subprocess.Popen(
            self._room.argv(*argv), env=self._room.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        last: deque[str] = deque(maxlen=40)
        while data := process.stdout.readline(LONGEST_LINE):
            last.append(data.decode(errors="replace").rstrip("\r\n"))
            self._log.line(last[-1])
        return process.wait(), list(last)

    def _said(self, *argv: str) -> str:
        done = subprocess.run(
            self._room.argv(*argv), env=self._room.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Refusal(Text("The build failed: {said}", said=_error(done.stderr.splitlines())))
        return done.stdout


class _Stock(Repo2Docker):
    """repo2docker on one local folder, with an engine that it is given."""

    given: ContainerEngine

    def get_engine(self) -> ContainerEngine:
        return self.given


def _as_written(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Links of a repository stay what they are: they were looked at when it was handed over."""
    return tarfile.tar_filter(member, folder) or member


def with_args(dockerfile: str, names: Sequence[str]) -> str:
    """A Dockerfile whose steps see some build arguments, in each of its stages. Pure.

    >>> with_args("FROM a\nRUN b", ["C"])
    'FROM a\nARG C\nRUN b'
    """
    lines, continued = [], False
    for line in dockerfile.split("\n"):
        lines.append(line)
        if not continued and _STAGE.fullmatch(line):
            lines += [f"ARG {name}" for name in names]
        if not re.match(r"\s*#", line):
            continued = line.rstrip().endswith("\\")
    return "\n".join(lines)


def _full(image: str) -> str:
    return image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"


def _suite() -> str | None:
    bootstrap = images.read_images(ROOT / "images")["base"].spec.bootstrap
    return bootstrap.suite if bootstrap else None


def stages(dockerfile: str) -> set[str]:
    """The images that a Dockerfile's stages begin with. Pure."""
    return {m[1] for line in dockerfile.split("\n") if (m := _STAGE.fullmatch(line))}


def why(code: int, last: Sequence[str], out_of_memory: bool, memory: int) -> Text:
    """The sentence for a `podman build` that failed, from its last lines. Pure."""
    said = _error(last)
    if found := _REJECTED.search(said):
        return Text(
            "{image} is no image of a registry, and a build takes images only from registries.",
            image=found[1][:200],
        )
    step = next((m for line in reversed(last) if (m := _STEP.match(line))), None)
    killed = "exit status 137" in said or any(re.search(r"\bKilled\b", line) for line in last)
    if out_of_memory and killed:
        return Text(
            "{what} took more than {memory} GB of memory, which is as much as this site gives to a "
            "build. Make it smaller.",
            what=step["step"][:200] if step else "podman build",
            memory=f"{memory / 2**30:.3g}",
        )
    if code < 0:
        return Text(
            "Podman was ended in the middle of the build (signal {number}). Open the link again to "
            "try once more.",
            number=-code,
        )
    if "no space left on device" in said.lower():
        return Text("The disk of the site is full. Tell its administrators.")
    if step is not None and (found := _CODE.search(step["how"])):
        return Text(
            "{script} failed ({how}). The log says why.",
            script=step["step"][:200],
            how=Text("exit code {code}", code=found[1]),
        )
    base = next((m for line in reversed(last) if (m := _NO_BASE.match(line))), None)
    if base is not None:
        begun = [m[1] for line in last if (m := _FROM.fullmatch(line))]
        return Text(
            "The image {image}, which the build starts from, cannot be had: {said}",
            image=begun[-1] if begun else "?",
            said=(base[1] or base[2])[-300:],
        )
    return Text("The build failed: {said}", said=said[-300:])


def why_not_pushed(said: str) -> Text:
    """The sentence for an image that the registry did not take, from what was said last. Pure."""
    if re.search(r"unauthorized|denied|authentication required", said, re.IGNORECASE):
        return Text("The registry refuses to take the image: the site may not write there.")
    return Text("The registry failed while the image was pushed: {said}", said=said[-300:])


def _error(last: Sequence[str]) -> str:
    found = [line for line in last if line.strip()]
    errors = [line for line in found if line.startswith("Error")]
    return (errors or found or ["?"])[-1].removeprefix("Error: ").strip()


def run(build: StockBuild, log: Log) -> None:
    """Build, and push. Raises Refusal."""
    room = Room(Podman(Path(build.state)), build)
    room.enter()
    watch(build, log)
    engine = make(build, room, log, PodmanBuildEngine)
    log.say("step", name="export")
    log.say("note", Text("Pushing the image"))
    engine.push()


def make(
    build: StockBuild, room: AnyRoom, log: Log, kind: type[PodmanBuildEngine]
) -> PodmanBuildEngine:
    """Build the image, `DONE` in the store of the engine that is returned. Raises Refusal."""
    sys.stderr = sys.stdout = log
    app = _Stock()
    app.parse_command_line(list(build.arguments))
    app.initialize()
    app.repo, app.ref = str(Path(build.folder) / "src"), None
    app.content_providers = [Local]
    app.output_image_spec = BUILT
    app.run = app.push = False
    app.user_id, app.user_name = UID, "jovyan"
    app.target_repo_dir = REPO
    app.labels = dict(build.labels)
    app.appendix = build.appendix
    room.show({*build.visible, _full(app.base_image)})
    engine = kind(parent=app, build=build, room=room, log=log)
    app.given = engine
    log.say("step", name="install")
    try:
        app.build()
    except (ValueError, RuntimeError, SystemExit, UnicodeDecodeError) as error:
        # repo2docker's own refusals: what a file asks for, and why that cannot be.
        raise Refusal(Text("repo2docker: {said}", said=str(error)[:500])) from error
    if not engine.serves():
        raise Refusal(
            Text(
                "The image has no {program}, so no server can start from it. Install the Python "
                "package jupyterhub in it.",
                program=SERVER,
            )
        )
    engine.finish()
    return engine


def watch(build: StockBuild, log: Log) -> None:
    """End everything when it takes too long or too much of the disk."""
    until = time.monotonic() + build.seconds

    def look() -> None:
        while True:
            started = time.monotonic()
            text = builder_room.over(Path(build.folder), build.disk)
            if started > until:
                text = Text(
                    "The build took longer than {minutes} minutes, and was ended.",
                    minutes=f"{build.seconds / 60:g}",
                )
            if text is not None:
                log.say("failed", text)
                os._exit(1)  # the first process of the namespace: the others end with it
            time.sleep(0.5 + 3 * (time.monotonic() - started))

    threading.Thread(target=look, daemon=True).start()


def main(folder: Path) -> int:
    """One build, from its folder; 0 when the image is in the registry."""
    data = json.loads((folder / "build.json").read_text())
    build = StockBuild(**data)
    log = Log(folder / "log", build.log)
    return told(lambda: run(build, log), log, folder / "broken")


def told(work: Callable[[], None], log: Log, broken: Path) -> int:
    """Do it and say how it ended; 0 when it worked out. A bug's traceback goes to `broken`."""
    try:
        work()
    except Refusal as refusal:
        log.say("failed", refusal.text)
        return 1
    except (Exception, SystemExit) as error:
        with contextlib.suppress(OSError):
            broken.write_text(traceback.format_exc())
        log.say("failed", Text("The builder broke: {said}", said=f"{error}"[:300]))
        return 1
    log.say("end")
    return 0


if __name__ == "__main__":
    # Nothing is left to do at the end, and threads of libraries must not hold it up.
    os._exit(main(Path(sys.argv[1])))
