"""Sizes of homes: measured one after another, told again for a while, waited for only shortly."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from spawner import podman_claims
from spawner.leftovers import Leftovers
from spawner.podman_claims import Sizes
from spawner.podman_engine import PodmanEngine
from studovna.podman import Podman, PodmanError
from studovna.text import Text


class Measure:
    """Measures when it is let; notes what was asked and how many at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.go = asyncio.Event()
        self.size: int | None = 5

    async def __call__(self, name: str) -> int | None:
        self.asked.append(name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.go.wait()
        self.at_once -= 1
        if name == "broken":
            raise PodmanError(Text("Podman is broken."))
        return self.size


async def test_who_asks_does_not_wait_for_a_large_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman_claims, "PATIENCE", 0.02)
    measure = Measure()
    sizes = Sizes(measure)
    names = ["home-ana", "home-eva"]
    found = await asyncio.gather(*(sizes.of(names) for _ in range(30)))
    assert found == [[None, None]] * 30
    measure.go.set()
    assert await sizes.of(names) == [5, 5]
    assert await sizes.of(names) == [5, 5]
    assert measure.asked == names  # once each, however many asked and however often
    assert measure.most_at_once == 1


async def test_an_old_size_is_told_while_it_is_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(podman_claims, "PATIENCE", 0.02)
    monkeypatch.setattr(podman_claims, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(podman_claims, "FRESH_TIMES", 0)
    measure = Measure()
    measure.go.set()
    sizes = Sizes(measure)
    assert await sizes.of(["home-ana"]) == [5]
    measure.go.clear()
    assert await sizes.of(["home-ana"]) == [5]
    sizes.forget("home-ana")
    assert await sizes.of(["home-ana"]) == [None]


async def test_podman_that_breaks_hides_the_size_only() -> None:
    measure = Measure()
    measure.go.set()
    assert await Sizes(measure).of(["broken", "home-ana"]) == [None, 5]


@pytest.mark.skipif(os.geteuid() != 0, reason="without root podman erases what is people's")
async def test_what_was_half_erased_when_the_hub_was_killed_is_erased(tmp_path: Path) -> None:
    engine = PodmanEngine(Podman(tmp_path), "killed")
    half = tmp_path / "claims" / ".erased-home-ana-0badcafe"
    kept = tmp_path / "claims" / "home-ana"
    for folder in (half, kept):
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "thesis").touch()
    leftovers = asyncio.create_task(Leftovers(engine, set, tmp_path / "no.log").run())
    async with asyncio.timeout(10):
        while half.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    leftovers.cancel()
    assert (kept / "data" / "thesis").exists()
