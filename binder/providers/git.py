"""Repositories that git itself can ask: resolving a branch, tag or commit with ``git ls-remote``.

One way for every git host: it needs no API, no rate-limited token, and whoever gets an answer may
read the repository. The link decides what is asked, so everything that could turn into more than
that is shut: protocols, options, redirects, addresses, prompts, time and the size of the answer.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import re
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from traitlets import Set, Unicode

from studovna.text import Text

from ..errors import BinderError, Failed, Refused
from .addresses import AddressRules, is_host, resolve
from .base import (
    Credential,
    NeedsToken,
    RepoProvider,
    Resolved,
    Source,
    check_ref,
    check_spec,
    plain_path,
    unescape,
)
from .lookup import lookup, out_of_order, rate_limited
from .ssh import explain_ssh, last_line, public_key, ssh_command

GIT_TIMEOUT = 30.0  # seconds
MAX_ANSWER = 1024 * 1024  # bytes
MAX_REDIRECTS = 5

PORTS = {"http": 80, "https": 443, "ssh": 22, "git": 9418}
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_SCP_LIKE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)@([A-Za-z0-9_.-]+):(?!//)(.+)")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_PASSED_ON = ("PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_STATUS = re.compile(r"returned error: ([0-9]{3})\b")
_REDIRECTED = re.compile(r"error: 30[12378]|redirect", re.IGNORECASE)


@dataclass(frozen=True)
class GitAddress:
    """A git URL in its parts. ``user`` only for ssh; ``path`` begins with a slash."""

    scheme: str
    user: str
    host: str
    port: int | None
    path: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{user}{host}{port}{self.path}"

    @property
    def number(self) -> int:
        """The port that is connected to."""
        return self.port or PORTS[self.scheme]


def parse_address(text: str, protocols: Iterable[str] = PORTS) -> GitAddress:
    """A git URL, or the short form ``user@host:path`` for ssh. Raises Refused with what is wrong.

    >>> parse_address("git@example.org:lab/notes.git").url
    'ssh://git@example.org/lab/notes.git'
    """
    short = _SCP_LIKE.fullmatch(text) if "://" not in text else None
    if short:
        text = f"ssh://{short[1]}@{short[2]}/{short[3].lstrip('/')}"
    allowed = sorted(protocols)
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme not in allowed:
        raise Refused(
            Text(
                '"{url}" is not an address that repositories are fetched from: it must begin '
                "with {protocols}.",
                url=text[:100],
                protocols=", ".join(f"{name}://" for name in allowed),
            )
        )
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        raise Refused(Text('"{url}" is not a complete address.', url=text[:100])) from None
    if not is_host(host) or port == 0:
        raise Refused(Text('"{url}" names no host.', url=text[:100]))
    if parts.query or parts.fragment:
        raise Refused(Text('"{url}" has a query or a fragment.', url=text[:100]))
    user = parts.username or ""
    if parts.password is not None or (user and scheme != "ssh"):
        raise Refused(
            Text(
                "The link holds a user name or a password. Links are shared and logged: give the "
                "token on the page for private repositories instead.",
            )
        )
    if user and not _USER.fullmatch(user):
        raise Refused(Text('"{user}" cannot be a user name.', user=user[:100]))
    host = host.rstrip(".")
    path = parts.path.rstrip("/")
    if not path.strip("/"):
        raise Refused(Text('"{url}" names a host but no repository.', url=text[:100]))
    both = [*path.split("/"), *plain_path(path).split("/")]
    if any(part in (".", "..") or part.startswith("-") for part in both):
        raise Refused(Text('"{url}" has a path that no repository has.', url=text[:100]))
    if port == PORTS[scheme]:
        port = None
    return GitAddress(scheme, user or ("git" if scheme == "ssh" else ""), host, port, path)


def pick_commit(answer: str, ref: str) -> str | None:
    """The commit of a ref in the output of ``git ls-remote``, by git's own precedence.

    A tag that is an object of its own stands for the commit it points to. None: no such ref.
    """
    commits = {}
    for line in answer.splitlines():
        commit, _, name = line.partition("\t")
        if COMMIT.fullmatch(commit):
            commits[name] = commit
    for name in ref_names(ref):
        if name in commits:
            return commits[name]
    return None


def ref_names(ref: str) -> list[str]:
    """Where a ref may stand, the best place first."""
    if ref == "HEAD":
        return ["HEAD"]
    full = [f"{ref}^{{}}", ref] if ref.startswith("refs/") else []
    return [*full, f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/{ref}"]


class GitRepoProvider(RepoProvider):
    """Any git repository: ``<escaped url>/<ref>``."""

    name: ClassVar[str] = "Git"
    display_config: ClassVar[dict[str, Any]] = {
        "displayName": "Git repository",
        "id": "git",
        "spec": {"validateRegex": r"[^/]+/.+"},
        "repo": {
            "label": "Git repository URL",
            "placeholder": "https://git.example.org/group/repository",
            "urlEncode": True,
        },
        "ref": {"enabled": True, "default": "HEAD"},
    }

    allowed_protocols = Set(
        Unicode(),
        default_value={"http", "https", "git", "ssh"},
        help="The protocols that repositories may be fetched with.",
    ).tag(config=True)
    ssh_key_file = Unicode(
        "", help="The site's private key for repositories by ssh; empty: those are refused."
    ).tag(config=True)
    ssh_known_hosts_file = Unicode(
        "", help="The known_hosts file of the hosts that are read by ssh; no other is trusted."
    ).tag(config=True)

    def __init__(self, prefix: str, rules: AddressRules, **kwargs: Any) -> None:
        super().__init__(prefix, rules, **kwargs)
        lines = self.credential_lines()
        if "password" in lines and not (lines.get("host") or self.own_host):
            self.log.error("git_credentials of %r name no host=: they are sent nowhere", prefix)

    @property
    def own_host(self) -> str:
        """The one host of this provider; empty where links may name any."""
        return ""

    def credential_for(self, address: GitAddress) -> Credential | None:
        """The site's own access to this address; None for a host that it is not meant for."""
        lines = self.credential_lines()
        host = f"[{address.host}]" if ":" in address.host else address.host
        host = f"{host}:{address.port}" if address.port else host
        meant = lines.get("host", "").lower() or self.own_host.lower()
        if host != meant or lines.get("protocol", address.scheme) != address.scheme:
            return None
        return self.site_credential()

    def parse(self, spec: str) -> Source:
        check_spec(spec)
        escaped, slash, ref = spec.partition("/")
        if not slash or not ref:
            raise Refused(
                Text(
                    'The link "{spec}" is not of the form {form}.',
                    spec=spec[:100],
                    form="https%3A%2F%2Fhost%2Fpath/ref",
                )
            )
        protocols = set(PORTS) & set(self.allowed_protocols)
        address = parse_address(unescape(escaped), protocols)
        return Source(self.prefix, spec, address.url, check_ref(unescape(ref)))

    def names(self, source: Source, url: str = "") -> list[str]:
        address = parse_address(url or source.url)
        address = replace(address, path=plain_path(address.path))
        found = [address.url]
        if address.host == self.own_host.lower() and not address.port:
            found.insert(0, address.path.lstrip("/"))
        escaped = [urllib.parse.quote(one, safe="") for one in found]
        return [f"{one}/{source.ref}" for one in dict.fromkeys([*found, *escaped])]

    def other_names(self, source: Source, url: str = "") -> list[str]:
        """The same path by every protocol: hosts offer more than one."""
        address = parse_address(url or source.url)
        path = plain_path(address.path)
        user = address.user or "git"
        found = [f"{name}://{address.host}{path}" for name in PORTS]
        found += [f"ssh://{user}@{address.host}{path}", f"{user}@{address.host}:{path[1:]}"]
        escaped = [urllib.parse.quote(one, safe="") for one in found]
        return [
            *super().other_names(source, url),
            *(f"{one}/{source.ref}" for one in (*found, *escaped)),
        ]

    def credential_host(self, source: Source) -> str:
        return parse_address(source.url).host

    def slug(self, source: Source) -> str:
        address = parse_address(source.url)
        return f"{address.host}{address.path.removesuffix('.git')}"

    def ref_url(self, source: Source, commit: str) -> str:
        return source.url

    def resolved_spec(self, source: Source, commit: str) -> str:
        return f"{source.spec.partition('/')[0]}/{commit}"

    async def resolve(self, source: Source, credential: Credential | None = None) -> Resolved:
        address = parse_address(source.url)
        own = credential is not None
        given = credential = credential or self.credential_for(address)
        for _ in range(MAX_REDIRECTS):
            settings = await self.settings(address, credential)
            try:
                answer = await self.ls_remote(address, source.ref, settings, credential, own)
                break
            except _Redirected:
                target = await self.redirected(address)
                if (target.scheme, target.host, target.number) != (
                    address.scheme,
                    address.host,
                    address.number,
                ):
                    own, credential = False, None  # it was given for where the link leads
                address = target
        else:
            raise Failed(Text("{url} redirects without end.", url=source.url), status=502)
        commit = await self.commit(source, answer, given)
        return Resolved(
            source=source,
            ref=commit,
            ref_url=self.ref_url(source, commit),
            resolved_spec=self.resolved_spec(source, commit),
            slug=self.slug(source),
            fetch_url=address.url,
            git_config=tuple(settings),
            credential=credential,
        )

    async def commit(
        self, source: Source, answer: str, credential: Credential | None = None
    ) -> str:
        """The commit of the ref in the host's answer. Raises Refused when there is none."""
        if COMMIT.fullmatch(source.ref.lower()):
            return source.ref.lower()
        commit = pick_commit(answer, source.ref)
        if commit is not None:
            return commit
        if source.ref == "HEAD":
            raise Refused(
                Text(
                    "{url} is empty: it has no commit yet, or it is no git repository.",
                    url=source.url,
                ),
                status=404,
            )
        raise Refused(
            Text(
                'The repository {url} has no branch or tag "{ref}". Check the spelling, or use '
                "HEAD for its default branch; a commit must be given whole (40 digits).",
                url=source.url,
                ref=source.ref,
            ),
            status=404,
        )

    async def settings(
        self, address: GitAddress, credential: Credential | None
    ) -> list[tuple[str, str]]:
        """The git settings that tie a fetch of this address to what was checked.

        Checks the address; Refused when it is not allowed. Holds no credential.
        """
        settings = [("http.followRedirects", "false"), ("credential.helper", "")]
        settings.append(("protocol.allow", "never"))
        settings += [(f"protocol.{name}.allow", "always") for name in sorted(PORTS)]
        addresses = await self._addresses(address)
        if address.scheme in ("http", "https") and addresses and not _behind_proxy():
            pinned = ",".join(addresses)
            settings.append(("http.curloptResolve", f"{address.host}:{address.number}:{pinned}"))
        elif address.scheme == "git" and addresses:
            first = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
            port = f":{address.port}" if address.port else ""
            base = address.url.removesuffix(address.path)
            settings.append((f"url.git://{first}{port}/.insteadOf", f"{base}/"))
        elif address.scheme == "ssh":
            settings.append(("core.sshCommand", self._ssh(address, addresses)))
        if credential is not None and not self._may_send(address):
            raise Refused(
                Text(
                    "There is a token for {host}, but {url} is not https: the token would travel "
                    "in the open.",
                    host=address.host,
                    url=address.url,
                )
            )
        return settings

    async def _addresses(self, address: GitAddress) -> list[str]:
        """The checked addresses of a host; empty when a proxy is to find them or none need be."""
        if self.rules.allows_by_name(address.host, address.number):
            return []
        try:
            return await resolve(self.rules, address.host, address.number)
        except (Refused, Failed) as problem:
            unknown = problem.status in (404, 504)
            if unknown and _behind_proxy() and not _is_ip(address.host):
                return []  # only the proxy knows outside names, and decides on them
            raise

    def _may_send(self, address: GitAddress) -> bool:
        """Whether a token may be sent there."""
        return address.scheme in ("https", "ssh") or self.rules.allows_by_name(
            address.host, address.number
        )

    def _ssh(self, address: GitAddress, addresses: list[str]) -> str:
        if not self.ssh_key_file or not self.ssh_known_hosts_file:
            raise Refused(
                Text(
                    "This site has no key for repositories by ssh. Use the https address of "
                    "{path} at {host}.",
                    path=address.path.lstrip("/"),
                    host=address.host,
                )
            )
        return ssh_command(address, addresses, self.ssh_key_file, self.ssh_known_hosts_file)

    async def ls_remote(
        self,
        address: GitAddress,
        ref: str,
        settings: list[tuple[str, str]],
        credential: Credential | None,
        own: bool = False,
    ) -> str:
        """What ``git ls-remote`` says of a ref. Raises _Redirected, Refused or Failed.

        ``own``: the credential is the person's, not the site's.
        """
        wanted = ["HEAD"] if COMMIT.fullmatch(ref.lower()) else ref_names(ref)
        argv = ["git", "ls-remote", "--quiet", "--", address.url, *wanted]
        environment = git_environment([*settings, *credential_settings(address, credential)])
        code, answer, problem = await run_bounded(argv, environment)
        if code == 0:
            return answer
        if address.scheme == "ssh" and code is not None:
            key = await asyncio.to_thread(public_key, self.ssh_key_file)
            raise explain_ssh(address, problem, key)
        raise _explain(address, code, problem, own, credential is not None)

    async def redirected(self, address: GitAddress) -> GitAddress:
        """Where an address redirects to, one step on. The new address is checked like any other."""
        suffix = "/info/refs?service=git-upload-pack"
        found = await lookup("redirect", address.url + suffix, self.rules)
        location = str(found.get("location", ""))
        base, marker, _ = location.partition("/info/refs")
        if not marker:
            raise Failed(
                Text("{url} is no git repository: it leads elsewhere.", url=address.url),
                status=502,
            )
        target = parse_address(base, {"https"} if address.scheme == "https" else {"http", "https"})
        if target.url == address.url:
            raise Failed(Text("{url} redirects to itself.", url=address.url), status=502)
        return target


