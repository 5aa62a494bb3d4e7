"""The images under `images/`: what is there, what must be built, and building it.

A folder `images/NAME` is one image: `image.yaml` beside a Containerfile that starts from its
`parent`, another folder. An image that only adds Debian packages lists them and needs no
Containerfile; the lowest one lists packages to bootstrap Debian with. An image carries the hash of
its inputs (its folder, its parent's hash, the build's parameters) as a label, and is built again
only when that hash changes; times of files play no part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from studovna import build_settings, build_times, image_args
from studovna.image_files import (
    File,
    checkout_files,
    folder_files,
    package_files,
    write_files,
)
from studovna.podman import Podman, PodmanError
from studovna.problems import Problem, SettingsError, one_of, read_yaml, validate, wrong
from studovna.text import Text

REPOSITORY = "localhost/studovna"
LABEL_NAME = "studovna.image"
LABEL_INPUTS = "studovna.inputs"
_NAME = r"[a-z][a-z0-9-]{0,40}"
_PATH = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CONFIG = (
    f"ENV PATH={_PATH}",
    "ENV LANG=C.UTF-8",
    "ENV HOME=/home/jovyan",
    "ENV USER=jovyan",
    "ENV SHELL=/bin/bash",
    "WORKDIR /home/jovyan",
    "USER 1000:100",
)
# Beside setup.sh, two things that only mmdebstrap leaves behind: how this machine reached the
# mirror, and which of the machine's mirrors that was.
_HOOK = (
    'test -z "$STUDOVNA_SOURCES" || : > "$1/etc/apt/sources.list"; '
    'rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"; '
    'printf "%s" "$STUDOVNA_SETUP" | chroot "$1" sh -s'
)
_LAST_LINES = 15

Given = Mapping[str, image_args.Values]
"""The arguments that the operator gave, by image."""
_LIST_TRIES = 10


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Package = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]{1,80}$")]


class Bootstrap(_Strict):
    """Debian made here with mmdebstrap, or taken from a registry where the site names an image."""

    suite: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,20}$")] = Field(
        description="the Debian release to bootstrap, by code name"
    )
    packages: list[Package] = Field(min_length=1, description="the Debian packages of the image")


class ImageSpec(_Strict):
    """What `image.yaml` holds."""

    description: str = Field(min_length=1, max_length=300, description="one line for people")
    parent: Annotated[str, StringConstraints(pattern=rf"^{_NAME}$")] | None = Field(
        None, description="the folder of the image that this one starts from"
    )
    bootstrap: Bootstrap | None = Field(None, description="how to make the lowest image")
    packages: list[Package] = Field(
        default_factory=list,
        description="Debian packages to add to the parent, instead of a Containerfile",
    )
    on_demand: bool = Field(
        False, description="large or rarely wanted: built once somebody asks for it by name"
    )
    checkout: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$")]] = (
        Field(
            default_factory=list,
            description="files and folders of the checkout that the build finds below checkout/",
        )
    )
    args: dict[image_args.ArgName, Annotated[str, StringConstraints(max_length=500)]] = Field(
        default_factory=dict, description="build arguments of the Containerfile"
    )
    asks: dict[image_args.ArgName, image_args.Asked] = Field(
        default_factory=dict,
        description="build arguments that the operator gives, once: NAME=value",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> ImageSpec:
        if (self.parent is None) == (self.bootstrap is None):
            raise wrong("An image starts from one thing", 'either "parent" or "bootstrap"')
        if twice := self.args.keys() & self.asks.keys():
            raise wrong(
                f"The argument {min(twice)} is both set and asked for", 'one of "args" and "asks"'
            )
        if self.packages and self.bootstrap is not None:
            raise wrong("The lowest image lists its packages once", 'them under "bootstrap"')
        return self


@dataclasses.dataclass(frozen=True)
class Image:
    """One folder under `images/`."""

    name: str
    folder: Path
    spec: ImageSpec

    @property
    def reference(self) -> str:
        """What profiles' pods run."""
        return f"{REPOSITORY}/{self.name}:latest"

    def files(self) -> dict[str, File]:
        """What the build sees, by path: the folder, and below `checkout/` what it names of that."""
        files = folder_files(self.folder) | checkout_files(self.spec.checkout)
        return files | (package_files(self.spec.packages) if self.spec.packages else {})


@dataclasses.dataclass(frozen=True)
class ImageStatus:
    """What podman has of an image. `size` in bytes, with the parents' layers."""

    name: str
    description: str
    present: bool
    up_to_date: bool
    size: int = 0
    built_at: datetime.datetime | None = None
    id: str = ""


