"""What a machine lacks is named by Debian package, and never installed without root."""

from __future__ import annotations

import os

import pytest

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


def test_without_root_the_packages_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingPackages) as refusal:
        install_packages(["podman", "runc"], print)
    assert "\n" not in refusal.value.sentence
    assert "apt-get install --no-install-recommends podman runc" in refusal.value.sentence
