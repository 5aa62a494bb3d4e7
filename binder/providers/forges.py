"""GitHub, gists and GitLab: short specs for repositories that git then asks like any other."""

from __future__ import annotations

import os
import re
import urllib.parse
from typing import Any, ClassVar

from traitlets import Bool, Unicode, default

from studovna.text import Text

from ..errors import Refused
from .base import Credential, Source, check_name, check_ref, check_spec, unescape
from .git import GitRepoProvider
from .lookup import lookup

_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")


def _split(spec: str, parts: int, form: str) -> list[str]:
    found = check_spec(spec).split("/", parts - 1)
    if len(found) < parts or not all(found):
        hint = f"{spec}/HEAD" if len(found) == parts - 1 and all(found) else ""
        if hint:
            raise Refused(
                Text(
                    'The link "{spec}" is not of the form {form}. Did you mean "{hint}"?',
                    spec=spec[:100],
                    form=form,
                    hint=hint[:100],
                )
            )
        raise Refused(
            Text('The link "{spec}" is not of the form {form}.', spec=spec[:100], form=form)
        )
    return found


class GitHubRepoProvider(GitRepoProvider):
    """GitHub: ``user/repository/ref``."""

    name: ClassVar[str] = "GitHub"
    display_config: ClassVar[dict[str, Any]] = {
        "displayName": "GitHub",
        "id": "gh",
        "spec": {"validateRegex": r"[^/]+/[^/]+/.+"},
        "detect": {"regex": "^(https?://github.com/)?(?<repo>.*[^/])/?"},
        "repo": {
            "label": "GitHub repository name or URL",
            "placeholder": "user/repository or https://github.com/user/repository",
            "urlEncode": False,
        },
        "ref": {"enabled": True, "default": "HEAD"},
    }

    hostname = Unicode("github.com", help="The host; another one for GitHub Enterprise.").tag(
        config=True
    )
    api_base_path = Unicode(
        "https://api.{hostname}",
        help="Where the host's API is, which is asked for abbreviated commits only.",
    ).tag(config=True)
    access_token = Unicode(
        help="The site's own token; GITHUB_ACCESS_TOKEN in the environment by default."
    ).tag(config=True)
    client_id = Unicode(help="Known for BinderHub's sake.").tag(
        config=True, ignored="git is asked, which knows no OAuth app: set access_token"
    )
    client_secret = Unicode(help="Known for BinderHub's sake.").tag(
        config=True, ignored="git is asked, which knows no OAuth app: set access_token"
    )

    @default("access_token")
    def _access_token(self) -> str:
        return os.environ.get("GITHUB_ACCESS_TOKEN", "")

    def parse(self, spec: str) -> Source:
        user, repository, ref = _split(spec, 3, "user/repository/ref")
        user = check_name(unescape(user))
        repository = check_name(unescape(repository).removesuffix(".git"))
        url = f"https://{self.hostname}/{user}/{repository}"
        return Source(self.prefix, spec, url, check_ref(unescape(ref)))

    def site_credential(self) -> Credential | None:
        if self.access_token:
            return Credential("x-access-token", self.access_token)
        return super().site_credential()

    @property
    def own_host(self) -> str:
        return self.hostname

    def slug(self, source: Source) -> str:
        return urllib.parse.urlsplit(source.url).path.strip("/")

    def ref_url(self, source: Source, commit: str) -> str:
        return f"{source.url}/tree/{commit}"

    def resolved_spec(self, source: Source, commit: str) -> str:
        user, repository, _ref = source.spec.split("/", 2)
        return f"{user}/{repository.removesuffix('.git')}/{commit}"

    async def commit(
        self, source: Source, answer: str, credential: Credential | None = None
    ) -> str:
        try:
            return await super().commit(source, answer, credential)
        except Refused:
            if not _SHORT_COMMIT.fullmatch(source.ref.lower()):
                raise
            path = urllib.parse.urlsplit(source.url).path
            api = self.api_base_path.format(hostname=self.hostname)
            found = await lookup(
                "github-commit",
                f"{api}/repos{path}/commits/{source.ref}",
                self.rules,
                credential.secret if credential else "",
            )
            if not re.fullmatch(r"[0-9a-f]{40}", found["commit"]):
                raise
            return str(found["commit"])