class BuildError(Exception):
    """An image could not be built; `text` says which one, where, the last lines and the log."""

    def __init__(self, text: Text, image: str, log: Path | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.image = image
        self.log = log


class Reporter(Protocol):
    """Hears what a build does. Times are in seconds."""

    def begin(self, image: str, number: int, count: int) -> None:
        """Image `number` of `count` (from 1) is being built."""

    def step(self, image: str, step: Text) -> None:
        """The build has come to this step."""

    def line(self, image: str, line: str) -> None:
        """The build wrote this line."""

    def done(self, image: str, seconds: float, size: int) -> None:
        """The image is there; `size` in bytes."""


# --- pure: the folders, their order, their hashes ---------------------------------------------


def family(images: Mapping[str, Image], names: Iterable[str]) -> list[Image]:
    """The named images and all they stand on, parents first."""
    ordered: dict[str, Image] = {}

    def add(name: str) -> None:
        if name in ordered:
            return
        parent = images[name].spec.parent
        if parent:
            add(parent)
        ordered[name] = images[name]

    for name in names:
        add(name)
    return list(ordered.values())


def inputs_hash(files: Mapping[str, File], parent: str, parameters: Mapping[str, str]) -> str:
    """The hash of an image's inputs: its files by their path, its parent's hash, the rest."""
    digest = hashlib.sha256()
    for path, (executable, content) in sorted(files.items()):
        entry = [path, executable, hashlib.sha256(content).hexdigest()]
        digest.update(json.dumps(entry).encode() + b"\n")
    digest.update(json.dumps([parent, sorted(parameters.items())]).encode())
    return digest.hexdigest()


def hashes(
    images: Mapping[str, Image],
    base: str | None,
    names: Iterable[str] | None = None,
    given: Given | None = None,
) -> dict[str, str]:
    """The inputs hashes of the named images (all by default) and of what they stand on.

    The lowest ones start from `base`, or None to bootstrap them. `given` are the arguments that the
    operator gave, by image.
    """
    known: dict[str, str] = {}
    for image in family(images, images if names is None else names):
        parent = known.get(image.spec.parent or "", "")
        parameters = {"base": base} if base and image.spec.bootstrap else {}
        if image.spec.bootstrap:
            # How we make a file system is an input too.
            parameters["config"] = " ".join((*_CONFIG, _HOOK))
        parameters |= (given or {}).get(image.name, {})
        known[image.name] = inputs_hash(image.files(), parent, parameters)
    return known


def on_request(images: Mapping[str, Image], present: Collection[str]) -> set[str]:
    """The images that nobody has asked for yet: on demand, and not among those ``present``.

    What somebody has built once is kept up to date like the others.
    """
    return {name for name, image in images.items() if image.spec.on_demand} - set(present)


def build_commands(folder: Path) -> dict[str, str]:
    """The commands that build the images that ask the operator for something, by image.

    Raises SettingsError.
    """
    asking = {name: image.spec.asks for name, image in read_images(folder).items()}
    return {name: image_args.command(name, asked) for name, asked in asking.items() if asked}


def build_steps(line: str) -> Text | None:
    """The step that a line of podman's or mmdebstrap's output begins, or None."""
    found = re.fullmatch(r"STEP (\d+)/(\d+): (\w+).*", line)
    if found:
        return Text(
            "step {number} of {count} ({what})", number=found[1], count=found[2], what=found[3]
        )
    if line.startswith("COMMIT "):
        return Text("writing the image")
    steps = {
        "I: downloading packages": Text("downloading Debian's packages"),
        "I: extracting archives": Text("unpacking Debian"),
        "I: installing": Text("installing Debian's packages"),
        "I: running --customize-hook": Text("setting up"),
        "I: creating tarball": Text("writing the image"),
    }
    return next((step for start, step in steps.items() if line.startswith(start)), None)


# --- reading ----------------------------------------------------------------------------------


def read_images(folder: Path) -> dict[str, Image]:
    """Every image under `folder`, by name. Raises SettingsError with all that is wrong."""
    images: dict[str, Image] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob("*/image.yaml")):
        name = path.parent.name
        if not re.fullmatch(_NAME, name):
            problems.append(
                Problem(
                    str(path.parent),
                    None,
                    "",
                    "This folder's name cannot name an image",
                    "small letters, digits and -, a letter first",
                )
            )
            continue
        try:
            spec = validate(ImageSpec, read_yaml(path))
        except SettingsError as error:
            problems += error.problems
            continue
        images[name] = Image(name, path.parent, spec)
        if (path.parent / "Containerfile").is_file() == bool(spec.packages):
            what = "packages, and a Containerfile too" if spec.packages else "no Containerfile"
            expected = "either a Containerfile or packages in image.yaml"
            problems.append(Problem(str(path.parent), None, "", f"There is {what}", expected))
    for image in images.values():
        parent = image.spec.parent
        if parent is not None and (parent not in images or _circular(images, image.name)):
            file = image.folder / "image.yaml"
            what = "goes round in a circle" if parent in images else "is no image here"
            problems.append(
                read_yaml(file).problem(
                    ["parent"],
                    f'The parent "{parent}" {what}',
                    one_of(parent, set(images) - {image.name}),
                )
            )
    if problems:
        raise SettingsError(problems)
    return images


