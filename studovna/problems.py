"""Settings files: reading YAML with positions, and saying exactly what is wrong with it.

Every mistake in a settings file becomes a ``Problem`` that knows the file, the line and the key,
what stands there and what would be right. All problems of a file are found in one go.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES = 1024 * 1024
MAX_VALUES = 50_000  # aliases can multiply a small file without end
MAX_DEPTH = 30

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One mistake in one settings file.

    ``line`` counts from 1 and is None when the file as a whole is meant; ``key`` is the dotted path
    ("project.limits.cpu"), empty for the whole file; ``expected`` says what would be right.
    """

    file: str
    line: int | None
    key: str
    message: str
    expected: str = ""


def format_problem(problem: Problem) -> str:
    """One line for a terminal or a log: ``site.yaml:4: project.limits.cpu: … Expected …``."""
    place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    parts = [place, problem.key] if problem.key else [place]
    sentence = problem.message if problem.message.endswith((".", "?")) else problem.message + "."
    if problem.expected:
        sentence += f" Expected {problem.expected.rstrip('.')}."
    return ": ".join([*parts, sentence])


class SettingsError(Exception):
    """Settings that cannot be used. ``problems`` holds every mistake that was found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(format_problem(problem) for problem in self.problems))


def wrong(message: str, expected: str = "") -> PydanticCustomError:
    """The error that a field's validator raises: what is wrong, and what would be right."""
    return PydanticCustomError("settings", "{message}", {"message": message, "expected": expected})


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word that ``word`` probably meant, or None."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return close[0] if close else None


def one_of(word: str, allowed: Iterable[str]) -> str:
    """What to write instead of ``word``: the nearest allowed word, and all of them."""
    names = sorted(allowed)
    if len(names) < 2:
        return f'"{names[0]}"' if names else "nothing here"
    near = nearest(word, names)
    listed = "one of: " + ", ".join(names)
    return f'"{near}", or another {listed}' if near else listed


@dataclass
class Document:
    """A YAML file as plain data, with the line of every key and list item."""

    file: str
    data: Any
    lines: dict[Path_, int] = field(default_factory=dict)

    def problem(self, path: Sequence[str | int], message: str, expected: str = "") -> Problem:
        """A problem at ``path``, or at the nearest part above it that stands in the file."""
        line = None
        for length in range(len(path), -1, -1):
            line = self.lines.get(tuple(path[:length]))
            if line is not None:
                break
        return Problem(self.file, line, dotted(path), message, expected)


