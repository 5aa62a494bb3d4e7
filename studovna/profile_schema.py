"""The schema of ``profiles/*.yaml``: what people can start, and what it sets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .auth import GroupName
from .fields import (
    ContainerPath,
    Cores,
    CoresOrValue,
    EnvName,
    ImageName,
    Localised,
    Memory,
    MemoryOrValue,
    Pattern,
    Plain,
    ResourceName,
    Settings,
    Slug,
)

CATEGORIES: dict[str, Localised] = {
    slug: Localised(en=en, cs=cs)
    for slug, en, cs in (
        ("notebooks", "Notebooks", "Notebooky"),
        ("r", "R", "R"),
        ("desktops", "Desktops", "Desktopy"),
        ("gpu", "GPU", "GPU"),
        ("own", "Your own", "Vlastní"),
        ("binder", "Binder", "Binder"),
    )
}
"""The titles of the categories that need none of their own."""

SIDECAR_IMAGE = "sidecar"
"""The folder of images/ of what checks the sign-in before an application."""
SIDECAR_PORT = 18888
"""Where that listens: a port that applications do not have by themselves."""
WEB_PORTS = range(1024, 65536)
"""Where an application may listen: a user without rights cannot have those below."""


class CPU(Settings):
    """Cores."""

    request: Cores | None = None
    """What the server is guaranteed; counts for the project's requests."""
    limit: Cores | None = None
    """What the server may use; counts for the project's limits."""


class MemoryRange(Settings):
    """Memory."""

    request: Memory | None = None
    """What the server is guaranteed; counts for the project's requests."""
    limit: Memory | None = None
    """What the server may use; counts for the project's limits."""


class GPU(Settings):
    """GPUs."""

    resource: ResourceName = "nvidia.com/gpu"
    """The Kubernetes resource: nvidia.com/gpu, nvidia.com/mig-1g.10gb, …; any: what is there."""
    count: Annotated[int, Field(ge=1, le=64)] = 1
    """How many."""


class CPUOrValue(Settings):
    """Cores; ``{value}`` is what the person typed."""

    request: CoresOrValue | None = None
    """What the server is guaranteed; counts for the project's requests."""
    limit: CoresOrValue | None = None
    """What the server may use; counts for the project's limits."""


class MemoryRangeOrValue(Settings):
    """Memory; ``{value}`` is what the person typed, with its unit."""

    request: MemoryOrValue | None = None
    """What the server is guaranteed; counts for the project's requests."""
    limit: MemoryOrValue | None = None
    """What the server may use; counts for the project's limits."""


class GPUOrValue(Settings):
    """GPUs; ``{value}`` is what the person typed."""

    resource: ResourceName = "nvidia.com/gpu"
    """The Kubernetes resource: nvidia.com/gpu, nvidia.com/mig-1g.10gb, …; any: what is there."""
    count: Annotated[int, Field(ge=1, le=64)] | Literal["{value}"] = 1
    """How many."""


class Toleration(Settings):
    """A Kubernetes toleration."""

    key: Annotated[str, Field(max_length=253)] | None = None
    """The taint's key; null: every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; null: every effect."""


class Application(Settings):
    """What a desktop runs instead of a whole desktop: one application in the full window."""

    title: Annotated[Plain, Field(max_length=80)]
    """Its name, for the sentences of its window."""
    command: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1000)]],
        Field(min_length=1, max_length=100),
    ]
    """The program and its arguments."""
    folder: ContainerPath | None = None
    """Where it starts; null: the home."""
    needs: Annotated[list[ContainerPath], Field(max_length=20)] = []
    """Files that must be there, such as the program on its volume; the window names one that is
    missing."""


WebPort = Annotated[int, Field(ge=WEB_PORTS.start, lt=WEB_PORTS.stop)]
WebPrefix = Literal["strip", "keep"]
Command = Annotated[list[str], Field(min_length=1, max_length=100)]


class Web(Settings):
    """An application that serves HTTP itself and is no Jupyter server. The hub's sign-in stands
    before it, in a container of its own."""

    port: WebPort | None = None
    """The port on which it listens."""
    prefix: WebPrefix | None = None
    """strip (default): it sees the paths of its own root, and X-Forwarded-Prefix. keep: it sees
    paths as the browser does, below $(JUPYTERHUB_SERVICE_PREFIX)."""


class WebOrValue(Settings):
    """An application that serves HTTP itself; ``{value}`` is what the person typed."""

    port: WebPort | Literal["{value}"] | None = None
    """The port on which it listens."""
    prefix: WebPrefix | None = None
    """strip (default): it sees the paths of its own root, and X-Forwarded-Prefix. keep: it sees
    paths as the browser does, below $(JUPYTERHUB_SERVICE_PREFIX)."""