class _Redirected(BinderError):
    """git met a redirect, which it was told not to follow."""


def _explain(
    address: GitAddress, code: int | None, problem: str, own: bool, with_token: bool
) -> BinderError:
    """The sentence for a failed ``git ls-remote``, from its standard error.

    ``own``: it was asked with the person's token; ``with_token``: with that or the site's.
    """
    text = problem.lower()
    url, host = address.url, address.host
    web = address.scheme in ("http", "https")
    if web and _REDIRECTED.search(problem):
        return _Redirected(Text("{url} redirects.", url=url))
    if code is None:
        return Failed(
            Text(
                "{host} did not answer within {seconds} seconds. Try again later.",
                host=host,
                seconds=int(GIT_TIMEOUT),
            ),
            status=504,
        )
    said = _STATUS.search(problem) if web else None
    status = int(said[1]) if said else 0
    if status == 429:
        return rate_limited(host)
    if status >= 500:
        return out_of_order(host, status)
    denied = ("authentication failed", "could not read username", "403", "permission denied")
    absent = ("not found", "does not exist", "does not appear to be", "not exported", "404")
    is_denied = any(sign in text for sign in denied)
    is_absent = any(sign in text for sign in absent)
    if is_denied and own:
        return Refused(
            Text(
                "{host} does not accept the stored token for {url}: it has expired, or it may "
                "not read this repository. Give a new one on the page for private ones.",
                host=host,
                url=url,
            ),
            status=403,
        )
    if is_absent and own:
        return Refused(
            Text(
                "The repository {url} does not exist, or your stored token for {host} may not "
                "read it. Check the spelling, or give a new token on the page for private ones.",
                url=url,
                host=host,
            ),
            status=404,
        )
    # A host that is sent a token which may not read a repository often says that there is none.
    if is_denied or (is_absent and with_token):
        return NeedsToken(
            Text(
                "The repository {url} does not exist or is private. For a private one, give a "
                "token for {host} on the page for private repositories.",
                url=url,
                host=host,
            )
        )
    if is_absent:
        return Refused(
            Text("There is no git repository at {url}. Check the spelling.", url=url), status=404
        )
    return Failed(
        Text(
            "{host} could not be asked for {url}: {reason}",
            host=host,
            url=url,
            reason=last_line(problem),
        ),
        status=502,
    )


