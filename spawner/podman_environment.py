"""A container's environment: what its variables are, and how podman gets them unseen. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from spawner.engine import UntranslatableField
from spawner.manifest import Fields, expand
from spawner.podman_volumes import PodBuild
from studovna.text import Text

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,250}")
# Given to podman's own process only where they cannot change what podman itself does.
_ENV_OF_PODMAN = re.compile(
    r"PATH|HOME|TMPDIR|TMP|XDG_.*|DBUS_.*|LD_.*|GO.*|CONTAINER.*|_CONTAINER.*|PODMAN.*|STORAGE_.*"
    r"|BUILDAH_.*|REGISTRY_.*|LISTEN_.*|NOTIFY_SOCKET|NETAVARK.*|SSL_CERT_.*|.*_proxy|.*_PROXY"
)
_PLAIN_VALUE = re.compile(r"(?:[^\s\"'\0](?:[^\r\n\0]*[^\s\0])?)?")
_FIELD_REF = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


def read_environment(fields: Fields, made: PodBuild) -> dict[str, str]:
    env: dict[str, str] = {}
    for source in fields.each("envFrom"):
        prefix = source.text("prefix") or ""
        for kind in ("secret", "configMap"):
            if (ref := source.inner(f"{kind}Ref")) is not None:
                name, optional = ref.required("name"), ref.flag("optional")
                ref.end()
                content = made.data.get((kind, name))
                if content is None and not optional:
                    raise ref.refused("name", Text("{name} was not given with the pod", name=name))
                env |= {prefix + key: _utf8(v, ref.path) for key, v in (content or {}).items()}
        source.end()
    for one in fields.each("env"):
        name, value = one.required("name"), one.text("value")
        if not _ENV_NAME.fullmatch(name):
            raise one.refused("name", Text("it is not the name of a variable"))
        source_of = one.inner("valueFrom")
        if source_of is not None:
            found = _value_from(source_of, made)
            source_of.end()
        else:
            found = expand(value or "", env)
        one.end()
        if found is not None:
            env[name] = found
    for name in env:
        if not _ENV_NAME.fullmatch(name):
            raise fields.refused("envFrom", Text("{name} is not the name of a variable", name=name))
    return env


def _value_from(fields: Fields, made: PodBuild) -> str | None:
    if (ref := fields.inner("fieldRef")) is not None:
        path = ref.required("fieldPath")
        ref.only("apiVersion", ["v1"], Text("it must be v1"))
        ref.end()
        if path == "metadata.name":
            return made.name
        match = _FIELD_REF.fullmatch(path)
        if match is None:
            raise ref.refused("fieldPath", Text("{path} is not known on one machine", path=path))
        return (made.labels if match[1] == "labels" else made.annotations).get(match[2], "")
    for kind in ("secret", "configMap"):
        if (ref := fields.inner(f"{kind}KeyRef")) is not None:
            name, key, optional = ref.required("name"), ref.required("key"), ref.flag("optional")
            ref.end()
            content = made.data.get((kind, name), {})
            if key in content:
                return _utf8(content[key], ref.path)
            if not optional:
                raise UntranslatableField(
                    ref.path,
                    Text("{name} with {key} was not given with the pod", name=name, key=key),
                )
    return None


def _utf8(value: bytes, path: str) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UntranslatableField(path, Text("it is not text"))
    return text


def for_podman(variables: Mapping[str, str], path: str) -> tuple[str, dict[str, str], list[str]]:
    """The lines for podman's --env-file, and the values that must go through its environment."""
    lines, environment = [], {}
    for name, value in variables.items():
        # Podman's versions differ in what quotes and outer spaces in such a file mean.
        if _PLAIN_VALUE.fullmatch(value):
            lines.append(f"{name}={value}\n")
        elif _ENV_OF_PODMAN.fullmatch(name):
            raise UntranslatableField(
                f"{path}.env", Text("{name} must be one line without quotes", name=name)
            )
        else:
            environment[name] = value
    return "".join(lines), environment, list(environment)
