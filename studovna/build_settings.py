"""The machine's own settings for pip, uv, npm, apt and TLS, as an image build sees them.

A build runs with the machine's certificates, indexes, mirrors and proxies; none of them may stay in
an image: neither in a file nor in its environment. So they are handed over in one folder that is
mounted at `/dev/studovna`: /dev is a memory file system in every build step, and not even the empty
mount point is left in the layer. A build step begins with `. /dev/studovna/env` where that exists.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

MOUNT = "/dev/studovna"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
CA_VARIABLES = (
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
)
_APT_ACQUIRE = re.compile(
    r"(?P<key>Acquire::(?:(?:http|https)::(?!.*Auto-Detect)[\w:./-]+|Retries|ForceIPv[46]))"
    r' "(?P<value>[^"\n]*)";'
)


@dataclasses.dataclass
class BuildSettings:
    """`env` and `files` (by name) to write below `MOUNT`; `mounts` are (path here, name there)."""

    env: dict[str, str] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    mounts: list[tuple[Path, str]] = dataclasses.field(default_factory=list)

    def mount(self, path: Path, stem: str) -> str:
        """Mount a path of this machine read-only; returns where the build finds it."""
        for here, name in self.mounts:
            if here == path:
                return f"{MOUNT}/{name}"
        name = f"{stem}{len(self.mounts)}"
        self.mounts.append((path, name))
        return f"{MOUNT}/{name}"

    def write(self, folder: Path) -> list[str]:
        """Write the folder that is mounted at `MOUNT`; returns the `--volume` options for it."""
        for name, text in self.files.items():
            (folder / name).write_text(text)
        lines = [
            f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.env.items())
        ]
        (folder / "env").write_text("".join(lines))
        options = ["--volume", f"{folder}:{MOUNT}:ro"]
        for path, name in self.mounts:
            if path.is_dir():
                (folder / name).mkdir()
            else:
                (folder / name).touch()
            options += ["--volume", f"{path}:{MOUNT}/{name}:ro"]
        return options


def of_this_machine(
    environ: Mapping[str, str] = os.environ, suite: str | None = None
) -> BuildSettings:
    """What this machine has set; a machine without settings gives an almost empty folder.

    `suite` is the Debian release inside the image, where the build may need more packages of it.
    """
    home = Path(environ.get("HOME", "/root"))
    settings = BuildSettings()
    ca = Path(environ.get("SSL_CERT_FILE") or CA_BUNDLE)
    ca_inside = settings.mount(ca, "ca") if ca.is_file() else None
    if ca_inside:
        settings.env |= dict.fromkeys(CA_VARIABLES, ca_inside)
        settings.env["UV_SYSTEM_CERTS"] = "true"
    _add_pip(settings, pip_options(pip_files(environ, home), environ))
    _add_npm(settings, [Path("/etc/npmrc"), home / ".npmrc"], ca_inside)
    _add_apt(settings, _output("apt-config", "dump"), ca_inside, _sources(suite))
    return settings


# --- pip and uv -------------------------------------------------------------------------------


def pip_files(environ: Mapping[str, str], home: Path) -> list[Path]:
    """pip's configuration files, those that count most last (pip's own order)."""
    if environ.get("PIP_CONFIG_FILE") == os.devnull:
        return []
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip/pip.conf"]
    files.append(Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf")
    if environ.get("PIP_CONFIG_FILE"):
        files.append(Path(environ["PIP_CONFIG_FILE"]))
    return [file for file in files if file.is_file()]


def pip_options(files: Sequence[Path], environ: Mapping[str, str]) -> dict[str, list[str]]:
    """Where pip looks: `index-url`, `extra-index-url`, `find-links`, `trusted-host`."""
    wanted = ("index-url", "extra-index-url", "find-links", "trusted-host")
    found: dict[str, list[str]] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error, OSError):
            parser.read(file)
        for section in ("global", "install"):
            for name in wanted:
                if parser.has_option(section, name):
                    found[name] = parser.get(section, name).split()
    for name in wanted:
        value = environ.get("PIP_" + name.upper().replace("-", "_"))
        if value:
            found[name] = value.split()
    return found


def _add_pip(settings: BuildSettings, options: Mapping[str, Sequence[str]]) -> None:
    inside = {
        name: [_inside(settings, value, index=name != "find-links") for value in values]
        for name, values in options.items()
    }
    inside = {name: [value for value in values if value] for name, values in inside.items()}
    lines = [f"{name} =\n    " + "\n    ".join(values) for name, values in inside.items() if values]
    if not lines:
        return
    settings.files["pip.conf"] = "[global]\n" + "\n".join(lines) + "\n"
    settings.env["PIP_CONFIG_FILE"] = f"{MOUNT}/pip.conf"
    for variable, name in (
        ("UV_DEFAULT_INDEX", "index-url"),
        ("UV_INDEX", "extra-index-url"),
        ("UV_FIND_LINKS", "find-links"),
        ("UV_INSECURE_HOST", "trusted-host"),
    ):
        if inside.get(name):
            separator = "," if name == "find-links" else " "
            settings.env[variable] = separator.join(inside[name])
    # uv stops at the first index that knows a name; pip, whose settings these are, asks them all.
    settings.env["UV_INDEX_STRATEGY"] = "unsafe-best-match"


def _inside(settings: BuildSettings, value: str, *, index: bool) -> str:
    """An index or a links folder as the build sees it: a folder of this machine gets mounted."""
    url = urlsplit(value)
    if url.scheme not in ("", "file"):
        return value
    if url.scheme == "" and not value.startswith("/"):
        return value  # a host name, of trusted-host
    path = Path(unquote(url.path))
    if not path.exists():
        return ""
    # An index's pages may point at files beside it (../../files), so its parent is mounted.
    if index and path.parent != Path("/"):
        return f"file://{settings.mount(path.parent, 'index')}/{path.name}"
    return ("file://" if index else "") + settings.mount(path, "links")


# --- npm --------------------------------------------------------------------------------------


def _add_npm(settings: BuildSettings, files: Sequence[Path], ca_inside: str | None) -> None:
    lines = []
    for file in files:
        if file.is_file():
            lines += file.read_text().splitlines()
    kept = [line for line in lines if not re.match(r"\s*(cafile|prefix|cache)\s*=", line)]
    if ca_inside:
        kept.append(f"cafile={ca_inside}")
    if kept:
        settings.files["npmrc"] = "\n".join(kept) + "\n"
        settings.env["NPM_CONFIG_USERCONFIG"] = f"{MOUNT}/npmrc"


# --- apt --------------------------------------------------------------------------------------


def apt_acquire(dump: str) -> list[str]:
    """How this machine reaches its mirrors (proxies, certificates), from `apt-config dump`."""
    return [f'{m["key"]} "{m["value"]}";' for m in _APT_ACQUIRE.finditer(dump) if m["value"]]


def apt_sources(indextargets: str, suite: str) -> list[str]:
    """sources.list lines for `suite` from the Debian mirrors this machine uses.

    Empty where it uses none (it is no Debian): then mmdebstrap takes the one that it knows.
    `indextargets` is `apt-get indextargets --format '$(LABEL)|$(REPO_URI)'`.
    """
    uris: dict[str, str] = {}
    for line in indextargets.splitlines():
        label, _, uri = line.partition("|")
        uri = uri.rstrip("/")
        if label in ("Debian", "Debian-Security") and re.fullmatch(r"https?://[^\s\[\]]+", uri):
            uris.setdefault(label, uri)
    if "Debian" not in uris:
        return []
    lines = [f"deb {uris['Debian']} {name} main" for name in (suite, f"{suite}-updates")]
    if "Debian-Security" in uris:
        lines.append(f"deb {uris['Debian-Security']} {suite}-security main")
    return lines


def machine_apt(suite: str) -> tuple[list[str], list[str]]:
    """This machine's (`apt_acquire`, `apt_sources`) for a bootstrap that runs here."""
    return apt_acquire(_output("apt-config", "dump")), _sources(suite)


def _sources(suite: str | None) -> list[str]:
    if suite is None:
        return []
    targets = _output("apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)")
    return apt_sources(targets, suite)


def _add_apt(
    settings: BuildSettings, dump: str, ca_inside: str | None, sources: Sequence[str]
) -> None:
    lines = [line for line in apt_acquire(dump) if "::CaInfo " not in line]
    if ca_inside:
        lines.append(f'Acquire::https::CaInfo "{ca_inside}";')
    if sources:
        # An image that was bootstrapped here has no list of its own: it would name this mirror.
        settings.files["sources.list"] = "\n".join(sources) + "\n"
        lines.append(f'Dir::Etc::SourceList "{MOUNT}/sources.list";')
    if lines:
        settings.files["apt.conf"] = "\n".join(lines) + "\n"
        settings.env["APT_CONFIG"] = f"{MOUNT}/apt.conf"


def _output(*argv: str) -> str:
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
