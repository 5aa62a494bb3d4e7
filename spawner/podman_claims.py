"""Persistent volume claims on one machine: a folder each, with a file that says what it is.

A claim is `claims/<name>/` of the site's state: `claim.json` beside `data/`, which is what pods
mount and what belongs to the person.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spawner.engine import Claim
from spawner.podman_call import Caller
from spawner.podman_volumes import NAME

MEASURE_SECONDS = 10.0
"""How long all the claims of one question may take to be measured."""


class Claims:
    """The claims in one folder."""

    def __init__(self, folder: Path, caller: Caller) -> None:
        self._folder = folder
        self._caller = caller
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)

    def exists(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and (self._folder / name).is_dir()

    def make(self, name: str, labels: Mapping[str, str], requested: int | None) -> None:
        """Make a claim; one that exists is left as it is. `requested` in bytes. Raises OSError."""
        folder = self._folder / name
        if (folder / "claim.json").exists():
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        about = {
            "name": name,
            "labels": dict(labels),
            "requested": requested,
            "created": datetime.now(UTC).isoformat(),
        }
        part = folder / ".claim.json"
        part.write_text(json.dumps(about, indent=1))
        part.replace(folder / "claim.json")

    async def erase(self, name: str) -> None:
        """Delete a claim that nobody mounts. Raises OSError, PodmanError."""
        # Out of the way in one step: what is half deleted must not be mounted by the next pod.
        doomed = self._folder / f".erased-{name}-{os.urandom(4).hex()}"
        (self._folder / name).rename(doomed)
        await self._caller.files("erase", str(doomed))

    async def find(self, labels: Mapping[str, str]) -> list[Claim]:
        """The claims with all these labels, measured off the loop. Raises PodmanError."""
        about = [one for one in await asyncio.to_thread(self._about) if has(one["labels"], labels)]
        paths = [str(self._folder / one["name"] / "data") for one in about]
        sizes = await self._caller.files("measure", paths, MEASURE_SECONDS) if paths else []
        return [
            Claim(
                one["name"],
                size,
                one["requested"],
                datetime.fromisoformat(one["created"]),
                one["labels"],
            )
            for one, size in zip(about, sizes, strict=True)
        ]

    def _about(self) -> list[dict[str, Any]]:
        files = sorted(self._folder.glob("[a-z0-9]*/claim.json"))
        return [about for file in files if (about := read_json(file))]


def has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all the wanted labels are there."""
    return all(labels.get(key) == value for key, value in wanted.items())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one when there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
