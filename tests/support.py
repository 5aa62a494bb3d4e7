"""What tests of several kinds share."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from studovna.podman import Podman, PodmanError


def preparation_state() -> Path:
    """A state folder for the preparation of a test run: nothing in it outlives the machine."""
    folder = Path(tempfile.gettempdir()) / "studovna-tests"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def need_image(podman: Podman, name: str) -> str:
    """The reference of an image too large for tests to build, or skip where nobody built it."""
    image = f"localhost/studovna/{name}:latest"
    try:
        podman.run("image", "exists", image)
    except PodmanError:
        pytest.skip(f"the image {name} is not built: make images IMAGES={name}")
    return image
