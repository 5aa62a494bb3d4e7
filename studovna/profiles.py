"""Profiles: what people can start. Loading of the folder ``profiles/``."""

from __future__ import annotations

import re
from pathlib import Path

from .catalogue import catalogue_file
from .fields import SLUG
from .paths import ROOT
from .problems import Problem, SettingsError, read_yaml, validate
from .profile_rules import profile_rules
from .profile_schema import Profile
from .site import Site


def image_folders() -> list[str] | None:
    """The names of the images of this checkout; None in the hub's image, which has none."""
    return sorted(path.parent.name for path in ROOT.glob("images/*/image.yaml")) or None


def load_profiles(folder: Path, site: Site) -> dict[str, Profile]:
    """Read and check every ``*.yaml`` of the folder, and those that the site takes from the
    catalogue; by slug (the file's name), in page order.

    Raises SettingsError with every problem of every file.
    """
    problems: list[Problem] = []
    if not folder.is_dir():
        where = Problem(str(site.file), None, "profiles", f"There is no folder {folder}")
        raise SettingsError([where])
    images = image_folders()
    profiles: dict[str, Profile] = {}
    files: dict[str, str] = {}
    found = sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))
    for path in [*found, *map(catalogue_file, site.catalogue)]:
        slug = path.stem
        if slug in profiles:
            message = f'The profile "{slug}" is there already, from {files[slug]}'
            expected = "another name for yours, or no catalogue entry"
            problems.append(Problem(str(site.file), None, "catalogue", message, expected))
            continue
        if path.suffix == ".yml" or not re.fullmatch(SLUG, slug) or "--" in slug:
            expected = "a name of a-z, 0-9 and single hyphens, and .yaml"
            problems.append(
                Problem(str(path), None, "", "This file cannot name a profile", expected)
            )
            continue
        try:
            document = read_yaml(path)
            profile = validate(Profile, document)
        except SettingsError as error:
            problems += error.problems
            continue
        problems += [document.problem(*rule) for rule in profile_rules(profile, site, images)]
        if profile.default:
            for other in (name for name, known in profiles.items() if known.default):
                message = f"Two profiles are the default: {files[other]} and {path.name}"
                problems.append(document.problem(("default",), message, "one default"))
                break
        profiles[slug], files[slug] = profile, path.name
    if not found:
        problems.append(Problem(str(folder), None, "", "There are no profiles", "*.yaml files"))
    elif not problems and all(profile.hidden for profile in profiles.values()):
        message = "Every profile is hidden"
        problems.append(Problem(str(folder), None, "", message, "one that people can see"))
    if problems:
        raise SettingsError(problems)
    return dict(sorted(profiles.items(), key=lambda item: (item[1].order, item[0])))
