"""The images of this machine: how large each is, and how long its build took here.

Sizes are podman's. Times are those that the builds of this state folder recorded; an image that was
built elsewhere, or has changed since, has none.
"""

from __future__ import annotations

import pytest

from studovna import build_times
from studovna.images import given_args, hashes, images_status, read_images
from studovna.images_cli import IMAGES
from studovna.paths import state_dir
from studovna.podman import Podman
from tests.bench.results import Results


def measure(results: Results) -> None:
    """Three tables: sizes with everything below, what each adds to its parent, and build times."""
    podman = Podman(state_dir())
    podman.probe()
    images = read_images(IMAGES)
    rows = [row for row in images_status(podman, IMAGES) if row.present]
    if not rows:
        pytest.skip("no image is built on this machine")
    sizes = {row.name: row.size for row in rows}
    wanted = hashes(images, None, given=given_args(podman, images))
    times = build_times.read(podman.state)
    for row in rows:
        results.add("size of the whole image", row.name, row.size / 1e6, "MB")
        below = sizes.get(images[row.name].spec.parent or "", 0)
        results.add("size beyond the parent", row.name, (row.size - below) / 1e6, "MB")
        time = times.get(row.name)
        if time is not None and time.inputs == wanted[row.name] and row.up_to_date:
            results.add("build time beyond the parent", row.name, time.seconds, "s")
