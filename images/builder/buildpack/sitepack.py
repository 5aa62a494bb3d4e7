"""The site's buildpack, a class of repo2docker's framework: one layer on the site's Lab image.

It stands first in repo2docker's list, and takes a repository when what repo2docker's own class for
it would install can be had by uv and postBuild alone. Its image is made by the containers of the
build pod (install, export), not from a Dockerfile.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from repo2docker.buildpacks import CondaBuildPack, PythonBuildPack

from .detect import Choice, Stock
from .report import Refusal, Text

PYTHON = (sys.version_info.major, sys.version_info.minor)

# Why one of repo2docker's classes is not for the site's image, and the files that it looks for.
_REASONS = {
    "DockerBuildPack": (("Dockerfile",), Text("it describes an image of its own")),
    "JuliaProjectTomlBuildPack": (
        ("JuliaProject.toml", "Project.toml"),
        Text("it asks for Julia"),
    ),
    "JuliaRequireBuildPack": (("REQUIRE",), Text("it asks for Julia")),
    "NixBuildPack": (("default.nix",), Text("it asks for Nix")),
    "RBuildPack": (("runtime.txt", "DESCRIPTION"), Text("it asks for R")),
    "PipfileBuildPack": (("Pipfile.lock", "Pipfile"), Text("it is for pipenv")),
}


class SiteBuildPack(PythonBuildPack):
    """`others` are repo2docker's own classes in their order, `default` is for none of them.

    After `detect`, `choice` says what there is to do, or which class builds it and why not this.
    """

    others: list[Any] = []
    default: Any = PythonBuildPack

    def __init__(self, base_image: str = "") -> None:
        super().__init__(base_image)
        self.choice = Choice()

    def detect(self) -> bool:
        """Raises Refusal for an environment file that nobody can read."""
        own = (one(base_image=self.base_image) for one in self.others)
        other = next((one for one in own if one.detect()), None)
        found = other or self.default(base_image=self.base_image)
        self.choice.folder = self.binder_dir
        self.choice.stock = self._stock(found)
        if self.choice.stock is None:
            self._plan(found)
        return self.choice.stock is None

    def _stock(self, found: Any) -> Stock | None:
        """Why the class that repo2docker chose is needed; None when one layer is enough."""
        name = type(found).__name__
        if name in _REASONS:
            files, reason = _REASONS[name]
            there = [one for one in map(self.binder_path, files) if os.path.exists(one)]
            if name == "RBuildPack" and self.runtime[0] != "r":
                there = ["DESCRIPTION"]
            return Stock(name, (there or [files[0]])[0], reason)
        if type(found) not in (CondaBuildPack, PythonBuildPack):
            return Stock(name, self.binder_dir or ".", Text("it is for {what}", what=name))
        reason_here = self._conda(found) if type(found) is CondaBuildPack else self._python()
        if reason_here is not None:
            return Stock(name, *reason_here)
        apt = self.binder_path("apt.txt")
        if os.path.exists(apt):
            return Stock(name, apt, Text("Debian packages are installed as root"))
        return None

    def _python(self) -> tuple[str, Text] | None:
        name, version, date = self.runtime
        if name is None:
            return None
        file = self.binder_path("runtime.txt")
        if name != "python":
            asked = "-".join(str(one) for one in (name, version, date) if one)
            return file, Text("it asks for {what}", what=asked[:60])
        if version is None or python_fits(f"={version}"):
            return None
        return file, _other_python(version)

    # --- conda's files that hold only what pip installs -------------------------------------------

    def _conda(self, found: CondaBuildPack) -> tuple[str, Text] | None:
        file = found.environment_yaml_path
        conda: list[str] = []
        reason: Text | None = None
        dependencies = found.environment_yaml.get("dependencies") or []
        if not isinstance(dependencies, list):
            raise Refusal(Text("{file}: dependencies must be a list.", file=file))
        for entry in dependencies:
            if isinstance(entry, str):
                package = re.match(r"(?:[\w.-]+::)?([\w.-]*)", entry.strip())
                what = package[1].lower() if package else ""
                if what == "python":
                    version = re.sub(r"^(?:[\w.-]+::)?python\s*", "", entry.strip(), flags=re.I)
                    if not python_fits(version):
                        reason = _other_python(version.strip("= "))
                elif what not in ("pip", "uv"):
                    conda.append(entry.strip())
            elif (
                isinstance(entry, dict) and set(entry) == {"pip"} and isinstance(entry["pip"], list)
            ):
                self.choice.lines += [str(line) for line in entry["pip"] if line]
            else:
                raise Refusal(
                    Text("{file}: {entry} is not understood.", file=file, entry=str(entry))
                )
        if conda:
            names = ", ".join(conda[:3]) + (", …" if len(conda) > 3 else "")
            reason = Text("it asks for conda packages ({names})", names=names)
        self.choice.lines_from = file
        return (file, reason) if reason is not None else None

    # --- what there is to do ----------------------------------------------------------------------

    def _plan(self, found: Any) -> None:
        choice, path = self.choice, self.binder_path
        if type(found) is CondaBuildPack:
            if os.path.exists(path("requirements.txt")):
                choice.notes.append(
                    Text("{file} is used, not requirements.txt beside it.", file=choice.lines_from)
                )
        else:
            if os.path.isfile(path("requirements.txt")):
                choice.requirements.append(path("requirements.txt"))
            choice.project = self._is_python_package()
            if not (choice.requirements or choice.project or self.binder_dir):
                self._dependencies()
        if os.path.exists(path("install.R")):
            # repo2docker's rule: R's packages without a version of R are nobody's.
            choice.notes.append(
                Text("{file} is not used: no runtime.txt asks for R.", file=path("install.R"))
            )
        scripts = [one for one in self.get_post_build_scripts() if os.path.isfile(one)]
        choice.post_build = scripts[0] if scripts else ""
        start = (self.get_start_script() or "").removeprefix("${REPO_DIR}/")
        choice.start = start if os.path.isfile(start) else ""

    def _dependencies(self) -> None:
        """The dependencies of a pyproject.toml that describes no package are installed."""
        import tomllib

        if os.path.isfile("pyproject.toml"):
            with open("pyproject.toml", "rb") as file:
                if "project" in tomllib.load(file):
                    self.choice.requirements.append("pyproject.toml")


def _other_python(wanted: str) -> Text:
    return Text(
        "it asks for Python {wanted}, and the site's image has Python {have}",
        wanted=wanted[:40],
        have=".".join(map(str, PYTHON)),
    )


def python_fits(version: str) -> bool:
    """Whether conda's version of Python lets the image's in: `=3.13`, `>=3.10,<4`, `3.*`, none."""
    version = version.strip()
    if not version:
        return True
    for part in version.split(","):
        match = re.fullmatch(
            r"\s*(==|=|>=|<=|>|<|!=|~=)?\s*(\d+)(?:\.(\d+))?(?:\.\d+)*(\.?\*)?\s*", part
        )
        if match is None:
            return False
        relation, major = match[1] or "=", int(match[2])
        minor = int(match[3]) if match[3] else None
        have: tuple[int, ...] = PYTHON if minor is not None else PYTHON[:1]
        wanted: tuple[int, ...] = (major,) if minor is None else (major, minor)
        fits = {
            "=": have == wanted, "==": have == wanted, "!=": have != wanted, ">=": have >= wanted,
            "<=": have <= wanted, ">": PYTHON > wanted,
            "<": PYTHON < (wanted if minor is not None else (major, 0)),
            "~=": have >= wanted and PYTHON[0] == major,
        }[relation]  # fmt: skip
        if not fits:
            return False
    return True
