"""``studovna up``: from a checkout to a hub that answers, doing only what is still missing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from studovna import hub_process
from studovna.auth import OpenIDConnect
from studovna.images_cli import build_with_display, time_text, wanted_images
from studovna.paths import ROOT
from studovna.podman import Podman
from studovna.profile_rules import own_images
from studovna.profile_schema import Profile
from studovna.profiles import load_profiles
from studovna.secrets import read_secret
from studovna.site import Site, load_site
from studovna.system import follow, install_packages, missing_packages
from studovna.text import Text

FIRST_IMAGES = ["lab"]
"""What must be there before the first person can start; the others are built in the background."""


def load_checked(site_file: Path) -> tuple[Site, dict[str, Profile]]:
    """The site and its profiles. Raises ``SettingsError`` with every problem."""
    site = load_site(site_file)
    return site, load_profiles(site.profiles_folder, site)


@contextmanager
def step(console: Console, title: str) -> Iterator[Callable[[str], None]]:
    """Show a step with its elapsed time and last line: live on a terminal, else when it ends."""
    begun = time.monotonic()

    def show(line: str) -> None:
        elapsed = time_text(time.monotonic() - begun)
        status.update(f"{title} [dim]{elapsed}  {_short(line)}[/dim]")

    with console.status(title) as status:
        yield show
    console.print(f"[green]✓[/green] {title} [dim]{time_text(time.monotonic() - begun)}[/dim]")


def _short(line: str) -> str:
    return line[:100].replace("[", "\\[")


def install_system(console: Console) -> None:
    """Debian's packages that the machine lacks; raises ``MissingPackages`` when it may not."""
    missing = missing_packages(rootless=os.geteuid() != 0)
    if missing:
        with step(console, "Installing Debian packages: " + " ".join(missing)) as line:
            install_packages(missing, line)


def install_proxy(console: Console, *, tests_too: bool = False) -> None:
    """configurable-http-proxy from npm, at its locked version, when that changed.

    ``tests_too`` adds what only the tests use.
    """
    lock = ROOT / "package-lock.json"
    stamp = ROOT / "node_modules" / ".studovna-lock"
    version = hashlib.sha256(lock.read_bytes()).hexdigest()
    kinds = ["--include=dev"] if tests_too else ["--omit=dev"]
    present = stamp.read_text().split() if stamp.exists() else []
    if version in present and (not tests_too or kinds[0] in present):
        return
    with step(console, "Installing the proxy from npm") as line:
        argv = ["npm", "ci", *kinds, "--no-audit", "--no-fund", "--ignore-scripts"]
        code, said = follow(argv, line, cwd=ROOT)
        if code:
            raise hub_process.HubError(
                Text("npm could not install the proxy:\n{lines}", lines="\n".join(said))
            )
        stamp.write_text(f"{version} {kinds[0]}")


def up(site_file: Path, state: Path, console: Console, *, build_others: bool = True) -> None:
    """Bring the site up, or find that it is.

    ``build_others`` goes on with the other images in the background, once the hub answers.
    Raises SettingsError, MissingPackages, PodmanError, BuildError or HubError, each with a
    sentence that says what to do.
    """
    site, profiles = load_checked(site_file)

    def wait() -> None:
        console.print("Waiting for another make up in this folder …")

    with hub_process.alone(state, wait):
        _up(site, profiles, state, console, build_others)


def _up(
    site: Site, profiles: dict[str, Profile], state: Path, console: Console, build_others: bool
) -> None:
    if running := hub_process.processes(state):
        other = hub_process.site_of(running)
        if other is not None and other != site.file.resolve():
            raise hub_process.HubError(
                Text(
                    "The hub of {other} runs in {state}. End it first (make down), or give this "
                    "site a state folder of its own: STUDOVNA_HOME=FOLDER make up SITE={file}",
                    other=other,
                    state=state,
                    file=site.file,
                )
            )
        if hub_process.answers(site):
            _greet(site, state, console)
            return
        with step(console, "Ending what is left of a hub that does not answer"):
            hub_process.stop(state)
    hub_process.require_free_ports(site, state)
    install_system(console)
    install_proxy(console)
    podman = Podman(state)
    facts = podman.probe()
    if not facts.limits_enforced:
        console.print(f"[yellow]![/yellow] {facts.reason}", highlight=False, soft_wrap=True)
    build_with_display(podman, FIRST_IMAGES, console)
    with step(console, "Starting the hub") as line:
        hub_process.start(site, state, line)
    _greet(site, state, console)
    if build_others:
        images = {image for profile in profiles.values() for image in own_images(profile)}
        images |= {"builder"} if site.binder.enabled else set()
        if wanted := wanted_images(podman, images):
            _build_in_background(site, state, wanted)


def _build_in_background(site: Site, state: Path, images: list[str]) -> None:
    """Build the images that the first start does not need, at the lowest priority."""
    log = state / "log" / "images" / "background.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    build = [sys.executable, "-m", "studovna", "images", "build", *images]
    with log.open("wb") as output:
        subprocess.Popen(
            ["nice", "-n", "19", *build],
            cwd=ROOT,
            env={**os.environ, **hub_process.marks(site, state)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _greet(site: Site, state: Path, console: Console) -> None:
    """The address, the rule for names, and the passwords: in full only when they are new."""
    console.print()
    console.print(
        f"[bold]{site.name}[/bold] is ready at [bold]{site.url}[/bold]",
        highlight=False,
        soft_wrap=True,
    )
    if isinstance(site.auth, OpenIDConnect):
        console.print(
            f"  sign-in      at {site.auth.issuer}", highlight=False, markup=False, soft_wrap=True
        )
        return
    console.print(
        f"  user names   any name that matches {site.auth.username_pattern}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    shown = state / "secrets" / ".passwords-shown"
    for label, name in (("password", "password-people"), ("admin", "password-admin")):
        secret, _ = read_secret(state, name)
        value = f"in {state / 'secrets' / name}" if shown.exists() else secret
        who = f" (for {', '.join(site.auth.admins)})" if label == "admin" else ""
        console.print(f"  {label:<12} {value}{who}", highlight=False, markup=False, soft_wrap=True)
    if not shown.exists():
        shown.touch(mode=0o600)
        console.print(
            f"  The passwords are shown this once and kept in {state / 'secrets'}.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
