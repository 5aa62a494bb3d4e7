"""The site's ssh key: which files will do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from studovna.ssh_key import wrong_with_key


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)]
    try:
        subprocess.run(argv, check=True)
    except FileNotFoundError:
        pytest.skip("there is no ssh-keygen")
    return file


def test_ones_own_key_is_for_nobody_else(key: Path) -> None:
    assert wrong_with_key(key) is None
    key.chmod(0o440)
    problem = wrong_with_key(key)
    assert problem and "Others than its owner may read" in problem[0]


def test_a_key_of_another_user_may_be_for_a_group(key: Path) -> None:
    """As in a cluster's Secret: root's, for the group of the pod. ssh takes it, too."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    key.chmod(0o440)
    os.chown(key, 65534, 65534)
    assert wrong_with_key(key) is None
