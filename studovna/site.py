"""The site's settings: the schema of ``site.yaml`` and its loading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PrivateAttr

from . import ssh_key
from .auth import Auth, SharedPassword, auth_rules, with_type
from .catalogue import catalogue_rules
from .cluster_settings import Cluster
from .fields import ContainerPath, Cores, EnvName, Localised, Memory, Pattern, Plain, Settings, Slug
from .problems import Problem, SettingsError, read_yaml, validate, wrong

GIB = 1024**3
PODMAN_IMAGES = "localhost/studovna"

Rule = tuple[tuple[str | int, ...], str, str]
"""A broken rule over several keys: where, what is wrong, what would be right."""


def _bind(value: object) -> object:
    expected = 'an address and a port, such as "127.0.0.1:8000" or "[::]:8000"'
    if isinstance(value, str):
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([0-9.]{7,15})):([0-9]{1,5})", value)
        try:
            if match is None or not 0 < int(match[3]) < 65536:
                raise ValueError
            ip_address(match[1] or match[2])
        except ValueError:
            raise wrong(f'The text "{value[:60]}" is no address', expected) from None
    return value


def _public_url(value: object) -> object:
    expected = 'an address without a path, such as "https://hub.example.org"'
    if isinstance(value, str):
        pattern = r"https?://([A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:]{2,39}\])(:[0-9]{1,5})?/?"
        if not re.fullmatch(pattern, value):
            raise wrong(f'The text "{value[:60]}" is no public address', expected)
    return value


Hours = Annotated[float, Field(gt=0, le=24 * 366)]
Count = Annotated[int, Field(ge=1, le=1000)]
FilePath = Annotated[str, Field(min_length=1, max_length=1000)]


class Resources(Settings):
    """An amount of CPU and memory."""

    cpu: Cores
    """Cores."""
    memory: Memory
    """Memory, with a unit."""


class Project(Settings):
    """The quota of each person's own project, over all their running servers."""

    requests: Resources = Resources.model_construct(cpu=20.0, memory=40 * GIB)
    """What the servers are guaranteed together, at most."""
    limits: Resources = Resources.model_construct(cpu=32.0, memory=64 * GIB)
    """What the servers may use together, at most."""
    servers: Count = 5
    """How many servers a person may run at once."""


class Servers(Settings):
    """When servers are stopped. Homes are always kept."""

    idle_hours: Hours | None = 24.0
    """A server unused for so many hours is stopped; null: never."""
    max_age_hours: Hours | None = None
    """A server is stopped after so many hours even when it is used; null: never."""


class Storage(Settings):
    """Where homes live."""

    home_size: Memory = 10 * GIB
    """The size of a new home. A cluster's storage holds people to it; with podman it is only noted,
    and who fills the disk of the machine fills it for everyone."""
    storage_class: str | None = Field(
        default=None,
        alias="class",
        max_length=253,
        description="The Kubernetes storage class of homes; null: the cluster's default.",
    )
    access_modes: Annotated[
        list[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]], Field(min_length=1)
    ] = ["ReadWriteOnce"]
    """The Kubernetes access modes of homes."""


class Binder(Settings):
    """Binder: servers from git repositories."""

    enabled: bool = True
    """Whether the site offers Binder."""
    allow_hosts: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\[\]_-]{1,253}$")]] = []
    """Hosts inside the site's own network that repositories may be fetched from."""
    allow_repositories: list[Pattern] = []
    """Only repositories are built whose plain name matches one of these patterns as a whole, such
    as `owner/repository/ref` or `https://host/path/ref`; empty: all."""
    ban_repositories: list[Pattern] = []
    """Repositories whose name matches one of these patterns are never built."""
    ssh_key_file: FilePath | None = None
    """The private key that reads repositories by ssh, beside the site file or absolute; null: none.
    Everyone at the site can then build what it can read."""
    ssh_known_hosts_file: FilePath | None = None
    """The known_hosts file with the keys of the hosts that are read by ssh; no other is trusted."""
    servers: Count = 5
    """How many Binder servers a person may run at once."""
    servers_per_repository: Count | None = None
    """How many servers of one repository may run at once, of all people; null: any number."""
    idle_days: Annotated[float, Field(gt=0, le=366)] = 7.0
    """A Binder server unused for so many days is removed. Files in the home are kept."""
    concurrent_builds: Annotated[int, Field(ge=1, le=256)] = 4
    """How many images are built at once; further builds wait."""
    builds_per_hour: Annotated[int, Field(ge=1, le=10_000)] = 30
    """How many builds a person may start in an hour."""
    build_cpu: Cores = 2.0
    """Cores that one build may use."""
    build_memory: Memory = 4 * GIB
    """Memory that one build may use."""
    build_minutes: Annotated[float, Field(gt=0, le=24 * 60)] = 30.0
    """A build that takes longer is ended."""
    build_log: Memory = 8 * 1024**2
    """How much of a build's log is kept."""
    image_disk: Memory = 50 * GIB
    """How much disk the built images may take; the least recently used ones are removed."""
    dockerfiles: bool = False
    """Whether repositories are built that need a builder, with repo2docker: Dockerfile, apt.txt,
    conda, R, Julia, Nix. On one machine their steps run as root of a container of podman; on a
    cluster in a namespace of their own, which is the one that is not under *restricted*."""


