"""SSH into a running server: a real client, through the proxy and the hub's sign-in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from studovna.hub_api import new_token
from studovna.images import build
from studovna.images_cli import IMAGES
from studovna.paths import ROOT
from tests.podman.conftest import _Silent
from tests.site import RunningSite, running_site

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    folder = tmp_path_factory.mktemp("ssh-site")
    profiles = folder / "profiles"
    profiles.mkdir()
    shutil.copy(ROOT / "profiles/catalogue/ssh.yaml", profiles)
    with running_site(folder, "binder: {enabled: false}", profiles=profiles) as running:
        build(running.podman, IMAGES, ["ssh"], _Silent())
        yield running


def test_commands_and_files_and_nobody_without_both_keys(site: RunningSite, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    site.start("ana", "work", {"profile": "ssh"})
    public = key.with_suffix(".pub").read_text().strip()
    pod = site.pod("jupyter-ana--work")
    script = f"mkdir -p ~/.ssh && echo '{public}' > ~/.ssh/authorized_keys"
    site.podman.run("exec", "-e", "HOME=/home/jovyan", pod, "sh", "-c", script)

    address = f"{site.url.replace('http', 'ws')}/user/ana/work/sshd/"
    options = [
        "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/known",
        "-o", f"ProxyCommand={sys.executable} -m tests.websocket_pipe {address}",
    ]  # fmt: skip

    def run(*argv: str, token: str, **more: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TOKEN": token}
        return subprocess.run(
            argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    ana = new_token(site.site, site.state, "ana", 600, "ssh")
    said = run("ssh", *options, "jovyan@server", "id -u; hostname; pwd", token=ana)
    assert said.returncode == 0, said.stderr
    assert said.stdout.split() == ["1000", "jupyter-ana--work", "/home/jovyan"]

    large = tmp_path / "large"
    large.write_bytes(os.urandom(30 * 2**20))
    sent = run("scp", *options, str(large), "jovyan@server:large", token=ana)
    assert sent.returncode == 0, sent.stderr
    total = run("ssh", *options, "jovyan@server", "sha256sum large", token=ana)
    assert total.stdout.split()[0] == hashlib.sha256(large.read_bytes()).hexdigest()

    # Somebody else's token does not come to the server, and a token without the key not into it.
    ben = new_token(site.site, site.state, "ben", 600, "ssh")
    assert run("ssh", *options, "jovyan@server", "id", token=ben).returncode != 0
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    mine = [str(other) if part == str(key) else part for part in options]
    refused = run("ssh", *mine, "jovyan@server", "id", token=ana)
    assert refused.returncode != 0 and "Permission denied" in refused.stderr