class _CommonEffects(Settings):
    env: dict[EnvName, Annotated[str, Field(max_length=10_000)]] | None = None
    """Environment variables."""
    default_url: Annotated[str, Field(pattern=r"^/[^\s]{0,500}$")] | None = None
    """What opens first, such as /lab or /rstudio."""
    application: Application | None = None
    """The one application that an image with a desktop runs; null: the whole desktop."""
    licences: Annotated[list[Slug], Field(max_length=10)] | None = None
    """Licence servers of the site (`licences` of the site file) whose variables are set; whether
    they answer is tried before each start."""
    volumes: dict[ContainerPath, Slug] | None = None
    """Volumes of the site (`volumes` of the site file) to mount, read-only, by path."""
    home: Literal["person", "server", "none"] | None = None
    """Whose home is mounted: the person's (default), one of the server's own, or none."""
    node_selector: dict[str, str] | None = None
    """Kubernetes node labels that the server's node must have."""
    tolerations: list[Toleration] | None = None
    """Kubernetes taints that the server may run in spite of."""
    walltime_hours: Annotated[float, Field(gt=0, le=24 * 366)] | None = None
    """The server is ended after so many hours, used or not."""
    answer_seconds: Annotated[int, Field(ge=5, le=7200)] | None = None
    """How long a started server may take until it answers (default 120); then it is ended."""


class Effects(_CommonEffects):
    """What a profile or a choice sets. What a choice sets replaces what the profile sets."""

    image: ImageName | None = None
    """The image: the name of a folder in images/, or a full reference."""
    cpu: CPU | None = None
    """Cores."""
    memory: MemoryRange | None = None
    """Memory."""
    gpu: GPU | None = None
    """GPUs."""
    shm: Memory | None = None
    """The size of /dev/shm. It is a part of the server's memory."""
    command: Command | None = None
    """The command, instead of the image's own."""
    web: Web | None = None
    """What the image runs is no Jupyter server: an application that serves HTTP itself."""


class UnlistedEffects(_CommonEffects):
    """What a typed value sets; ``{value}`` stands for it."""

    image: ImageName | Literal["{value}"] | None = None
    """The image: {value}, the name of a folder in images/, or a full reference."""
    cpu: CPUOrValue | None = None
    """Cores."""
    memory: MemoryRangeOrValue | None = None
    """Memory."""
    gpu: GPUOrValue | None = None
    """GPUs."""
    shm: MemoryOrValue | None = None
    """The size of /dev/shm. It is a part of the server's memory."""
    command: Command | Literal["{value}"] | None = None
    """The command, instead of the image's own; {value}: the text, split into words as a shell does,
    and no shell sees it."""
    web: WebOrValue | None = None
    """What the image runs is no Jupyter server: an application that serves HTTP itself."""


class Choice(Effects):
    """One choice of an option."""

    title: Localised
    """The choice's name, as people see it."""
    description: Localised | None = None
    """A line about it."""
    default: bool = False
    """Whether it is chosen when the person chooses nothing; else the first choice is."""


class Unlisted(UnlistedEffects):
    """A value that the person types."""

    title: Localised
    """The field's name, as people see it."""
    pattern: Pattern
    """What may be typed: a regular expression that matches the whole text (without ^ and $)."""
    message: Localised
    """What to type, shown with the field and when the text is refused."""
    max_length: Annotated[int, Field(ge=1, le=4000)] = 255
    """How many characters may be typed."""
    placeholder: Annotated[str, Field(max_length=200)] = ""
    """An example, shown in the empty field."""
    own_registry: bool = False
    """The text is an image, and only one that this site's Binder has built is let in."""


class Option(Settings):
    """One thing to choose."""

    title: Localised
    """The option's name, as people see it."""
    description: Localised | None = None
    """A line about it."""
    choices: dict[Slug, Choice] = {}
    """The choices, in the order of the page."""
    unlisted: Unlisted | None = None
    """A value that the person may type instead; without choices, must type."""


class Access(Settings):
    """Who may start the profile."""

    groups: list[GroupName] = []
    """Only people in one of these groups; empty: everyone."""


class Profile(Effects):
    """One thing that people can start."""

    title: Localised
    """The profile's name, as people see it."""
    description: Localised | None = None
    """A sentence about it."""
    category: Slug = "notebooks"
    """Where it stands on the page: notebooks, r, desktops, gpu, own, binder, or your own word."""
    category_title: Localised | None = None
    """The category's name, for a word of your own."""
    icon: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")] = "cube"
    """The name of a Font Awesome 6 icon."""
    order: int = 100
    """Smaller comes first; the file's name decides between equals."""
    default: bool = False
    """Whether it is the one that is already chosen on the page."""
    hidden: bool = False
    """Not on the page; still started by a link, by Binder and by the REST API."""
    access: Access = Access.model_construct()
    """Who may start it."""
    jobs: bool = False
    """The server may run jobs beside it, as Snakemake does: on a cluster where each person has a
    namespace and the chart allows it (rbac.jobs); elsewhere this says nothing."""
    options: dict[Slug, Option] = {}
    """What the person can choose, in the order of the page."""


def default_choice(option: Option) -> str | None:
    """The choice taken when the person chooses nothing; None when a value must be typed."""
    marked = [slug for slug, choice in option.choices.items() if choice.default]
    return next(iter(marked or option.choices), None)
