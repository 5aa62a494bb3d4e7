"""The hub's process: a port that is taken is told with the program that has it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from studovna import hub_process
from studovna.hub_process import MARKER, HubError, processes, require_free_ports, stop
from studovna.site import load_site


def site_at(folder: Path, port: int):
    file = folder / "site.yaml"
    file.write_text(f"bind: 127.0.0.1:{port}\n")
    return load_site(file)


def test_a_port_in_use_names_the_port_the_program_and_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HubError) as refusal:
            require_free_ports(site_at(tmp_path, port), tmp_path)
    sentence = refusal.value.sentence
    assert f"Port {port} on 127.0.0.1" in sentence
    assert f"process {os.getpid()}" in sentence
    assert str(tmp_path / "site.yaml") in sentence


def free_ports(count: int) -> int:
    """The first of some ports in a row that are all free, below those that connections get."""
    for port in range(20000 + os.getpid() % 5000, 32000, count):
        try:
            for one in range(port, port + count):
                socket.create_server(("127.0.0.1", one)).close()
        except OSError:
            continue
        return port
    raise LookupError("no free ports")


def test_free_ports_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_process, "HUB_PORT", free_ports(1))
    require_free_ports(site_at(tmp_path, free_ports(4)), tmp_path)


@pytest.mark.parametrize("part", ["proxy's interface", "Binder", "registry", "hub"])
def test_a_port_of_any_part_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    port = free_ports(5)
    names = ["proxy", "proxy's interface", "Binder", "registry", "hub"]
    taken = port + names.index(part)
    monkeypatch.setattr(hub_process, "HUB_PORT", port + 4)
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "port").write_text(f"{port + 3}\n")
    with socket.create_server(("0.0.0.0", taken)), pytest.raises(HubError) as refusal:
        require_free_ports(site_at(tmp_path, port), tmp_path)
    assert f"Port {taken} on " in refusal.value.sentence


def test_only_this_state_folders_processes_are_found_and_ended(tmp_path: Path) -> None:
    def sleeper(state: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"],
            env={**os.environ, MARKER: state},
        )

    ours, other = sleeper(str(tmp_path)), sleeper(str(tmp_path / "other"))
    try:
        assert [process.pid for process in processes(tmp_path)] == [ours.pid]
        assert stop(tmp_path)
        assert ours.poll() is not None  # psutil has waited for it
        assert other.poll() is None
        assert not stop(tmp_path)
    finally:
        ours.kill()
        other.kill()
        ours.wait()
        other.wait()