class GistRepoProvider(GitRepoProvider):
    """GitHub's gists: ``user/id`` with an optional ``/commit``."""

    name: ClassVar[str] = "Gist"
    display_config: ClassVar[dict[str, Any]] = {
        "displayName": "GitHub Gist",
        "id": "gist",
        "spec": {"validateRegex": r"[^/]+/[^/]+(/[^/]+)?"},
        "detect": {"regex": "^(https?://gist.github.com/)?(?<repo>.*[^/])/?"},
        "repo": {
            "label": "Gist ID (user/gist id) or URL",
            "placeholder": "user/gist id",
            "urlEncode": False,
        },
        "ref": {"enabled": True, "default": "HEAD"},
    }

    hostname = Unicode("gist.github.com", help="The host of the gists.").tag(config=True)
    allow_secret_gist = Bool(
        True,
        help="""
        Known for BinderHub's sake. A secret gist is one that only those find who were given its
        address, and whoever opens a link to it was.
        """,
    ).tag(config=True, ignored="git does not tell a secret gist from another")

    def parse(self, spec: str) -> Source:
        user, gist, *rest = _split(spec.rstrip("/"), 2, "user/gist")
        gist, _, ref = gist.partition("/")
        ref = check_ref(unescape(ref or "HEAD"))
        if ref in ("master", "main"):
            ref = "HEAD"
        user = check_name(unescape(user))
        if not re.fullmatch(r"[0-9a-f]{1,64}", gist):
            raise Refused(Text('"{gist}" is not the id of a gist.', gist=gist[:100]))
        return Source(self.prefix, spec, f"https://{self.hostname}/{user}/{gist}.git", ref)

    @property
    def own_host(self) -> str:
        return self.hostname

    def names(self, source: Source, url: str = "") -> list[str]:
        found = super().names(source, url)
        return [*found, *(one.removesuffix("/HEAD") for one in found if one.endswith("/HEAD"))]

    def slug(self, source: Source) -> str:
        return "gist-" + source.url.rpartition("/")[2].removesuffix(".git")

    def ref_url(self, source: Source, commit: str) -> str:
        return f"{source.url.removesuffix('.git')}/{commit}"

    def resolved_spec(self, source: Source, commit: str) -> str:
        user, gist, *_ref = source.spec.split("/")
        return f"{user}/{gist}/{commit}"


class GitLabRepoProvider(GitRepoProvider):
    """GitLab: ``<escaped namespace/project>/ref``."""

    name: ClassVar[str] = "GitLab"
    display_config: ClassVar[dict[str, Any]] = {
        "displayName": "GitLab",
        "id": "gl",
        "spec": {"validateRegex": r"[^/]+/.+"},
        "detect": {"regex": "^(https?://gitlab.com/)?(?<repo>.*[^/])/?"},
        "repo": {
            "label": "GitLab repository name or URL",
            "placeholder": "group/project or https://gitlab.com/group/project",
            "urlEncode": True,
        },
        "ref": {"enabled": True, "default": "HEAD"},
    }

    hostname = Unicode("gitlab.com", help="The host; another one for a GitLab of one's own.").tag(
        config=True
    )
    access_token = Unicode(
        help="The site's own OAuth token; GITLAB_ACCESS_TOKEN in the environment by default."
    ).tag(config=True)
    private_token = Unicode(
        help="The site's own private token; GITLAB_PRIVATE_TOKEN in the environment by default."
    ).tag(config=True)

    @default("access_token")
    def _access_token(self) -> str:
        return os.environ.get("GITLAB_ACCESS_TOKEN", "")

    @default("private_token")
    def _private_token(self) -> str:
        return os.environ.get("GITLAB_PRIVATE_TOKEN", "")

    def parse(self, spec: str) -> Source:
        project, ref = _split(spec, 2, "group%2Fproject/ref")
        names = unescape(project).removesuffix(".git").split("/")
        if not 2 <= len(names) <= 21:
            raise Refused(
                Text('"{project}" is not of the form group/project.', project="/".join(names)[:100])
            )
        path = "/".join(check_name(name) for name in names)
        url = f"https://{self.hostname}/{path}.git"
        return Source(self.prefix, spec, url, check_ref(unescape(ref)))

    def site_credential(self) -> Credential | None:
        token = self.access_token or self.private_token
        return Credential("oauth2", token) if token else super().site_credential()

    @property
    def own_host(self) -> str:
        return self.hostname

    def slug(self, source: Source) -> str:
        return urllib.parse.urlsplit(source.url).path.strip("/").removesuffix(".git")

    def ref_url(self, source: Source, commit: str) -> str:
        return f"{source.url.removesuffix('.git')}/-/tree/{commit}"
