"""Puts what the repository installed before the Lab's own packages, in every Python of the image.

Imported by studovna_repository.pth when the interpreter starts; as a site folder, not as
PYTHONPATH, so that .pth files (editable packages) in there count, too.
"""

import site
import sys


def _first(here, lab):
    before = list(sys.path)
    site.addsitedir(here)
    added = [path for path in sys.path if path not in before]
    at = before.index(lab) if lab in before else len(before)
    sys.path[:] = [*before[:at], *added, *before[at:]]


_first(
    "/srv/env" + __file__.removeprefix("/opt/venv").rpartition("/")[0], __file__.rpartition("/")[0]
)
