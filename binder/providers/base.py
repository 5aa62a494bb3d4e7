"""What a repository provider is: a spec from a link in, one exact version of a repository out."""

from __future__ import annotations

import logging
import re
import urllib.parse
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from traitlets import Dict, List, Unicode
from traitlets.config import LoggingConfigurable

from studovna.text import Text

from ..errors import Refused
from .addresses import AddressRules

MAX_SPEC = 2000  # characters of the escaped spec; the longest honest one is a few hundred

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NEVER = re.compile(r"[<>\"'`\\{}|^\s]")
_REF = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]{1,255}")


class NeedsToken(Refused):
    """The host lets nobody see the repository who sends no (or this) token."""

    status = 404


@dataclass(frozen=True)
class Credential:
    """A person's or the site's access to one git host. Its text never shows what is in it."""

    username: str = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Source:
    """What a spec names, before anything was asked of the network.

    ``url`` is what people call the repository's address; ``ref`` is a branch, a tag or a commit,
    empty where the provider has none (a DOI).
    """

    provider: str
    spec: str
    url: str
    ref: str


@dataclass(frozen=True)
class Resolved:
    """One exact version of a repository.

    ``ref`` is the whole commit (40 or 64 hex digits) or the record's version; ``slug`` names the
    repository in image names; ``fetch_url`` is where the contents are really fetched from (after
    redirects), with the git settings that pin it to the checked addresses; ``credential`` is for
    that fetch alone. ``private``: it was a person's own token that opened the repository.
    """

    source: Source
    ref: str
    ref_url: str
    resolved_spec: str
    slug: str
    fetch_url: str
    git_config: tuple[tuple[str, str], ...] = ()
    credential: Credential | None = None
    private: bool = False

    @property
    def repo_url(self) -> str:
        return self.source.url


def unescape(part: str) -> str:
    """Percent-decode one part of a spec. Raises Refused on what is no UTF-8."""
    try:
        return urllib.parse.unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise Refused(Text("The link holds characters that are not valid UTF-8.")) from None


def check_spec(spec: str) -> str:
    """The spec, free of what no provider can mean. Raises Refused with what is wrong.

    Looks at the decoded text too, so an escaped ``..`` or NUL is the same as a bare one.
    """
    if len(spec) > MAX_SPEC:
        raise Refused(
            Text(
                "The link is too long: {length} characters, where at most {limit} are allowed.",
                length=len(spec),
                limit=MAX_SPEC,
            ),
            status=414,
        )
    decoded = unescape(spec)
    if _UNPRINTABLE.search(decoded):
        raise Refused(Text("The link holds a control character."))
    if _NEVER.search(decoded):
        raise Refused(
            Text(
                "The link holds a character that no repository address has (such as < or a space)."
            )
        )
    for part in re.split(r"[/:]", decoded):
        if part in (".", ".."):
            raise Refused(Text('The link holds "{part}" as a part of its path.', part=part))
    return spec


def check_ref(ref: str) -> str:
    """A branch, tag or commit as git's own rules allow it. Raises Refused otherwise."""
    wrong = (
        not _REF.fullmatch(ref)
        or ref.startswith(("-", "/", "."))
        or ref.endswith(("/", ".", ".lock"))
        or any(bad in ref for bad in ("..", "//", "/.", "@{"))
    )
    if wrong:
        raise Refused(
            Text('"{ref}" is not a name that a branch, a tag or a commit can have.', ref=ref[:100])
        )
    return ref


