"""The ``.resources`` file of a repository: what its server asks for.

Lines of ``name=number``: ``gpu`` (number of GPUs), ``cpur`` and ``cpul`` (cores guaranteed and at
most), ``memr`` and ``meml`` (memory guaranteed and at most, in GB without a unit). ``#`` begins a
comment; lines that are missing take the profile's values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from studovna.site import Project
from studovna.text import Text

MAX_BYTES = 4096
LABEL = "studovna.resources"
"""The image label that holds the file's text (at most `MAX_BYTES`)."""

NAMES = ("gpu", "cpur", "cpul", "memr", "meml")
GB = 2**30

_BOUNDS = {"gpu": (0, 99), "cpur": (1, 999), "cpul": (1, 999), "memr": (1, 9999), "meml": (1, 9999)}
_LINE = re.compile(r"([A-Za-z_]+)\s*=\s*(.*)")


@dataclass(frozen=True)
class RepositoryResources:
    """What the file asks for; None: nothing is said. Cores, GB, number of GPUs."""

    gpu: int | None = None
    cpur: int | None = None
    cpul: int | None = None
    memr: int | None = None
    meml: int | None = None


def parse(text: str) -> tuple[RepositoryResources, list[Text]]:
    """What the file asks for, and a sentence for every line that says nothing usable.

    >>> parse("cpul=4\\nmeml=8  # GB")[0].meml
    8
    """
    values: dict[str, int] = {}
    problems: list[Text] = []
    for number, raw in enumerate(text[:MAX_BYTES].splitlines(), start=1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        found = _LINE.fullmatch(line)
        name = found[1] if found else ""
        if found is None or name not in NAMES:
            problems.append(
                Text(
                    "Line {number} of .resources is not used: {line} is none of {names}.",
                    number=number,
                    line=line[:60],
                    names=", ".join(f"{name}=" for name in NAMES),
                )
            )
            continue
        low, high = _BOUNDS[name]
        if not re.fullmatch(r"[0-9]{1,4}", found[2]) or not low <= int(found[2]) <= high:
            problems.append(
                Text(
                    "Line {number} of .resources is not used: {name} must be a whole number "
                    "from {low} to {high}.",
                    number=number,
                    name=name,
                    low=low,
                    high=high,
                )
            )
            continue
        values[name] = int(found[2])
    return RepositoryResources(**values), problems


def cap(asked: RepositoryResources, project: Project) -> tuple[RepositoryResources, list[Text]]:
    """What the person's project can give of it, and a sentence for each value that was lowered.

    A guarantee is never more than the limit beside it.
    """
    most = {
        "cpur": int(project.requests.cpu),
        "cpul": int(project.limits.cpu),
        "memr": project.requests.memory // GB,
        "meml": project.limits.memory // GB,
    }
    values = {name: getattr(asked, name) for name in NAMES}
    notes: list[Text] = []
    for name, limit in most.items():
        value = values[name]
        if value is not None and value > limit:
            values[name] = max(1, limit)
            notes.append(
                Text(
                    ".resources asks for {name}={value}; your project allows {limit}, which is "
                    "what the server gets.",
                    name=name,
                    value=value,
                    limit=values[name],
                )
            )
    for request, limit_name in (("cpur", "cpul"), ("memr", "meml")):
        asked_for, at_most = values[request], values[limit_name]
        if asked_for is not None and at_most is not None and asked_for > at_most:
            values[request] = at_most
            notes.append(
                Text(
                    ".resources asks for {request}={value}, more than {limit_name}={limit}: the "
                    "lower one counts.",
                    request=request,
                    value=asked_for,
                    limit_name=limit_name,
                    limit=at_most,
                )
            )
    return RepositoryResources(**values), notes


def profile_options(wanted: RepositoryResources) -> dict[str, str]:
    """The options of the profile ``binder`` that give a server these resources.

    A limit alone lowers the guarantee under it where needed, a guarantee alone lifts the limit:
    so the pair that the hub gets is always in order.
    """
    options: dict[str, str] = {}
    if wanted.gpu:
        options["gpu"] = str(wanted.gpu)
    for request, limit, name, unit in (
        (wanted.cpur, wanted.cpul, "cpu", ""),
        (wanted.memr, wanted.meml, "memory", "G"),
    ):
        if request is not None:
            options[f"{name}-request"] = f"{request}{unit}"
        if limit is not None or request is not None:
            options[f"{name}-limit"] = f"{limit if limit is not None else request}{unit}"
    return {f"{name}--unlisted-choice": value for name, value in options.items()}
