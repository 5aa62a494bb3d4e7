"""What a person may read on the display, in English and in Czech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

BUTTON = "Try again · Zkusit znovu"

_OPERATORS = "The people who run this service can help; tell them this sentence."
_OPERATORS_CS = "Pomohou vám správci této služby; sdělte jim tuto větu."

# key: (heading, sentence) in English, then in Czech
TEXTS: dict[str, tuple[str, str, str, str]] = {
    "needs-missing": (
        "{title} is not here",
        "{path} is missing: nothing is there below {place}, so the volume with {title} is not"
        " mounted or holds another release. " + _OPERATORS,
        "{title} zde není",
        "Chybí {path}: pod {place} nic takového není, takže svazek s aplikací {title} není připojen"
        " nebo obsahuje jiné vydání. " + _OPERATORS_CS,
    ),
    "needs-forbidden": (
        "{title} cannot be read",
        "{path} is there, but this server may not read it. " + _OPERATORS,
        "{title} nelze přečíst",
        "{path} existuje, ale tento server jej nesmí číst. " + _OPERATORS_CS,
    ),
    "program": (
        "{title} is not here",
        "The program {path} was not found: it is not in the image, or the volume that holds it is"
        " not mounted. " + _OPERATORS,
        "{title} zde není",
        "Program {path} nebyl nalezen: není v obrazu, nebo není připojen svazek, který jej"
        " obsahuje. " + _OPERATORS_CS,
    ),
    "program-forbidden": (
        "{title} cannot be run",
        "{path} is there, but this server may not run it. " + _OPERATORS,
        "{title} nelze spustit",
        "{path} existuje, ale tento server jej nesmí spustit. " + _OPERATORS_CS,
    ),
    "folder": (
        "{title} has no folder to work in",
        "The folder {path} is missing, and {title} is to start in it. " + _OPERATORS,
        "{title} nemá pracovní složku",
        "Chybí složka {path}, ve které se má {title} spustit. " + _OPERATORS_CS,
    ),
    "licence": (
        "The licence server does not answer",
        "{title} asks for its licence at {servers}, and nobody answers there. It may be away for a"
        " moment: wait a little and try again. If it stays so, tell the people who run this"
        " service.",
        "Licenční server neodpovídá",
        "{title} žádá o licenci na {servers} a nikdo tam neodpovídá. Může jít o krátký výpadek:"
        " chvíli počkejte a zkuste to znovu. Pokud to trvá, napište správcům této služby.",
    ),
    "crashed": (
        "{title} ends as soon as it starts",
        "It was started several times and ended within seconds, last with exit code {code}. What it"
        " said is kept in {log}; these are the last lines:",
        "{title} končí hned po spuštění",
        "Aplikace byla několikrát spuštěna a během několika sekund skončila, naposledy s kódem"
        " {code}. Co vypsala, je uloženo v {log}.",
    ),
    "crashed-signal": (
        "{title} ends as soon as it starts",
        "It was started several times and was ended within seconds, last by signal {code} (9: often"
        " too little memory, 11: an error in it). What it said is kept in {log}; the last lines:",
        "{title} končí hned po spuštění",
        "Aplikace byla několikrát spuštěna a během několika sekund ukončena, naposledy signálem"
        " {code} (9: často málo paměti, 11: chyba v ní). Co vypsala, je uloženo v {log}.",
    ),
    "settings": (
        "The profile is not right",
        "What this profile says of its application cannot be read: {why}. " + _OPERATORS,
        "Profil není v pořádku",
        "Co tento profil říká o své aplikaci, nelze přečíst: {why}. " + _OPERATORS_CS,
    ),
    "starting": (
        "{title} is starting",
        "The first start may take a minute or two; later ones are faster.",
        "{title} se spouští",
        "První spuštění může trvat minutu či dvě; další jsou rychlejší.",
    ),
}


@dataclass(frozen=True)
class Message:
    """A window's text: heading and sentence in both languages, and lines of a log."""

    heading: str
    sentence: str
    heading_cs: str
    sentence_cs: str
    lines: list[str] = field(default_factory=list)
    button: str = BUTTON


def message(key: str, lines: Sequence[str] = (), button: str = BUTTON, **values: object) -> Message:
    """The message of this key, with its values put in."""
    heading, sentence, heading_cs, sentence_cs = (text.format(**values) for text in TEXTS[key])
    return Message(heading, sentence, heading_cs, sentence_cs, list(lines), button)
