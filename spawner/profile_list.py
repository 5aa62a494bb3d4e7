"""Profiles as KubeSpawner's ``profile_list``.

Pure. The form, the REST API and jupyterhub-fancy-profiles all see the same list; what only our own
page needs stands beside KubeSpawner's keys under ``studovna``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from studovna.fields import VALUE, Localised
from studovna.profile_rules import is_web, ways
from studovna.profile_schema import (
    CATEGORIES,
    SIDECAR_IMAGE,
    Application,
    Choice,
    Effects,
    Option,
    Profile,
    Unlisted,
    UnlistedEffects,
    default_choice,
)
from studovna.site import Site
from studovna.text import Text
from studovna.units import MIB

from .web import SIDECAR

DEFAULT_SHM = 64 * MIB  # what container runtimes give

GPU_PRODUCT = "nvidia.com/gpu.product"
"""The label with the model of a node's GPUs, as NVIDIA's feature discovery sets it.

https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery
"""


@dataclass(frozen=True)
class GpuNode:
    """A node with GPUs: its labels, and by resource name how many it has and how many are free."""

    labels: Mapping[str, str]
    gpus: Mapping[str, int]
    free: Mapping[str, int]

    def has(self, labels: Mapping[str, str]) -> bool:
        """Whether the node has all these labels."""
        return labels.items() <= self.labels.items()


@dataclass(frozen=True)
class Capabilities:
    """What this machine or cluster has.

    ``nodes``: where GPUs are, this machine being one; None when that is not known (a start then
    finds out). ``images``: size in bytes of
    the images that are there, by full reference; None when that is not known (any may be pulled).
    ``registry``: what the images begin with that Binder builds, such as ``127.0.0.1:5000/binder/``;
    empty without Binder. ``commands``: what builds those images that need more than their name.
    """

    nodes: Sequence[GpuNode] | None = ()
    images: Mapping[str, int] | None = None
    registry: str = ""
    commands: Mapping[str, str] = field(default_factory=dict)

    @property
    def gpus(self) -> dict[str, int]:
        """How many GPUs there are, by Kubernetes resource name."""
        total: Counter[str] = Counter()
        for node in self.nodes or ():
            total.update(node.gpus)
        return dict(total)


def compile_profiles(
    profiles: Mapping[str, Profile],
    site: Site,
    groups: Collection[str],
    capabilities: Capabilities,
    include_hidden: bool = True,
) -> list[dict[str, Any]]:
    """KubeSpawner's ``profile_list`` for a person who is in ``groups``.

    Hidden profiles are marked ``["studovna"]["hidden"]``; a page leaves them out, the hub's
    callable needs them. An empty list means that the person may start nothing, which
    ``spawner.options`` refuses (KubeSpawner itself would start its own default).
    """
    compiled = [
        _profile(slug, profile, site, capabilities)
        for slug, profile in profiles.items()
        if (include_hidden or not profile.hidden)
        and (not profile.access.groups or set(profile.access.groups) & set(groups))
    ]
    able = [item for item in compiled if item["studovna"]["unavailable"] is None]
    shown = [item for item in able if not item["studovna"]["hidden"]]
    marked = [item for item in shown if profiles[item["slug"]].default]
    for item in (marked or shown or able or compiled)[:1]:
        item["default"] = True
    return compiled


def _profile(slug: str, profile: Profile, site: Site, able: Capabilities) -> dict[str, Any]:
    gpu_names = _gpu_names(profile, able)
    options = {
        name: _option(name, option, site, able, gpu_names)
        for name, option in profile.options.items()
    }
    base = {
        "shm_size": DEFAULT_SHM, "home_kind": "person", "walltime": 0, "default_url": "",
        "licences": [], "site_volumes": {}, "web_port": 0, "web_prefix": "strip",
        "may_run_jobs": profile.jobs,
    }  # fmt: skip
    if is_web(profile):
        base["cmd"] = []  # the image's own, and not the one of Jupyter servers
    base |= _overrides(profile, site, able, frozenset())
    compiled: dict[str, Any] = {
        "slug": slug,
        "display_name": profile.title.en,
        "description": profile.description.en if profile.description else "",
        "default": False,
        "kubespawner_override": base,
    }
    if options:
        compiled["profile_options"] = options
    compiled["studovna"] = {
        "title": profile.title.as_dict(),
        "description": _both(profile.description),
        "category": profile.category,
        "category_title": _category(profile).as_dict(),
        "icon": profile.icon,
        "hidden": profile.hidden,
        "unavailable": _profile_unavailable(profile, options, site, able),
        "resources": _resources(base) | ({"sidecar": SIDECAR.as_dict()} if is_web(profile) else {}),
        "gpus": _gpu_free(profile, site, able),
        "image": _image(profile, site, able),
    }
    return compiled


def _profile_unavailable(
    profile: Profile, options: Mapping[str, Any], site: Site, able: Capabilities
) -> Text | None:
    replaced = {
        name
        for option in profile.options.values()
        for name in ("image", "gpu")
        if all(getattr(way, name) is not None for way in ways(option))
    }
    reason: Text | None = None
    for option in options.values():
        reasons = [choice["studovna"]["unavailable"] for choice in option["choices"].values()]
        if option["unlisted_choice"]["enabled"]:
            reasons.append(option["unlisted_choice"]["studovna"]["unavailable"])
        if None not in reasons:
            reason = reason or reasons[0]
    if is_web(profile):
        reason = reason or _image_missing(SIDECAR_IMAGE, site, able)
    # An option that cannot be met (no GPU) says more than an image that is not built yet.
    return reason or _unavailable(profile.model_copy(update=dict.fromkeys(replaced)), site, able)


def _option(
    name: str, option: Option, site: Site, able: Capabilities, gpu_names: frozenset[str]
) -> dict[str, Any]:
    choices = {
        slug: _choice(choice, site, able, gpu_names) for slug, choice in option.choices.items()
    }
    first = default_choice(option)
    usable = [slug for slug, item in choices.items() if item["studovna"]["unavailable"] is None]
    if first is not None and first not in usable and usable:
        first = usable[0]
    for slug, item in choices.items():
        item["default"] = slug == first
    compiled: dict[str, Any] = {
        "display_name": option.title.en,
        "choices": choices,
        "unlisted_choice": {"enabled": False},
        "studovna": {
            "title": option.title.as_dict(),
            "description": _both(option.description),
        },
    }
    if option.unlisted is not None:
        compiled["unlisted_choice"] = _unlisted(option.unlisted, site, able, gpu_names)
        if name == "image" and option.unlisted.image == VALUE and site.binder.enabled:
            compiled["dynamic_image_building"] = {"enabled": True}
    return compiled


def _choice(
    choice: Choice, site: Site, able: Capabilities, gpu_names: frozenset[str]
) -> dict[str, Any]:
    overrides = _overrides(choice, site, able, gpu_names)
    return {
        "display_name": choice.title.en,
        "description": choice.description.en if choice.description else "",
        "default": False,
        "kubespawner_override": overrides,
        "studovna": {
            "title": choice.title.as_dict(),
            "description": _both(choice.description),
            "unavailable": _unavailable(choice, site, able),
            "resources": _resources(overrides),
            "gpus": _gpu_free(choice, site, able),
            "image": _image(choice, site, able),
        },
    }


def _unlisted(
    unlisted: Unlisted, site: Site, able: Capabilities, gpu_names: frozenset[str]
) -> dict[str, Any]:
    pattern, reason = unlisted.pattern, _unavailable(unlisted, site, able)
    if unlisted.own_registry:
        pattern = f"{_escape(able.registry)}(?:{pattern})"
        if not able.registry:
            reason = Text("Binder builds these images, and this site runs no Binder.")
    overrides = _overrides(unlisted, site, able, gpu_names)
    return {
        "enabled": True,
        "display_name": unlisted.title.en,
        "display_name_in_choices": unlisted.title.en,
        "description_in_choices": unlisted.message.en,
        "validation_regex": f"^(?:{pattern})$",
        "validation_message": unlisted.message.en,
        "kubespawner_override": overrides,
        "studovna": {
            "title": unlisted.title.as_dict(),
            "message": unlisted.message.as_dict(),
            "placeholder": unlisted.placeholder,
            "max_length": unlisted.max_length,
            "unavailable": reason,
            "resources": _resources(overrides),
        },
    }


def _escape(text: str) -> str:
    """``re.escape`` for Python and browsers alike, which refuse needless backslashes."""
    return re.sub(r"[.^$*+?()\[\]{}|\\/]", r"\\\g<0>", text)


def _both(text: Localised | None) -> dict[str, str]:
    return text.as_dict() if text else {"en": "", "cs": ""}


def _category(profile: Profile) -> Localised:
    known = CATEGORIES.get(profile.category)
    word = profile.category.replace("-", " ").capitalize()
    return profile.category_title or known or Localised(en=word)


def _gpu_resource(name: str, able: Capabilities) -> str:
    """The resource that "any" stands for: what there is most of, else whole NVIDIA GPUs."""
    if name != "any":
        return name
    there = sorted((-n, resource) for resource, n in able.gpus.items() if n > 0)
    return there[0][1] if there else "nvidia.com/gpu"


def _gpu_names(profile: Profile, able: Capabilities) -> frozenset[str]:
    every: list[Effects | UnlistedEffects] = [profile]
    for option in profile.options.values():
        every += ways(option)
    return frozenset(_gpu_resource(e.gpu.resource, able) for e in every if e.gpu)


def _overrides(
    effects: Effects | UnlistedEffects,
    site: Site,
    able: Capabilities,
    gpu_names: frozenset[str],
) -> dict[str, Any]:
    """KubeSpawner's traits for some effects. ``gpu_names``: other GPU resources to take back."""
    traits: dict[str, Any] = {}
    if effects.image is not None:
        own = effects.image == VALUE
        traits["image"] = VALUE if own else site.image_reference(effects.image)
    if effects.web is not None:
        traits |= {"web_port": effects.web.port, "web_prefix": effects.web.prefix}
    if effects.cpu is not None:
        traits |= {"cpu_guarantee": effects.cpu.request, "cpu_limit": effects.cpu.limit}
    if effects.memory is not None:
        traits |= {"mem_guarantee": effects.memory.request, "mem_limit": effects.memory.limit}
    if effects.gpu is not None:
        # KubeSpawner merges maps; None takes a resource back that something earlier has set.
        name = _gpu_resource(effects.gpu.resource, able)
        amount: dict[str, str | None] = dict.fromkeys(sorted(gpu_names - {name}))
        amount[name] = str(effects.gpu.count)
        traits |= {"extra_resource_limits": amount, "extra_resource_guarantees": dict(amount)}
    environment = dict(effects.env or {})
    if effects.licences is not None:
        variables: dict[str, str] = {}
        for name in effects.licences:
            variables |= site.licences.get(name, {})
        # The desktop's session says which of them do not answer.
        environment |= variables | {"STUDOVNA_LICENCES": " ".join(variables)}
    if effects.application is not None:
        environment["STUDOVNA_APPLICATION"] = _application(effects.application)
    traits |= {
        "shm_size": effects.shm,
        "environment": environment or None,
        "licences": effects.licences,
        "site_volumes": effects.volumes,
        "cmd": effects.command,
        "default_url": effects.default_url,
        "home_kind": effects.home,
        "node_selector": effects.node_selector,
        "http_timeout": effects.answer_seconds,
    }
    if effects.tolerations is not None:
        traits["tolerations"] = [t.model_dump(exclude_none=True) for t in effects.tolerations]
    if effects.walltime_hours is not None:
        traits["walltime"] = int(effects.walltime_hours * 3600)
    return {
        name: dict(value) if isinstance(value, dict) else value
        for name, value in traits.items()
        if value is not None
    }


