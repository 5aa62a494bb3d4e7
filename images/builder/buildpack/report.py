"""What a container has to say to the service, as lines of its log."""

from __future__ import annotations

import json
from typing import Any

MARK = "@studovna "


class Text(str):
    """A sentence that keeps its template, and those that are filled in keep theirs.

    The service's own class of this name reads what `as_json` gives.
    """

    template: str
    params: dict[str, str]

    def __new__(cls, template: str, /, **params: object) -> Text:
        filled = {
            name: value if isinstance(value, Text) else str(value)[:2000]
            for name, value in params.items()
        }
        text = super().__new__(cls, template.format_map(filled) if filled else template)
        text.template = template
        text.params = filled
        return text

    def as_json(self) -> dict[str, Any]:
        """The template and the parameters."""
        params = {
            name: value.as_json() if isinstance(value, Text) else value
            for name, value in self.params.items()
        }
        return {"template": self.template, "params": params}


class Refusal(Exception):
    """The build ends here, with this sentence for the person."""

    def __init__(self, text: Text) -> None:
        super().__init__(str(text))
        self.text = text


def say(kind: str, **more: object) -> None:
    """One message to the service: `failed`, `note`, `step`, `stock`, `done` or `end`."""
    print(MARK + json.dumps({"kind": kind, **more}), flush=True)


def say_text(kind: str, text: Text) -> None:
    """A sentence for the person."""
    say(kind, **text.as_json())


def show(line: str) -> None:
    """A line that another program wrote, or that has names in it: it cannot look like a message."""
    line = line.rstrip("\n").replace("\n", " ")
    print(f" {line}" if line.startswith(MARK) else line, flush=True)
