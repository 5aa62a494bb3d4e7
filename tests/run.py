"""``make test``: every test that this machine can run; the summary names the others and why.

Arguments are pytest's: ``python -m tests.run tests/unit -k quota``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from rich.console import Console

from studovna.images import BuildError
from studovna.images_cli import build_with_display
from studovna.paths import ROOT
from studovna.podman import Podman, PodmanError
from studovna.system import MissingPackages, find_program, install_packages, missing_packages
from studovna.up import install_proxy, step
from tests.cluster import prepare as cluster
from tests.support import preparation_state

BARE = ("tests/unit", "tests/chart")
"""Tests without real parts."""
# Program that only tests need → Debian package.
TEST_PROGRAMS = {"chromium": "chromium", "sshd": "openssh-server", "pg_ctlcluster": "postgresql"}


def prepare(console: Console) -> None:
    """Install and build what tests with real parts need; what cannot be had makes them skip."""
    packages = missing_packages(rootless=os.geteuid() != 0)
    packages += [
        package for program, package in TEST_PROGRAMS.items() if find_program(program) is None
    ]
    try:
        if packages:
            with step(console, "Installing Debian packages: " + " ".join(packages)) as line:
                install_packages(packages, line)
        install_proxy(console, tests_too=True)
        podman = Podman(preparation_state())
        podman.probe()
        build_with_display(podman, ["lab", "builder"], console)
    except (MissingPackages, PodmanError, BuildError) as error:
        console.print(f"Tests with real parts will be skipped: {error}", markup=False)


# A process each: Playwright keeps an event loop running in its process, so that neither
# pytest-asyncio nor a second Playwright can be there with it.
BESIDE = [["tests/podman"]]
"""These take longest, most of it spent waiting: the next ones run at the same time."""
MEANWHILE = [
    ["tests/unit"],
    ["tests/chart"],
    ["tests/binder", "--ignore=tests/binder/test_browser.py"],
]
ALONE = [
    ["tests/binder/test_browser.py"],
    ["tests/browser"],
    ["tests/apps"],
    ["tests/cluster"],
    ["tests/desktop"],
]
"""Chromium drops connections when networks of other pods come and go."""


def run(groups: list[list[str]], environment: dict[str, str], output: IO[bytes] | None) -> int:
    """pytest, a process a group; the worst exit code. ``output``: None is the terminal."""
    worst = 0
    for words in groups:
        argv = [sys.executable, "-m", "pytest", *words]
        done = subprocess.run(
            argv, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False
        )
        worst = max(worst, done.returncode)
    return worst


def run_all(environment: dict[str, str]) -> int:
    """Every group. What ran beside the longest is told after it."""
    with tempfile.TemporaryFile() as output, ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(run, MEANWHILE, environment, output)
        code = run(BESIDE, environment, None)
        code = max(code, meanwhile.result())
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout.buffer)
        sys.stdout.flush()
    return max(code, run(ALONE, environment, None))


def main() -> int:
    """Prepare, then run pytest over the arguments, or over everything."""
    arguments = sys.argv[1:]
    if not arguments or any(not word.startswith(BARE) for word in arguments):
        prepare(Console())
    environment = dict(os.environ)
    if not arguments:
        return run_all(environment)
    if any(word.startswith("tests/cluster") for word in arguments):
        environment = cluster.prepare(Console())
    return run([arguments], environment, None)


if __name__ == "__main__":
    raise SystemExit(main())
