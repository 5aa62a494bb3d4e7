"""The published descriptions of the settings: JSON Schemas for editors, reference pages for people.

Both come from the models, so that they cannot say something else than what is checked.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .profile_schema import Choice, Effects, Option, Profile, Unlisted, UnlistedEffects
from .site import Site
from .units import write_size

_NOTE = "<!-- Written by `studovna schema` from the models in studovna/. Do not edit. -->"
_SIZES = (
    "Memory is written with a unit: `512M`, `4G` (K, M, G, T are powers of 1024, as in JupyterHub)."
    " Paths are relative to the folder of the site file."
)


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a settings file, with the models' descriptions and defaults."""
    schema = model.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_without_titles(schema),
    }


def _without_titles(schema: Any, names: bool = False) -> Any:
    """Without the titles that pydantic makes of names, and with sizes as the settings write them.

    ``names``: the keys of this map are names of settings.
    """
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {name: _without_titles(value) for name, value in schema.items()}
    result = {}
    for key, value in schema.items():
        if key == "title" or (key == "default" and "$ref" in schema):
            continue
        if key in ("default", "const", "enum", "required"):
            size = isinstance(value, int) and schema.get("pattern", "").endswith("[KMGT]$")
            result[key] = write_size(value) if size else value
        else:
            result[key] = _without_titles(value, names=key in ("properties", "$defs"))
    return result