def _circular(images: Mapping[str, Image], name: str) -> bool:
    seen = {name}
    parent = images[name].spec.parent
    while parent is not None and parent in images:
        if parent in seen:
            return True
        seen.add(parent)
        parent = images[parent].spec.parent
    return False


# --- podman -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Present:
    id: str
    tags: tuple[str, ...]
    inputs: str
    args: str
    size: int
    created: int


def _listed(podman: Podman, having: str) -> str:
    """`podman images` as JSON, again when an image was removed by somebody at that moment."""
    for _ in range(_LIST_TRIES):
        try:
            return podman.run("images", "--format", "json", "--filter", having)
        except PodmanError as error:
            if "image not known" not in error.stderr:
                raise
    return podman.run("images", "--format", "json", "--filter", having)


def _present(podman: Podman, name: str) -> list[_Present]:
    out = _listed(podman, f"label={LABEL_NAME}={name}")
    found = [
        _Present(
            str(entry["Id"]),
            tuple(entry.get("Names") or ()),
            str((entry.get("Labels") or {}).get(LABEL_INPUTS, "")),
            str((entry.get("Labels") or {}).get(image_args.LABEL_ARGS, "")),
            int(entry["Size"]),
            int(entry["Created"]),
        )
        for entry in json.loads(out or "[]")
    ]
    # Podman lists an image once for every tag it has.
    return list({present.id: present for present in found}.values())


def _latest(podman: Podman, image: Image) -> _Present | None:
    return next((p for p in _present(podman, image.name) if image.reference in p.tags), None)


def given_args(podman: Podman, images: Mapping[str, Image]) -> dict[str, dict[str, str]]:
    """The arguments that the operator gave, by image: those of the image that is there."""
    given = {}
    for image in images.values():
        if image.spec.asks and (found := _latest(podman, image)):
            given[image.name] = image_args.from_label(found.args, image.spec.asks)
    return given


def images_status(podman: Podman, folder: Path, base: str | None = None) -> list[ImageStatus]:
    """What is there of every image, parents first. Raises SettingsError and PodmanError."""
    images = read_images(folder)
    wanted = hashes(images, base, given=given_args(podman, images))
    rows = []
    for image in family(images, images):
        found = _latest(podman, image)
        if found is None:
            rows.append(ImageStatus(image.name, image.spec.description, False, False))
            continue
        built = datetime.datetime.fromtimestamp(found.created, datetime.UTC)
        rows.append(
            ImageStatus(
                image.name,
                image.spec.description,
                True,
                found.inputs == wanted[image.name],
                found.size,
                built,
                found.id,
            )
        )
    return rows


def build(
    podman: Podman,
    folder: Path,
    names: Sequence[str],
    reporter: Reporter,
    *,
    base: str | None = None,
    args: image_args.Values | None = None,
) -> list[str]:
    """Build the named images and their parents where inputs changed; returns the names of those.

    `base` is a registry's image to start the lowest ones from; None bootstraps Debian here. `args`
    are for those of the named images that ask for them; without, an image keeps the ones that it
    has. Raises SettingsError, BuildError and PodmanError.
    """
    images = read_images(folder)
    for name in names:
        if name not in images:
            text = Text(
                "There is no image {name}. Write {expected}.",
                name=name,
                expected=one_of(name, images),
            )
            raise BuildError(text, name)
    given = _with_args(images, names, given_args(podman, images), args or {})
    wanted = hashes(images, base, given=given)
    stale = []
    for image in family(images, names):
        wants = image_args.missing(image.name, image.spec.asks, given.get(image.name, {}))
        if wants is not None:
            raise BuildError(wants, image.name)
        found = _latest(podman, image)
        if found is None or found.inputs != wanted[image.name]:
            stale.append(image)
    for number, image in enumerate(stale, 1):
        reporter.begin(image.name, number, len(stale))
        start = time.monotonic()
        lowest = family(images, [image.name])[0].spec.bootstrap
        suite, own = lowest.suite if lowest else "", given.get(image.name, {})
        _Build(podman, image, wanted, base, suite, reporter, own).run()
        found, seconds = _latest(podman, image), time.monotonic() - start
        taken = build_times.BuildTime(wanted[image.name], round(seconds, 1))
        build_times.record(podman.state, image.name, taken)
        reporter.done(image.name, seconds, found.size if found else 0)
    if stale:
        # Children first: an image that another one stands on cannot be removed.
        for image in reversed(family(images, images)):
            _remove_old(podman, image, wanted[image.name])
    return [image.name for image in stale]


