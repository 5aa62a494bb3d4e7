"""How long each image took to build here, for `make bench`: a file beside the builds' logs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class BuildTime:
    """Seconds of one build; `inputs` is the hash of what it was built from."""

    inputs: str
    seconds: float


def read(state: Path) -> dict[str, BuildTime]:
    """The last build of each image; nothing where there is none, or no file of ours."""
    try:
        found = json.loads(_file(state).read_text())
        return {name: BuildTime(**one) for name, one in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def record(state: Path, image: str, time: BuildTime) -> None:
    """Keep the time of an image's build."""
    times = {**read(state), image: time}
    file = _file(state)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps({name: asdict(one) for name, one in sorted(times.items())}, indent=1))
    new.replace(file)


def _file(state: Path) -> Path:
    return state / "log" / "images" / "times.json"