def check_name(name: str) -> str:
    """One name of a forge's path (a user, a repository). Raises Refused otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,199}", name) or name in (".", ".."):
        raise Refused(
            Text('"{name}" cannot be the name of a user, a group or a repository.', name=name[:100])
        )
    return name


def plain_path(path: str) -> str:
    """A path as hosts read it, in one spelling: no escapes, single slashes, no ``.git``.

    >>> plain_path("/u//r%252Fs.git/")
    '/u/r/s'
    """
    while (decoded := urllib.parse.unquote(path)) != path:
        path = decoded
    path = re.sub(r"/+", "/", path).rstrip("/")
    while path.lower().endswith(".git"):
        path = path[:-4].rstrip("/")
    return path


class RepoProvider(LoggingConfigurable):
    """One place that repositories come from. There is one object per provider, not per request."""

    name: ClassVar[str] = ""
    display_config: ClassVar[dict[str, Any]] = {}

    allowed_specs = List(
        Unicode(),
        help="""
        Patterns of the repositories that are built; empty: all that are not banned.

        Each must match all of what stands in a link after the provider, in any case of letters:
        "owner/repository/ref", "group/project/ref", "https://host/path/ref", a DOI. However a link
        spells it, it is compared without escapes, default ports, double slashes and ".git".
        """,
    ).tag(config=True)
    banned_specs = List(
        Unicode(),
        help="""
        Patterns of the repositories that are never built, compared as allowed_specs are.
        """,
    ).tag(config=True)
    high_quota_specs = List(
        Unicode(),
        help="Patterns of the specs for which per_repo_quota_higher counts.",
    ).tag(config=True)
    spec_config = List(
        Dict(),
        help="""
        Settings for some repositories: a list of {"pattern": …, "config": {"quota": …}}.

        A later entry that matches wins over an earlier one.
        """,
    ).tag(config=True)
    git_credentials = Unicode(
        "",
        help=r"""
        The site's own access to this provider, as lines of git's credential protocol:
        "username=…\npassword=…". Everyone at the site can then build what it can read. It is sent
        to no other host than the provider's own; the provider "git" has none, and needs a line
        "host=…" (with ":port" where the addresses have one).
        """,
    ).tag(config=True)

    def __init__(self, prefix: str, rules: AddressRules, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prefix = prefix
        self.rules = rules

    @abstractmethod
    def parse(self, spec: str) -> Source:
        """What the raw, still escaped spec names. Pure. Raises Refused."""

    @abstractmethod
    async def resolve(self, source: Source, credential: Credential | None = None) -> Resolved:
        """The exact version that the source has now.

        Always asks the repository's host, so that whoever gets an answer may read the repository.
        Raises Refused (the address is not allowed, nothing there) or Failed (the host fails).
        """

    def credential_host(self, source: Source) -> str:
        """The host for which a person's stored token is looked up; empty: none is ever used."""
        return ""

    def names(self, source: Source, url: str = "") -> list[str]:
        """What patterns may call a source, its plainest name first.

        ``url`` is where it was found to be, when a redirect led there.
        """
        del url
        return [source.url]

    def other_names(self, source: Source, url: str = "") -> list[str]:
        """What else leads to the source, or may: who bans one of them means all."""
        del url
        return [source.spec, unescape(source.spec)]

    def is_banned(self, names: Iterable[str]) -> bool:
        """Whether the site refuses what has one of these names."""
        return any(_matches(pattern, name) for name in names for pattern in self.banned_specs)

    def is_allowed(self, names: Iterable[str]) -> bool:
        """Whether it is among what the site builds."""
        allowed = self.allowed_specs
        return not allowed or any(_matches(pattern, name) for name in names for pattern in allowed)

    def quota(self, names: Iterable[str], usual: int, higher: int) -> int:
        """How many servers of this repository may run at once; 0: any number."""
        names = list(names)
        limit = usual
        if any(_matches(pattern, name) for name in names for pattern in self.high_quota_specs):
            limit = higher
        for entry in self.spec_config:
            if any(_matches(str(entry.get("pattern", "")), name) for name in names):
                limit = int(entry.get("config", {}).get("quota", limit))
        return limit

    def site_credential(self) -> Credential | None:
        """The site's own access, from ``git_credentials``."""
        lines = self.credential_lines()
        if "password" not in lines:
            return None
        return Credential(lines.get("username", ""), lines["password"])

    def credential_lines(self) -> dict[str, str]:
        """The lines of ``git_credentials``."""
        text = self.git_credentials.replace("\\n", "\n")
        return dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)


def _matches(pattern: str, spec: str) -> bool:
    """Full match, without regard to case: forges take User/Repo and user/repo for one."""
    try:
        return re.fullmatch(pattern, spec, re.IGNORECASE) is not None
    except re.error as error:
        logging.getLogger(__name__).error("The pattern %r cannot be read: %s", pattern, error)
        return False


def image_slug(slug: str) -> str:
    """A readable part of an image name: lower case, digits, single hyphens; at most 60 long."""
    return re.sub(r"[^a-z0-9]+", "-", slug.lower())[:60].strip("-") or "repository"
