"""The spawner of one machine with JupyterHub's own people and database, over engines that fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.auth import Authenticator
from jupyterhub.user import User
from traitlets.config import Config

from spawner.deployment import Deployment
from spawner.podman_spawner import PodmanSpawner
from spawner.profile_list import Capabilities
from studovna.profiles import load_profiles
from studovna.site import load_site

ROOT = Path(__file__).resolve().parents[2]

MakeUser = Callable[..., Any]


class _Machine:
    async def capabilities(self) -> Capabilities:
        return Capabilities()


@pytest.fixture
def make_user(tmp_path: Path) -> MakeUser:
    """A person of JupyterHub's, whose servers are this site's."""
    db = orm.new_session_factory("sqlite:///:memory:")()

    def make(name: str, settings: str = "", *, manage_groups: bool = False) -> Any:
        file = tmp_path / "site.yaml"
        file.write_text(f"profiles: {ROOT / 'profiles'}\n{settings}")
        site = load_site(file)
        deployment = Deployment(site, load_profiles(site.profiles_folder, site), tmp_path)

        class Spawner(PodmanSpawner):
            machine: Any = _Machine()

        found = db.query(orm.User).filter_by(name=name).one_or_none()
        if found is None:
            found = orm.User(name=name)
            db.add(found)
            db.commit()
        return User(
            found,
            {
                "spawner_class": Spawner,
                "authenticator": Authenticator(allow_all=True, manage_groups=manage_groups),
                "config": Config({"ProfileSpawner": {"deployment": deployment}}),
            },
            db,
        )

    return make


def test_the_site_file_alone_says_who_is_in_its_groups(make_user: MakeUser) -> None:
    user = make_user("ana", "groups: {staff: [ana], teachers: [eva]}")
    # What JupyterHub has kept of an older file, or an admin has added there.
    user.orm_user.groups = [orm.Group(name="teachers")]
    assert user.spawner.groups() == {"staff"}


def test_a_provider_that_manages_groups_is_believed(make_user: MakeUser) -> None:
    user = make_user("ana", manage_groups=True)
    user.orm_user.groups = [orm.Group(name="teachers")]
    assert user.spawner.groups() == {"teachers"}