def dotted(path: Sequence[str | int]) -> str:
    """``("groups", "teachers", 0)`` → ``groups.teachers[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def read_yaml(path: Path) -> Document:
    """Read a YAML file (UTF-8, at most 1 MiB) as plain data.

    An empty file is an empty map. Only maps with text keys, lists, texts, numbers, true/false and
    null are let in; anchors, aliases and merge keys work; a key that stands twice is a mistake.
    Raises SettingsError.
    """
    file = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError([Problem(file, None, "", "There is no such file")]) from None
    except OSError as error:
        reason = f"The file cannot be read: {error.strerror}"
        raise SettingsError([Problem(file, None, "", reason)]) from None
    if len(raw) > MAX_BYTES:
        raise SettingsError([Problem(file, None, "", "The file is too large", "at most 1 MiB")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = "The file is not UTF-8 text"
        raise SettingsError([Problem(file, line, "", message, "UTF-8 text")]) from None
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        raise SettingsError([_syntax_problem(file, error)]) from None
    except RecursionError:
        raise SettingsError([Problem(file, None, "", "This is nested too deep")]) from None
    except (YAMLError, ValueError) as error:
        reason = (str(error).splitlines() or ["it cannot be read"])[0]
        raise SettingsError([Problem(file, None, "", f"This is not YAML: {reason}")]) from None
    reader = _Reader(Document(file, {}), yaml)
    if node is not None:
        reader.document.lines[()] = node.start_mark.line + 1
        reader.document.data = reader.read(node, (), ())
    if reader.problems:
        raise SettingsError(reader.problems)
    return reader.document


def _syntax_problem(file: str, error: MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    what = error.problem or error.context or "it cannot be read"
    if "\\t" in what:
        what = "a tab cannot begin a value; indent with spaces"
    column = f", column {mark.column + 1}" if mark else ""
    line = mark.line + 1 if mark else None
    if error.context and error.context_mark and error.problem:
        what += f" ({error.context} that began on line {error.context_mark.line + 1})"
    return Problem(file, line, "", f"This is not YAML{column}: {what}")


class _Reader:
    """Turns YAML nodes into plain data, and collects what may not be there."""

    def __init__(self, document: Document, yaml: Any) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self._yaml = yaml
        self._count = 0

    def _refuse(self, node: Node, path: Path_, message: str, expected: str = "") -> None:
        line = node.start_mark.line + 1
        self.problems.append(Problem(self.document.file, line, dotted(path), message, expected))

    def read(self, node: Node, path: Path_, above: tuple[Node, ...]) -> Any:
        self._count += 1
        if self._count > MAX_VALUES:
            if self._count == MAX_VALUES + 1:
                self._refuse(node, path, "The aliases multiply into too many values")
            return None
        if any(node is parent for parent in above):
            self._refuse(node, path, "This alias contains itself")
            return None
        if len(above) > MAX_DEPTH:
            self._refuse(node, path, "This is nested too deep", f"at most {MAX_DEPTH} levels")
            return None
        inside = (*above, node)
        if isinstance(node, MappingNode):
            return self._mapping(node, path, inside)
        if isinstance(node, SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.document.lines[(*path, index)] = item.start_mark.line + 1
                items.append(self.read(item, (*path, index), inside))
            return items
        return self._scalar(node, path)

    def _scalar(self, node: Node, path: Path_) -> Any:
        kind = str(node.tag).rpartition(":")[2]
        if kind in ("timestamp", "value", "merge"):  # a date, "=", "<<": plain text to us
            return node.value
        if kind not in ("str", "int", "float", "bool", "null"):
            self._refuse(node, path, f"The tag {node.tag} is not allowed", "plain values")
            return None
        try:
            return self._yaml.constructor.construct_object(node)
        except (YAMLError, ValueError) as error:
            self._refuse(node, path, f"This value cannot be read: {str(error).splitlines()[0]}")
            return None

    def _mapping(self, node: MappingNode, path: Path_, inside: tuple[Node, ...]) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if str(key_node.tag).endswith(":merge"):
                many = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
                for source in many:
                    values = self.read(source, path, inside)
                    if isinstance(values, dict):
                        merged = {**values, **merged}
                    else:
                        self._refuse(value_node, path, "Only a map can be merged with <<")
                continue
            key = self._scalar(key_node, path) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                shown = key_node.value if isinstance(key_node, ScalarNode) else "a map or list"
                self._refuse(key_node, path, f"The key {shown} is not text", "a key in quotes")
                continue
            if key in own:
                first = self.document.lines[(*path, key)]
                message = f"This key stands twice, first on line {first}"
                self._refuse(key_node, (*path, key), message, "each key once")
                continue
            self.document.lines[(*path, key)] = line
            own[key] = self.read(value_node, (*path, key), inside)
        return {**merged, **own}


Model = typing.TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], document: Document) -> Model:
    """Check a document against a pydantic model. Raises SettingsError with every problem."""
    if not isinstance(document.data, dict):
        message = f"The file holds {_shown(document.data)}"
        raise SettingsError([Problem(document.file, 1, "", message, "keys and values")])
    try:
        return model.model_validate(document.data)
    except ValidationError as errors:
        details = errors.errors(include_url=False)
        problems = dict.fromkeys(_from_pydantic(model, document, detail) for detail in details)
        raise SettingsError(sorted(problems, key=lambda problem: problem.line or 0)) from None


_TYPES = {
    "int_type": "a whole number, without quotes",
    "int_from_float": "a whole number",
    "float_type": "a number, without quotes",
    "bool_type": "true or false, without quotes",
    "string_type": "text (put it in quotes)",
    "list_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
}


def _from_pydantic(model: type[BaseModel], document: Document, error: ErrorDetails) -> Problem:
    kind, context = error["type"], error.get("ctx", {})
    path, owner = _locate(model, document.data, error["loc"], kind)
    received = f"{_shown(error['input'], path)} is not right here"
    if kind == "settings":
        return document.problem(path, context["message"], context["expected"])
    if kind == "extra_forbidden":
        key = str(path[-1])
        message = f'There is no setting "{key[:80]}"'
        return document.problem(path, message, one_of(key, _keys(owner)))
    if kind == "missing":
        key = str(path[-1])
        described = next((f.description for name, f in _fields(owner).items() if name == key), "")
        return document.problem(path, f'"{key}" is missing', described or "")
    if kind in _TYPES:
        return document.problem(path, received, _TYPES[kind])
    if kind in ("literal_error", "union_tag_invalid"):
        allowed = str(context.get("expected") or context.get("expected_tags"))
        words = [word.strip(" '") for word in allowed.replace(" or ", ",").split(",")]
        value = error["input"]
        if kind == "union_tag_invalid":
            tag = str(context["discriminator"]).strip("'")
            path, value = (*path, tag), context["tag"]
        return document.problem(path, f"{_shown(value)} is not known", one_of(str(value), words))
    message = error["msg"]
    if message.startswith("Input should be "):
        return document.problem(path, received, message.replace("Input should be", "a value"))
    return document.problem(path, received, message[0].lower() + message[1:])


def _shown(value: object, path: Sequence[str | int] = ()) -> str:
    """A received value for a message: short, never a secret."""
    if any(word in str(part).lower() for part in path for word in ("password", "secret", "token")):
        return "The value"
    match value:
        case None:
            return "An empty value"
        case bool():
            return str(value).lower()
        case str():
            return f'The text "{value}"' if len(value) <= 60 else f'The text "{value[:60]}…"'
        case int() | float():
            return f"The number {value}"
        case Mapping():
            return "A map of keys and values"
        case Sequence():
            return "A list"
    return "The value"


def _locate(
    model: type[BaseModel], data: object, loc: tuple[str | int, ...], kind: str
) -> tuple[Path_, object]:
    """The path in the file of a pydantic location, and the type that owns its last key.

    Pydantic's locations also hold names that stand in no file (a union's branch): only what is
    really there is kept, and the last part of a missing key.
    """
    path: list[str | int] = []
    here: object = data
    current: object = model
    owner: object = model
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        inside = (isinstance(here, Mapping) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if inside:
            path.append(part)
            here = here[part]  # type: ignore[index]
            owner, current = current, _step(current, part)
        elif last and kind == "missing":
            path.append(part)
            owner = current
        else:
            current = _branch(current, str(part))
    return tuple(path), owner


def _options(annotation: object) -> list[object]:
    """The types that an annotation may stand for, without Annotated, None and unions."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [o for arg in typing.get_args(annotation) for o in _options(arg)]
    return [] if annotation is type(None) else [annotation]


def _fields(annotation: object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            for name, info in option.model_fields.items():
                found[info.alias or name] = info
    return found


def _keys(annotation: object) -> list[str]:
    return sorted(_fields(annotation))


def _step(annotation: object, part: str | int) -> object:
    """The annotation of what stands under ``part``."""
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            info = _fields(option).get(str(part))
            if info is not None:
                return info.annotation
        elif typing.get_origin(option) in (dict, list):
            return typing.get_args(option)[-1]
    return None


def _branch(annotation: object, tag: str) -> object:
    """The member of a tagged union whose ``type`` is ``tag``; the annotation itself otherwise."""
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            info = option.model_fields.get("type")
            if info is not None and tag in typing.get_args(info.annotation):
                return option
    return annotation
