"""What a person chose from a ``profile_list``: checked, in full, and as a spawner's traits.

Pure. This closes what KubeSpawner leaves open: unknown options and choices, values that are no
text, patterns that match a beginning only, choices that cannot be had here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from studovna.fields import VALUE
from studovna.profile_schema import SIDECAR_PORT, WEB_PORTS
from studovna.text import Text
from studovna.units import format_cores, format_size, parse_size

from .culling import BINDER_PROFILE
from .quota import Resources
from .web import SIDECAR

MAX_OPTIONS_BYTES = 16 * 1024
UNLISTED = "--unlisted-choice"

BINDER_KEYS = frozenset(
    {
        "repo_url",
        "token",
        "binder_ref_url",
        "binder_launch_host",
        "binder_request",
        "binder_persistent_request",
    }
)
"""What BinderHub adds to the options of a server; nothing here acts on it."""

# What the forms of KubeSpawner and jupyterhub-fancy-profiles send for the option itself when the
# value stands in its "--unlisted-choice" field.
_TYPED = frozenset({"unlisted-choice", "unlisted_choice", "--extra-selectable-item"})


class OptionsError(ValueError):
    """What a person chose cannot be. ``text`` is the sentence for them."""

    def __init__(self, text: Text) -> None:
        self.text = text
        super().__init__(str(text))


def from_binderhub(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as upstream's BinderHub sends them (an image and no profile) as ours."""
    if "repo_url" not in options or "image" not in options or options.get("profile"):
        return dict(options)
    ours = {name: value for name, value in options.items() if name != "image"}
    return {"profile": BINDER_PROFILE, f"image{UNLISTED}": options["image"], **ours}


def normalise_options(
    profile_list: list[dict[str, Any]],
    user_options: object,
    known: Collection[str] = (),
) -> dict[str, Any]:
    """The options in full: the profile, and each option's choice or typed value.

    ``known`` are further keys that the caller acts on; they come back as they are. KubeSpawner
    takes the result without a surprise. Raises OptionsError for anything that is not exactly right.
    """
    if user_options is None:
        user_options = {}
    if not isinstance(user_options, Mapping):
        raise OptionsError(Text("The options of a server are names and values."))
    _bounded(user_options)
    if not profile_list:
        raise OptionsError(Text("There is no profile that you may start. Ask the operator."))
    profile = _chosen_profile(profile_list, user_options.get("profile"))
    options: dict[str, Any] = profile.get("profile_options", {})
    allowed = {"profile", *known}
    for name, option in options.items():
        allowed.add(name)
        if option["unlisted_choice"]["enabled"]:
            allowed.add(name + UNLISTED)
    for key in user_options:
        if key not in allowed:
            raise OptionsError(
                Text(
                    "The profile {profile} has no option {option}. Its options: {options}.",
                    profile=profile["slug"],
                    option=_short(key),
                    options=", ".join(sorted(allowed - {"profile", *known})) or "none",
                )
            )
    result: dict[str, Any] = {"profile": profile["slug"]}
    for name, option in options.items():
        result |= _chosen(name, option, user_options)
    overrides = effective_overrides(profile_list, result)
    _consistent(overrides)
    return result | {key: user_options[key] for key in known if key in user_options}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _bounded(user_options: Mapping[Any, Any]) -> None:
    try:
        size = len(json.dumps(dict(user_options)))
    except (TypeError, ValueError, RecursionError):
        raise OptionsError(Text("The options of a server must be plain JSON.")) from None
    if size > MAX_OPTIONS_BYTES:
        raise OptionsError(
            Text("The options are too long: at most {most} bytes.", most=MAX_OPTIONS_BYTES)
        )


def _chosen_profile(profile_list: list[dict[str, Any]], slug: object) -> dict[str, Any]:
    if slug is None or slug == "":
        profile = next((p for p in profile_list if p.get("default")), profile_list[0])
    else:
        found = next((p for p in profile_list if p["slug"] == slug), None)
        if found is None:
            names = [p["slug"] for p in profile_list if not p["studovna"]["hidden"]]
            raise OptionsError(
                Text(
                    "There is no profile {profile} for you. Your profiles: {profiles}.",
                    profile=_short(slug),
                    profiles=", ".join(names) or "none",
                )
            )
        profile = found
    reason = profile["studovna"]["unavailable"]
    if reason is not None:
        raise OptionsError(reason)
    return profile


def _chosen(name: str, option: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, str]:
    choice, typed = sent.get(name), sent.get(name + UNLISTED)
    for value in (choice, typed):
        if value is not None and not isinstance(value, str):
            raise OptionsError(Text("The option {option} must be one text.", option=name))
    unlisted = option["unlisted_choice"]
    if unlisted["enabled"] and choice in _TYPED:
        if not typed:
            raise OptionsError(_say(unlisted, name))
        choice = None
    if typed and choice:
        raise OptionsError(
            Text("The option {option} has both a choice and a typed value.", option=name)
        )
    if typed:
        _check_typed(name, unlisted, typed)
        return {name + UNLISTED: typed}
    if not choice:
        choice = next((s for s, c in option["choices"].items() if c.get("default")), None)
        if choice is None:
            raise OptionsError(_say(unlisted, name))
    picked = option["choices"].get(choice)
    if picked is None:
        raise OptionsError(
            Text(
                "The option {option} has no choice {choice}. Its choices: {choices}.",
                option=name,
                choice=_short(choice),
                choices=", ".join(option["choices"]) or "none",
            )
        )
    if picked["studovna"]["unavailable"] is not None:
        raise OptionsError(picked["studovna"]["unavailable"])
    return {name: choice}