class Volume(Settings):
    """Files that servers read and never change, such as a vendor's programs."""

    path: ContainerPath | None = None
    """With podman: a folder of this machine."""
    claim: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")] | None = None
    """With Kubernetes: a PersistentVolumeClaim in the servers' namespace, ReadOnlyMany or
    ReadWriteMany."""


LicenceAddress = Annotated[str, Field(pattern=r"^[^\s{}]{1,1000}$")]


class Registry(Settings):
    """A registry of one's own for the images that Binder builds."""

    url: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\[\]:-]{1,260}/?$")]
    """The registry's address, such as https://registry.example.org."""
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]{0,100}$")] = "binder"
    """What the names of built images begin with."""
    username: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Who signs in there; null: nobody needs to."""
    password_file: FilePath | None = None
    """The file that holds the password, beside the site file or absolute."""


class Site(Settings):
    """One installation of Studovna. Every key has a default: an empty file is a working site."""

    name: Annotated[Plain, Field(max_length=80)] = "Studovna"
    """The site's name, as people see it."""
    announcement: Localised | None = None
    """A notice on every page, as plain text."""
    bind: Annotated[str, BeforeValidator(_bind)] = "127.0.0.1:8000"
    """The address and port that people's browsers connect to."""
    public_url: Annotated[str, BeforeValidator(_public_url)] | None = None
    """The address people use when something stands in front of `bind`; for links and cookies."""
    auth: Annotated[Auth, BeforeValidator(with_type)] = SharedPassword.model_construct()
    """How people sign in."""
    groups: dict[Slug, list[str]] = {}
    """Who is in which group: profiles can be for some groups only. Only this file counts, from the
    next start of the hub on; groups that an admin changes in the hub open no profile."""
    project: Project = Project.model_construct()
    """The quota of each person's own project, over all their running servers."""
    servers: Servers = Servers.model_construct()
    """When servers are stopped."""
    engine: Literal["podman", "kubernetes"] = "podman"
    """What runs the servers: podman on this machine, or the Kubernetes cluster it runs in."""
    images: Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9.:/_-]{0,200}[a-z0-9]$")] = (
        PODMAN_IMAGES
    )
    """Where the images live that profiles name by their folder: `lab` is `<images>/lab:latest`, or
    with the tag `cluster.image_tag` on a cluster."""
    cluster: Cluster = Cluster.model_construct()
    """What only a Kubernetes cluster knows; unused with podman."""
    storage: Storage = Storage.model_construct()
    """Where homes live."""
    licences: dict[Slug, dict[EnvName, LicenceAddress]] = {}
    """Licence servers that profiles name: for each the variables that programs read, such as
    `matlab: {MLM_LICENSE_FILE: 27000@licence.example.org}`."""
    volumes: dict[Slug, Volume] = {}
    """Files that profiles mount read-only, such as the folder of a vendor's programs."""
    profiles: FilePath = "profiles"
    """The folder of the profiles, beside the site file or absolute."""
    catalogue: list[Slug] = []
    """Ready profiles of this distribution to offer as well, by name: applications such as
    streamlit or tensorboard, which are off otherwise."""
    binder: Binder = Binder.model_construct()
    """Binder: servers from git repositories."""
    registry: Registry | None = None
    """The registry for built images; null: the one that comes with Studovna, on this machine."""

    _file: Path = PrivateAttr(default=Path("site.yaml"))

    @property
    def file(self) -> Path:
        """The file that the settings came from."""
        return self._file

    def path(self, value: str) -> Path:
        """A path of the settings: relative ones start at the site file's folder."""
        return self._file.resolve().parent / value

    @property
    def profiles_folder(self) -> Path:
        """The folder of the profiles."""
        return self.path(self.profiles)

    @property
    def bind_address(self) -> tuple[str, int]:
        """The address (without brackets) and the port of ``bind``."""
        host, _, port = self.bind.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def url(self) -> str:
        """The address people use, without a slash at the end."""
        if self.public_url:
            return self.public_url.rstrip("/")
        host, port = self.bind_address
        ip = ip_address(host)
        if ip.is_loopback or ip.is_unspecified:
            return f"http://localhost:{port}"
        return f"http://{self.bind}"

    @property
    def https(self) -> bool:
        """Whether people come by https, so that cookies are for https only."""
        return urlsplit(self.url).scheme == "https"

    @property
    def folders(self) -> list[Path]:
        """The folders of this machine that volumes are."""
        return [Path(one.path) for one in self.volumes.values() if one.path is not None]

    def is_username(self, name: str) -> bool:
        """Whether the site lets this user name in."""
        return re.fullmatch(self.auth.username_pattern, name) is not None

    def groups_of(self, name: str) -> set[str]:
        """The groups of a person; user names are in lower case, however the file spells them."""
        return {
            group
            for group, members in self.groups.items()
            if name in (member.lower() for member in members)
        }

    def image_reference(self, image: str) -> str:
        """The full reference of an image that a profile names by folder or by reference."""
        tag = self.cluster.image_tag if self.engine == "kubernetes" else "latest"
        return image if "/" in image else f"{self.images}/{image}:{tag}"


