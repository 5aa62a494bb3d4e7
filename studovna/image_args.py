"""Build arguments that only the operator can give, such as where a program is to be had.

An image that was built keeps them as a label, so that later builds, of `make up` as well, go on
with the same ones; there is no second place that could say something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from studovna.problems import one_of
from studovna.text import Text

LABEL_ARGS = "studovna.args"
_MOST = 500

ArgName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,60}$")]
Values = Mapping[str, str]


class Asked(BaseModel):
    """One argument that the operator gives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = Field(min_length=1, max_length=200, description="what it is, for the operator")
    pattern: str = Field(min_length=1, max_length=200, description="what the whole value matches")
    example: str = Field(
        min_length=1, max_length=100, description="what stands for it in a command that is shown"
    )

    def admits(self, value: str) -> bool:
        """Whether this can be a value."""
        return len(value) <= _MOST and re.fullmatch(self.pattern, value) is not None


class ArgumentError(Exception):
    """An argument was given wrongly; `text` says which one, and what is right."""

    def __init__(self, text: Text) -> None:
        super().__init__(text)
        self.text = text


def read_words(words: Iterable[str]) -> dict[str, str]:
    """`NAME=value` words. Raises ArgumentError.

    >>> read_words(["A=b=c"])
    {'A': 'b=c'}
    """
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ArgumentError(
                Text('"{word}" is no build argument. Write NAME=value.', word=word[:100])
            )
        values[name] = value
    return values


def check(values: Values, asked: Mapping[str, Asked]) -> None:
    """Raise ArgumentError for an argument that nobody asks for, and for a value that cannot be."""
    for name, value in values.items():
        if name not in asked:
            if not asked:
                raise ArgumentError(
                    Text("The named images take no build argument {name}.", name=name[:100])
                )
            raise ArgumentError(
                Text(
                    "There is no build argument {name}. Write {expected}.",
                    name=name[:100],
                    expected=one_of(name, asked),
                )
            )
        if not asked[name].admits(value):
            raise ArgumentError(
                Text(
                    'The build argument {name} cannot be "{value}". It is {what}.',
                    name=name,
                    value=value[:100],
                    what=asked[name].what,
                )
            )


def missing(image: str, asked: Mapping[str, Asked], values: Values) -> Text | None:
    """What to say when an image cannot be built for want of arguments; None when it can."""
    if not asked.keys() - values.keys():
        return None
    return Text(
        "The image {image} needs what no package registry has: {what}. Build it with: {command}",
        image=image,
        what="; ".join(f"{name}, {one.what}" for name, one in asked.items()),
        command=command(image, asked),
    )


def command(image: str, asked: Mapping[str, Asked]) -> str:
    """The command that builds an image, its arguments as examples."""
    words = [f"{name}={one.example}" for name, one in asked.items()]
    args = f' ARGS="{" ".join(words)}"' if words else ""
    return f"make images IMAGES={image}{args}"


def to_label(values: Values) -> str:
    """The arguments as an image's label."""
    return json.dumps(dict(sorted(values.items())))


def from_label(label: object, asked: Mapping[str, Asked]) -> dict[str, str]:
    """The arguments that a label holds, without what is no longer asked for or no longer right."""
    try:
        found = json.loads(str(label or "{}"))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, str) and name in asked and asked[name].admits(value)
    }
