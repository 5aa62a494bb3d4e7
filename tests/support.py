"""What tests of several kinds share."""

from __future__ import annotations

import tempfile
from pathlib import Path


def preparation_state() -> Path:
    """A state folder for the preparation of a test run: nothing in it outlives the machine."""
    folder = Path(tempfile.gettempdir()) / "studovna-tests"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
