"""Records of archives, fetched by repo2docker's own content providers."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import framework
from .paths import REPO
from .report import Refusal, Text, show

ANSWER_SECONDS = 60.0  # in which a host must begin to answer, and between two parts of it
_FOLDER = ".studovna-record"


def fetch(job: dict[str, Any], repo: Path = REPO) -> None:
    """The record's files into ``repo``. Raises Refusal with the sentence for the person."""
    framework.find_library()
    from repo2docker import contentproviders as providers
    from requests import Session

    Session.request = _checked(Session.request)  # type: ignore[method-assign]
    socket.setdefaulttimeout(ANSWER_SECONDS)
    classes: tuple[Any, ...] = (
        providers.Zenodo, providers.Figshare, providers.Dataverse, providers.Hydroshare,
        providers.CKAN,
    )  # fmt: skip
    provider = {one.__name__.lower(): one for one in classes}[job["content"]]()
    # They unpack into the current folder, and set the times of the one they are given: both have to
    # be ours, which a volume's own folder is not.
    work = repo / _FOLDER
    files = work / "files"
    files.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(work)
    try:
        spec = provider.detect(job["url"], ref=job["ref"])
        if spec is None:
            raise Refusal(Text("{url} is no record of {provider}.", url=job["url"],
                               provider=job["content"]))  # fmt: skip
        for line in provider.fetch(spec, str(files), yield_output=True):
            show(line)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(
            Text("{url} could not be fetched: {said}", url=job["url"], said=str(error)[:300])
        ) from error
    finally:
        os.chdir(before)
    for entry in files.iterdir():
        if entry.name != _FOLDER:
            entry.rename(repo / entry.name)
    shutil.rmtree(work)


def _checked(request: Any) -> Any:
    """The request method of a session. The providers take an error's page for the contents."""

    def checked(session: Any, method: str, url: str, **kwargs: Any) -> Any:
        kwargs.setdefault("timeout", ANSWER_SECONDS)
        answer = request(session, method, url, **kwargs)
        host = urlsplit(answer.url).hostname or url
        status = answer.status_code
        if status == 429 or (status == 403 and "Retry-After" in answer.headers):
            raise Refusal(
                Text(
                    "{host} takes no more questions from this site for now: too many were asked. "
                    "Try again later.",
                    host=host,
                )
            )
        if status >= 500:
            raise Refusal(
                Text(
                    "{host} is out of order (it answered {status}). Try again later.",
                    host=host,
                    status=status,
                )
            )
        if status in (401, 403, 410):
            raise Refusal(Text("{host} does not give {url} to everyone.", host=host, url=url))
        return answer

    return checked
