"""Questions over HTTP to the outside, each asked by a short-lived process of its own.

repo2docker's content providers (and the one redirect git may meet) use blocking clients without
time limits. In a child process they get a time limit that really ends them, an address guard that
holds for every library, and none of the service's secrets.

The child reads one JSON object on standard input and answers with one on standard output:
``{"ok": {...}}`` or ``{"refused"|"failed": {"template", "params"}, "status"}``.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any

from studovna.paths import ROOT
from studovna.text import Text

from ..errors import BinderError, Failed, Refused
from .addresses import AddressRules, guard_process

LOOKUP_TIMEOUT = 40.0  # seconds
MAX_ANSWER = 256 * 1024  # bytes
_PASSED_ON = ("PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def rate_limited(host: str, seconds: float | None = None) -> Failed:
    """The sentence for a host that wants fewer questions; ``seconds`` until it takes some again."""
    if seconds is None:
        said = Text(
            "{host} takes no more questions from this site for now: too many were asked. Try "
            "again later.",
            host=host,
        )
    else:
        said = Text(
            "{host} takes no more questions from this site for now: too many were asked. Try "
            "again in {minutes} min.",
            host=host,
            minutes=min(24 * 60, max(1, math.ceil(seconds / 60))),
        )
    return Failed(said, status=503)


def out_of_order(host: str, status: int) -> Failed:
    """The sentence for a host that says that it is at fault itself."""
    return Failed(
        Text(
            "{host} is out of order (it answered {status}). Try again later.",
            host=host,
            status=status,
        ),
        status=502,
    )


async def lookup(kind: str, subject: str, rules: AddressRules, secret: str = "") -> dict[str, Any]:
    """Ask one question in a child process. ``kind`` is one of ``QUESTIONS``.

    ``secret`` is a token for the host, where the question takes one. Raises Refused or Failed with
    the child's sentence, Failed when it does not answer in time.
    """
    question = {
        "kind": kind,
        "subject": subject,
        "secret": secret,
        "allow_hosts": sorted(rules.allow_hosts),
    }
    names = [*_PASSED_ON, *_PROXIES, *(name.upper() for name in _PROXIES)]
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"HOME": "/nonexistent", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        cwd="/",
        limit=MAX_ANSWER,
    )
    host = urllib.parse.urlsplit(subject).hostname or subject
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT):
            out, _ = await process.communicate(json.dumps(question).encode())
    except TimeoutError:
        raise Failed(
            Text(
                "{host} did not answer within {seconds} seconds. Try again later.",
                host=host,
                seconds=int(LOOKUP_TIMEOUT),
            ),
            status=504,
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        answer = json.loads(out)
    except ValueError:
        raise Failed(
            Text("{host} could not be asked: the lookup ended without an answer.", host=host),
            status=502,
        ) from None
    if "ok" in answer:
        return dict(answer["ok"])
    kind_of_error = Refused if "refused" in answer else Failed
    said = answer.get("refused") or answer["failed"]
    raise kind_of_error(Text(said["template"], **said["params"]), status=answer["status"])


# What follows runs in the child.


def _redirect(url: str, _secret: str) -> dict[str, Any]:
    """Where a URL redirects to; not followed."""

    class Stop(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
            return None

    try:
        urllib.request.build_opener(Stop).open(url, timeout=15).close()  # noqa: S310 - http(s) only
    except urllib.error.HTTPError as answer:
        location = answer.headers.get("Location")
        if 300 <= answer.code < 400 and location:
            return {"location": urllib.parse.urljoin(url, location)}
    raise Failed(Text("{url} answers in a way that git does not understand.", url=url), status=502)


def check_answer(url: str, status: int, headers: Mapping[str, str] | Message) -> None:
    """Raise Failed when a host wants fewer questions or is out of order.

    GitHub says the former with 403 or 429, and one of two headers:
    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """
    host = urllib.parse.urlsplit(url).hostname or url
    seconds = _seconds_to_wait(headers)
    if status == 429 or (status == 403 and seconds is not None):
        raise rate_limited(host, seconds)
    if status >= 500:
        raise out_of_order(host, status)


def _seconds_to_wait(headers: Mapping[str, str] | Message) -> float | None:
    """From ``Retry-After`` (seconds or a date) or ``X-RateLimit-Reset``; None without them."""
    after = (headers.get("Retry-After") or "").strip()
    if after.isascii() and after.isdigit():
        return float(after[:9])
    if after:
        try:
            return parsedate_to_datetime(after).timestamp() - time.time()
        except ValueError:
            pass
    reset = (headers.get("X-RateLimit-Reset") or "").strip()
    if headers.get("X-RateLimit-Remaining") == "0" and reset.isascii() and reset.isdigit():
        return float(reset[:12]) - time.time()
    return None


def _github_commit(url: str, secret: str) -> dict[str, Any]:
    """The whole commit that GitHub's API knows for a short one or for any other name."""
    headers = {"Accept": "application/vnd.github.sha", "X-GitHub-Api-Version": "2022-11-28"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - https only
    if secret:
        # Not sent on where GitHub redirects to.
        request.add_unredirected_header("Authorization", f"Bearer {secret}")
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:  # noqa: S310
            return {"commit": answer.read(100).decode("ascii", "replace").strip()}
    except urllib.error.HTTPError as error:
        check_answer(url, error.code, error.headers)
        if error.code in (404, 409, 422):
            return {"commit": ""}
        raise


def _record(kind: str, subject: str) -> dict[str, Any]:
    """The version of a record and where its contents are, as repo2docker's provider sees them."""
    import requests
    from repo2docker import contentproviders

    statuses: list[int] = []
    requests.Session.request = _watched(requests.Session.request, statuses)  # type: ignore[method-assign]
    provider: Any = getattr(contentproviders, kind)()
    try:
        url = provider.doi2url(subject) if hasattr(provider, "doi2url") else subject
        if kind == "Zenodo" and re.match(r"https://(sandbox\.)?zenodo\.org/doi/", url):
            # The page that stands for all versions leads to the newest, which has an address.
            url = provider.session.get(url, stream=True).url
        spec = provider.detect(url)
        if spec is None:
            raise Refused(
                Text("{record} is no record of {archive}.", record=subject, archive=kind),
                status=404,
            )
        if kind == "Dataverse":
            return _dataverse_version(provider, spec) | {"url": spec}
        return {"version": str(provider.content_id), "url": url}
    except (Refused, Failed):
        raise
    except Exception:
        # The providers read an error's page as if it were the record.
        if statuses and statuses[-1] in (401, 403, 404, 410):
            raise Refused(
                Text(
                    "There is no public record {record}. Check the spelling, or whether it is "
                    "published.",
                    record=subject,
                ),
                status=404,
            ) from None
        raise


def _dataverse_version(provider: Any, url: str) -> dict[str, Any]:
    """Dataverse's content provider knows a version only after the download: ask for it."""
    persistent_id, _ambiguous = provider.parse_dataverse_url(url)
    parts = urllib.parse.urlsplit(url)
    query = urllib.parse.urlencode({"persistentId": persistent_id})
    base = f"{parts.scheme}://{parts.netloc}"
    answer = provider.session.get(f"{base}/api/datasets/:persistentId?{query}")
    if answer.status_code == 404:  # the DOI of one of a dataset's files
        persistent_id = provider.get_dataset_id_from_file_id(base, persistent_id)
        query = urllib.parse.urlencode({"persistentId": persistent_id})
        answer = provider.session.get(f"{base}/api/datasets/:persistentId?{query}")
    answer.raise_for_status()
    data = answer.json()["data"]
    latest = data["latestVersion"]
    return {"version": f"{data['id']}.v{latest['versionNumber']}.{latest['versionMinorNumber']}"}


def _watched(request: Any, statuses: list[int]) -> Any:
    """The request method of a session, with a time limit and a look at the answer."""

    def watched(session: Any, method: str, url: str, **kwargs: Any) -> Any:
        kwargs.setdefault("timeout", 15)
        try:
            answer = request(session, method, url, **kwargs)
        except OSError as error:
            host = urllib.parse.urlsplit(url).hostname or url
            raise Failed(
                Text(
                    "{host} cannot be reached: {reason}",
                    host=host,
                    reason=_innermost(error),
                ),
                status=502,
            ) from error
        statuses.append(answer.status_code)
        check_answer(answer.url, answer.status_code, answer.headers)
        return answer

    return watched


def _innermost(error: BaseException) -> str:
    """What a library's error is about, without the layers around it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error)[:200]


QUESTIONS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "redirect": _redirect,
    "github-commit": _github_commit,
    "zenodo": lambda doi, _: _record("Zenodo", doi),
    "figshare": lambda doi, _: _record("Figshare", doi),
    "dataverse": lambda doi, _: _record("Dataverse", doi),
    "hydroshare": lambda url, _: _record("Hydroshare", url),
    "ckan": lambda url, _: _record("CKAN", url),
}


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    subject = str(question["subject"])
    proxies = urllib.request.getproxies()
    hosts = {urllib.parse.urlsplit(proxy).hostname or "" for proxy in proxies.values()}
    rules = AddressRules.of([*question["allow_hosts"], *hosts])
    guard_process(rules)
    try:
        return {"ok": QUESTIONS[question["kind"]](subject, str(question["secret"]))}
    except BinderError as error:
        kind = "refused" if isinstance(error, Refused) else "failed"
        said = {"template": error.message.template, "params": error.message.params}
        return {kind: said, "status": error.status}
    except Exception as error:  # any library's: all mean that the host gave no usable answer
        text = Text(
            "{subject} could not be looked up: {reason}",
            subject=subject,
            reason=f"{type(error).__name__}: {error}"[:300],
        )
        return {"failed": {"template": text.template, "params": text.params}, "status": 502}


def main() -> None:
    """Answer the one question on standard input."""
    answer = _answer(json.loads(sys.stdin.read()))
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