def _with_args(
    images: Mapping[str, Image], names: Iterable[str], given: Given, args: image_args.Values
) -> Given:
    """What each image has, and `args` for those of the named ones that ask for them."""
    asked = {name: one for each in names for name, one in images[each].spec.asks.items()}
    try:
        image_args.check(args, asked)
    except image_args.ArgumentError as error:
        raise BuildError(error.text, next(iter(names), "")) from error
    new = {
        each: {name: value for name, value in args.items() if name in images[each].spec.asks}
        for each in names
    }
    return {name: {**given.get(name, {}), **new.get(name, {})} for name in given.keys() | new}


def _remove_old(podman: Podman, image: Image, keep: str) -> None:
    # Only tags that a build here gave: images that others made from ours inherit our labels.
    pattern = re.compile(rf"{re.escape(REPOSITORY)}/{re.escape(image.name)}:[0-9a-f]{{12}}")
    for old in _present(podman, image.name):
        for tag in old.tags:
            if old.inputs != keep and pattern.fullmatch(tag):
                # One that a server still runs, or that another image stands on, keeps its tag, and
                # goes after a later build.
                with contextlib.suppress(PodmanError):
                    podman.run("rmi", tag, timeout=120)


class _Build:
    """One image's build, with its log."""

    def __init__(
        self,
        podman: Podman,
        image: Image,
        wanted: Mapping[str, str],
        base: str | None,
        suite: str,
        reporter: Reporter,
        given: image_args.Values,
    ) -> None:
        self.podman = podman
        self.image = image
        self.wanted = wanted
        self.base = base
        self.suite = suite
        self.reporter = reporter
        self.given = given
        self.log = podman.state / "log" / "images" / f"{image.name}.log"
        self.current = Text("starting")
        self.last: deque[str] = deque(maxlen=_LAST_LINES)

    def run(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            self._log = log
            if self.image.spec.bootstrap and not self.base:
                self._bootstrap(self.image.spec.bootstrap)
            else:
                self._containerfile()

    def _labels(self) -> dict[str, str]:
        return {
            "org.opencontainers.image.title": f"studovna/{self.image.name}",
            "org.opencontainers.image.description": self.image.spec.description,
            LABEL_NAME: self.image.name,
            LABEL_INPUTS: self.wanted[self.image.name],
            **({image_args.LABEL_ARGS: image_args.to_label(self.given)} if self.given else {}),
        }

    def _tags(self) -> list[str]:
        short = self.wanted[self.image.name][:12]
        return [self.image.reference, f"{REPOSITORY}/{self.image.name}:{short}"]

    def _bootstrap(self, bootstrap: Bootstrap) -> None:
        program = shutil.which("mmdebstrap")
        if program is None:
            raise BuildError(
                Text(
                    "mmdebstrap is needed to make the image {image}. As root: apt-get install "
                    "mmdebstrap debian-archive-keyring",
                    image=self.image.name,
                ),
                self.image.name,
            )
        acquire, sources = build_settings.machine_apt(bootstrap.suite)
        excluded = ("doc", "info", "locale", "man")
        argv = [
            program,
            "--variant=minbase",
            "--include=" + ",".join(bootstrap.packages),
            # What is interrupted here is made again from nothing: no waiting for the disk.
            "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in excluded),
            *(f"--aptopt={line}" for line in acquire),
            f"--customize-hook={_HOOK}",
            bootstrap.suite,
            "-",
            *sources,
        ]
        environment = {
            **os.environ,
            "STUDOVNA_SETUP": (self.image.folder / "setup.sh").read_text(),
            "STUDOVNA_SOURCES": "\n".join(sources),
        }
        changes = [f"LABEL {name}={json.dumps(text)}" for name, text in self._labels().items()]
        tags = self._tags()
        into = self.podman.argv(
            "import",
            *(word for change in (*_CONFIG, *changes) for word in ("--change", change)),
            "-",
            tags[0],
        )
        self._pipe([argv, into], [environment, self.podman.environment])
        self.podman.run("tag", tags[0], *tags[1:])

    def _containerfile(self) -> None:
        parent = self.image.spec.parent
        args = {**self.image.spec.args, **self.given}
        if parent:
            args["PARENT"] = f"{REPOSITORY}/{parent}:{self.wanted[parent][:12]}"
        elif self.image.spec.bootstrap and self.base:
            args["PARENT"] = self.base
            args["PACKAGES"] = " ".join(self.image.spec.bootstrap.packages)
        elsewhere = not args.get("PARENT", "").startswith("localhost/")
        engine = self.podman.folder
        engine.mkdir(parents=True, exist_ok=True)
        suite = None if self.base else self.suite
        with (
            tempfile.TemporaryDirectory(dir=engine, prefix="build-") as settings,
            tempfile.TemporaryDirectory(dir=engine, prefix="context-") as context,
        ):
            volumes = build_settings.of_this_machine(suite=suite).write(Path(settings))
            write_files(self.image.files(), Path(context))
            argv = self.podman.argv(
                # One layer for the whole Containerfile: committing layers is what takes the time.
                "build",
                "--layers=false",
                "--force-rm",
                "--format=oci",
                # What is on this machine only cannot be newer elsewhere.
                f"--pull={'true' if elsewhere else 'false'}",
                *(f"--label={name}={text}" for name, text in self._labels().items()),
                *(f"--build-arg={name}={text}" for name, text in args.items()),
                *(f"--tag={tag}" for tag in self._tags()),
                *volumes,
                "--file",
                str(Path(context) / "Containerfile"),
                "--",
                context,
            )
            self._pipe([argv], [self.podman.environment])

    def _pipe(self, argvs: Sequence[Sequence[str]], envs: Sequence[Mapping[str, str]]) -> None:
        """Run programs, each reading the one before it, and follow what they say."""
        read, write = os.pipe()
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for index, (argv, env) in enumerate(zip(argvs, envs, strict=True)):
                last = index == len(argvs) - 1
                before = processes[-1].stdout if processes else None
                processes.append(
                    subprocess.Popen(
                        argv,
                        env=dict(env),
                        stdin=before or subprocess.DEVNULL,
                        stdout=write if last else subprocess.PIPE,
                        stderr=write,
                        start_new_session=True,
                    )
                )
                if before:
                    before.close()  # so that the first program hears when the second one dies
            os.close(write)
            write = -1
            for line in _lines(read):
                self._heard(line)
            codes = [process.wait() for process in processes]
        except OSError as error:
            raise BuildError(
                Text(
                    "The image {image} cannot be built: {said}", image=self.image.name, said=error
                ),
                self.image.name,
                self.log,
            ) from error
        finally:
            for descriptor in (read, write):
                if descriptor >= 0:
                    os.close(descriptor)
            for process in processes:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGTERM)
                    process.wait()
        if any(codes):
            raise self._failed()

    def _heard(self, line: str) -> None:
        self._log.write(line + "\n")
        self._log.flush()
        step = build_steps(line)
        if step is not None:
            self.current = step
            self.reporter.step(self.image.name, step)
        if line.strip():
            self.last.append(line)
            self.reporter.line(self.image.name, line)

    def _failed(self) -> BuildError:
        said = "\n".join(f"    {line}" for line in self.last)
        if "no space left on device" in said.lower():
            return BuildError(
                Text(
                    "The disk is full: the image {image} was not built ({step}). Free some space "
                    "and try again. The whole log: {log}",
                    image=self.image.name,
                    step=self.current,
                    log=self.log,
                ),
                self.image.name,
                self.log,
            )
        return BuildError(
            Text(
                "The image {image} could not be built; it failed at: {step}. It said last:\n"
                "{said}\n"
                "The whole log: {log}",
                image=self.image.name,
                step=self.current,
                said=said,
                log=self.log,
            ),
            self.image.name,
            self.log,
        )


def _lines(descriptor: int) -> Iterator[str]:
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        for raw in stream:
            # A progress bar rewrites its line: what it said last counts.
            text = raw.decode(errors="replace").rstrip("\n").rpartition("\r")[2]
            yield re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]", "", text)
