"""Quota: may one more server start in a project, and how much of it is in use.

Pure: whoever calls it collects what is running, under a lock that two starts cannot pass together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from studovna.site import Project
from studovna.text import Text
from studovna.units import format_size

_CLOSE = 1e-6  # sums of cores such as 0.1 + 0.2 are not exact


@dataclass(frozen=True)
class Resources:
    """What one server asks for: cores, bytes, and GPUs by Kubernetes resource name."""

    cpu_request: float = 0.0
    cpu_limit: float = 0.0
    memory_request: int = 0
    memory_limit: int = 0
    gpus: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Resources) -> Resources:
        gpus = dict(self.gpus)
        for name, count in other.gpus.items():
            gpus[name] = gpus.get(name, 0) + count
        return Resources(
            self.cpu_request + other.cpu_request,
            self.cpu_limit + other.cpu_limit,
            self.memory_request + other.memory_request,
            self.memory_limit + other.memory_limit,
            gpus,
        )

    @classmethod
    def from_traits(cls, traits: Mapping[str, Any]) -> Resources:
        """From a spawner's traits by name: cpu_guarantee, cpu_limit, mem_guarantee, mem_limit and
        extra_resource_limits. A request that is not set is its limit, as in Kubernetes."""
        cpu_limit = float(traits.get("cpu_limit") or 0)
        memory_limit = int(traits.get("mem_limit") or 0)
        gpus = {
            name: int(count)
            for name, count in (traits.get("extra_resource_limits") or {}).items()
            if count is not None
        }
        return cls(
            float(traits.get("cpu_guarantee") or cpu_limit),
            cpu_limit,
            int(traits.get("mem_guarantee") or memory_limit),
            memory_limit,
            gpus,
        )

    def as_dict(self) -> dict[str, Any]:
        """For a spawner's state and for pages: cores, bytes and counts."""
        return {
            "cpu_request": self.cpu_request,
            "cpu_limit": self.cpu_limit,
            "memory_request": self.memory_request,
            "memory_limit": self.memory_limit,
            "gpus": dict(self.gpus),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Resources:
        """The opposite of ``as_dict``."""
        return cls(
            float(saved.get("cpu_request", 0)),
            float(saved.get("cpu_limit", 0)),
            int(saved.get("memory_request", 0)),
            int(saved.get("memory_limit", 0)),
            {str(name): int(count) for name, count in saved.get("gpus", {}).items()},
        )


def total(used: Sequence[Resources]) -> Resources:
    """The sum over servers."""
    return sum(used, Resources())


# Whole sentences, so that each can be translated as one: by trait, then whether it could ever fit.
_HINT = " Stop a server or choose a smaller size."
_NEVER = " Choose a smaller size."
_SENTENCES = {
    "cpu_request": (
        "This server asks for {wanted} CPU; your project has {used} of {most} CPU in use,"
        " {left} left." + _HINT,
        "This server asks for {wanted} CPU, and your project has {most} CPU in all." + _NEVER,
    ),
    "cpu_limit": (
        "This server may use up to {wanted} CPU; the servers of your project may already use up"
        " to {used} of {most} CPU, {left} left." + _HINT,
        "This server may use up to {wanted} CPU, and the servers of your project may use up to"
        " {most} CPU in all." + _NEVER,
    ),
    "memory_request": (
        "This server asks for {wanted} of memory; your project has {used} of {most} in use,"
        " {left} left." + _HINT,
        "This server asks for {wanted} of memory, and your project has {most} in all." + _NEVER,
    ),
    "memory_limit": (
        "This server may use up to {wanted} of memory; the servers of your project may already"
        " use up to {used} of {most}, {left} left." + _HINT,
        "This server may use up to {wanted} of memory, and the servers of your project may use"
        " up to {most} in all." + _NEVER,
    ),
}


def _quota(project: Project) -> dict[str, float]:
    return {
        "cpu_request": project.requests.cpu,
        "cpu_limit": project.limits.cpu,
        "memory_request": project.requests.memory,
        "memory_limit": project.limits.memory,
    }


def _show(name: str, amount: float) -> str:
    if name.startswith("memory"):
        return format_size(max(0, int(amount)))
    return f"{round(max(0.0, amount), 2):g}"


def check_quota(
    project: Project, used: Sequence[Resources], wanted: Resources, servers: int | None = None
) -> Text | None:
    """Why one more server of size ``wanted`` may not start beside ``used``; None when it may.

    ``used`` are the project's other servers that run or are starting; ``servers`` counts them where
    the size of some is not known (default: ``len(used)``).
    """
    running = len(used) if servers is None else servers
    if running >= project.servers:
        return Text(
            "Your project has {running} servers running, and may have {most} at once."
            " Stop a server first.",
            running=running,
            most=project.servers,
        )
    taken = total(used)
    for name, most in _quota(project).items():
        asked, have = getattr(wanted, name), getattr(taken, name)
        if have + asked <= most + _CLOSE:
            continue
        not_now, never = _SENTENCES[name]
        return Text(
            never if asked > most + _CLOSE else not_now,
            wanted=_show(name, asked),
            used=_show(name, have),
            most=_show(name, most),
            left=_show(name, most - have),
        )
    return None


def summary(project: Project, used: Sequence[Resources]) -> dict[str, Any]:
    """What pages show of a project's quota.

    ``{"servers": {"used", "most"}, "cpu_request": {"used", "most", "left"}, …}``: cores and bytes.
    """
    taken = total(used)
    result: dict[str, Any] = {"servers": {"used": len(used), "most": project.servers}}
    for name, most in _quota(project).items():
        have = getattr(taken, name)
        result[name] = {"used": have, "most": most, "left": max(0, most - have)}
    return result