def site_rules(site: Site) -> Iterator[Rule]:
    """The rules that hold over several keys; each broken one names them all."""
    for kind in ("cpu", "memory"):
        if getattr(site.project.requests, kind) > getattr(site.project.limits, kind):
            yield (
                ("project", "requests", kind),
                f"project.requests.{kind} is more than project.limits.{kind}",
                f"a request of at most project.limits.{kind}",
            )
    if site.engine == "kubernetes" and site.images == PODMAN_IMAGES:
        yield (
            ("images",),
            "engine: kubernetes cannot pull images from localhost; images is not set",
            "the registry and folder that hold this site's images",
        )
    wanted, other = ("claim", "path") if site.engine == "kubernetes" else ("path", "claim")
    for name, volume in site.volumes.items():
        if getattr(volume, wanted) is None or getattr(volume, other) is not None:
            yield (
                ("volumes", name),
                f"With engine: {site.engine} a volume is a {wanted}",
                f"{wanted}, and no {other}",
            )
    if site.volumes and site.cluster.namespaces == "person":
        yield (
            ("volumes",),
            "A claim is in one namespace, and cluster.namespaces: person gives each person another",
            "cluster.namespaces: shared, or no volumes",
        )
    yield from catalogue_rules(site.catalogue)
    if site.registry is not None:
        user, file = site.registry.username, site.registry.password_file
        if (user is None) != (file is None):
            lacking = "username" if user is None else "password_file"
            yield (
                ("registry", lacking),
                "registry.username and registry.password_file belong together; one is missing",
                "both or neither",
            )
        if file is not None and not site.path(file).is_file():
            yield (
                ("registry", "password_file"),
                f"There is no file {site.path(file)}",
                "a file that holds the password",
            )


def ssh_rules(site: Site) -> Iterator[Rule]:
    """The rules on the key for repositories by ssh."""
    key, hosts = site.binder.ssh_key_file, site.binder.ssh_known_hosts_file
    if (key is None) != (hosts is None):
        lacking = "ssh_key_file" if key is None else "ssh_known_hosts_file"
        yield (
            ("binder", lacking),
            "binder.ssh_key_file and binder.ssh_known_hosts_file belong together; one is missing",
            "both or neither",
        )
    if key is not None and (found := ssh_key.wrong_with_key(site.path(key))):
        yield (("binder", "ssh_key_file"), *found)
    if hosts is not None and (found := ssh_key.wrong_with_known_hosts(site.path(hosts))):
        yield (("binder", "ssh_known_hosts_file"), *found)


def load_site(path: Path) -> Site:
    """Read and check the site's settings. Raises SettingsError with every problem.

    >>> load_site(Path("site.yaml")).name
    'Studovna'
    """
    document = read_yaml(path)
    site = validate(Site, document)
    site._file = path
    rules = (*site_rules(site), *auth_rules(site), *ssh_rules(site))
    problems = [document.problem(*rule) for rule in rules]
    if problems:
        raise SettingsError(problems)
    return site


def check(path: Path) -> list[Problem]:
    """Every problem of the site's settings and of its profiles."""
    from .profiles import load_profiles

    try:
        site = load_site(path)
        load_profiles(site.profiles_folder, site)
    except SettingsError as error:
        return error.problems
    return []
