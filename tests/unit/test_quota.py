"""Quota: the numbers and the sentences."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner.quota import Resources, check_quota, summary, total
from studovna.site import Project
from studovna.text import Text
from studovna.units import GIB

PROJECT = Project()  # 20 CPU and 40 GB guaranteed, up to 32 CPU and 64 GB, 5 servers


def amount(cpu: float = 0, cpus: float = 0, memory: float = 0, memories: float = 0) -> Resources:
    """Requests and limits of CPU, then of memory in GB."""
    return Resources(cpu, cpus, int(memory * GIB), int(memories * GIB))


@pytest.mark.parametrize(
    ("used", "wanted", "says"),
    [
        pytest.param([], amount(20, 32, 40, 64), None, id="all-of-it"),
        pytest.param([amount(12, 24, 30, 32)], amount(8, 8, 10, 32), None, id="exactly-the-rest"),
        pytest.param([amount(0.1)] * 3, amount(19.7), None, id="floats-that-add-up"),
        pytest.param(
            [amount(4), amount(8.5)],
            amount(8),
            "This server asks for 8 CPU; your project has 12.5 of 20 CPU in use, 7.5 left."
            " Stop a server or choose a smaller size.",
            id="cpu-requests",
        ),
        pytest.param(
            [amount(0, 30)],
            amount(0, 4),
            "This server may use up to 4 CPU; the servers of your project may already use up to 30"
            " of 32 CPU, 2 left. Stop a server or choose a smaller size.",
            id="cpu-limits",
        ),
        pytest.param(
            [amount(memory=39.5)],
            amount(memory=1),
            "This server asks for 1 GB of memory; your project has 39.5 GB of 40 GB in use,"
            " 0.5 GB left. Stop a server or choose a smaller size.",
            id="memory-requests",
        ),
        pytest.param(
            [amount(memories=64)],
            amount(memories=2),
            "This server may use up to 2 GB of memory; the servers of your project may already use"
            " up to 64 GB of 64 GB, 0 GB left. Stop a server or choose a smaller size.",
            id="memory-limits",
        ),
        pytest.param(
            [],
            amount(21),
            "This server asks for 21 CPU, and your project has 20 CPU in all."
            " Choose a smaller size.",
            id="never-cpu",
        ),
        pytest.param(
            [],
            amount(memories=65),
            "This server may use up to 65 GB of memory, and the servers of your project may use up"
            " to 64 GB in all. Choose a smaller size.",
            id="never-memory",
        ),
        pytest.param(
            [amount()] * 5,
            amount(),
            "Your project has 5 servers running, and may have 5 at once. Stop a server first.",
            id="servers",
        ),
    ],
)
def test_what_fits(used: list[Resources], wanted: Resources, says: str | None) -> None:
    refusal = check_quota(PROJECT, used, wanted)
    assert refusal == says
    assert refusal is None or isinstance(refusal, Text) and refusal.params


def test_servers_of_unknown_size_count() -> None:
    assert check_quota(PROJECT, [], amount(), servers=4) is None
    assert "5 servers" in str(check_quota(PROJECT, [], amount(), servers=5))


def test_more_in_use_than_there_is() -> None:
    """A quota that an operator has made smaller leaves nothing, not less than nothing."""
    assert ", 0 left" in str(check_quota(PROJECT, [amount(25)], amount(1)))
    assert summary(PROJECT, [amount(25)])["cpu_request"]["left"] == 0


def test_summary() -> None:
    shown = summary(PROJECT, [amount(1, 2, 3, 4), Resources(gpus={"nvidia.com/gpu": 2})])
    assert shown == {
        "servers": {"used": 2, "most": 5},
        "cpu_request": {"used": 1, "most": 20, "left": 19},
        "cpu_limit": {"used": 2, "most": 32, "left": 30},
        "memory_request": {
            "used": 3 * GIB,
            "most": 40 * GIB,
            "left": 37 * GIB,
        },
        "memory_limit": {
            "used": 4 * GIB,
            "most": 64 * GIB,
            "left": 60 * GIB,
        },
    }


def test_from_traits() -> None:
    traits = {
        "cpu_limit": 2,
        "mem_guarantee": GIB,
        "mem_limit": 2 * GIB,
        "cpu_guarantee": None,
        "extra_resource_limits": {"nvidia.com/gpu": "2", "nvidia.com/mig-1g.10gb": None},
    }
    assert Resources.from_traits(traits) == Resources(2, 2, GIB, 2 * GIB, {"nvidia.com/gpu": 2})
    assert Resources.from_traits({}) == Resources()


cores = st.floats(0, 40).map(lambda value: round(value, 2))
sizes = st.integers(0, 80 * GIB)
anything = st.builds(
    Resources, cores, cores, sizes, sizes, st.dictionaries(st.text(), st.integers(0, 8))
)


@given(anything)
def test_saved_and_read_again(resources: Resources) -> None:
    assert Resources.from_dict(json.loads(json.dumps(resources.as_dict()))) == resources


@given(st.lists(anything, max_size=6), anything)
def test_what_is_let_in_fits(used: list[Resources], wanted: Resources) -> None:
    refusal = check_quota(PROJECT, used, wanted)
    after = total([*used, wanted])
    fits = (
        len(used) < PROJECT.servers
        and after.cpu_request <= PROJECT.requests.cpu + 1e-6
        and after.cpu_limit <= PROJECT.limits.cpu + 1e-6
        and after.memory_request <= PROJECT.requests.memory
        and after.memory_limit <= PROJECT.limits.memory
    )
    assert (refusal is None) == fits
