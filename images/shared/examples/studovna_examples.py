"""Copies the image's examples into the home when the server starts, where people find them.

A folder that is there already is the person's own and stays as it is; one that was deleted comes
back with the next start of the image.
"""

import os
import shutil
from pathlib import Path

EXAMPLES = Path("/opt/examples")


def copy_examples(source: Path, home: Path) -> list[Path]:
    """Copy each folder that is not there yet; returns the new ones. Raises OSError."""
    copied = []
    for folder in sorted(source.iterdir()):
        target = home / "examples" / folder.name
        if not os.path.lexists(target):
            # A copy that was cut off must not look like a whole one at the next start.
            started = target.with_name(f".{folder.name}.{os.getpid()}")
            shutil.copytree(folder, started, copy_function=shutil.copyfile)
            started.rename(target)
            copied.append(target)
    return copied


def _load_jupyter_server_extension(app) -> None:
    """Jupyter Server calls this; a home that is full or read-only must not stop the server."""
    try:
        copy_examples(EXAMPLES, Path.home())
    except OSError as error:
        app.log.warning("The examples in %s were not copied: %s", EXAMPLES, error)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "studovna_examples"}]
