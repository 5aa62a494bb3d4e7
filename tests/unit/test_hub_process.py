"""The hub's process: a port that is taken is told with the program that has it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from studovna import hub_log, hub_process
from studovna.hub_process import MARKER, HubError, processes, require_free_ports, stop
from studovna.paths import ROOT
from studovna.site import load_site
from studovna.up import up
from tests.site import wait_for


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


def test_another_sites_hub_in_the_same_folder_is_told(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    hub = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, MARKER: str(tmp_path), "STUDOVNA_SITE": str(other)},
    )
    site = site_at(tmp_path, 8000)
    site.file.write_text(f"profiles: {ROOT / 'profiles'}\n")
    try:
        with pytest.raises(HubError) as refusal:
            up(site.file, tmp_path, Console(quiet=True))
        assert hub.poll() is None
    finally:
        hub.kill()
        hub.wait()
    assert str(other) in refusal.value.sentence
    assert "make down" in refusal.value.sentence


def test_only_one_brings_a_folder_up_at_a_time(tmp_path: Path) -> None:
    said = []

    def second() -> None:
        with hub_process.alone(tmp_path, lambda: said.append("waits")):
            said.append("works")

    with hub_process.alone(tmp_path, lambda: said.append("never")):
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: said, 10, every=0.01)
        assert said == ["waits"]
    thread.join(10)
    assert said == ["waits", "works"]


def test_a_log_that_is_too_large_begins_anew_and_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_log, "MAX_LOG", 10)
    log = tmp_path / "hub.log"
    hub_log.begin_anew(log)
    with log.open("a") as hub:  # goes on writing
        for text, kept in (("0123456789", "0123456789"), ("abc", ""), ("d", "d")):
            hub.write(text)
            hub.flush()
            hub_log.begin_anew(log)
            assert log.read_text() == kept
    assert (tmp_path / "hub.log.1").read_text() == "0123456789abc"
