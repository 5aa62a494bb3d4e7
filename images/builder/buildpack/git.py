"""Git repositories: repo2docker's content provider, fetching one commit within the site's rules.

repo2docker clones by a name that git may take for an option, runs in whatever environment it finds,
and follows submodules to any address; and it finds no commit that has no branch. What is fetched
here is the same checkout, submodules included, with only what the site lets through.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from repo2docker.contentproviders.git import Git

from .paths import GIT_SECRET, REPO
from .report import Refusal, Text, show
from .submodules import Submodules

_GONE = re.compile(r"not our ref|unadvertised object|couldn't find remote ref|no such ref", re.I)
_DENIED = re.compile(
    r"authentication failed|could not read username|permission denied|\b403\b", re.I
)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class SiteGit(Git):
    """Fetches one commit with its history, without hooks, LFS, or anything from elsewhere."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        self.job = job
        self.settings: list[tuple[str, str]] = [(k, v) for k, v in job["git_config"]]
        secret = GIT_SECRET / "config.json"
        if secret.is_file():
            self.settings += [(k, v) for k, v in json.loads(secret.read_text())]

    def environment(self) -> dict[str, str]:
        wanted = ("PATH", "SSL_CERT_FILE", "LANG")
        env = {name: os.environ[name] for name in wanted if name in os.environ}
        env |= {
            name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")
        }
        env |= {
            "HOME": "/nonexistent",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_HTTP_LOW_SPEED_LIMIT": "1",
            "GIT_HTTP_LOW_SPEED_TIME": "30",
            "GIT_CONFIG_COUNT": str(len(self.settings)),
        }
        for index, (key, value) in enumerate(self.settings):
            env[f"GIT_CONFIG_KEY_{index}"] = key
            env[f"GIT_CONFIG_VALUE_{index}"] = value
        return env

    def git(self, *args: str, cwd: Path = REPO) -> tuple[int, str]:
        """The exit code and the last lines that git wrote; they are shown as they come."""
        process = subprocess.Popen(
            self._argv(args, cwd), cwd=cwd, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        last: list[str] = []
        for line in lines(process.stdout):
            last = [*last[-40:], line]
            show(line)
        return process.wait(), "\n".join(last)

    def ask(self, *args: str, cwd: Path = REPO) -> tuple[int, str]:
        """The exit code and all that git answered; nothing is shown."""
        done = subprocess.run(
            self._argv(args, cwd), cwd=cwd, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(errors="replace")

    @staticmethod
    def _argv(args: Sequence[str], cwd: Path) -> list[str]:
        safe = (f"safe.directory={cwd}", "core.hooksPath=/dev/null", "gc.auto=0")
        settings = (*safe, "core.logAllRefUpdates=false")
        return ["git", *(word for one in settings for word in ("-c", one)), *args]

    def detect(self, source: str, ref: str | None = None, extra_args: Any = None) -> Any:
        """The spec for `fetch`. Raises Refusal for what is no commit."""
        if ref is None or not _COMMIT.fullmatch(ref):
            raise Refusal(Text("{ref} is not a commit.", ref=ref))
        return super().detect(source, ref, extra_args)

    def fetch(self, spec: Any, output_dir: str, yield_output: bool = False) -> Iterator[str]:
        """Fill `output_dir`; a generator as repo2docker's, that yields no more than it shows."""
        job, ref = self.job, spec["ref"]
        folder = Path(output_dir)
        kind = "sha256" if len(ref) == 64 else "sha1"
        self.git("init", "--quiet", "--template=", "-b", "main", f"--object-format={kind}")
        self.git("remote", "add", "--", "origin", job["repo_url"])
        fetch = ["fetch", "--progress", "--no-recurse-submodules", "--no-auto-maintenance"]
        code, said = self.git(*fetch, "--tags", "--", spec["repo"], ref)
        if code != 0 and _GONE.search(said):
            # Some hosts give only what a branch or tag leads to.
            both = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
            code, said = self.git(*fetch, "--", spec["repo"], *both)
        if code != 0:
            raise Refusal(self._explain(said))
        code, _ = self.ask("cat-file", "-e", ref + "^{commit}")
        if code != 0:
            raise Refusal(
                Text(
                    "The commit {ref} is no longer in {url}: it was overwritten or deleted. Open "
                    "the link again for what is there now.",
                    ref=ref,
                    url=job["repo_url"],
                )
            )
        code, said = self.git("reset", "--quiet", "--hard", ref)
        if code != 0:
            raise Refusal(
                Text("The files of {url} could not be written: {said}", url=job["repo_url"],
                     said=last_line(said))
            )  # fmt: skip
        Submodules(self, job["allow_hosts"]).fetch(folder, spec["repo"])
        self.settle(folder)
        self._sha1 = ref
        yield from ()

    def settle(self, folder: Path) -> None:
        """Drop what tells one checkout of a commit from another: times, inodes, what was asked."""
        self.ask("read-tree", "HEAD", cwd=folder)
        _, found = self.ask("rev-parse", "--absolute-git-dir", cwd=folder)
        (Path(found.strip()) / "FETCH_HEAD").unlink(missing_ok=True)

    def _explain(self, said: str) -> Text:
        url = self.job["repo_url"]
        if _DENIED.search(said):
            return Text("{url} does not let this site read it any more.", url=url)
        if _GONE.search(said):
            return Text(
                "The commit {ref} is no longer in {url}: it was overwritten or deleted. Open the "
                "link again for what is there now.",
                ref=self.job["ref"],
                url=url,
            )
        if "No space left on device" in said:
            return Text("The disk of the site is full. Tell its administrators.")
        return Text("{url} could not be fetched: {said}", url=url, said=last_line(said))


def lines(stream: Any) -> Iterator[str]:
    """Lines of a program's output; of a progress that rewrites its line, one in two seconds."""
    buffer, shown = b"", 0.0
    while chunk := os.read(stream.fileno(), 65536):
        buffer += chunk
        while match := re.search(rb"[\r\n]", buffer):
            line, end = buffer[: match.start()], match[0]
            buffer = buffer[match.end() :]
            now = time.monotonic()
            if line and (end == b"\n" or now - shown > 2):
                shown = now
                yield line.decode(errors="replace")
        if len(buffer) > 65536:
            yield buffer.decode(errors="replace")
            buffer = b""
    if buffer:
        yield buffer.decode(errors="replace")


def last_line(said: str) -> str:
    """What git gives as its reason, in what it wrote."""
    found = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in found if re.match(r"fatal|error", line)]
    return (errors or found or ["no reason was given"])[-1].strip()[:300]
