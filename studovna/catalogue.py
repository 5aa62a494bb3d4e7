"""The catalogue: ready profiles of this distribution that a site offers only when it says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .paths import ROOT
from .problems import one_of

FOLDER = ROOT / "profiles" / "catalogue"


def catalogue() -> list[str]:
    """The names of what there is."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def catalogue_file(name: str) -> Path:
    """The profile of that name."""
    return FOLDER / f"{name}.yaml"


def catalogue_rules(names: Sequence[str]) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """The broken rules of a site's choice."""
    known = catalogue()
    for index, name in enumerate(names):
        if name not in known:
            message = f'There is no "{name}" in the catalogue (profiles/catalogue)'
            yield ("catalogue", index), message, one_of(name, known)
        elif name in names[:index]:
            yield ("catalogue", index), f'"{name}" is there twice', "each name once"
