"""The ``studovna`` command: a thin shell over functions that do one thing each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from studovna import hub_process, paths
from studovna.hub_api import new_token
from studovna.hub_log import log_file
from studovna.images import BuildError
from studovna.images_cli import images_app
from studovna.podman import PodmanError
from studovna.problems import SettingsError, format_problem
from studovna.schema import write_schemas
from studovna.site import check as check_site
from studovna.site import load_site
from studovna.system import MissingPackages
from studovna.text import Text
from studovna.up import load_checked
from studovna.up import up as bring_up

app = typer.Typer(
    help="JupyterHub and BinderHub for universities and research infrastructures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(images_app, name="images")

SiteOption = Annotated[
    Path | None,
    typer.Option("--site", help="The settings file; site.yaml here, or $STUDOVNA_SITE."),
]
errors = Console(stderr=True)


@contextmanager
def told() -> Iterator[None]:
    """Turn what can go wrong into sentences on stderr and exit code 1."""
    try:
        yield
    except SettingsError as error:
        for problem in error.problems:
            errors.print(format_problem(problem), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except (hub_process.HubError, MissingPackages) as error:
        errors.print(error.sentence, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except (PodmanError, BuildError) as error:
        errors.print(error.text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        errors.print(f"{file}{error.strerror or error}", markup=False, highlight=False)
        raise typer.Exit(1) from None
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        errors.print(
            f"This failed with exit code {error.returncode}: {command}",
            markup=False,
            highlight=False,
        )
        raise typer.Exit(1) from None


@app.command()
def up(site: SiteOption = None) -> None:
    """Install and build what is missing, start the service, and say where it is."""
    with told():
        bring_up(site or paths.site_file(), paths.state_dir(), Console())


@app.command()
def down(
    servers: Annotated[bool, typer.Option("--servers", help="End people's servers too.")] = False,
) -> None:
    """End the hub. People's servers go on, and the next start finds them again."""
    with told():
        state = paths.state_dir()
        ran = hub_process.stop(state)
        ended = end_servers(state) if servers else 0
    print("The hub is down." if ran else "No hub was running.")
    if servers:
        print(f"Servers ended: {ended}. Homes are kept.")


def end_servers(state: Path) -> int:
    """End this site's pods, giving each some seconds to save; how many there were. Raises HubError.

    The engine stands above this package, so it is a program of its own that does it.
    """
    argv = [sys.executable, "-m", "spawner.end_servers", str(state)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=paths.ROOT)
    if done.returncode:
        raise hub_process.HubError(
            Text("People's servers could not be ended. {said}", said=done.stderr.strip())
        )
    return int(done.stdout)


@app.command()
def logs() -> None:
    """Follow the log of the hub, the proxy and the services; Ctrl-C ends only the following."""
    with told():
        log = log_file(paths.state_dir())
    if not log.exists():
        errors.print("There is no log yet: start the service with make up.")
        raise typer.Exit(1)
    os.execvp("tail", ["tail", "-n", "100", "-F", str(log)])  # noqa: S606


@app.command()
def check(site: SiteOption = None) -> None:
    """Check the settings and every profile; print each problem with file, line and key."""
    file = site or paths.site_file()
    problems = check_site(file)
    for problem in problems:
        errors.print(format_problem(problem), markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    with told():
        print(f"{load_checked(file)[0].file}: the settings and all profiles are right.")


@app.command()
def token(
    person: Annotated[str, typer.Argument(help="Whose token; added when not known yet.")],
    hours: Annotated[
        int, typer.Option(min=1, max=24 * 366, help="How long the token is valid.")
    ] = 24,
    note: Annotated[str, typer.Option(help="What it is for, as the person sees it.")] = "studovna",
    site: SiteOption = None,
) -> None:
    """Print a token with which a person's program may use the hub's REST API."""
    with told():
        loaded = load_site(site or paths.site_file())
        print(new_token(loaded, paths.state_dir(), person, hours * 3600, note))


@app.command()
def schema() -> None:
    """Write the JSON Schemas and reference pages from the models."""
    for file in write_schemas(paths.ROOT):
        print(file.relative_to(paths.ROOT))
