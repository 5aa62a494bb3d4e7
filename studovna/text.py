"""Sentences for people, in a form that a page can translate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Text(str):
    """A finished English sentence that remembers the template it came from.

    It is an ordinary ``str`` wherever one is wanted (a log, an HTTP error, JSON), and a page that
    speaks another language translates ``template`` and fills in ``params`` again. What is filled in
    may be a ``Text`` itself.

    >>> t = Text("The image {image} does not exist.", image="lab")
    >>> str(t), t.template, t.params
    ('The image lab does not exist.', 'The image {image} does not exist.', {'image': 'lab'})
    """

    template: str
    params: dict[str, str]

    def __new__(cls, template: str, /, **params: object) -> Text:
        filled = {
            name: value if isinstance(value, Text) else str(value) for name, value in params.items()
        }
        text = super().__new__(cls, template.format_map(filled) if filled else template)
        text.template = template
        text.params = filled
        return text

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, str]]:
        return (self.template,), self.params

    def as_event(self) -> dict[str, object]:
        """A progress event's keys: the English sentence, and what a page needs to translate it."""
        return {"message": str(self), "text": self.as_json()}

    def as_json(self) -> dict[str, Any]:
        """The template and the parameters, which ``from_json`` reads."""
        params = {
            name: value.as_json() if isinstance(value, Text) else value
            for name, value in self.params.items()
        }
        return {"template": self.template, "params": params}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Text:
        """The sentence of ``as_json``. Raises KeyError, IndexError, TypeError, ValueError,
        AttributeError when it is none.
        """
        params = {
            str(name): cls.from_json(value) if isinstance(value, Mapping) else str(value)
            for name, value in data["params"].items()
        }
        return cls(str(data["template"]), **params)

    def translated(self, translate: Callable[[str], str], /, **more: object) -> str:
        """The sentence with its template, and what is filled in, translated by ``translate``."""
        params = {
            name: value.translated(translate) if isinstance(value, Text) else value
            for name, value in {**self.params, **more}.items()
        }
        sentence = translate(self.template)
        return sentence.format_map(params) if params else sentence