def _application(application: Application) -> str:
    """What the session in the image's desktop reads; KubeSpawner fills in with str.format."""
    text = json.dumps(application.model_dump(exclude_none=True), ensure_ascii=False)
    return text.replace("{", "{{").replace("}", "}}")


def _unavailable(effects: Effects | UnlistedEffects, site: Site, able: Capabilities) -> Text | None:
    reason = _gpu_unavailable(effects, site, able)
    if reason is not None:
        return reason
    for name in effects.licences or ():
        if name not in site.licences:
            return Text("This site has set no licence server {name}.", name=name)
    for name in (effects.volumes or {}).values():
        if name not in site.volumes:
            return Text("This site has set no volume {name}.", name=name)
    image = effects.image
    return _image_missing(image, site, able) if image and image != VALUE else None


def _image_missing(image: str, site: Site, able: Capabilities) -> Text | None:
    pushed = site.cluster.images if site.engine == "kubernetes" else None
    if "/" not in image and pushed is not None and image not in pushed:
        return Text("The image {image} is not in this site's registry yet.", image=image)
    if "/" not in image and able.images is not None:
        if site.image_reference(image) not in able.images:
            return Text(
                "The image {image} is not built on this machine yet. The operator builds it with: "
                "{command}",
                image=image,
                command=able.commands.get(image) or f"make images IMAGES={image}",
            )
    return None


