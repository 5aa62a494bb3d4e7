"""`studovna images`: build them, list them, push them."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text as Rich

from studovna.image_args import ArgumentError, Values, read_words
from studovna.images import (
    BuildError,
    Reporter,
    build,
    images_status,
    on_request,
    read_images,
)
from studovna.images_push import chart_values, push
from studovna.paths import ROOT, state_dir
from studovna.podman import Podman, PodmanError
from studovna.problems import SettingsError
from studovna.text import Text

IMAGES = ROOT / "images"

images_app = typer.Typer(
    name="images", help="The container images of this site.", no_args_is_help=True
)


def size_text(size: int) -> str:
    """Bytes for people, in the units podman uses."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def time_text(seconds: float) -> str:
    """Seconds for people."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class PlainReporter:
    """One line an image and a step: for a log or a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, image: str, number: int, count: int) -> None:
        self._print(
            Text(
                "Image {image} ({number} of {count}): building",
                image=image,
                number=number,
                count=count,
            )
        )

    def step(self, image: str, step: Text) -> None:
        self._print(Text("Image {image}: {step}", image=image, step=step))

    def line(self, image: str, line: str) -> None:
        """The lines are in the log."""

    def done(self, image: str, seconds: float, size: int) -> None:
        self._print(
            Text(
                "Image {image}: built in {time}, {size}",
                image=image,
                time=time_text(seconds),
                size=size_text(size),
            )
        )


class LiveReporter:
    """On a terminal: the image, its step, the time so far and the last line it wrote."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._spinner = Spinner("dots")
        self._title = ""
        self._step = Text("starting")
        self._line = ""
        self._start = 0.0

    def __rich__(self) -> RenderableType:
        elapsed = time_text(time.monotonic() - self._start)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            self._spinner, Rich(self._title, "bold"), Rich(self._step), Rich(elapsed, "dim")
        )
        return Group(head, Rich("  " + self._line, "dim", no_wrap=True, overflow="ellipsis"))

    def begin(self, image: str, number: int, count: int) -> None:
        self._title = Text(
            "Image {image} ({number}/{count})", image=image, number=number, count=count
        )
        self._step, self._line, self._start = Text("starting"), "", time.monotonic()
        self._live = Live(self, console=self._console, refresh_per_second=8, transient=True)
        self._live.start()

    def step(self, image: str, step: Text) -> None:
        self._step = step

    def line(self, image: str, line: str) -> None:
        self._line = line

    def done(self, image: str, seconds: float, size: int) -> None:
        self.close()
        self._console.print(
            Rich.assemble(
                ("✓ ", "green"),
                Text(
                    "Image {image}: built in {time}, {size}",
                    image=image,
                    time=time_text(seconds),
                    size=size_text(size),
                ),
            )
        )

    def close(self) -> None:
        """Give the terminal back, also after a failure."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def build_with_display(
    podman: Podman,
    names: list[str],
    console: Console,
    *,
    base: str | None = None,
    args: Values | None = None,
) -> list[str]:
    """`images.build` with a live display on a terminal and plain lines elsewhere."""
    if not console.is_terminal:
        reporter: Reporter = PlainReporter(console)
        return build(podman, IMAGES, names, reporter, base=base, args=args)
    live = LiveReporter(console)
    try:
        return build(podman, IMAGES, names, live, base=base, args=args)
    finally:
        live.close()


def wanted_images(podman: Podman, names: Collection[str] | None = None) -> list[str]:
    """The images that are to be there: all, or those of ``names``, without what nobody asked for.

    Raises SettingsError and PodmanError.
    """
    images = read_images(IMAGES)
    present = {row.name for row in images_status(podman, IMAGES) if row.present}
    left_out = on_request(images, present)
    return sorted(name for name in names or images if name not in left_out)


def _podman() -> Podman:
    podman = Podman(state_dir())
    podman.probe()
    return podman


def _fail(error: SettingsError | BuildError | PodmanError | ArgumentError) -> typer.Exit:
    Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(1)


@images_app.command("build")
def build_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Images to build; without one, all but those built on demand."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from", help="Start from this registry image instead of bootstrapping Debian."
        ),
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What an image asks the operator for, each once; later builds keep it.",
        ),
    ] = None,
) -> None:
    """Build the images whose inputs changed, and what they stand on."""
    # "make down" ends a build in the background: as Ctrl-C does, with the programs that it runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    try:
        podman = _podman()
        wanted = names or wanted_images(podman)
        args = read_words(arg or [])
        built = build_with_display(podman, wanted, console, base=base, args=args)
    except (SettingsError, BuildError, PodmanError, ArgumentError) as error:
        raise _fail(error) from None
    if not built:
        console.print(Text("Every image is up to date."))


@images_app.command("list")
def list_command() -> None:
    """Show every image: whether it is there and up to date, its size, when it was built."""
    try:
        rows = images_status(_podman(), IMAGES)
    except (SettingsError, PodmanError) as error:
        raise _fail(error) from None
    table = Table(box=None, pad_edge=False)
    for title in ("image", "state", "size", "built", "what it is"):
        table.add_column(title, justify="right" if title == "size" else "left")
    for row in rows:
        state = "up to date" if row.up_to_date else "out of date" if row.present else "not built"
        built = row.built_at.astimezone().strftime("%Y-%m-%d %H:%M") if row.built_at else ""
        table.add_row(
            row.name, state, size_text(row.size) if row.present else "", built, row.description
        )
    Console().print(table)


class PushLines:
    """One line for each image that is in the registry."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, image: str, number: int, count: int) -> None:
        """Said when it is there."""

    def done(self, image: str, seconds: float, reference: str) -> None:
        text = Text(
            "Image {image}: pushed in {time} as {reference}",
            image=image,
            time=time_text(seconds),
            reference=reference,
        )
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@images_app.command("push")
def push_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Images to push; all that are built without one.")
    ] = None,
    to: Annotated[
        str,
        typer.Option(help="The registry, with a folder if you like: registry.example.org/studovna"),
    ] = ...,  # type: ignore[assignment]
    base: Annotated[
        str | None, typer.Option("--from", help="What they were built from, if not from Debian.")
    ] = None,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="The registry has no TLS.")
    ] = False,
    tag: Annotated[
        str | None,
        typer.Option(help="The tag of all of them; by default one that other images never have."),
    ] = None,
    values: Annotated[
        Path | None, typer.Option(help="Write the chart's values for them to this file.")
    ] = None,
) -> None:
    """Push built images to a registry, for a cluster; log in with podman login."""
    console = Console()
    try:
        lines = PushLines(console)
        pushed = push(
            _podman(), IMAGES, names or [], to, lines, plain_http=plain_http, base=base, tag=tag
        )
        if not pushed:
            raise BuildError(Text("No image is built yet. Run: studovna images build"), "")
        told = chart_values(to, pushed[0].tag, [one.name for one in pushed])
        if values is not None:
            values.write_text(told)
    except (SettingsError, BuildError, PodmanError) as error:
        raise _fail(error) from None
    except OSError as error:
        Console(stderr=True).print(f"{values}: {error.strerror}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    text = Text("In the chart's values (helm upgrade … -f {file}):", file=values or "FILE")
    console.print(f"{text}\n\n{told}", markup=False, highlight=False, soft_wrap=True, end="")
