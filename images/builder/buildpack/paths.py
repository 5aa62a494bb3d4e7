"""Where things are in a build pod, and in the image that it makes."""

from pathlib import Path

REPO = Path("/srv/repo")
"""The repository's files."""
ENV = Path("/srv/env")
"""What the repository installs: a prefix that comes before the Lab's."""
LAB = Path("/opt/venv")

BUILDER = Path("/opt/builder")
INSTALLED = BUILDER / "installed.json"
"""What the metadata of the Lab's packages say, by the names of their folders."""
CONSTRAINTS = BUILDER / "constraints.txt"
"""What the Lab's server needs of its packages."""
UV_CACHE = BUILDER / "uv"
"""What uv has found out about the image's Python."""
LIBRARY = BUILDER / "lib"
"""repo2docker and what it needs."""
FRAMEWORK = BUILDER / "repo2docker.json"
"""repo2docker's version, and its buildpacks in the order of their asking."""
SKELETON = BUILDER / "env"
"""The empty environment that every repository's begins as."""

PLAN = Path("/build/plan")
"""Written by fetch, read by the two after it."""
JOB = Path("/build/job/job.json")
"""What is to be built; in every container, nothing in it is secret."""
GIT_SECRET = Path("/build/git")
"""In fetch only: the access to the repository's host."""
PUSH_SECRET = Path("/build/push")
"""In export only: the access to the registry."""
TMP = Path("/tmp")  # noqa: S108 - a volume of each container's own


def site_packages(prefix: Path) -> Path:
    """The folder of the packages below a prefix, for the Python of the Lab."""
    found = next((LAB / "lib").glob("python3*/site-packages"))
    return prefix / found.relative_to(LAB)
