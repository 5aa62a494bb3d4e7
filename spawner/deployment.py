"""One site's settings, profiles and engine, loaded once and shared by all of its servers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from studovna.profile_schema import Profile
from studovna.profiles import load_profiles
from studovna.site import Site, load_site


@dataclass(frozen=True, eq=False)
class Deployment:
    """What every spawner of one hub shares: nothing in it belongs to a person."""

    site: Site
    profiles: dict[str, Profile]
    state_dir: Path

    def __deepcopy__(self, memo: dict[int, object]) -> Deployment:
        # traitlets copies configuration for each instance; this is shared by all of them.
        return self


@cache
def deployment(site_file: str, state_dir: str) -> Deployment:
    """Load and check the site once a process.

    Raises ``studovna.problems.SettingsError`` with every problem of the site and its profiles.
    """
    site = load_site(Path(site_file))
    return Deployment(site, load_profiles(site.profiles_folder, site), Path(state_dir))
