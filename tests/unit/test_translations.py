"""Every sentence that can reach a person has a Czech translation, with the same blanks to fill."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator
from string import Formatter

import pytest
from tornado import locale

from spawner.pages import PAGES, load_translations, translated
from studovna.paths import ROOT
from studovna.text import Text

# Sentences that only the operator reads, on the command line, which speaks English.
OPERATORS = {
    "studovna/cli.py",
    "studovna/hub_api.py",
    "studovna/hub_process.py",
    "studovna/image_args.py",
    "studovna/images.py",
    "studovna/images_cli.py",
    "studovna/images_push.py",
    "studovna/system.py",
    "studovna/up.py",
    "spawner/podman_network.py",
}
# Why a manifest cannot run here is told in parts, which only stand inside of another sentence: they
# are about what a profile's author wrote, and neither begin nor end as a sentence does.
SENTENCE = re.compile(r"[A-Z]|\{.*\.( |$)")

# In templates: _("…"), the sentence in one or more adjacent literals.
IN_TEMPLATE = re.compile(r"""\b_\(\s*((?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')+)""")


def _constant(node: ast.expr, names: dict[str, str]) -> str | None:
    """The text of a literal, of literals added up, or of a module's constant."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _constant(node.left, names), _constant(node.right, names)
        return None if left is None or right is None else left + right
    return names.get(node.id) if isinstance(node, ast.Name) else None


def _in_code(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = _constant(node.value, names)
            if value is not None:
                names[node.targets[0].id] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Text" and node.args:
            template = _constant(node.args[0], names)
            if template is not None:
                yield template
        # Sentences kept in a table of a module, such as spawner.quota's.
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_SENTENCES":
            for part in ast.walk(node.value):
                if isinstance(part, ast.Tuple):
                    yield from (_constant(item, names) or "" for item in part.elts)


def _sentences() -> dict[str, str]:
    """Each sentence, with one of the files it stands in."""
    found: dict[str, str] = {}
    for package in ("studovna", "spawner"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            if name not in OPERATORS:
                sentences = filter(SENTENCE.match, _in_code(file.read_text()))
                found |= dict.fromkeys(sentences, name)
    for file in sorted((PAGES / "templates").rglob("*.html")):
        for literals in IN_TEMPLATE.findall(file.read_text()):
            found[ast.literal_eval(literals)] = file.relative_to(ROOT).as_posix()
    return found


SENTENCES = _sentences()


@pytest.fixture(scope="module")
def czech() -> locale.Locale:
    load_translations()
    return locale.get("cs")


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    with (PAGES / "locale" / "cs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _blanks(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


def test_every_sentence_is_translated(rows: list[list[str]]) -> None:
    known = {row[0] for row in rows}
    missing = [f"{file}: {text!r}" for text, file in SENTENCES.items() if text not in known]
    assert not missing, "without a Czech sentence in pages/locale/cs.csv:\n" + "\n".join(missing)


def test_every_translation_is_used(rows: list[list[str]]) -> None:
    unused = [row[0] for row in rows if row[0] not in SENTENCES]
    assert not unused, "in pages/locale/cs.csv but nowhere in the code:\n" + "\n".join(unused)


def test_translations_keep_the_blanks(rows: list[list[str]]) -> None:
    assert [row for row in rows if _blanks(row[0]) != _blanks(row[1])] == []


def test_each_sentence_stands_there_once_with_its_translation(rows: list[list[str]]) -> None:
    # tornado strips both, so a sentence that begins or ends with a space is never found.
    assert [row for row in rows if len(row) != 2 or [c.strip() for c in row] != row] == []
    english = [row[0] for row in rows]
    assert sorted(english) == sorted(set(english))


def test_a_text_is_translated_with_its_parameters(czech: locale.Locale) -> None:
    text = Text("There is no pod {pod}.", pod="lab")
    assert translated(czech, text) == "Pod lab neexistuje."
    assert translated(locale.get("en"), text) == str(text)


@pytest.mark.parametrize(
    ("languages", "code"),
    [
        (["cs"], "cs"),
        (["cs-CZ", "en"], "cs"),
        (["en-GB", "cs"], "en"),
        (["en"], "en"),
        (["sk", "cs"], "cs"),
        (["de-AT", "fr"], "en"),
        ([], "en"),
    ],
)
def test_the_language_is_the_first_that_both_speak(languages: list[str], code: str) -> None:
    load_translations()
    assert locale.get(*languages).code == code