def credential_settings(
    address: GitAddress, credential: Credential | None
) -> list[tuple[str, str]]:
    """The git setting that sends a token to this host and to no other."""
    if credential is None or address.scheme not in ("http", "https"):
        return []
    pair = f"{credential.username}:{credential.secret}".encode()
    header = "Authorization: Basic " + base64.b64encode(pair).decode()
    base = address.url.removesuffix(address.path)
    return [(f"http.{base}/.extraHeader", header)]


def git_environment(settings: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The whole environment of a git process. Settings stand here, where no process list shows."""
    wanted = [*_PASSED_ON, *_PROXIES, *(name.upper() for name in _PROXIES)]
    environment = {name: os.environ[name] for name in wanted if name in os.environ}
    environment |= {
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1",
        "GIT_HTTP_LOW_SPEED_TIME": "20",
    }
    pairs = list(settings)
    environment["GIT_CONFIG_COUNT"] = str(len(pairs))
    for index, (key, value) in enumerate(pairs):
        environment[f"GIT_CONFIG_KEY_{index}"] = key
        environment[f"GIT_CONFIG_VALUE_{index}"] = value
    return environment


async def run_bounded(argv: list[str], environment: dict[str, str]) -> tuple[int | None, str, str]:
    """Run a program: its exit code (None: out of time), standard output and standard error.

    Output beyond ``MAX_ANSWER`` bytes ends the program. Its whole process group ends with it.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        async with asyncio.timeout(GIT_TIMEOUT):
            out, err = await asyncio.gather(
                _read_bounded(process.stdout), _read_bounded(process.stderr)
            )
            code = await process.wait()
    except TimeoutError:
        return None, "", ""
    except _TooMuch:
        return 1, "", "the answer is larger than this service reads"
    finally:
        if process.returncode is None:
            _end_group(process.pid)
            await process.wait()
    return code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


class _TooMuch(Exception):
    pass


async def _read_bounded(stream: asyncio.StreamReader) -> bytes:
    data = bytearray()
    while chunk := await stream.read(65536):
        data += chunk
        if len(data) > MAX_ANSWER:
            raise _TooMuch
    return bytes(data)


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, 9)
    except ProcessLookupError:
        pass


def _behind_proxy() -> bool:
    names = ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY")
    return any(os.environ.get(name) for name in names)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


__all__ = ["AddressRules", "GitAddress", "GitRepoProvider", "parse_address", "pick_commit"]
