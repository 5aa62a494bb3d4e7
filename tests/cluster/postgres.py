"""A PostgreSQL on this machine for tests, at an address that pods reach; gone afterwards."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.hubs import free_port
from tests.site import wait_for

OWNER = "postgres"  # the server does not run as root


def _programs() -> Path:
    """The newest PostgreSQL of Debian's packages; skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("there is no PostgreSQL: make test-cluster installs it")
    if os.geteuid() != 0:
        pytest.skip("only root can start PostgreSQL as its own user")
    return found[-1].parent


@contextmanager
def postgres(address: str) -> Iterator[str]:
    """The URL of an empty database that listens on ``address`` only."""
    programs, port, password = _programs(), free_port(), secrets.token_hex(16)
    folder = Path(tempfile.mkdtemp(prefix="studovna-postgres-"))
    owner = pwd.getpwnam(OWNER)
    (folder / "password").write_text(password)
    for place in (folder, folder / "password"):
        os.chown(place, owner.pw_uid, owner.pw_gid)
    data = folder / "data"
    as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": [], "cwd": folder}
    try:
        subprocess.run(
            [programs / "initdb", "--pgdata", data, "--username", "hub", "--no-sync",
             "--auth", "scram-sha-256", "--pwfile", folder / "password"],
            check=True, capture_output=True, **as_owner,
        )  # fmt: skip
        with (data / "pg_hba.conf").open("a") as allowed:
            allowed.write("host all hub all scram-sha-256\n")
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-h", address, "-p", str(port), "-k", folder],
            stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"), **as_owner,
        )  # fmt: skip
        try:
            ready = [programs / "pg_isready", "-q", "-h", address, "-p", str(port)]
            wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, 30)
            yield f"postgresql+psycopg://hub:{password}@{address}:{port}/postgres"
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder)
