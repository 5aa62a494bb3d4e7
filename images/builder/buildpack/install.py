"""The second container: the repository's own code runs here, without any credential.

Packages go to an environment of the repository's own (`paths.ENV`), which sees the Lab's packages
behind them, so the repository's versions win and the Lab's own folder stays as it is. Whatever runs
here runs in it: `sys.prefix` is a folder that may be written to.
"""

from __future__ import annotations

import compileall
import contextlib
import errno
import json
import os
import py_compile
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import watch
from .detect import read
from .paths import (
    CONSTRAINTS,
    ENV,
    INSTALLED,
    JOB,
    LAB,
    PLAN,
    REPO,
    SKELETON,
    TMP,
    UV_CACHE,
    site_packages,
)
from .report import Refusal, Text, say_text

MANY = 300  # source files that are worth several processes to compile
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NO_SOLUTION = re.compile(
    r"no solution found|unsatisfiable|because .* we can conclude", re.I | re.S
)


def main() -> None:
    job = json.loads(JOB.read_text())
    plan = json.loads((PLAN / "plan.json").read_text())
    if plan["stock"]:
        return  # a builder's
    watch.start([REPO, ENV, TMP], job["disk"], job["files"])
    # Core dumps of crashed programs would be put into the image.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    begin()
    packages(plan)
    if plan["start"]:
        make_executable(REPO / plan["start"])
    if plan["post_build"]:
        post_build(plan["post_build"])
    lab_application(ENV / "share/jupyter/lab", LAB / "share/jupyter/lab")
    compile_all(site_packages(ENV))
    make_readable([REPO, ENV])


def begin() -> None:
    """Fill the environment's folder, which is a volume, with the empty environment."""
    for entry in SKELETON.iterdir():
        if entry.is_symlink() or entry.is_file():
            shutil.copy(entry, ENV / entry.name, follow_symlinks=False)
        else:
            shutil.copytree(entry, ENV / entry.name, symlinks=True)


def environment() -> dict[str, str]:
    """What the repository's code sees: the image's environment, and its home in its own folder."""
    return dict(os.environ) | {
        "HOME": str(REPO),
        "REPO_DIR": str(REPO),
        "PATH": f"{ENV}/bin:{os.environ['PATH']}",
        "TMPDIR": str(TMP),
        "XDG_CACHE_HOME": f"{TMP}/cache",
        "UV_CACHE_DIR": f"{TMP}/uv",
        "UV_LINK_MODE": "copy",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # As repo2docker calls the environment of the server and of the kernels.
        "VIRTUAL_ENV": str(ENV),
        "NB_PYTHON_PREFIX": str(ENV),
        "KERNEL_PYTHON_PREFIX": str(ENV),
        "CI": "1",
    }


# --- packages -------------------------------------------------------------------------------------


def packages(plan: dict[str, Any]) -> None:
    """Install what the plan lists with uv. Raises Refusal."""
    site = site_packages(ENV)
    wanted: list[str] = []
    texts: dict[str, str] = {}
    for name in plan["requirements"]:
        texts[name] = text = read(REPO / name, name)
        wanted += ["--requirement", _utf8(REPO / name, text)]
    if plan["lines"]:
        texts[plan["lines_from"]] = "\n".join(plan["lines"])
        wanted += ["--requirement", str(_lines_file(plan))]
    if plan["project"]:
        wanted.append(".")
    if not wanted:
        return
    entries = json.loads(INSTALLED.read_text())
    _enter_lab(site, entries)
    shutil.copytree(UV_CACHE, TMP / "uv", dirs_exist_ok=True)
    try:
        argv = [
            "uv", "pip", "install", "--python", str(ENV), "--constraint", str(CONSTRAINTS),
            "--color", "never", *wanted,
        ]  # fmt: skip
        code, said = run(argv)
        if code != 0:
            raise Refusal(explain(said, texts, CONSTRAINTS.read_text()))
    finally:
        _forget_lab(site, entries)


def _enter_lab(site: Path, entries: dict[str, str]) -> None:
    """Enter the Lab's packages as if they were here. Each is a hundred microseconds of a build."""
    for name, metadata in entries.items():
        folder = f"{site}/{name}"
        os.mkdir(folder)
        for file, text in (("METADATA", metadata), ("RECORD", _record(name))):
            with open(f"{folder}/{file}", "w", encoding="utf-8") as stream:
                stream.write(text)


def _forget_lab(site: Path, entries: dict[str, str]) -> None:
    """Take the entries out again; what has replaced one stays, with a record of its own."""
    for name in entries:
        folder = f"{site}/{name}"
        with contextlib.suppress(OSError):
            with open(f"{folder}/RECORD", encoding="utf-8") as stream:
                if stream.read() != _record(name):
                    continue
            os.unlink(f"{folder}/METADATA")
            os.unlink(f"{folder}/RECORD")
            os.rmdir(folder)


def _record(name: str) -> str:
    return f"{name}/METADATA,,\n{name}/RECORD,,\n"


