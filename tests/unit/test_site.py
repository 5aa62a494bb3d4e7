"""Site settings: what is let in, and what is said about what is not."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from studovna.problems import (
    MAX_BYTES,
    Problem,
    SettingsError,
    dotted,
    format_problem,
    nearest,
    read_yaml,
)
from studovna.schema import published
from studovna.site import Site, check, load_site
from studovna.units import GIB, MIB, format_cores, format_size, parse_size, write_size

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> Path:
    file = folder / "site.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(folder: Path, text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(SettingsError) as caught:
        load_site(write(folder, text))
    return [(problem.line, problem.key) for problem in caught.value.problems]


def only_problem(folder: Path, text: str) -> Problem:
    with pytest.raises(SettingsError) as caught:
        load_site(write(folder, text))
    (problem,) = caught.value.problems
    return problem


def test_the_embedded_default_is_right() -> None:
    assert check(ROOT / "site.yaml") == []


def test_every_default_that_the_embedded_file_shows_is_the_default(tmp_path: Path) -> None:
    lines = (ROOT / "site.yaml").read_text().splitlines()
    keep = ("# auth", "# bind", "# project", "# servers", "# storage", "# profiles", "# binder")
    text, taking = "", False
    for line in lines:
        if line.startswith("# ") and not line.startswith("#   "):
            taking = line.startswith(tuple(f"{key}:" for key in keep))
        elif not line.startswith("#"):
            taking = False
        if taking:
            text += line.removeprefix("# ") + "\n"
    assert text.count("\n") > 15
    assert load_site(write(tmp_path, text)).model_dump() == Site().model_dump()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "name: Studovna"])
def test_an_empty_file_is_a_working_site(tmp_path: Path, text: str) -> None:
    site = load_site(write(tmp_path, text))
    assert site.model_dump() == Site().model_dump()
    assert site.project.requests.memory == 40 * GIB
    assert site.profiles_folder == tmp_path / "profiles"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("nmae: x", (1, "nmae", '"name"'), id="top-level"),
        pytest.param("project:\n  serverz: 4", (2, "project.serverz", '"servers"'), id="nested"),
        pytest.param(
            "project:\n  limits:\n    cpu: 2\n    memory: 4G\n    memroy: 4G",
            (5, "project.limits.memroy", '"memory"'),
            id="two-levels-down",
        ),
        pytest.param("storage: {clas: fast}", (1, "storage.clas", '"class"'), id="alias"),
        pytest.param("auth: {admin: [ana]}", (1, "auth.admin", '"admins"'), id="auth"),
        pytest.param(
            "registry: {url: https://r.example, password: x}",
            (1, "registry.password", '"password_file"'),
            id="a-secret-in-the-file",
        ),
    ],
)
def test_a_misspelt_key_gets_the_nearest_right_one(
    tmp_path: Path, text: str, expected: tuple[int, str, str]
) -> None:
    problem = only_problem(tmp_path, text)
    line, key, near = expected
    assert (problem.line, problem.key) == (line, key)
    assert problem.message.startswith("There is no setting")
    assert problem.expected.startswith(near)


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        pytest.param(
            'project: {limits: {cpu: "2", memory: 4G}}',
            "project.limits.cpu",
            "without quotes",
            id="number-in-quotes",
        ),
        pytest.param(
            "project: {limits: {cpu: 2, memory: 4GB}}",
            "project.limits.memory",
            "K, M, G, T",
            id="GB",
        ),
        pytest.param(
            "project: {limits: {cpu: 2, memory: 4}}",
            "project.limits.memory",
            "has no unit",
            id="no-unit",
        ),
        pytest.param(
            "project: {limits: {cpu: 0, memory: 4G}}",
            "project.limits.cpu",
            "out of bounds",
            id="no-cores",
        ),
        pytest.param(
            "project: {limits: {cpu: .inf, memory: 4G}}",
            "project.limits.cpu",
            "out of bounds",
            id="infinite-cores",
        ),
        pytest.param(
            "project: {limits: {cpu: .nan, memory: 4G}}",
            "project.limits.cpu",
            "out of bounds",
            id="nan-cores",
        ),
        pytest.param(
            "project: {limits: {cpu: true, memory: 4G}}",
            "project.limits.cpu",
            "no number",
            id="bool-cores",
        ),
        pytest.param(
            "project: {limits: {cpu: 40}}",
            "project.limits.memory",
            '"memory" is missing',
            id="missing",
        ),
        pytest.param("engine: docker", "engine", "podman", id="unknown-engine"),
        pytest.param("auth: {type: github}", "auth.type", "shared-password", id="unknown-login"),
        pytest.param("auth: {admins: ana}", "auth.admins", "a list", id="not-a-list"),
        pytest.param("groups: {teachers: [1]}", "groups.teachers[0]", "text", id="number-as-name"),
        pytest.param("groups: {Teachers: []}", "groups.Teachers", "short name", id="group-name"),
        pytest.param("bind: localhost:8000", "bind", "an address and a port", id="bind-a-name"),
        pytest.param("bind: 127.0.0.1:99999", "bind", "an address and a port", id="bind-port"),
        pytest.param(
            "public_url: https://a.example/hub", "public_url", "without a path", id="path"
        ),
        pytest.param(
            "announcement: {de: Hallo, en: a}", "announcement.de", "cs, en", id="language"
        ),
        pytest.param("announcement: 3", "announcement", "text in quotes", id="text-is-a-number"),
        pytest.param("name: <b>x</b>", "name", "plain text", id="markup"),
        pytest.param("name: ''", "name", "at least 1", id="empty-name"),
        pytest.param(
            "auth: {username_pattern: '^a$'}", "auth.username_pattern", '"a"', id="anchors"
        ),
        pytest.param(
            "auth: {username_pattern: '('}",
            "auth.username_pattern",
            "cannot be read",
            id="broken-pattern",
        ),
        pytest.param(
            "binder: {concurrent_builds: 0}",
            "binder.concurrent_builds",
            "greater than or equal to 1",
            id="no-builds",
        ),
        pytest.param("binder: {enabled: 'yes'}", "binder.enabled", "true or false", id="bool-text"),
        pytest.param(
            "binder: {allow_hosts: ['a b']}", "binder.allow_hosts[0]", "pattern", id="host"
        ),
        pytest.param("servers: {idle_hours: 0}", "servers.idle_hours", "greater than 0", id="zero"),
        pytest.param("profiles: null", "profiles", "text", id="null"),
        pytest.param("- a", "", "keys and values", id="a-list"),
        pytest.param("hello", "", "keys and values", id="a-text"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, text: str, key: str, says: str) -> None:
    problem = only_problem(tmp_path, text)
    assert problem.key == key
    assert problem.line == 1
    assert says in format_problem(problem)


@pytest.mark.parametrize(
    ("text", "key", "both"),
    [
        pytest.param(
            "project:\n  limits: {cpu: 8, memory: 64G}",
            "project.requests.cpu",
            ("project.requests.cpu", "project.limits.cpu"),
            id="requests-above-limits",
        ),
        pytest.param(
            "auth: {admins: [Ana]}",
            "auth.admins[0]",
            ("Ana", "auth.username_pattern"),
            id="admin-is-no-user",
        ),
        pytest.param(
            "groups: {teachers: [ana, 'x y']}",
            "groups.teachers[1]",
            ("x y", "auth.username_pattern"),
            id="member-is-no-user",
        ),
        pytest.param(
            "registry: {url: https://r.example, username: u}",
            "registry.password_file",
            ("registry.username", "registry.password_file"),
            id="user-without-password",
        ),
        pytest.param(
            "engine: kubernetes", "images", ("engine: kubernetes", "images"), id="no-registry"
        ),
    ],
)
def test_a_rule_over_two_keys_names_both(
    tmp_path: Path, text: str, key: str, both: tuple[str, str]
) -> None:
    problem = only_problem(tmp_path, text)
    assert problem.key == key
    assert all(word in problem.message for word in both)


def test_every_problem_is_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "nmae: x\nbind: y\nproject:\n  limits:\n    cpu: a\n    memory: b\nengine: c\n"
    assert problems(tmp_path, text) == [
        (1, "nmae"),
        (2, "bind"),
        (5, "project.limits.cpu"),
        (6, "project.limits.memory"),
        (7, "engine"),
    ]


def test_no_secret_is_repeated(tmp_path: Path) -> None:
    text = "registry: {url: https://r.example, username: u, password_file: [hunter2]}"
    assert "hunter2" not in format_problem(only_problem(tmp_path, text))
    text = "registry: {url: https://r.example, password: hunter2}"
    assert "hunter2" not in format_problem(only_problem(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("a: 1\nb: [1\n", 3, "began on line 2", id="open-list"),
        pytest.param("a:\n\t- 1\n", 2, "spaces", id="tab"),
        pytest.param("a: b: c\n", 1, "column 5", id="two-colons"),
        pytest.param("name: a\nbind: b\nname: c\n", 3, "first on line 1", id="twice"),
        pytest.param("a: &x [*x]\n", 1, "contains itself", id="recursive"),
        pytest.param("a: !!python/object:os.system x\n", 1, "tag", id="tag"),
        pytest.param("1: a\n", 1, "not text", id="number-as-key"),
        pytest.param("a: *nothing\n", 1, "alias", id="dangling-alias"),
        pytest.param("a: 1\n---\nb: 1\n", 2, "document", id="two-documents"),
    ],
)
def test_yaml_mistakes(tmp_path: Path, text: str, line: int, says: str) -> None:
    problem = only_problem(tmp_path, text)
    assert problem.line == line
    assert says in format_problem(problem)


def test_aliases_cannot_multiply(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for n in range(1, 9):
        text += f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n"
    assert "multiply" in only_problem(tmp_path, text).message


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    for depth in (40, 5_000):
        assert (
            "nested too deep" in only_problem(tmp_path, "a: " + "[" * depth + "]" * depth).message
        )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="There is no such file"):
        load_site(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_site(tmp_path)
    file = tmp_path / "site.yaml"
    file.write_bytes(b"name: a\nbind: \xff\n")
    with pytest.raises(SettingsError, match=r"site.yaml:2: The file is not UTF-8"):
        load_site(file)
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SettingsError, match="too large"):
        load_site(file)
    file.write_bytes(b"name: a\x00b\n")
    with pytest.raises(SettingsError, match="not YAML"):
        load_site(file)


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = "project:\n  requests: &r {cpu: 4, memory: 8G}\n  limits: {<<: *r, cpu: 6}\n"
    site = load_site(write(tmp_path, text))
    assert (site.project.limits.cpu, site.project.limits.memory) == (6, 8 * GIB)


def test_words_that_yaml_once_read_as_booleans_stay_text(tmp_path: Path) -> None:
    file = write(tmp_path, "a: [yes, no, on, 2020-01-01, 0o17, 1_0]")
    assert read_yaml(file).data["a"][:4] == ["yes", "no", "on", "2020-01-01"]


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(max_size=80), st.binary(max_size=80)))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        load_site(file)
    except SettingsError as error:
        assert error.problems and all(format_problem(p) for p in error.problems)


@pytest.mark.parametrize(
    ("text", "url", "https"),
    [
        ("", "http://localhost:8000", False),
        ("bind: 0.0.0.0:80", "http://localhost:80", False),
        ('bind: "[::1]:8000"', "http://localhost:8000", False),
        ("bind: 192.0.2.7:8000", "http://192.0.2.7:8000", False),
        ("public_url: https://hub.example.org/", "https://hub.example.org", True),
    ],
)
def test_the_address_people_use(tmp_path: Path, text: str, url: str, https: bool) -> None:
    site = load_site(write(tmp_path, text))
    assert (site.url, site.https) == (url, https)


def test_people_and_groups(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, "groups: {teachers: [ana], staff: [ana, petr]}"))
    assert site.groups_of("ana") == {"teachers", "staff"}
    assert site.groups_of("anabel") == set()
    # JupyterHub writes names in lower case, whatever the site lets in.
    loose = "auth: {type: shared-password, username_pattern: '[A-Za-z]+'}\ngroups: {staff: [Ana]}"
    assert load_site(write(tmp_path, loose)).groups_of("ana") == {"staff"}
    assert site.is_username("ana") and not site.is_username("ana\n") and not site.is_username("")
    assert site.image_reference("lab") == "localhost/studovna/lab:latest"
    assert site.image_reference("quay.io/a/b:1") == "quay.io/a/b:1"
    tagged = {"images": "r.example.org/s", "cluster": {"image_tag": "1-2"}}
    cluster = Site.model_validate({"engine": "kubernetes", **tagged})
    assert cluster.image_reference("lab") == "r.example.org/s/lab:1-2"
    assert cluster.image_reference("quay.io/a/b:1") == "quay.io/a/b:1"
    # What is built here has the one tag that podman's build gives it.
    assert Site.model_validate(tagged).image_reference("lab") == "r.example.org/s/lab:latest"


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 * GIB), ("512M", 512 * MIB), ("1.5G", 1536 * MIB), ("1K", 1024), ("1T", 1024 * GIB)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(write_size(size)) == size


@pytest.mark.parametrize("text", ["", "4", "G", "4GB", "4 G", "4g", "4Gi", "-4G", "1e3G", "4G\n"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="powers of 1024"):
        parse_size(text)


def test_amounts_for_people() -> None:
    assert [format_size(n) for n in (512 * MIB, 4 * GIB, 2048 * GIB)] == [
        "0.5 GB",
        "4 GB",
        "2048 GB",
    ]
    assert [format_cores(n) for n in (0.25, 2.0, 12)] == ["0.25 CPU", "2 CPU", "12 CPU"]


def test_paths_and_near_words() -> None:
    assert dotted(("groups", "teachers", 0)) == "groups.teachers[0]"
    assert nearest("memroy", ["memory", "cpu"]) == "memory"
    assert nearest("xyz", ["memory", "cpu"]) is None


@pytest.mark.parametrize("name", published())
def test_published_files_are_fresh(name: str) -> None:
    file = ROOT / name
    assert file.read_text() == published()[name], "run: make schema"


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("site.schema.json", "site.yaml"),
        *(
            ("profile.schema.json", str(path.relative_to(ROOT)))
            for path in sorted((ROOT / "profiles").rglob("*.yaml"))
        ),
    ],
)
def test_our_files_pass_the_published_schema(schema: str, file: str) -> None:
    data = YAML(typ="safe", pure=True).load((ROOT / file).read_text())
    document = json.loads((ROOT / "docs" / schema).read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    jsonschema.Draft202012Validator(document).validate(data)
    data["nmae"] = 1
    with pytest.raises(jsonschema.ValidationError, match="nmae"):
        jsonschema.Draft202012Validator(document).validate(data)


def test_every_setting_says_what_it_is_for() -> None:
    def objects(schema: object) -> list[dict[str, dict[str, str]]]:
        if isinstance(schema, list):
            return [found for item in schema for found in objects(item)]
        if not isinstance(schema, dict):
            return []
        own = [schema["properties"]] if isinstance(schema.get("properties"), dict) else []
        return own + [found for value in schema.values() for found in objects(value)]

    for name in ("docs/site.schema.json", "docs/profile.schema.json"):
        for properties in objects(json.loads(published()[name])):
            for key, value in properties.items():
                assert value.get("description") or "$ref" in value, f"{name}: {key}"
