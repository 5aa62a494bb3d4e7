"""What breaks: each fault is a sentence where the person is; no home and no server is lost.

These tests change the site under them, so they have one of their own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from studovna import hub_process
from studovna.paths import ROOT
from studovna.podman import Podman, PodmanError
from studovna.secrets import read_secret
from tests.site import RunningSite, running_site, wait_for, why_not

CPU = {"profile": "cpu"}

TALKATIVE = """
title: Ends while starting
image: lab
cpu: {request: 0.1, limit: 1}
memory: {request: 64M, limit: 256M}
command: [sh, -c, "echo the licence file is missing; exit 3"]
"""
SILENT = """
title: Never answers
image: lab
cpu: {request: 0.1, limit: 1}
memory: {request: 64M, limit: 256M}
answer_seconds: 6
command: [sleep, "300"]
"""
GREEDY = """
title: Takes all memory
image: lab
cpu: {request: 0.1, limit: 1}
memory: {request: 64M, limit: 128M}
command: [python3, -c, "x = bytearray(1 << 30)"]
"""


HUNGRY = """
title: Takes all memory when asked to
image: lab
home: server
cpu: {request: 0.1, limit: 1}
memory: {request: 64M, limit: 128M}
command:
  - python3
  - -c
  - |
    import http.server, pathlib
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            pathlib.Path("note").touch()
            if self.path.endswith("eat"):
                bytearray(1 << 30)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(" ".join(p.name for p in pathlib.Path(".").iterdir()).encode())
    http.server.HTTPServer(("", 8888), Answer).serve_forever()
