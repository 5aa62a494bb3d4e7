"""Pushing built images to a registry, from which a cluster pulls them."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from studovna import __version__
from studovna.images import BuildError, images_status, read_images
from studovna.podman import Podman
from studovna.problems import one_of
from studovna.text import Text

FOLDER = "studovna"
PUSH_SECONDS = 3600.0

_TARGET = re.compile(
    r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-fA-F:]{2,39}\])"
    r"(?::[0-9]{1,5})?)(?P<path>(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)/?"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Pushed:
    """One image in the registry: its name without a tag, and the tag that all of a push have."""

    name: str
    repository: str
    tag: str


class PushReporter(Protocol):
    """Hears what a push does."""

    def begin(self, image: str, number: int, count: int) -> None:
        """Image `number` of `count` (from 1) is being pushed."""

    def done(self, image: str, seconds: float, reference: str) -> None:
        """The image is in the registry under this name."""


def target_folder(to: str) -> str:
    """Where images go: a registry alone gets a folder of ours. Raises BuildError.

    >>> target_folder("registry.example.org")
    'registry.example.org/studovna'
    >>> target_folder("registry.example.org:5000/hub/images/")
    'registry.example.org:5000/hub/images'
    """
    found = _TARGET.fullmatch(to)
    if found is None:
        raise BuildError(
            Text(
                'The text "{to}" names no registry. Write its host, and a folder if you like: '
                "registry.example.org/studovna.",
                to=to[:100],
            ),
            "",
        )
    return f"{found['host']}{found['path'] or '/' + FOLDER}"


def tag_of(ids: Mapping[str, str]) -> str:
    """The tag for these images, by name: this version, and a hash of what the images are.

    One tag names all of them, and other images have another one: what a site runs changes with its
    settings only, and changes back with them.
    """
    text = json.dumps(dict(ids), sort_keys=True)
    return f"{__version__}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def chart_values(to: str, tag: str, names: Sequence[str]) -> str:
    """What the chart has to know of a push, as YAML for its values.

    >>> print(chart_values("registry.example.org", "0.1.0-5f1c", ["lab", "hub"]), end="")
    site:
      images: "registry.example.org/studovna"
    images:
      tag: "0.1.0-5f1c"
      pushed: ["hub", "lab"]
    """
    folder = json.dumps(target_folder(to))
    pushed = json.dumps(sorted(names))
    return f"site:\n  images: {folder}\nimages:\n  tag: {json.dumps(tag)}\n  pushed: {pushed}\n"


def push(
    podman: Podman,
    folder: Path,
    names: Sequence[str],
    to: str,
    reporter: PushReporter,
    *,
    plain_http: bool = False,
    base: str | None = None,
    tag: str | None = None,
) -> list[Pushed]:
    """Push images, all that are built by default, under one tag and as `latest`.

    The tag is that of all images that are built here (`tag_of`), unless one is given. `base` is the
    registry's image that they were built from, if they were. Raises SettingsError, BuildError (an
    image is not built, or older than its folder) and PodmanError.
    """
    target = target_folder(to)
    if tag is not None and not _TAG.fullmatch(tag):
        text = Text(
            'The text "{tag}" is no tag. It has letters, digits, dots, dashes and underscores, at '
            "most 128.",
            tag=tag[:200],
        )
        raise BuildError(text, "")
    images = read_images(folder)
    status = {row.name: row for row in images_status(podman, folder, base)}
    for name in names:
        if name not in images:
            text = Text(
                "There is no image {name}. Write {expected}.",
                name=name,
                expected=one_of(name, images),
            )
            raise BuildError(text, name)
    chosen = list(names) or [name for name, row in status.items() if row.present]
    for name in chosen:
        if not status[name].up_to_date:
            text = Text(
                "The image {image} is not built as its folder says now. Run: studovna images build "
                "{image}",
                image=name,
            )
            raise BuildError(text, name)
    if tag is None:
        tag = tag_of({name: row.id for name, row in status.items() if row.present})
    pushed = []
    for number, name in enumerate(chosen, 1):
        reporter.begin(name, number, len(chosen))
        started = time.monotonic()
        one = Pushed(name, f"{target}/{name}", tag)
        for each in dict.fromkeys((tag, "latest")):
            podman.run(
                "push",
                "--quiet",
                *(["--tls-verify=false"] if plain_http else []),
                "--",
                images[name].reference,
                f"{one.repository}:{each}",
                timeout=PUSH_SECONDS,
            )
        reporter.done(name, time.monotonic() - started, f"{one.repository}:{one.tag}")
        pushed.append(one)
    return pushed