def _say(unlisted: Mapping[str, Any], name: str) -> Text:
    return Text(
        "{title} is missing. {message}",
        title=unlisted.get("display_name", name),
        message=unlisted.get("validation_message", ""),
    )


def _check_typed(name: str, unlisted: Mapping[str, Any], typed: str) -> None:
    if unlisted["studovna"]["unavailable"] is not None:
        raise OptionsError(unlisted["studovna"]["unavailable"])
    most = unlisted["studovna"]["max_length"]
    if len(typed) > most:
        raise OptionsError(
            Text(
                "{title} is too long: at most {most} characters.",
                title=unlisted["display_name"],
                most=most,
            )
        )
    # Without the anchors: "$" would let a newline at the end through.
    pattern = unlisted["validation_regex"].removeprefix("^").removesuffix("$")
    if not re.fullmatch(pattern, typed):
        raise OptionsError(
            Text(
                "{title} cannot be {value}. {message}",
                title=unlisted["display_name"],
                value=_short(typed),
                message=unlisted["validation_message"],
            )
        )


_NUMBERS = {"cpu_guarantee": float, "cpu_limit": float}
_SIZES = ("mem_guarantee", "mem_limit", "shm_size")


def typed_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides with what a person typed turned into the traits' types: cores, bytes, words, ports.

    KubeSpawner fills ``{value}`` in as text. Raises OptionsError for text that is no such number.
    """
    result = dict(overrides)
    for name in _NUMBERS:
        if isinstance(result.get(name), str):
            result[name] = _number(result[name])
    for name in _SIZES:
        if isinstance(result.get(name), str):
            try:
                result[name] = parse_size(result[name])
            except ValueError:
                raise OptionsError(
                    Text("{value} is no size. Write it as 512M or 4G.", value=_short(result[name]))
                ) from None
    if isinstance(result.get("cmd"), str):
        result["cmd"] = _words(result["cmd"])
    if isinstance(result.get("web_port"), str):
        result["web_port"] = _port(result["web_port"])
    return result


def _words(text: str) -> list[str]:
    """A typed command as the words that a shell would make of it; there is no shell."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words or "\0" in text:
        raise OptionsError(
            Text("{value} is no command. Is a quotation mark missing?", value=_short(text))
        )
    return words


def _port(text: str) -> int:
    number = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else 0
    if number not in WEB_PORTS:
        raise OptionsError(
            Text(
                "{value} is no port of an application. Write a number from {low} to {high}.",
                value=_short(text),
                low=WEB_PORTS.start,
                high=WEB_PORTS.stop - 1,
            )
        )
    if number == SIDECAR_PORT:
        raise OptionsError(
            Text(
                "The sign-in listens on port {port} itself. Let the application have another.",
                port=number,
            )
        )
    return number


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(?:\.[0-9]{1,6})?", text):
        raise OptionsError(Text("{value} is no number of cores.", value=_short(text)))
    return float(text)


def _fill(value: Any, typed: str) -> Any:
    if isinstance(value, str):
        return value.replace(VALUE, typed)
    if isinstance(value, dict):
        return {_fill(k, typed): _fill(v, typed) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(item, typed) for item in value]
    return value


def effective_overrides(
    profile_list: list[dict[str, Any]], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The traits that normalised options end in: the profile's, then each option's over it.

    Maps are merged and None takes a key back, as KubeSpawner does.
    """
    profile = next(p for p in profile_list if p["slug"] == options["profile"])
    layers = [profile["kubespawner_override"]]
    for name, option in profile.get("profile_options", {}).items():
        typed = options.get(name + UNLISTED)
        if typed:
            layers.append(_fill(option["unlisted_choice"]["kubespawner_override"], typed))
        else:
            layers.append(option["choices"][options[name]]["kubespawner_override"])
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in typed_overrides(layer).items():
            if isinstance(value, dict):
                merged = {**result.get(name, {}), **value}
                result[name] = {key: item for key, item in merged.items() if item is not None}
            else:
                result[name] = value
    return result


def resources(profile_list: list[dict[str, Any]], options: Mapping[str, Any]) -> Resources:
    """What a server of these normalised options asks for."""
    overrides = effective_overrides(profile_list, options)
    wanted = Resources.from_traits(overrides)
    return wanted + SIDECAR if overrides["web_port"] else wanted


def _consistent(overrides: Mapping[str, Any]) -> None:
    cpu = (overrides.get("cpu_guarantee"), overrides.get("cpu_limit"))
    memory = (overrides.get("mem_guarantee"), overrides.get("mem_limit"))
    for (request, limit), show in ((cpu, format_cores), (memory, format_size)):
        if request is not None and limit is not None and request > limit:
            raise OptionsError(
                Text(
                    "A guarantee of {request} is more than the limit of {limit}.",
                    request=show(request),
                    limit=show(limit),
                )
            )
        if limit is not None and not limit > 0:
            raise OptionsError(Text("A limit must be more than 0."))
    shm = overrides.get("shm_size") or 0
    if memory[1] is not None and shm > memory[1]:
        raise OptionsError(
            Text(
                "A shared memory of {shm} is more than the memory limit of {limit}.",
                shm=format_size(shm),
                limit=format_size(memory[1]),
            )
        )
