"""Dockerfiles on a cluster, without one: what buildah says, and what settings mean."""

from __future__ import annotations

import pytest

from binder.builder_room import registries_only
from binder.engine_repo2docker import why, why_not_pushed
from studovna.release import read_release
from studovna.site import Site, site_rules


@pytest.mark.parametrize("between", ["", "while running runtime: "], ids=["buildah", "podman"])
def test_a_step_is_named_by_either_program(between: str) -> None:
    line = f'Error: building at STEP "RUN exit 7": {between}exit status 7'
    said = why(1, ["STEP 2/2: RUN exit 7", line], False, 2**30)
    assert said == "RUN exit 7 failed (exit code 7). The log says why."


def test_memory_is_told_only_where_it_was_used_up() -> None:
    line = 'Error: building at STEP "RUN eat": exit status 137'
    assert "more than 1 GB of memory" in why(1, [line], True, 2**30)
    assert "memory" not in why(1, [line], False, 2**30)


def test_an_image_by_its_place_is_told_from_one_that_is_not_there() -> None:
    line = (
        "Error: creating build container: copying system image from manifest list: Source image "
        "rejected: Running image dir:/x is rejected by policy."
    )
    said = why(125, ["STEP 1/1: FROM dir:/x", line], False, 2**30)
    assert said.startswith("dir:/x is no image of a registry")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker-daemon": {}}},
        {"default": [{"type": "reject"}],
         "transports": {"docker": {"r.example.org": [{"type": "signedBy"}]}}},
    ],
    ids=["none", "debian", "signed"],
)  # fmt: skip
def test_a_builders_policy_is_the_machines_for_registries_and_a_refusal_else(given) -> None:
    policy = registries_only(given)
    assert policy["default"] == [{"type": "reject"}] and list(policy["transports"]) == ["docker"]
    docker = policy["transports"]["docker"]
    assert docker[""] == given.get("default", [{"type": "insecureAcceptAnything"}])
    assert docker.get("r.example.org", [{"type": "signedBy"}]) == [{"type": "signedBy"}]


@pytest.mark.parametrize("said", ["unauthorized: sign in", "requested access is denied"])
def test_a_registry_that_refuses_is_told_from_one_that_fails(said: str) -> None:
    assert "may not write there" in why_not_pushed(said)
    assert "connection refused" in why_not_pushed("dial tcp: connection refused")


def test_a_cluster_may_build_dockerfiles() -> None:
    settings = {
        "engine": "kubernetes",
        "images": "r.example.org/s",
        "binder": {"dockerfiles": True},
    }
    assert not list(site_rules(Site.model_validate(settings)))


def test_where_they_are_built_comes_from_the_chart() -> None:
    chart = {
        "STUDOVNA_RELEASE": "hub-studovna",
        "STUDOVNA_INSTANCE": "hub",
        "STUDOVNA_NAMESPACE": "site",
        "STUDOVNA_BUILDS_NAMESPACE": "site-builds",
    }
    off, on = (
        read_release(chart),
        read_release({**chart, "STUDOVNA_DOCKERFILES_NAMESPACE": "site-dockerfiles"}),
    )
    assert off is not None and off.dockerfiles_namespace == ""
    assert on is not None and on.dockerfiles_namespace == "site-dockerfiles"
