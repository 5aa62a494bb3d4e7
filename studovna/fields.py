"""The kinds of values that site and profile settings are made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    model_validator,
)
from pydantic.json_schema import WithJsonSchema
from pydantic_core import CoreSchema

from .problems import wrong
from .units import SIZE_EXPECTED, parse_size, write_size

VALUE: Final = "{value}"  # stands for what a person typed, in the effects of an unlisted choice
MAX_CORES: Final = 1024
MAX_SIZE: Final = 1024**5

SLUG: Final = r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?"
# As the OCI distribution specification writes names, tags and digests. Hyphens in brackets carry a
# backslash because browsers read an input's pattern with the v flag.
_NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9\-]*[a-zA-Z0-9])?)*"
)
IMAGE_REFERENCE: Final = (
    rf"(?:{_HOST}(?::[0-9]{{1,5}})?/)?{_NAME}(?:/{_NAME})*"
    r"(?::[a-zA-Z0-9_][a-zA-Z0-9_.\-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


class Settings(BaseModel):
    """Base of every settings model: no unknown keys, no silent conversion, no change afterwards."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


def _size(value: object) -> int:
    if isinstance(value, str):
        try:
            size = parse_size(value)
        except ValueError:
            raise wrong(f'The text "{value[:60]}" is no size', SIZE_EXPECTED) from None
    elif isinstance(value, int) and not isinstance(value, bool):
        raise wrong(f"The number {value} has no unit", SIZE_EXPECTED)
    else:
        raise wrong("This is no size", SIZE_EXPECTED)
    if not 0 < size <= MAX_SIZE:
        raise wrong(f'The size "{value}" is out of bounds', "more than 0 and at most 1024T")
    return size


_CORES_EXPECTED = f"a number of cores, more than 0 and at most {MAX_CORES}, such as 0.5 or 4"


def _cores(value: object) -> float:
    if isinstance(value, str):
        raise wrong(f'The text "{value[:60]}" is no number', _CORES_EXPECTED + " (without quotes)")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong("This is no number of cores", _CORES_EXPECTED)
    if not 0 < value <= MAX_CORES:
        raise wrong(f"The number {value} is out of bounds", _CORES_EXPECTED)
    return float(value)


def _matching(pattern: str, expected: str) -> BeforeValidator:
    compiled = re.compile(pattern)

    def check(value: object) -> object:
        if isinstance(value, str) and not compiled.fullmatch(value):
            raise wrong(f'The text "{value[:60]}" is not right here', expected)
        return value

    return BeforeValidator(check)


def _value_or(check: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: value if value == VALUE else check(value))


def _no_markup(value: object) -> object:
    if isinstance(value, str) and re.search(r"[<>\x00-\x08\x0b-\x1f]", value):
        raise wrong(
            "Titles and descriptions are plain text",
            "text without <, > and control characters",
        )
    return value


_SIZE_SCHEMA: dict[str, Any] = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?[KMGT]$"}
_CORES_SCHEMA: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_CORES}
_VALUE_SCHEMA: dict[str, Any] = {"const": VALUE}

Memory = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(write_size, when_used="json"),
    WithJsonSchema(_SIZE_SCHEMA),
]
"""Bytes; written with a unit: ``512M``, ``4G`` (JupyterHub's ByteSpecification)."""

Cores = Annotated[float, BeforeValidator(_cores), WithJsonSchema(_CORES_SCHEMA)]
"""Cores, more than 0: ``0.5``, ``4``."""

MemoryOrValue = Annotated[
    int | str, _value_or(_size), WithJsonSchema({"anyOf": [_SIZE_SCHEMA, _VALUE_SCHEMA]})
]
CoresOrValue = Annotated[
    float | str, _value_or(_cores), WithJsonSchema({"anyOf": [_CORES_SCHEMA, _VALUE_SCHEMA]})
]

Plain = Annotated[str, BeforeValidator(_no_markup), Field(min_length=1, max_length=1000)]
"""Text for people, without markup."""

Slug = Annotated[
    str,
    _matching(
        rf"(?!.*--){SLUG}",
        "a short name of at most 32 characters from a-z, 0-9 and single hyphens inside",
    ),
    Field(json_schema_extra={"pattern": f"^{SLUG}$"}),
]

ImageName = Annotated[
    str,
    _matching(IMAGE_REFERENCE, "a folder of images/ or a full reference: registry/name:tag"),
    Field(min_length=1, max_length=255),
]

ContainerPath = Annotated[
    str,
    _matching(
        r"(?!.*/\.\.?(/|$))(/[A-Za-z0-9._+-]{1,100}){1,20}",
        "an absolute path from letters, digits and . _ + - without a slash at the end",
    ),
]
"""An absolute path in a container."""

EnvName = Annotated[
    str, _matching(r"[A-Za-z_][A-Za-z0-9_]{0,127}", "a name from letters, digits and _")
]

ResourceName = Annotated[
    str,
    _matching(
        r"any|[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?",
        'the name of a Kubernetes resource, such as "nvidia.com/gpu", or "any"',
    ),
]


def _pattern(value: object) -> object:
    if isinstance(value, str):
        check_pattern(value)
    return value


def check_pattern(pattern: str) -> None:
    """Refuse a regular expression that does not compile or carries its own anchors."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise wrong(f"This pattern cannot be read: {error}", "a regular expression") from None
    bare = re.sub(r"^(?:\^|\\A)|(?<!\\)(?:\$|\\[Zz])$", "", pattern)
    if bare != pattern:
        raise wrong(
            "The pattern carries its own anchors; it must always match the whole text, so they are"
            " added here",
            f'the pattern without them: "{bare}"',
        )


Pattern = Annotated[str, BeforeValidator(_pattern), Field(min_length=1, max_length=1000)]
"""A regular expression that must match the whole text; without anchors."""


class Localised(Settings):
    """Text for people in several languages; plain text alone is English."""

    en: Plain
    """The English text."""
    cs: Plain | None = None
    """The Czech text; the English one is shown without it."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, str):
            return {"en": value}
        if not isinstance(value, dict | Localised):
            raise wrong("This is no text", "text in quotes, or en: and cs: with a text each")
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [{"type": "string", "minLength": 1}, schema]}

    def as_dict(self) -> dict[str, str]:
        """Both languages, for a page's data."""
        return {"en": self.en, "cs": self.cs or self.en}
