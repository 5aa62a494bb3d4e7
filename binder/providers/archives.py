"""Records of archives (Zenodo, CKAN …), resolved by repo2docker's own providers."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any, ClassVar

from studovna.text import Text

from ..errors import Refused
from .addresses import is_host
from .base import (
    Credential,
    RepoProvider,
    Resolved,
    Source,
    check_spec,
    plain_path,
    unescape,
)
from .lookup import lookup

_DOI = re.compile(r"10\.[0-9]{4,9}/[A-Za-z0-9._;()/:-]{1,200}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class RecordProvider(RepoProvider):
    """A provider of records: no refs, one current version each."""

    question: ClassVar[str] = ""

    async def resolve(self, source: Source, credential: Credential | None = None) -> Resolved:
        found = await lookup(self.question, source.url, self.rules)
        version = re.sub(r"[^A-Za-z0-9._-]+", "-", str(found["version"])).strip("-.")[:128]
        if not _VERSION.fullmatch(version):
            raise Refused(
                Text("{record} has no version that can be named.", record=source.url), status=404
            )
        return Resolved(
            source=source,
            ref=version,
            ref_url=self.page(source),
            resolved_spec=self.resolved_spec(source, version),
            slug=f"{self.prefix}-{source.url}",
            fetch_url=str(found["url"]),
        )

    def names(self, source: Source, url: str = "") -> list[str]:
        return [plain_path(source.url)]

    def page(self, source: Source) -> str:
        """The record's page, for people."""
        return source.url

    def resolved_spec(self, source: Source, version: str) -> str:
        return source.spec


class DoiProvider(RecordProvider):
    """A record named by its DOI."""

    def parse(self, spec: str) -> Source:
        doi = unescape(check_spec(spec)).rstrip("/")
        if not _DOI.fullmatch(doi):
            raise Refused(
                Text('"{doi}" is not a DOI (such as 10.5281/zenodo.3242074).', doi=doi[:100])
            )
        return Source(self.prefix, spec, doi, "")

    def page(self, source: Source) -> str:
        return f"https://doi.org/{source.url}"


def _doi_display(name: str, id_: str, placeholder: str) -> dict[str, Any]:
    return {
        "displayName": name,
        "id": id_,
        "spec": {"validateRegex": r"10\.\d+\/(.)+"},
        "repo": {"label": name, "placeholder": placeholder, "urlEncode": False},
        "ref": {"enabled": False},
    }


class ZenodoProvider(DoiProvider):
    """Zenodo records by DOI. The DOI of all versions stands for the newest."""

    name: ClassVar[str] = "Zenodo"
    question: ClassVar[str] = "zenodo"
    display_config: ClassVar[dict[str, Any]] = _doi_display(
        "Zenodo DOI", "zenodo", "10.5281/zenodo.3242074"
    )

    def resolved_spec(self, source: Source, version: str) -> str:
        head, zenodo, _ = source.spec.partition("zenodo.")
        return f"{head}{zenodo}{version}" if zenodo else source.spec


class FigshareProvider(DoiProvider):
    """Figshare articles by DOI."""

    name: ClassVar[str] = "Figshare"
    question: ClassVar[str] = "figshare"
    display_config: ClassVar[dict[str, Any]] = _doi_display(
        "Figshare DOI", "figshare", "10.6084/m9.figshare.9782777.v1"
    )

    def resolved_spec(self, source: Source, version: str) -> str:
        head, figshare, _ = source.spec.partition("figshare.")
        return f"{head}{figshare}{version}" if figshare else source.spec


class DataverseProvider(DoiProvider):
    """Datasets of Dataverse installations by DOI."""

    name: ClassVar[str] = "Dataverse"
    question: ClassVar[str] = "dataverse"
    display_config: ClassVar[dict[str, Any]] = _doi_display(
        "Dataverse DOI", "dataverse", "10.7910/DVN/TJCLKP"
    )


class HydroshareProvider(RecordProvider):
    """Hydroshare resources by id (32 hexadecimal digits) or address."""

    name: ClassVar[str] = "Hydroshare"
    question: ClassVar[str] = "hydroshare"
    display_config: ClassVar[dict[str, Any]] = {
        "displayName": "Hydroshare resource",
        "id": "hydroshare",
        "spec": {"validateRegex": r"[^/]+"},
        "repo": {
            "label": "Hydroshare resource id",
            "placeholder": "8f7c2f0341ef4180b0dbe97f59130756",
            "urlEncode": True,
        },
        "ref": {"enabled": False},
    }

    def parse(self, spec: str) -> Source:
        text = unescape(check_spec(spec)).rstrip("/")
        found = re.fullmatch(
            r"(?:https?://(?:www\.)?hydroshare\.org/resource/)?([0-9a-f]{32})", text
        )
        if not found:
            raise Refused(Text('"{text}" is not the id of a Hydroshare resource.', text=text[:100]))
        url = f"https://www.hydroshare.org/resource/{found[1]}"
        return Source(self.prefix, spec, url, "")

    def names(self, source: Source, url: str = "") -> list[str]:
        return [source.url.rpartition("/")[2], source.url]


class CKANProvider(RecordProvider):
    """Datasets of CKAN portals, by the address of the dataset's page."""

    name: ClassVar[str] = "CKAN"
    question: ClassVar[str] = "ckan"
    display_config: ClassVar[dict[str, Any]] = {
        "displayName": "CKAN dataset",
        "id": "ckan",
        "spec": {"validateRegex": r"[^/]+"},
        "repo": {
            "label": "CKAN dataset URL",
            "placeholder": "https://demo.ckan.org/dataset/my-sample-dataset-001",
            "urlEncode": True,
        },
        "ref": {"enabled": False},
    }

    def parse(self, spec: str) -> Source:
        text = unescape(check_spec(spec)).rstrip("/")
        parts = urllib.parse.urlsplit(text)
        path = re.fullmatch(r"(/[A-Za-z0-9._~/-]*)?/dataset/[A-Za-z0-9._/-]{1,200}", parts.path)
        if (
            parts.scheme not in ("http", "https")
            or parts.username is not None
            or not is_host(parts.hostname or "")
            or not path
        ):
            raise Refused(Text('"{text}" is not the address of a CKAN dataset.', text=text[:100]))
        return Source(self.prefix, spec, text, "")

    def names(self, source: Source, url: str = "") -> list[str]:
        parts = urllib.parse.urlsplit(source.url)
        host = (parts.hostname or "").rstrip(".")
        host = f"[{host}]" if ":" in host else host
        usual = {"http": 80, "https": 443}[parts.scheme]
        port = f":{parts.port}" if parts.port not in (None, usual) else ""
        found = f"{parts.scheme}://{host}{port}{plain_path(parts.path)}"
        return [found, urllib.parse.quote(found, safe="")]
