"""What a repository asks for: repo2docker's detection, with the site's buildpack first.

What repo2docker cannot read ends with a sentence that names the file; what it would build with a
class of its own (`Choice.stock`) needs a builder.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from .paths import FRAMEWORK
from .report import Refusal, Text

MAX_FILE = 2**20
MAX_RESOURCES = 4096
# What detection reads, whichever class asks; the rest it only looks for.
_READ = ("Dockerfile", "runtime.txt", "environment.yml", "environment.yaml", "pyproject.toml")


@dataclasses.dataclass
class Stock:
    """repo2docker's class for a repository, and the file for whose sake it has to be that one."""

    buildpack: str
    file: str
    reason: Text


@dataclasses.dataclass
class Choice:
    """What there is to do. Paths are relative to the repository's folder.

    `stock` is set when the site's image cannot be the base; `requirements` are files for uv,
    `lines` further requirements; `project` says that the repository is a package itself.
    """

    folder: str = ""
    stock: Stock | None = None
    requirements: list[str] = dataclasses.field(default_factory=list)
    lines: list[str] = dataclasses.field(default_factory=list)
    lines_from: str = ""
    project: bool = False
    post_build: str = ""
    start: str = ""
    resources: str = ""
    notes: list[Text] = dataclasses.field(default_factory=list)


def choose(repo: Path, record: Path = FRAMEWORK) -> Choice:
    """Raises Refusal for what nobody can build. `record` is of the framework."""
    from . import framework

    others, default = framework.buildpacks(framework.recorded(record))
    from .sitepack import SiteBuildPack

    buildpack: Any = type("SiteBuildPack", (SiteBuildPack,), {"others": others, "default": default})
    with contextlib.chdir(repo):
        found = buildpack()
        _check(repo)
        try:
            found.detect()
        except Refusal:
            raise
        except Exception as error:
            raise _unreadable(repo, error) from error
        choice: Choice = found.choice
        for place in (repo / choice.folder, repo):
            if (place / ".resources").is_file():
                with (place / ".resources").open(errors="replace") as file:
                    choice.resources = file.read(MAX_RESOURCES)
                break
    return choice


def _check(repo: Path) -> None:
    if (repo / "binder").is_dir() and (repo / ".binder").is_dir():
        raise Refusal(
            Text("The repository has a folder binder and a folder .binder; only one can count.")
        )
    for folder in ("", "binder", ".binder"):
        for name in _READ:
            path = repo / folder / name
            if path.is_file() and path.stat().st_size > MAX_FILE:
                raise _too_large(str(path.relative_to(repo)))


def _unreadable(repo: Path, error: Exception) -> Refusal:
    """repo2docker's own errors say what is wrong in most cases, and not always where."""
    kind, said = type(error).__name__, " ".join(str(error).split())[:300]
    if kind == "TOMLDecodeError":
        return Refusal(Text("pyproject.toml is not TOML: {said}.", said=said))
    if "legacy buildpack" in said:
        return Refusal(
            Text(
                "The Dockerfile is for the first version of Binder, which repo2docker does not "
                "build any more."
            )
        )
    files = [repo / folder / name for folder in ("binder", ".binder", "") for name in _READ]
    yaml = [str(one.relative_to(repo)) for one in files if one.is_file() and "env" in one.name]
    if yaml and kind == "TypeError":
        return Refusal(Text("{file} must hold name: value pairs.", file=yaml[0]))
    if yaml and (hasattr(error, "problem_mark") or isinstance(error, RecursionError)):
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        number = "?" if line is None else line + 1
        return Refusal(Text("{file} is not YAML (line {line}).", file=yaml[0], line=number))
    return Refusal(Text("repo2docker cannot read the repository: {said}", said=said or kind))


def _too_large(name: str) -> Refusal:
    return Refusal(Text("{file} is larger than 1 MB.", file=name))


def read(path: Path, name: str) -> str:
    """A small text file, in UTF-8 or what older editors write. Raises Refusal."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise _too_large(name)
    for encoding in ("utf-8-sig", "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")
