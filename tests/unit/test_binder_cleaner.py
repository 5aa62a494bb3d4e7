"""What is removed when images take more than their budget; registry and podman are doubles."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from binder.cleaner import RECENT, Cleaner, Stored, choose
from binder.registry import ImageInfo
from binder.store import BuildStore

PREFIX = "registry.example.org/site/"


class DoubleRegistry:
    """Images of 100 bytes, all in one layer of their own."""

    def __init__(self, embedded: bool, images: list[str]) -> None:
        self.embedded = embedded
        self.images = dict.fromkeys(images)
        self.asked: list[str] = []
        self.deleted: list[str] = []

    async def repositories(self) -> list[str]:
        assert self.embedded  # another one may hold what is none of ours
        return [
            image.removeprefix("registry.example.org/").partition(":")[0] for image in self.images
        ]

    async def tags(self, name: str) -> list[str]:
        return ["1"]

    async def image(self, image: str) -> ImageInfo | None:
        if image not in self.images:
            return None
        self.asked.append(image)
        return ImageInfo(f"sha256:{image}", {}, {image: 100})

    async def delete(self, image: str) -> bool:
        self.deleted.append(image)
        del self.images[image]
        return True

    async def collect(self) -> None:
        pass


class DoublePodman:
    def __init__(self, images: list[str]) -> None:
        self.images = [*images, "localhost/studovna/lab:latest"]

    async def arun(self, *args: str, **_more: float) -> str:
        if args[0] == "rmi":
            self.images.remove(args[-1])
        return "\n".join(self.images)


def names(count: int) -> list[str]:
    return [f"{PREFIX}r{number}:1" for number in range(count)]


def make(
    folder: Path, registry: DoubleRegistry, podman: DoublePodman | None, budget: int
) -> Cleaner:
    async def in_use() -> set[str]:
        return {f"{PREFIX}r0:1"}

    cleaner = Cleaner(
        registry, BuildStore(folder), folder, budget=budget, prefix=PREFIX, version="1",
        in_use=in_use, podman=podman,
    )  # fmt: skip
    old = time.time() - 2 * RECENT
    cleaner._used = {image: old + when for when, image in enumerate(registry.images)}
    return cleaner


async def test_images_of_a_registry_outside_are_its_operators(tmp_path: Path) -> None:
    """This machine's copies are within the budget, and what one site has built is still there."""
    registry, podman = DoubleRegistry(False, names(6)), DoublePodman(names(5))
    cleaner = make(tmp_path, registry, podman, 350)
    assert await cleaner.clean() == names(6)[1:3]
    assert registry.deleted == []
    assert podman.images == [*names(1), *names(5)[3:], "localhost/studovna/lab:latest"]
    assert await cleaner.clean() == []
    # Uses of what is not here are not kept for ever.
    assert set(cleaner._used) == {*names(1), *names(5)[3:]}
    # A copy of what the registry has no more goes when the registry is next asked for all.
    del registry.images[names(5)[4]]
    cleaner._looked -= 10**6
    await cleaner.clean()
    assert names(5)[4] not in podman.images


async def test_the_sites_own_registry_is_cleaned(tmp_path: Path) -> None:
    registry, podman = DoubleRegistry(True, names(5)), DoublePodman(names(5))
    cleaner = make(tmp_path, registry, podman, 350)
    assert await cleaner.clean() == registry.deleted == names(5)[1:3]
    assert podman.images == [*names(1), *names(5)[3:], "localhost/studovna/lab:latest"]


async def test_what_is_known_is_not_asked_again(tmp_path: Path) -> None:
    registry = DoubleRegistry(True, names(50))
    cleaner = make(tmp_path, registry, None, 10**6)
    for _ in range(3):
        await cleaner.clean()
    assert sorted(registry.asked) == sorted(names(50))
    registry.images[f"{PREFIX}new:1"] = None
    cleaner.used(f"{PREFIX}new:1")
    await cleaner.clean()
    assert registry.asked[50:] == [f"{PREFIX}new:1"]
    cleaner._looked -= 10**6
    await cleaner.clean()
    assert len(registry.asked) == 51 + 51


@pytest.mark.parametrize("count", [5000])
def test_choosing_among_many_images_does_not_stop_the_service(count: int) -> None:
    base = {f"base{number}": 10**6 for number in range(10)}
    images = [Stored(f"i{n}", float(n), {**base, f"own{n}": 1000}) for n in range(count)]
    started = time.process_time()
    doomed = choose(images, 10**7 + count * 500, set(), 10**9)
    assert time.process_time() - started < 0.5  # of which nothing else can be done
    assert doomed == [f"i{n}" for n in range(len(doomed))]
    left = 10**7 + (count - len(doomed)) * 1000
    assert left <= 0.9 * (10**7 + count * 500) or len(doomed) == count
