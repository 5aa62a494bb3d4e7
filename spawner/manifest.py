"""Reading a Kubernetes manifest so that no field of it is forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from spawner.engine import UntranslatableField
from studovna.text import Text

_QUANTITY = re.compile(
    r"([0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})([numkMGTPE]|[KMGTPE]i|e[0-9]{1,2})?"
)
_SUFFIXES = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_REFERENCE = re.compile(r"\$(?:\$|\(([A-Za-z_.-][A-Za-z0-9_.-]*)\))")


def plain(value: Any) -> Any:
    """A model of the Kubernetes client as the JSON that it stands for, without what is not set."""
    if hasattr(value, "attribute_map"):
        pairs = ((key, getattr(value, name)) for name, key in value.attribute_map.items())
        return {key: plain(inner) for key, inner in pairs if inner is not None}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def quantity(value: object, path: str) -> Decimal:
    """A Kubernetes quantity (`500m`, `2Gi`, `1e3`): bytes, cores, or a plain number.

    Raises UntranslatableField for anything else.
    """
    match = _QUANTITY.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        raise UntranslatableField(path, Text("{value} is not a quantity", value=repr(value)))
    number, suffix = match.groups(default="")
    factor = Decimal(10) ** int(suffix[1:]) if suffix.startswith("e") else _SUFFIXES[suffix]
    return Decimal(number) * factor


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Kubernetes' `$(NAME)`: replaced when it is known, left alone when not; `$$` is `$`."""

    def one(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else variables.get(name, match[0])

    return _REFERENCE.sub(one, text)


class Fields:
    """An object of a manifest whose fields are taken one by one; what nobody took is an error.

    >>> fields = Fields({"name": "main", "tty": True}, "spec.containers[0]")
    >>> fields.text("name")
    'main'
    >>> fields.end()
    Traceback (most recent call last):
    ...
    spawner.engine.UntranslatableField: ...
    """

    def __init__(self, data: Mapping[str, Any], path: str) -> None:
        self._left = dict(data)
        self.path = path

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def refused(self, key: str, why: Text) -> UntranslatableField:
        return UntranslatableField(self.at(key), why)

    def _take(self, key: str, kind: type | tuple[type, ...], expected: str) -> Any:
        value = self._left.pop(key, None)
        if value is not None and (
            not isinstance(value, kind) or (isinstance(value, bool) and kind is int)
        ):
            raise self.refused(key, Text("it must be {expected}", expected=expected))
        return value

    def look(self, key: str) -> Any:
        """The value of a field, which is still to be taken."""
        return self._left.get(key)

    def raw(self, key: str) -> Any:
        return self._left.pop(key, None)

    def text(self, key: str) -> str | None:
        value = self._take(key, str, "a text")
        if value is not None and "\0" in value:
            raise self.refused(key, Text("it must not contain a NUL character"))
        return value

    def required(self, key: str) -> str:
        value = self.text(key)
        if not value:
            raise self.refused(key, Text("it must be set"))
        return value

    def number(self, key: str, low: int = 0, high: int = 2**31 - 1) -> int | None:
        value: int | None = self._take(key, int, "a whole number")
        if value is not None and not low <= value <= high:
            raise self.refused(key, Text("it must be between {low} and {high}", low=low, high=high))
        return value

    def flag(self, key: str) -> bool:
        return bool(self._take(key, bool, "true or false"))

    def texts(self, key: str) -> list[str] | None:
        value: list[str] | None = self._take(key, list, "a list")
        for item in value or []:
            if not isinstance(item, str) or "\0" in item:
                raise self.refused(key, Text("it must be a list of texts"))
        return value

    def numbers(self, key: str) -> list[int]:
        value = self._take(key, list, "a list") or []
        for item in value:
            if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < 2**31:
                raise self.refused(key, Text("it must be a list of numbers"))
        return list(value)

    def labels(self, key: str) -> dict[str, str]:
        value = self._take(key, dict, "an object") or {}
        return {str(name): str(inner) for name, inner in value.items()}

    def inner(self, key: str) -> Fields | None:
        """The object under a key; None when it is not there (an empty one is there)."""
        value = self._take(key, dict, "an object")
        return None if value is None else Fields(value, self.at(key))

    def each(self, key: str) -> Iterator[Fields]:
        for index, item in enumerate(self._take(key, list, "a list") or []):
            path = f"{self.at(key)}[{index}]"
            if not isinstance(item, dict):
                raise UntranslatableField(path, Text("it must be an object"))
            yield Fields(item, path)

    def only(self, key: str, allowed: Sequence[object], why: Text) -> None:
        """Drop a field that may only have one of a few values; raises for any other."""
        value = self._left.pop(key, None)
        if value not in (None, "", [], {}) and not any(
            value == one and type(value) is type(one) for one in allowed
        ):
            raise self.refused(key, why)

    def meaningless(self, keys: Mapping[str, str]) -> None:
        """Drop fields that change nothing on one machine; the values say why."""
        for key in keys:
            self._left.pop(key, None)

    def end(self) -> None:
        """Raise for the first field that is set and was not taken."""
        for key, value in self._left.items():
            if value is not False and value not in (None, "", [], {}):
                raise self.refused(key, Text("podman on one machine has no counterpart for it"))
