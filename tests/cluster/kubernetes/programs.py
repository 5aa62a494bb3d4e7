"""The programs of Kubernetes, compiled from Debian's source package with Debian's Go."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cluster.kubernetes import VERSION, ClusterError, home

SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
SUITE = "bookworm"  # the release whose source package has this version
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# What must be there → the Debian package that brings it.
NEEDED_TO_BUILD = {
    "go": "golang-go",
    "dpkg-source": "dpkg-dev",
    "rsync": "rsync",
    "make": "make",
    "gcc": "gcc",
}

_PACKAGE = "k8s.io/kubernetes"
_VERSIONED = ("client-go/pkg", "component-base")

Say = Callable[[str], None]


def folder() -> Path:
    """Where the compiled programs are."""
    return home() / VERSION / "bin"


def are_built() -> bool:
    """Whether every program is there."""
    return all(os.access(folder() / name, os.X_OK) for name in SERVERS)


def build(say: Say) -> None:
    """Compile them: about nine minutes of two cores. Raises ClusterError."""
    started = time.monotonic()
    work = home() / VERSION / "build"
    shutil.rmtree(work, ignore_errors=True)
    try:
        source = _source(work, say)
        say("Generating the API's description")
        _generate(work, source)
        say("Compiling " + ", ".join(SERVERS))
        _compile(work, source)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"Kubernetes {VERSION} is built in {time.monotonic() - started:.0f} s")


def _source(work: Path, say: Say) -> Path:
    """Debian's source package, unpacked; this machine's own package lists stay as they are."""
    say("Fetching the source package of Kubernetes")
    for place in ("lists/partial", "package"):
        (work / "apt" / place).mkdir(parents=True)
    targets = _output(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(LABEL)", "Created-By: Packages"]
    )
    mirrors = [line.split("|")[0] for line in targets.splitlines() if line.endswith("|Debian")]
    if not mirrors:
        raise ClusterError("this machine's apt names no mirror of Debian")
    sources = work / "apt" / "sources.list"
    sources.write_text(f"deb-src [signed-by={KEYRING}] {mirrors[0]} {SUITE} main\n")
    options = [
        f"-oDir::Etc::SourceList={sources}",
        "-oDir::Etc::SourceParts=/dev/null",
        f"-oDir::State::Lists={work / 'apt' / 'lists'}",
        # The user that apt fetches as cannot write into root's cache.
        "-oAPT::Sandbox::User=root",
    ]
    package = work / "apt" / "package"
    _run(["apt-get", *options, "-qq", "update"], package, work / "apt.log")
    _run(
        ["apt-get", *options, "-qq", "source", "--download-only", f"kubernetes/{SUITE}"],
        package,
        work / "apt.log",
    )
    described = list(package.glob("kubernetes_*.dsc"))
    if len(described) != 1 or VERSION not in described[0].name:
        raise ClusterError(f"Debian {SUITE} has no source package of Kubernetes {VERSION}")
    # A Go workspace: the sources are found below src/ by their import path.
    source = work / "go" / "src" / _PACKAGE
    source.parent.mkdir(parents=True)
    _run(["dpkg-source", "-x", "--no-check", described[0].name, str(source)], package, None)
    return source


def _environment(work: Path, workspace: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HOME": str(work),
        "GOPATH": str(workspace),
        "GOCACHE": str(work / "cache"),
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
        "KUBE_GIT_VERSION": f"v{VERSION}",
    }


def _generate(work: Path, source: Path) -> None:
    """The one part of the sources that Debian's package does not have: generated Go."""
    inner = source / ".go"
    (inner / "src/k8s.io").mkdir(parents=True)
    (inner / "src" / _PACKAGE).symlink_to(source)
    _run(["make", "-s", "gen_openapi"], source, work / "make.log", _environment(work, inner))


def _compile(work: Path, source: Path) -> None:
    major, minor, _ = VERSION.split(".")
    values = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    flags = ["-s", "-w"]
    for package in _VERSIONED:
        place = f"{_PACKAGE}/vendor/k8s.io/{package}/version"
        flags += [f"-X {place}.{key}={value}" for key, value in values.items()]
    draft = work / "bin"
    draft.mkdir()
    argv = ["go", "build", "-trimpath", "-ldflags", " ".join(flags), "-o", f"{draft}/"]
    argv += [f"{_PACKAGE}/cmd/{name}" for name in SERVERS]
    _run(argv, source, work / "make.log", _environment(work, work / "go"))
    folder().mkdir(parents=True, exist_ok=True)
    for name in SERVERS:
        (draft / name).replace(folder() / name)


def _output(argv: Sequence[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _run(
    argv: Sequence[str], cwd: Path, log: Path | None, env: Mapping[str, str] | None = None
) -> None:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=dict(env) if env else None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    if log is not None:
        with log.open("a") as out:
            out.write(said)
    if done.returncode:
        last = "\n".join(said.splitlines()[-15:])
        raise ClusterError(f"{' '.join(argv[:3])} failed with {done.returncode}:\n{last}")
