"""What a machine lacks is named by Debian package, and never installed without root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from studovna import system
from studovna.paths import ROOT
from studovna.podman import Podman
from studovna.system import FILES, PROGRAMS, MissingPackages, install_packages, missing_packages


def test_a_complete_machine_lacks_nothing() -> None:
    assert missing_packages(rootless=True, exists=lambda what: True) == []


@pytest.mark.parametrize(
    ("absent", "rootless", "packages"),
    [
        ("podman", False, ["podman"]),
        ("/usr/lib/podman/netavark", False, ["netavark"]),
        ("newuidmap", True, ["uidmap"]),
        ("newuidmap", False, []),
    ],
)
def test_each_missing_program_names_its_package(
    absent: str, rootless: bool, packages: list[str]
) -> None:
    assert missing_packages(rootless, exists=lambda what: what != absent) == packages


def test_an_empty_machine_lacks_each_package_once() -> None:
    missing = missing_packages(rootless=False, exists=lambda what: False)
    assert missing == sorted(set(PROGRAMS.values()) | set(FILES.values()))


def test_programs_for_administrators_are_found_without_their_folders_on_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What an ordinary user's shell has on Debian; iptables and runc are in /usr/sbin.
    sbin = tmp_path / "sbin"
    sbin.mkdir()
    (sbin / "iptables").touch(0o755)
    monkeypatch.setattr(system, "SBIN", (str(sbin),))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "iptables" not in missing_packages(rootless=True)
    assert "runc" in missing_packages(rootless=True)
    # Podman's own helpers look there too.
    assert str(sbin) in Podman(tmp_path).environment["PATH"].split(":")


def test_the_guards_programs_are_found_without_their_folders_on_the_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if shutil.which("iptables") is not None or not Path("/usr/sbin/iptables").exists():
        pytest.skip("iptables is not installed in /usr/sbin alone")
    code = "from spawner import podman_guard; print(podman_guard._call(['iptables', '-V']).stdout)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.startswith("iptables v"), done.stderr


def test_without_root_the_packages_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingPackages) as refusal:
        install_packages(["podman", "runc"], print)
    assert "\n" not in refusal.value.sentence
    assert "apt-get install --no-install-recommends podman runc" in refusal.value.sentence