def _image(
    effects: Effects | UnlistedEffects, site: Site, able: Capabilities
) -> dict[str, int | None] | None:
    """The size in bytes that the image has on this machine, None in it when it is still to be
    fetched; None where that is not known."""
    if effects.image in (None, VALUE) or able.images is None:
        return None
    return {"size": able.images.get(site.image_reference(effects.image))}


def _gpu_unavailable(
    effects: Effects | UnlistedEffects, site: Site, able: Capabilities
) -> Text | None:
    if effects.gpu is None or able.nodes is None:
        return None
    name, count = _gpu_resource(effects.gpu.resource, able), effects.gpu.count
    needed = count if isinstance(count, int) else 1
    nodes = _gpu_nodes(effects, site, able)
    if not any(able.gpus.values()):
        if site.engine == "podman":
            return Text("This machine has no GPU that servers could use.")
        return Text("This cluster has no GPU that servers could use.")
    # A pod runs on one node: what others have is of no use to it.
    there = max((node.gpus.get(name, 0) for node in nodes), default=0)
    free = max((node.free.get(name, 0) for node in nodes), default=0)
    if there < needed:
        return Text(
            "This needs {needed} of {name}, and there are {there} here.",
            needed=needed,
            name=name,
            there=there,
        )
    if free < needed:
        return Text(
            "This needs {needed} of {name}; {free} of {there} are free now. Try again later.",
            needed=needed,
            name=name,
            free=free,
            there=there,
        )
    return None


