"""What is believed of a provider, and what its settings may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawner.openid_connect import (
    MAX_GROUPS,
    MetadataError,
    SignInFailed,
    claim,
    group_names,
    read_metadata,
    user_name,
    wants_basic,
)
from studovna.problems import SettingsError
from studovna.site import check, load_site

ISSUER = "https://login.example.org/realms/u"
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": "https://login.example.org/auth",
    "token_endpoint": "https://login.example.org/token",
    "userinfo_endpoint": "https://login.example.org/me",
}
PATTERN = "[a-z0-9][a-z0-9._@-]{0,63}"


def test_metadata() -> None:
    assert read_metadata(ISSUER, json.dumps(METADATA).encode())["token_endpoint"].endswith("token")
    without = {key: value for key, value in METADATA.items() if key != "userinfo_endpoint"}
    read_metadata(ISSUER, json.dumps(without).encode())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"issuer": ISSUER + "/"}, "spelled alike"),
        ({"issuer": None}, "spelled alike"),
        ({"token_endpoint": "http://login.example.org/token"}, "no https address"),
        ({"token_endpoint": ["https://login.example.org"]}, "no https address"),
        ({"userinfo_endpoint": "https:///me"}, "no https address"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "no https address"),
    ],
)
def test_metadata_that_cannot_be_used(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(MetadataError, match=said):
        read_metadata(ISSUER, json.dumps(METADATA | changed).encode())


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"1", b"\xff", b"{}"])
def test_answers_that_are_no_metadata(answer: bytes) -> None:
    with pytest.raises(MetadataError):
        read_metadata(ISSUER, answer)


def test_how_the_secret_is_sent() -> None:
    key = "token_endpoint_auth_methods_supported"
    assert wants_basic({}) and wants_basic({key: ["client_secret_post", "client_secret_basic"]})
    assert not wants_basic({key: ["client_secret_post"]})


def test_claims_inside_claims() -> None:
    claims = {"a": {"b": [1]}, "https://example.org/groups": ["x"], "c": "text"}
    assert claim(claims, "a.b") == [1]
    assert claim(claims, "https://example.org/groups") == ["x"]
    assert claim(claims, "c.d") is None and claim(claims, "a.x.y") is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Ana", "ana"),
        ("ana@Example.org", "ana@example.org"),
        ("485123", "485123"),
        (485123, "485123"),
    ],
)
def test_user_names(value: object, name: str) -> None:
    assert user_name({"n": value}, "n", PATTERN) == name


@pytest.mark.parametrize(
    "value",
    [
        None, "", " ana", "ana\n", "a/b", "..", "ana\x00", "\u212aate", "ána", True, 1.5, -1,
        ["ana"], {"a": 1}, "a" * 65, "a" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_user_name(value: object) -> None:
    with pytest.raises(SignInFailed) as caught:
        user_name({"n": value}, "n", PATTERN)
    assert caught.value.status_code == 403
    assert len(caught.value.jupyterhub_message) < 500


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_a_claim_is(value: Any) -> None:
    names = group_names({"g": value}, "g")
    assert all(isinstance(name, str) and name and name.isprintable() for name in names)
    try:
        assert user_name({"g": value}, "g", PATTERN).isascii()
    except SignInFailed:
        pass


def test_groups() -> None:
    assert group_names({"g": ["a", "/b c", 1, None, "", "x\n", "y" * 256]}, "g") == {"a", "/b c"}
    assert group_names({"g": "staff"}, "g") == {"staff"}
    assert len(group_names({"g": [str(n) for n in range(5000)]}, "g")) == MAX_GROUPS
    assert group_names({}, "g") == set()


# --- settings -------------------------------------------------------------------------------------

WHOLE = f"""
auth:
  type: openid-connect
  issuer: {ISSUER}
  client_id: studovna
  client_secret_file: secret
  groups_claim: groups
  admin_groups: [operators]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("s\n")
    (tmp_path / "empty").write_text("\n")
    return tmp_path


def test_settings(folder: Path) -> None:
    (folder / "site.yaml").write_text(WHOLE)
    site = load_site(folder / "site.yaml")
    assert site.auth.type == "openid-connect"
    assert site.auth.service == "login.example.org"
    assert site.is_username("ana@example.org") and not site.is_username("Ana")


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ("openid-connect", "openid", "auth.type", '"openid-connect"'),
        (ISSUER, "http://login.example.org", "auth.issuer", "not encrypted"),
        (ISSUER, "login.example.org", "auth.issuer", "no address of the web"),
        (ISSUER, f"{ISSUER}?x=1", "auth.issuer", "no address of the web"),
        ("  client_id: studovna\n", "", "auth.client_id", "missing"),
        ("client_id", "client", "auth.client", "client_id"),
        ("file: secret", "file: absent", "auth.client_secret_file", "There is no file"),
        ("file: secret", "file: empty", "auth.client_secret_file", "is empty"),
        ("  groups_claim: groups\n", "", "auth.admin_groups", "auth.groups_claim"),
        ("groups_claim: groups", "groups_claim: a..b", "auth.groups_claim", "no name of a claim"),
        ("  admin_groups: [operators]\n", "", "auth", "Nobody is an admin"),
        ("auth:\n", "groups: {a: [ana]}\nauth:\n", "groups", "the provider says who"),
        ("auth:\n", "auth:\n  scopes: [profile]\n", "auth.scopes", "openid"),
        ("auth:\n", "auth:\n  scopes: [a b]\n", "auth.scopes[0]", "no scope"),
        ("auth:\n", "auth:\n  admins: [A B]\n", "auth.admins[0]", "not let in"),
        ("auth:\n", "auth:\n  username_pattern: ^x$\n", "auth.username_pattern", "anchors"),
        ("auth:\n", "auth:\n  logout_redirect_url: javascript:x\n", "auth.logout_redirect_url",
         "no address"),
    ],
)  # fmt: skip
def test_settings_that_are_not_right(folder: Path, old: str, new: str, key: str, said: str) -> None:
    file = folder / "site.yaml"
    assert old in WHOLE
    file.write_text(WHOLE.replace(old, new, 1))
    with pytest.raises(SettingsError) as caught:
        load_site(file)
    found = [
        p for p in caught.value.problems if p.key == key and said in f"{p.message} {p.expected}"
    ]
    assert found, caught.value.problems
    assert found[0].line


def test_without_a_type_it_is_the_shared_password(folder: Path) -> None:
    (folder / "site.yaml").write_text("auth: {admins: [root]}\n")
    assert load_site(folder / "site.yaml").auth.type == "shared-password"


def test_profiles_may_name_groups_of_the_provider(folder: Path) -> None:
    (folder / "site.yaml").write_text(WHOLE)
    (folder / "profiles").mkdir()
    profile = (
        "title: T\nimage: lab\ncpu: {request: 1, limit: 1}\nmemory: {request: 1G, limit: 1G}\n"
        "access: {groups: ['urn:geant:example.org:group:physics#idm']}\n"
    )
    (folder / "profiles" / "physics.yaml").write_text(profile)
    assert check(folder / "site.yaml") == []
    (folder / "site.yaml").write_text(
        WHOLE.replace("  groups_claim: groups\n", "  admins: [a]\n").replace(
            "  admin_groups: [operators]\n", ""
        )
    )
    assert "There is no group" in check(folder / "site.yaml")[0].message