class _Page:
    """One reference page: a section a map of settings, each with its table."""

    def __init__(self, model: type[BaseModel]) -> None:
        schema = json_schema(model)
        self._defs: dict[str, Any] = schema.get("$defs", {})
        self._top = schema

    def _resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            return {**self._defs[schema["$ref"].rpartition("/")[2]], **schema}
        return schema

    def _kind(self, schema: dict[str, Any]) -> str:
        schema = self._resolve(schema)
        either = schema.get("anyOf") or schema.get("oneOf")
        if either:
            options = [option for option in either if option.get("type") != "null"]
            kinds = dict.fromkeys(self._kind(option) for option in options)
            if "text" in kinds and "keys" in kinds:  # Localised
                return "text, or `en` and `cs`"
            return " or ".join(kinds)
        if "const" in schema:
            return f"`{schema['const']}`"
        if "enum" in schema:
            return ", ".join(f"`{value}`" for value in schema["enum"])
        if schema.get("pattern", "").endswith("[KMGT]$"):
            return "size"
        if schema.get("type") == "array":
            return f"list of {self._kind(schema['items'])}"
        if schema.get("type") == "object":
            return "keys"
        names = {"string": "text", "integer": "whole number", "boolean": "`true` or `false`"}
        kind = names.get(schema.get("type", ""), schema.get("type", ""))
        return kind + self._bounds(schema)

    def _bounds(self, schema: dict[str, Any]) -> str:
        bounds = []
        if "exclusiveMinimum" in schema:
            bounds.append(f"more than {schema['exclusiveMinimum']}")
        if "minimum" in schema:
            bounds.append(f"at least {schema['minimum']}")
        if "maximum" in schema:
            bounds.append(f"at most {schema['maximum']}")
        return f" ({', '.join(bounds)})" if bounds else ""

    def _object(self, schema: dict[str, Any]) -> dict[str, Any] | None:
        """The map of settings that stands under a key, if one does."""
        schema = self._resolve(schema)
        if "discriminator" in schema:
            return schema
        options = [self._resolve(option) for option in schema.get("anyOf", [])] or [schema]
        found = [option for option in options if "properties" in option]
        is_text = any(option.get("type") == "string" for option in options)
        return found[0] if found and not is_text else None

    def section(
        self, schema: dict[str, Any], path: str, skip: Collection[str] = (), level: int = 2
    ) -> Iterator[str]:
        """Tables for the settings of ``schema`` and of the maps in it; ``skip`` names top keys."""
        below: list[tuple[str, dict[str, Any]]] = []
        rows = []
        for name, value in schema["properties"].items():
            if name in skip:
                continue
            inner = self._object(value)
            if inner is None and self._resolve(value).get("type") == "array":
                inner = self._object(self._resolve(value)["items"])
                where = f"{path}{name}[]"
            else:
                where = f"{path}{name}"
            if inner is not None:
                below.append((where, inner))
            rows.append(self._row(name, value, name in schema.get("required", [])))
        if rows:
            yield "| key | what | default | |"
            yield "|---|---|---|---|"
            yield from rows
            yield ""
        for where, inner in below:
            for one, which in self._kinds(inner):
                yield f"{'#' * level} `{where}`{which}"
                yield ""
                yield from self.section(one, where + ".", level=level)

    def _kinds(self, schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
        """The maps that can stand under one key, told apart by a key of theirs."""
        if "discriminator" not in schema:
            yield schema, ""
            return
        key = schema["discriminator"]["propertyName"]
        for option in map(self._resolve, schema["oneOf"]):
            yield option, f" with `{key}: {option['properties'][key]['const']}`"

    def _row(self, name: str, value: dict[str, Any], required: bool) -> str:
        default = value.get("default")
        if required:
            shown = "*required*"
        elif default is None:
            shown = "" if self._object(value) else "`null`"
        elif isinstance(default, dict) and default and self._object(value):
            shown = ""
        else:
            shown = f"`{json.dumps(default, ensure_ascii=False)}`"
        described = self._resolve(value).get("description", "")
        cells = (f"`{name}`", described.replace("\n", " "), shown, self._kind(value))
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def whole(self, skip: Collection[str] = (), level: int = 2) -> Iterator[str]:
        """The tables of the whole model."""
        yield from self.section(self._top, "", skip, level)


def site_page() -> str:
    """docs/reference/site.md"""
    lines = [
        _NOTE,
        "# site.yaml",
        "",
        "The one settings file of a site. Every key may be left out. `studovna check` says what is"
        f" wrong with file, line and key. {_SIZES}",
        "",
        *_Page(Site).whole(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def profile_page() -> str:
    """docs/reference/profiles.md"""
    effects = set(Effects.model_fields)
    about = "What a profile, a choice and a typed value can set"
    anchor = "#" + about.lower().replace(",", "").replace(" ", "-")
    lines = [
        _NOTE,
        "# profiles/*.yaml",
        "",
        "One file is one thing that people can start; its name is the profile's slug, which links"
        f" and the REST API use. {_SIZES}",
        "",
        *_Page(Profile).whole(skip=effects),
        "## `options.<name>`",
        "",
        "Later options win over earlier ones, and over the profile. The REST API takes the choice"
        " as `<name>`, and a typed value as `<name>--unlisted-choice`.",
        "",
        *_Page(Option).whole(skip={"choices", "unlisted"}),
        "### `options.<name>.choices.<name>`",
        "",
        *_Page(Choice).whole(skip=effects),
        f"And [what it sets]({anchor}).",
        "",
        "### `options.<name>.unlisted`",
        "",
        *_Page(Unlisted).whole(skip=set(UnlistedEffects.model_fields)),
        f"And [what it sets]({anchor}), where `{{value}}` stands for what the person typed.",
        "",
        f"## {about}",
        "",
        "Every profile ends with an image and with `request` and `limit` of `cpu` and `memory`,"
        " whatever people choose. `env` and `node_selector` add up; the rest is replaced.",
        "",
        *_Page(Effects).whole(level=3),
    ]
    return "\n".join(lines).rstrip() + "\n"


def published() -> dict[str, str]:
    """The published files, by path in the checkout."""
    from .chart_schema import chart_schema

    return {
        "docs/site.schema.json": _json(json_schema(Site)),
        "docs/profile.schema.json": _json(json_schema(Profile)),
        "docs/reference/site.md": site_page(),
        "docs/reference/profiles.md": profile_page(),
        "helm/studovna/values.schema.json": _json(chart_schema()),
    }


def _json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write_schemas(root: Path) -> list[Path]:
    """Write the published files of the checkout ``root``; the paths written."""
    written = []
    for name, text in published().items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        written.append(file)
    return written
