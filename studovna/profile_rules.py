"""The rules of a profile that hold over several keys, or between it and the site."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import product

from .auth import SharedPassword
from .fields import VALUE
from .problems import one_of
from .profile_schema import (
    SIDECAR_IMAGE,
    SIDECAR_PORT,
    Choice,
    Effects,
    Option,
    Profile,
    Unlisted,
    UnlistedEffects,
)
from .site import Rule, Site
from .units import format_cores, format_size

KeyPath = tuple[str | int, ...]
AnyEffects = Effects | UnlistedEffects

# Names that the hub and KubeSpawner's form use themselves.
_TAKEN_OPTIONS = frozenset({"profile"})
_TAKEN_CHOICES = frozenset({"unlisted-choice"})
_ABOUT = frozenset(Unlisted.model_fields) - frozenset(UnlistedEffects.model_fields)
_ABOUT |= {"description", "default"}
_MOST_COMBINATIONS = 5_000


def profile_rules(profile: Profile, site: Site, images: Collection[str] | None) -> Iterator[Rule]:
    """Every broken rule. ``images`` are the folders of images/; None when not known here."""
    for slug, option in profile.options.items():
        yield from _option_rules(slug, option)
    for path, effects in _places(profile):
        image = effects.image
        if image and image != VALUE and "/" not in image and images is not None:
            if image not in images:
                yield (
                    (*path, "image"),
                    f"There is no folder images/{image}",
                    one_of(image, images) + "; or a full reference: registry/name:tag",
                )
    if not _always_sets_image(profile):
        yield (
            ("image",),
            "image is set neither by the profile nor by every choice of an option",
            "image at the profile",
        )
    if isinstance(site.auth, SharedPassword) or site.auth.groups_claim is None:
        for index, group in enumerate(profile.access.groups):
            if group not in site.groups:
                yield (
                    ("access", "groups", index),
                    f'There is no group "{group}" under groups of the site file',
                    one_of(group, site.groups),
                )
    if profile.hidden and profile.default:
        yield ("default",), "A hidden profile cannot be the default", "hidden or default, not both"
    yield from _web_rules(profile)
    yield from dict.fromkeys(_resource_rules(profile, site))


def own_images(profile: Profile) -> set[str]:
    """The folders of images/ that a profile can start."""
    named = {effects.image for _, effects in _places(profile) if effects.image}
    own = {image for image in named if image != VALUE and "/" not in image}
    return own | {SIDECAR_IMAGE} if is_web(profile) else own


def is_web(profile: Profile) -> bool:
    """Whether what it starts is an application that serves HTTP itself."""
    return any(effects.web is not None for _, effects in _places(profile))


def ways(option: Option) -> list[Choice | Unlisted]:
    """All that a person can answer to an option."""
    return [*option.choices.values(), *([option.unlisted] if option.unlisted else [])]


def _places(profile: Profile) -> Iterator[tuple[KeyPath, AnyEffects]]:
    yield (), profile
    for slug, option in profile.options.items():
        yield from _option_places(slug, option)


def _option_places(slug: str, option: Option) -> Iterator[tuple[KeyPath, AnyEffects]]:
    for name, choice in option.choices.items():
        yield ("options", slug, "choices", name), choice
    if option.unlisted is not None:
        yield ("options", slug, "unlisted"), option.unlisted


def _always_sets_image(profile: Profile) -> bool:
    return profile.image is not None or any(
        ways(option) and all(way.image is not None for way in ways(option))
        for option in profile.options.values()
    )


def _web_rules(profile: Profile) -> Iterator[Rule]:
    if not is_web(profile):
        return
    always = (profile.web is not None and profile.web.port is not None) or any(
        all(way.web is not None and way.web.port is not None for way in ways(option))
        for option in profile.options.values()
    )
    if not always:
        yield (
            ("web", "port"),
            "web.port is set neither by the profile nor by every choice of an option",
            "web: {port: 8080} at the profile",
        )
    for path, effects in _places(profile):
        if effects.web is not None and effects.web.port == SIDECAR_PORT:
            yield (*path, "web", "port"), f"Port {SIDECAR_PORT} is the sign-in's", "another port"
        if effects.default_url is not None:
            yield (
                (*path, "default_url"),
                "default_url is a setting of the Jupyter server, and web says that there is none",
                "web without default_url",
            )


def _sets_nothing(effects: AnyEffects) -> bool:
    return not (effects.model_fields_set - _ABOUT)


def _option_rules(slug: str, option: Option) -> Iterator[Rule]:
    path: KeyPath = ("options", slug)
    if slug in _TAKEN_OPTIONS:
        yield path, f'"{slug}" is a word of the hub\'s own', "another name"
    if not option.choices and option.unlisted is None:
        yield (*path, "choices"), "There is nothing to choose", "choices, or unlisted"
        return
    marked = [name for name, choice in option.choices.items() if choice.default]
    for name in marked[1:]:
        yield (
            (*path, "choices", name, "default"),
            f'Two choices are the default: "{marked[0]}" and "{name}"',
            "one default",
        )
    for name in option.choices:
        if name in _TAKEN_CHOICES:
            yield (*path, "choices", name), f'"{name}" is a word of the form\'s own', "another name"
    if all(_sets_nothing(way) for way in ways(option)):
        yield (
            (*path, "choices"),
            "None of the choices sets anything",
            "at least one of: " + ", ".join(sorted(Effects.model_fields)),
        )
    if option.unlisted is not None:
        yield from _unlisted_rules((*path, "unlisted"), option.unlisted)


def _unlisted_rules(path: KeyPath, unlisted: Unlisted) -> Iterator[Rule]:
    effects = unlisted.model_dump(include=set(UnlistedEffects.model_fields))
    if VALUE not in repr(effects):
        yield path, "What the person types is used nowhere", f'"{VALUE}" in one of its settings'
    if unlisted.own_registry and unlisted.image != VALUE:
        yield (
            (*path, "own_registry"),
            f"own_registry is about images, and image is not {VALUE}",
            f'image: "{VALUE}"',
        )
    texts: list[tuple[KeyPath, str]] = [(("default_url",), unlisted.default_url or "")]
    texts += [(("env", name), text) for name, text in (unlisted.env or {}).items()]
    words = [] if unlisted.command == VALUE else unlisted.command or []
    texts += [(("command", index), text) for index, text in enumerate(words)]
    texts += [(("node_selector", k), text) for k, text in (unlisted.node_selector or {}).items()]
    for where, text in texts:
        if re.search(r"[{}]", text.replace(VALUE, "")):  # KubeSpawner fills in with str.format
            yield (*path, *where), f"Braces may stand in {VALUE} only", "text without other braces"


@dataclass(frozen=True)
class _Amount:
    """A resource's amount and the key that set it.

    ``number`` is None when nothing set it, and when a person types it (``typed``).
    """

    number: float | None
    path: KeyPath
    typed: bool = False

    @property
    def key(self) -> str:
        return ".".join(map(str, self.path))


_READ: dict[str, Callable[[AnyEffects], float | str | None]] = {
    "cpu.request": lambda e: e.cpu.request if e.cpu else None,
    "cpu.limit": lambda e: e.cpu.limit if e.cpu else None,
    "memory.request": lambda e: e.memory.request if e.memory else None,
    "memory.limit": lambda e: e.memory.limit if e.memory else None,
    "shm": lambda e: e.shm,
}


def _outcomes(profile: Profile, first: str, second: str) -> set[tuple[_Amount, _Amount]] | None:
    """Every pair of the two amounts that the options can lead to; None when there are too many."""

    def at(effects: AnyEffects, where: KeyPath, name: str) -> _Amount | None:
        value = _READ[name](effects)
        if value is None:
            return None
        path = (*where, *name.split("."))
        if isinstance(value, str):
            return _Amount(None, path, typed=True)
        return _Amount(value, path)

    start = [
        at(profile, (), name) or _Amount(None, tuple(name.split("."))) for name in (first, second)
    ]
    pairs = {(start[0], start[1])}
    for slug, option in profile.options.items():
        changes = {
            (at(effects, where, first), at(effects, where, second))
            for where, effects in _option_places(slug, option)
        }
        if len(changes) * len(pairs) > _MOST_COMBINATIONS:
            return None
        if changes:
            pairs = {(a or old_a, b or old_b) for (a, b), (old_a, old_b) in product(changes, pairs)}
    return pairs


def _resource_rules(profile: Profile, site: Site) -> Iterator[Rule]:
    for kind, show in (("cpu", format_cores), ("memory", _show_size)):
        pairs = _outcomes(profile, f"{kind}.request", f"{kind}.limit")
        if pairs is None:
            yield ("options",), "The options have too many combinations", "fewer choices"
            return
        for position, name in enumerate(("request", "limit")):
            amounts = {pair[position] for pair in pairs}
            if any(amount.number is None and not amount.typed for amount in amounts):
                yield (
                    (kind, name),
                    f"{kind}.{name} is set neither by the profile nor by every choice of an option",
                    f"{kind}.{name} at the profile",
                )
                continue
            most = getattr(getattr(site.project, f"{name}s"), kind)
            numbers = {amount.number: amount for amount in amounts if amount.number is not None}
            if numbers and not any(amount.typed for amount in amounts) and min(numbers) > most:
                yield (
                    numbers[min(numbers)].path,
                    f"Nobody can ever start this: its smallest {kind} {name} is"
                    f" {show(min(numbers))}, and the site's project.{name}s.{kind} is {show(most)}",
                    "a smaller one, or a larger project in the site file",
                )
        for request, limit in sorted(pairs, key=repr):
            if request.number is None or limit.number is None or request.number <= limit.number:
                continue
            yield (
                request.path,
                f"The request of {show(request.number)} is more than the limit of"
                f" {show(limit.number)} at {limit.key}",
                "a request of at most the limit",
            )
    for shm, limit in sorted(_outcomes(profile, "shm", "memory.limit") or (), key=repr):
        if shm.number is not None and limit.number is not None and shm.number > limit.number:
            yield (
                shm.path,
                f"A /dev/shm of {_show_size(shm.number)} is more than the memory limit of"
                f" {_show_size(limit.number)} at {limit.key}",
                "at most memory.limit, because /dev/shm is a part of it",
            )


def _show_size(size: float) -> str:
    return format_size(int(size))