def _utf8(path: Path, text: str) -> str:
    """The path of a requirements file that uv can read; paths in it stay as they are."""
    with contextlib.suppress(UnicodeDecodeError):
        path.read_bytes().decode("utf-8")
        return str(path)
    copy = path.with_name(f".utf8-{path.name}")
    copy.write_text(text)
    return str(copy)


def _lines_file(plan: dict[str, Any]) -> Path:
    """The pip lines of environment.yml as a file beside it, so that paths mean the same."""
    folder = REPO / plan["folder"]
    lines = [
        re.sub(r"^(-r|--requirement|-c|--constraint)[\s=]*(?!/)(\S+)", rf"\1 {folder}/\2", line)
        for line in plan["lines"]
    ]
    file = TMP / "environment.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


def run(argv: Sequence[str]) -> tuple[int, str]:
    """The exit code and the last of what a program wrote, which is shown as it comes."""
    process = subprocess.Popen(
        argv, cwd=REPO, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        print(line, end="", flush=True)
        said = [*said[-200:], line]
    return process.wait(), "".join(said)


def explain(said: str, texts: dict[str, str], constraints: str) -> Text:
    """Why uv refused, from what it wrote: `texts` are the requirement files by name."""
    if "No space left on device" in said:
        return Text("The disk of the site is full. Tell its administrators.")
    missing = re.search(r"because (\S+) was not found in the package registry", said, re.I)
    if missing:
        return Text("There is no package {name}. Check the spelling.", name=missing[1])
    if _NO_SOLUTION.search(said):
        needs = dict(line.partition(" ")[::2] for line in constraints.splitlines())
        named = [name for name in needs if re.search(rf"\b{re.escape(name)}\b(?!-)", said)]
        for file, text in texts.items():
            for number, line in enumerate(text.splitlines(), 1):
                name = _NAME.match(line.strip())
                bare = re.sub(r"[-_.]+", "-", name[0]).lower() if name else ""
                if bare in named and needs[bare] and line.strip() != name[0]:  # type: ignore[index]
                    return Text(
                        "{file} asks for {line} (line {number}), but the Jupyter of this site "
                        "needs {name} {needs}. Ask for another version, or leave the line out.",
                        file=file,
                        line=line.strip(),
                        number=number,
                        name=bare,
                        needs=needs[bare],
                    )
        return Text(
            "The packages of {files} cannot be installed together, or not beside the Jupyter of "
            "this site; the log says which exclude each other.",
            files=", ".join(texts) or "pyproject.toml",
        )
    return Text(
        "Installing the packages of {files} failed. The last lines of the log say why.",
        files=", ".join(texts) or "pyproject.toml",
    )


# --- the repository's own script ------------------------------------------------------------------


def post_build(script: str) -> None:
    """Run postBuild in the repository's folder. Raises Refusal when it fails."""
    path = REPO / script
    make_executable(path)
    say_text("note", Text("Running {script}", script=script))
    argv = [str(path)]
    try:
        process = subprocess.Popen(argv, cwd=REPO, env=environment(), stdin=subprocess.DEVNULL)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise Refusal(
                Text("{script} cannot be run: {said}.", script=script, said=error.strerror)
            ) from error
        # A script without a first line that names its interpreter.
        process = subprocess.Popen(
            ["/bin/sh", *argv], cwd=REPO, env=environment(), stdin=subprocess.DEVNULL
        )
    code = process.wait()
    if code != 0:
        how = Text("exit code {code}", code=code)
        if code < 0:
            how = Text("signal {number}", number=-code)
        raise Refusal(Text("{script} failed ({how}). The log says why.", script=script, how=how))


def make_executable(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o111)


# --- afterwards -----------------------------------------------------------------------------------


def lab_application(own: Path, lab: Path) -> None:
    """JupyterLab looks for itself below `sys.prefix`: what the repository has not is the Lab's."""
    own.mkdir(parents=True, exist_ok=True)
    for entry in lab.iterdir():
        if not os.path.lexists(own / entry.name):
            (own / entry.name).symlink_to(entry)


def compile_all(folder: Path) -> None:
    """Byte code beside the sources, valid whatever time the layer gives them."""
    if not any(folder.iterdir()):
        return
    sources = sum(name.endswith(".py") for _, _, files in os.walk(folder) for name in files)
    compileall.compile_dir(
        folder, quiet=2, force=True, workers=0 if sources > MANY else 1, maxlevels=100,
        invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH,
    )  # fmt: skip


def make_readable(folders: Sequence[Path]) -> None:
    """Let export read everything, and the person change it."""
    for folder in folders:
        for root, dirs, files in os.walk(folder):
            for name in (*dirs, *files):
                path = os.path.join(root, name)
                info = os.lstat(path)
                wanted = (
                    stat.S_IRUSR
                    | stat.S_IWUSR
                    | (stat.S_IXUSR if stat.S_ISDIR(info.st_mode) else 0)
                )
                if not stat.S_ISLNK(info.st_mode) and info.st_mode & wanted != wanted:
                    with contextlib.suppress(OSError):
                        os.chmod(path, info.st_mode | wanted)
