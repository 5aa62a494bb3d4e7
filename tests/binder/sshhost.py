"""A real ssh server with git repositories, started by a test and ended with it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATH = f"{os.environ['PATH']}:/usr/sbin"

CONFIG = """\
ListenAddress {address}:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
ForceCommand {python} {folder}/serve.py
"""

# Only what git asks for, and only below the folder of the repositories.
SERVE = """\
import os, shlex, sys
words = shlex.split(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
if len(words) != 2 or words[0] != "git-upload-pack":
    sys.exit("only git-upload-pack")
os.execvp("git", ["git", "upload-pack", {root!r} + words[1]])
"""


def make_key(file: Path, passphrase: str = "") -> Path:
    """A new key pair: the private half, with ``.pub`` beside it."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", str(file)],
        check=True,
    )
    return file


class SshHost:
    """``url`` is ``ssh://<user>@<address>:<port>``; ``root`` holds the repositories.

    ``allow`` lets a public key in; ``known_hosts`` is the line that names the server.
    """

    def __init__(self, folder: Path, address: str) -> None:
        program = shutil.which("sshd", path=PATH)
        if program is None:
            pytest.skip("there is no sshd: apt-get install openssh-server")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd as root insists on it
        self.root = folder / "repositories"
        self.root.mkdir(parents=True)
        self._keys = folder / "authorized_keys"
        self._keys.touch()
        self.host_key = make_key(folder / "host_key")
        with socket.socket() as probe:
            probe.bind((address, 0))
            self.port = int(probe.getsockname()[1])
        self.address = address
        (folder / "serve.py").write_text(SERVE.format(root=str(self.root)))
        self._config = folder / "sshd_config"
        self._config.write_text(
            CONFIG.format(address=address, port=self.port, folder=folder, python=sys.executable)
        )
        self.log = folder / "sshd.log"
        self._program = program
        self.start()

    def start(self) -> None:
        argv = [self._program, "-D", "-f", str(self._config), "-E", str(self.log)]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection((self.address, self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, self.log.read_text()
                time.sleep(0.05)
        raise AssertionError("sshd does not listen")

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@{self.address}:{self.port}"

    @property
    def known_hosts(self) -> str:
        kind, key, *_ = self.host_key.with_suffix(".pub").read_text().split()
        return f"[{self.address}]:{self.port} {kind} {key}\n"

    def allow(self, key: Path) -> None:
        self._keys.write_text(key.with_suffix(".pub").read_text())

    def forbid(self) -> None:
        self._keys.write_text("")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
