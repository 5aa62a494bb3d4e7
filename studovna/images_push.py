"""Pushing built images to a registry, from which a cluster pulls them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from studovna.images import BuildError, given_args, images_status, read_images
from studovna.images import hashes as inputs_hashes
from studovna.podman import Podman
from studovna.problems import one_of
from studovna.text import Text

FOLDER = "studovna"
PUSH_SECONDS = 3600.0

_TARGET = re.compile(
    r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-fA-F:]{2,39}\])"
    r"(?::[0-9]{1,5})?)(?P<path>(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)/?"
)


@dataclass(frozen=True)
class Pushed:
    """One image in the registry: its name without a tag, and the tag that never moves."""

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


def push(
    podman: Podman,
    folder: Path,
    names: Sequence[str],
    to: str,
    reporter: PushReporter,
    *,
    plain_http: bool = False,
    base: str | None = None,
) -> list[Pushed]:
    """Push images, all that are built by default, as `latest` and under the hash of their inputs.

    `base` is the registry's image that they were built from, if they were. Raises SettingsError,
    BuildError (an image is not built, or older than its folder) and PodmanError.
    """
    target = target_folder(to)
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
    wanted = inputs_hashes(images, base, given=given_args(podman, images))
    pushed = []
    for number, name in enumerate(chosen, 1):
        reporter.begin(name, number, len(chosen))
        started = time.monotonic()
        one = Pushed(name, f"{target}/{name}", wanted[name][:12])
        for tag in (one.tag, "latest"):
            podman.run(
                "push",
                "--quiet",
                *(["--tls-verify=false"] if plain_http else []),
                "--",
                images[name].reference,
                f"{one.repository}:{tag}",
                timeout=PUSH_SECONDS,
            )
        reporter.done(name, time.monotonic() - started, f"{one.repository}:{one.tag}")
        pushed.append(one)
    return pushed