def _gpu_nodes(effects: Effects | UnlistedEffects, site: Site, able: Capabilities) -> list[GpuNode]:
    """Where such a server could run; one machine has no labels but for the model of its GPUs."""
    wanted = effects.node_selector or {}
    if site.engine == "podman":
        wanted = {name: value for name, value in wanted.items() if name == GPU_PRODUCT}
    return [node for node in able.nodes or () if node.has(wanted)]


def _gpu_free(
    effects: Effects | UnlistedEffects, site: Site, able: Capabilities
) -> dict[str, int] | None:
    """How many GPUs of this kind are free now, and how many there are; None: not known, or none."""
    if effects.gpu is None or able.nodes is None:
        return None
    name, nodes = _gpu_resource(effects.gpu.resource, able), _gpu_nodes(effects, site, able)
    there = sum(node.gpus.get(name, 0) for node in nodes)
    free = sum(max(0, node.free.get(name, 0)) for node in nodes)
    return {"free": free, "there": there} if there else None


_SHOWN = {
    "cpu_guarantee": "cpu_request",
    "cpu_limit": "cpu_limit",
    "mem_guarantee": "memory_request",
    "mem_limit": "memory_limit",
    "shm_size": "shm",
}


def _resources(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a page's live summary adds up: cores, bytes, GPUs by name; ``{value}`` if typed."""
    shown = {key: overrides[trait] for trait, key in _SHOWN.items() if trait in overrides}
    gpus = overrides.get("extra_resource_limits")
    if gpus is not None:
        shown["gpus"] = {
            name: int(count) if count != VALUE else VALUE
            for name, count in gpus.items()
            if count is not None
        }
    return shown