"""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site with profiles that fail in their own ways."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("fragile")
    profiles = folder / "profiles"
    profiles.mkdir()
    broken = {"ends": TALKATIVE, "silent": SILENT, "greedy": GREEDY, "hungry": HUNGRY}
    for name, text in broken.items():
        (profiles / f"{name}.yaml").write_text(text)
    (profiles / "cpu.yaml").write_text((ROOT / "profiles/cpu.yaml").read_text())
    with running_site(folder, profiles=profiles) as running:
        yield running


def failed_start(site: RunningSite, person: str, profile: str) -> str:
    """Ask for a start that fails; the sentence that the person gets."""
    client = site.client(person)
    reply = client.post(f"/hub/api/users/{person}/servers/s", json={"profile": profile})
    if reply.is_success:  # slower than the ten seconds that the hub holds the request
        events = client.get(f"/hub/api/users/{person}/servers/s/progress", timeout=180).text
        assert '"failed": true' in events
        return events
    assert reply.status_code >= 400, reply.text
    return reply.json()["message"]


def test_a_server_that_ends_says_its_exit_code_and_last_words(fragile: RunningSite) -> None:
    message = failed_start(fragile, "ana", "ends")
    assert "exit code 3" in message
    assert "the licence file is missing" in message


def test_out_of_memory_is_said_as_such(fragile: RunningSite) -> None:
    message = failed_start(fragile, "ana", "greedy")
    assert "memory" in message
    assert "0.12 GB" in message


def test_a_server_with_its_own_home_runs_out_of_memory_after_a_restart_of_the_hub(
    fragile: RunningSite,
) -> None:
    client = fragile.start("kim", "one", {"profile": "hungry"})
    fragile.start("kim", "two", {"profile": "hungry"})
    homes = {home["name"] for home in client.get("/hub/api/users/kim/homes").json()}
    assert len(homes) == 2 and all(name.startswith("server-home-kim--") for name in homes)
    fragile.kill_hub()
    fragile.up()
    with contextlib.suppress(httpx.HTTPError):
        client.get("/user/kim/one/eat")
    wait_for(lambda: fragile.server(client, "kim", "one") is None, 40)
    end = client.get("/hub/api/users/kim/servers/one/last-end").json()
    assert "used more memory than its limit of 0.12 GB" in end["message"]
    # Deleted, its home stays; the other server has none of it.
    client.request("DELETE", "/hub/api/users/kim/servers/one", json={"remove": True})
    client.request("DELETE", "/hub/api/users/kim/servers/two")
    wait_for(lambda: fragile.server(client, "kim", "two") is None, 30)
    after = {home["name"]: home for home in client.get("/hub/api/users/kim/homes").json()}
    assert after.keys() == homes


def test_no_more_servers_than_the_project_has(fragile: RunningSite) -> None:
    client = fragile.client("six")

    def ask(number: int) -> httpx.Response:
        return client.post(f"/hub/api/users/six/servers/s{number}", json={"profile": "silent"})

    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(ask, range(6)))
    (refused,) = [reply.json()["message"] for reply in replies if reply.status_code == 403]
    assert "has 5 servers running, and may have 5 at once" in refused
    wait_for(lambda: not client.get("/hub/api/users/six").json()["servers"], 60)


def test_a_container_killed_from_outside_is_noticed_and_told(fragile: RunningSite) -> None:
    client = fragile.start("bob", "work", CPU)
    client.put(
        "/user/bob/work/api/contents/kept.txt",
        json={"type": "file", "format": "text", "content": "kept"},
    )
    fragile.podman.run("kill", "--signal", "KILL", fragile.pod("jupyter-bob--work"))
    wait_for(lambda: fragile.server(client, "bob", "work") is None, 40)
    assert "killed from outside" in fragile.log()
    client.post("/hub/api/users/bob/servers/work")
    wait_for(lambda: fragile.answers(client, "bob", "work"), 60)
    assert client.get("/user/bob/work/api/contents/kept.txt").json()["content"] == "kept"
    client.request("DELETE", "/hub/api/users/bob/servers/work")


def test_a_killed_hub_finds_its_servers_again(fragile: RunningSite) -> None:
    client = fragile.start("eva", "work", CPU)
    before = fragile.server(client, "eva", "work")
    container = fragile.podman.run("ps", "-q", "--filter", "name=jupyter-eva--work")
    fragile.kill_hub()
    # The proxy goes on: the person works while there is no hub.
    assert client.get("/user/eva/work/api").status_code == 200
    fragile.up()
    after = fragile.server(client, "eva", "work")
    assert before is not None and after is not None
    assert after["started"] == before["started"]
    assert fragile.answers(client, "eva", "work")
    assert fragile.podman.run("ps", "-q", "--filter", "name=jupyter-eva--work") == container
    # What it holds of the quota is remembered too.
    refused = [
        client.post(
            f"/hub/api/users/eva/servers/s{n}", json={"profile": "cpu", "memory": "extra-large"}
        ).status_code
        for n in range(4)
    ]
    assert refused == [201, 201, 201, 403] or 202 in refused[:3]
    assert refused[3] == 403
    for name in ("work", "s0", "s1", "s2"):
        client.request("DELETE", f"/hub/api/users/eva/servers/{name}")
    wait_for(lambda: not client.get("/hub/api/users/eva").json()["servers"], 90)


def test_a_hub_killed_in_the_middle_of_a_start_lets_it_be_started_again(
    fragile: RunningSite,
) -> None:
    client = fragile.client("zoe")
    with contextlib.suppress(httpx.HTTPError):
        client.post("/hub/api/users/zoe/servers/work", json=CPU, timeout=0.6)
    fragile.kill_hub()
    fragile.up()
    wait_for(lambda: fragile.server(client, "zoe", "work") is None, 30)
    fragile.start("zoe", "work", CPU)
    client.request("DELETE", "/hub/api/users/zoe/servers/work")


def test_down_keeps_servers_and_up_finds_them(fragile: RunningSite) -> None:
    client = fragile.start("ivo", "work", CPU)
    hub_process.stop(fragile.state)
    with pytest.raises(httpx.HTTPError):
        client.get("/hub/health")
    fragile.up()
    assert fragile.answers(client, "ivo", "work")
    client.request("DELETE", "/hub/api/users/ivo/servers/work")


def test_a_killed_proxy_comes_back_with_its_routes(fragile: RunningSite) -> None:
    client = fragile.start("lea", "work", CPU)
    proxy = fragile.proxy()
    proxy.send_signal(signal.SIGKILL)
    proxy.wait(10)
    wait_for(lambda: fragile.answers(client, "lea", "work"), 60)
    client.request("DELETE", "/hub/api/users/lea/servers/work")


def test_a_server_that_never_answers_is_ended_with_a_sentence(fragile: RunningSite) -> None:
    message = failed_start(fragile, "tom", "silent")
    assert "did not answer on port 8888" in message
    assert fragile.podman.run("ps", "-q", "--filter", "name=jupyter-tom").strip() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_told_and_the_next_start_works(fragile: RunningSite) -> None:
    claims = fragile.state / "claims"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k,mode=0700", "tmpfs", str(claims)], check=True
    )
    try:
        with contextlib.suppress(OSError), (claims / "full").open("wb", buffering=0) as full:
            while True:
                full.write(b"x" * 4096)
        message = failed_start(fragile, "uma", "cpu")
        assert "no space left" in message.lower() or "disk" in message.lower()
        assert "Traceback" not in message
    finally:
        subprocess.run(["umount", "--lazy", str(claims)], check=True)
    client = fragile.start("uma", "s", CPU)
    client.request("DELETE", "/hub/api/users/uma/servers/s")


def test_podman_that_breaks_while_the_hub_runs_is_told(fragile: RunningSite) -> None:
    client = fragile.start("vera", "left", CPU)
    conf = fragile.state / "engine" / "containers.conf"
    before = conf.read_text() if conf.exists() else None
    conf.write_text("[engine\n")
    try:
        message = failed_start(fragile, "vera", "cpu")
        assert "Internal Server Error" not in message
        assert "odman" in message
        # JupyterHub forgets a server whose stop fails; its person is told.
        client.request("DELETE", "/hub/api/users/vera/servers/left")
        wait_for(lambda: fragile.server(client, "vera", "left") is None, 30)
        end = client.get("/hub/api/users/vera/servers/left/last-end").json()
        assert "could not be ended yet" in end["message"]
    finally:
        if before is None:
            conf.unlink()
        else:
            conf.write_text(before)
    client = fragile.start("vera", "s", CPU)
    client.request("DELETE", "/hub/api/users/vera/servers/s")
    left = ("ps", "-a", "-q", "--filter", "name=jupyter-vera--left")
    wait_for(lambda: not fragile.podman.run(*left), 60)


def test_the_culler_stops_servers_that_are_too_old(fragile: RunningSite, tmp_path: Path) -> None:
    client = fragile.start("old", "s", CPU)
    file = tmp_path / "site.yaml"
    file.write_text(f"profiles: {ROOT / 'profiles'}\nservers: {{max_age_hours: 0.0003}}\n")
    culler = subprocess.Popen(
        [sys.executable, "-m", "jupyterhub_idle_culler", "--config", ROOT / "culler_config.py"],
        env={
            **os.environ,
            "STUDOVNA_CULL": "others",
            "STUDOVNA_SITE": str(file),
            "JUPYTERHUB_API_URL": f"{fragile.url}/hub/api",
            "JUPYTERHUB_API_TOKEN": read_secret(fragile.state, "service-token-operator")[0],
        },
    )
    try:
        wait_for(lambda: fragile.server(client, "old", "s") is None, 30)
    finally:
        culler.terminate()
        culler.wait(10)


def studovna(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a newcomer calls it."""
    return subprocess.run(
        [sys.executable, "-m", "studovna", *argv],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_commands_as_an_operator_calls_them(fragile: RunningSite) -> None:
    where = {"STUDOVNA_HOME": str(fragile.state), "STUDOVNA_SITE": str(fragile.site.file)}
    checked = studovna("check", **where)
    assert checked.returncode == 0 and "are right" in checked.stdout

    # A second make up finds the hub; the passwords are shown once.
    (fragile.state / "secrets" / ".passwords-shown").unlink()
    first, second = studovna("up", **where), studovna("up", **where)
    for password in (fragile.password(), fragile.password("password-admin")):
        assert password in first.stdout
        assert password not in second.stdout
    assert str(fragile.state / "secrets" / "password-people") in second.stdout

    token = studovna("token", "ana", **where).stdout.strip()
    reply = httpx.get(
        f"{fragile.url}/hub/api/user",
        headers={"Authorization": f"token {token}"},
        trust_env=False,
    )
    assert reply.json()["name"] == "ana"
    refused = studovna("token", "no such name", **where)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr

    argv = [sys.executable, "-m", "studovna", "logs"]
    with subprocess.Popen(argv, env={**os.environ, **where}, stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        following.terminate()


def test_down_with_servers_ends_them_and_keeps_homes(fragile: RunningSite) -> None:
    client = fragile.start("eli", "work", CPU)
    client.put("/user/eli/work/api/contents/kept", json={"type": "directory"})
    where = {"STUDOVNA_HOME": str(fragile.state), "STUDOVNA_SITE": str(fragile.site.file)}
    done = studovna("down", "--servers", **where)
    assert done.returncode == 0
    assert "Servers ended: 1. Homes are kept." in done.stdout
    assert not fragile.podman.run("ps", "-a", "-q", "--filter", "name=jupyter-eli--work")
    fragile.up()
    assert fragile.server(client, "eli", "work") is None
    fragile.start("eli", "work", CPU)
    assert client.get("/user/eli/work/api/contents/kept").json()["type"] == "directory"
    client.request("DELETE", "/hub/api/users/eli/servers/work")


def test_wrong_yaml_keeps_the_hub_down_and_names_file_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("name: Test\nanouncement: soon\nproject:\n  limits: {cpu: -1, memory: 4G}\n")
    done = studovna("up", "--site", str(file), STUDOVNA_HOME=str(tmp_path / "var"))
    assert done.returncode == 1
    assert f"{file}:2" in done.stderr
    assert "announcement" in done.stderr
    assert f"{file}:4" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "var" / "log" / "hub.log").exists()


def test_the_hub_itself_refuses_wrong_settings(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("nmae: Test\n")
    done = subprocess.run(
        [sys.executable, "-m", "jupyterhub", "-f", str(ROOT / "jupyterhub_config.py")],
        env={**os.environ, "STUDOVNA_HOME": str(tmp_path / "var"), "STUDOVNA_SITE": str(file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert f"{file}:1" in done.stderr
    assert "name" in done.stderr


def test_a_port_in_use_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "site.yaml"
        file.write_text(f"bind: 127.0.0.1:{port}\nprofiles: {ROOT / 'profiles'}\n")
        done = studovna("up", "--site", str(file), STUDOVNA_HOME=str(tmp_path / "var"))
    assert done.returncode == 1
    assert f"Port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_podman_missing_is_one_sentence_with_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PodmanError) as refusal:
        Podman(tmp_path).probe()
    assert "apt-get install" in refusal.value.text
    assert "podman" in refusal.value.text


def test_podman_broken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "podman"
    broken.write_text("#!/bin/sh\necho 'Error: cannot open database' >&2\nexit 125\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(PodmanError) as refusal:
        Podman(tmp_path / "var").probe()
    assert "cannot open database" in refusal.value.text


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(f"profiles: {ROOT / 'profiles'}\n")
    for command in (["up", "--site", str(site)], ["down"], ["logs"]):
        done = studovna(*command, STUDOVNA_HOME=str(site / "var"))
        assert done.returncode == 1
        assert f"{site}" in done.stderr and "Not a directory" in done.stderr
        assert "Traceback" not in done.stderr


def test_servers_that_cannot_be_ended_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "podman"
    broken.write_text("#!/bin/sh\necho 'Error: cannot open database' >&2\nexit 125\n")
    broken.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = studovna("down", "--servers", STUDOVNA_HOME=str(tmp_path / "var"), PATH=path)
    assert done.returncode == 1
    assert "could not be ended" in done.stderr and "cannot open database" in done.stderr
    assert "Traceback" not in done.stderr
