"""The parts of a desktop's session that need no display."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from studovna.paths import ROOT

sys.path.insert(0, str(ROOT / "images/desktop"))
from studovna_desktop import application, server, session, texts, windows  # noqa: E402
from studovna_desktop.application import Application, Ends  # noqa: E402
from studovna_desktop.log import LAST_LINES, Log  # noqa: E402

MATLAB = {
    "title": "MATLAB R2024b",
    "command": ["/usr/local/MATLAB/R2024b/bin/matlab", "-desktop"],
    "needs": ["/usr/local/MATLAB/R2024b/bin/matlab"],
}


def test_the_profile_is_read() -> None:
    environ = {
        "STUDOVNA_APPLICATION": json.dumps(MATLAB),
        "MLM_LICENSE_FILE": "27000@a.example.org",
        "ANSYSLI_SERVERS": "2325@b",
        "LM_LICENSE_FILE": "1@not.of.the.site",
        "STUDOVNA_LICENCES": "MLM_LICENSE_FILE ANSYSLI_SERVERS",
    }
    found = application.read(environ)
    assert found is not None
    assert (found.command[1], found.slug) == ("-desktop", "matlab-r2024b")
    assert found.licences == {
        "MLM_LICENSE_FILE": "27000@a.example.org",
        "ANSYSLI_SERVERS": "2325@b",
    }
    assert application.read({}) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"title": "x", "command": []}', '{"title": 1, "command": ["x"]}']
)
def test_a_profile_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        application.read({"STUDOVNA_APPLICATION": text})


@pytest.mark.parametrize(
    ("value", "servers"),
    [
        ("27000@licence.example.org", [("licence.example.org", 27000)]),
        ("1@a:2@b", [("a", 1), ("b", 2)]),
        ("1@a;2@b,3@c", [("a", 1), ("b", 2), ("c", 3)]),
        ("/opt/licence.lic", []),
        ("@host", []),
        ("99999@host", []),
        ("1@a b", []),
    ],
)
def test_licence_servers(value: str, servers: list[tuple[str, int]]) -> None:
    assert application.licence_servers(value) == servers


def test_one_server_of_several_is_enough_and_each_variable_counts() -> None:
    licences = {"A": "1@dead:2@alive", "B": "3@dead"}
    probe = lambda host, _port: host == "alive"  # noqa: E731
    assert application.silent_servers({"A": licences["A"]}, probe) == []
    assert application.silent_servers(licences, probe) == ["3@dead"]
    assert application.silent_servers({"A": "/a/file"}, probe) == []


def test_a_server_answers_or_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert application.answers("127.0.0.1", port)
    assert not application.answers("127.0.0.1", port, 1)
    assert not application.answers("no-such-host.invalid", 1, 1)


def _application(**more: object) -> Application:
    return Application("Thing", ("sh",), **more)  # type: ignore[arg-type]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    def said(what: Application) -> str:
        found = application.problem(what, lambda *_: False)
        return f"{found.heading}: {found.sentence}" if found else ""

    assert said(_application()) == ""
    missing = str(tmp_path / "release" / "bin" / "thing")
    assert f"{missing} is missing: nothing is there below {tmp_path}" in said(
        _application(needs=(missing,))
    )
    assert "/no/such was not found" in said(Application("Thing", ("/no/such",)))
    program = tmp_path / "program"
    program.write_text("")
    assert "may not run it" in said(Application("Thing", (str(program),)))
    assert "/no/folder is missing" in said(_application(folder="/no/folder"))
    assert "at 1@host, and nobody" in said(_application(licences={"A": "1@host"}))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir(mode=0)
    assert application.unreadable(str(tmp_path / "secret")) == "forbidden"


def test_an_application_that_ends_soon_is_started_a_few_times_only() -> None:
    ends = Ends()
    assert [ends.again(1) for _ in range(4)] == [True, True, False, True]
    ends = Ends()
    # One that somebody has worked in is started again, however often.
    assert all(ends.again(seconds) for seconds in (1, 1, 600, 1, 1, 600))


def test_every_sentence_has_its_values_in_both_languages() -> None:
    values = dict.fromkeys(("title", "path", "place", "servers", "code", "log", "why"), "VALUE")
    for key, words in texts.TEXTS.items():
        one = texts.message(key, **values)
        shown = (one.heading, one.sentence, one.heading_cs, one.sentence_cs)
        assert all(text and "{" not in text for text in shown)
        english, czech = words[0] + words[1], words[2] + words[3]
        names = [name for name in values if f"{{{name}}}" in english]
        assert names and all(f"{{{name}}}" in czech for name in names if name != "title"), key


def test_the_log_has_a_bound_and_a_full_disk_loses_only_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "logs/a.log", limit=1000)
    for number in range(200):
        log.write(f"line {number} \x1b[1m\n".encode())
    assert len(list((tmp_path / "logs").iterdir())) == 2
    assert sum(file.stat().st_size for file in (tmp_path / "logs").iterdir()) <= 2000
    log.note("ended")
    assert list(log.last)[-1] == "line 199 [1m"
    assert len(log.last) == LAST_LINES
    nowhere = Log(Path("/dev/null/a.log"))
    nowhere.write(b"kept\n")
    assert list(nowhere.last) == ["kept"]


XTERM = """\
_NET_WM_WINDOW_TYPE:  not found.
WM_TRANSIENT_FOR:  not found.
_NET_WM_STATE(ATOM) =
WM_NORMAL_HINTS(WM_SIZE_HINTS):
\t\tprogram specified minimum size: 10 by 17
WM_CLASS(STRING) = "xterm", "XTerm"
"""
SPLASH = """\
_NET_WM_WINDOW_TYPE(ATOM) = _NET_WM_WINDOW_TYPE_NORMAL
WM_NORMAL_HINTS(WM_SIZE_HINTS):
\t\tprogram specified minimum size: 300 by 200
\t\tprogram specified maximum size: 300 by 200
"""
DIALOG = """\
_NET_WM_WINDOW_TYPE(ATOM) = _NET_WM_WINDOW_TYPE_DIALOG, _NET_WM_WINDOW_TYPE_NORMAL
WM_TRANSIENT_FOR(WINDOW): window id # 0x600007
_NET_WM_STATE(ATOM) = _NET_WM_STATE_MAXIMIZED_HORZ, _NET_WM_STATE_MAXIMIZED_VERT
"""


def test_windows_are_read() -> None:
    xterm, splash, dialog = (windows.window(text) for text in (XTERM, SPLASH, DIALOG))
    assert xterm == windows.Window(True, False, False, False, False)
    assert splash.fixed and not splash.transient
    assert dialog.transient and dialog.maximized and not dialog.normal
    assert windows.window('WM_CLASS(STRING) = "window", "Studovna"').ours
    line = "_NET_CLIENT_LIST(WINDOW): window id # 0x60000c, 0x800025\n"
    assert windows.clients(line) == ["0x60000c", "0x800025"]
    said = "  Absolute upper-left X:  0\n  Width: 484\n  Height: 316\n  Depth: 24\n"
    assert windows.size(said) == (484, 316)
    assert windows.size("xwininfo: error: no such window") is None


def test_only_the_first_real_window_gets_the_screen() -> None:
    xterm, splash, dialog = (windows.window(text) for text in (XTERM, SPLASH, DIALOG))
    here = {"1": splash, "2": dialog, "3": xterm, "4": xterm}
    assert windows.to_fill(here, None) == "3"
    assert windows.to_fill(here, "3") is None
    assert windows.to_fill(here, "gone") == "3"
    assert windows.to_fill({"1": splash}, None) is None
    assert windows.too_large((2000, 100), (1280, 800)) == (1280, 100)
    assert windows.too_large((1280, 800), (1280, 800)) is None


def test_the_environment_of_the_display(tmp_path: Path) -> None:
    found = session.environment({"CPU_LIMIT": "2.0", "A": "b"}, ":5", tmp_path)
    assert (found["DISPLAY"], found["LP_NUM_THREADS"], found["A"]) == (":5", "2", "b")
    assert session.cores({"CPU_LIMIT": "x"}) >= 1
    assert server.eager({"JUPYTERHUB_DEFAULT_URL": "/desktop/"})
    assert not server.eager({"JUPYTERHUB_DEFAULT_URL": "/matlab"})
    command = server.display_command(7)
    assert command[command.index("-rfbport") + 1] == "-1" and "0600" in command


def test_a_seed_is_never_put_over_a_file(tmp_path: Path) -> None:
    session.seed("/usr/bin/octave", tmp_path)
    settings = tmp_path / ".config/octave/octave-gui.ini"
    assert "skip_welcome_wizard=true" in settings.read_text()
    settings.write_text("mine")
    session.seed("octave", tmp_path)
    assert settings.read_text() == "mine"
