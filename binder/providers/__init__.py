"""Repository providers: from a link to one exact version of a repository."""

from .addresses import AddressRules
from .archives import (
    CKANProvider,
    DataverseProvider,
    FigshareProvider,
    HydroshareProvider,
    ZenodoProvider,
)
from .base import Credential, RepoProvider, Resolved, Source
from .forges import GistRepoProvider, GitHubRepoProvider, GitLabRepoProvider
from .git import GitRepoProvider

PROVIDERS: dict[str, type[RepoProvider]] = {
    "gh": GitHubRepoProvider,
    "gist": GistRepoProvider,
    "git": GitRepoProvider,
    "gl": GitLabRepoProvider,
    "zenodo": ZenodoProvider,
    "figshare": FigshareProvider,
    "hydroshare": HydroshareProvider,
    "dataverse": DataverseProvider,
    "ckan": CKANProvider,
}
"""Every provider by the prefix of its links, in the order that pages list them."""

__all__ = [
    "PROVIDERS",
    "AddressRules",
    "CKANProvider",
    "Credential",
    "DataverseProvider",
    "FigshareProvider",
    "GistRepoProvider",
    "GitHubRepoProvider",
    "GitLabRepoProvider",
    "GitRepoProvider",
    "HydroshareProvider",
    "RepoProvider",
    "Resolved",
    "Source",
    "ZenodoProvider",
]
