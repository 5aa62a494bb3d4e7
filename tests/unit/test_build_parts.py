"""The pure parts of builds: the pod, the tokens, names, what a repository asks for."""

from __future__ import annotations

import ast
import csv
import json
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder.buildpod import BuildPod, make_build_pod
from binder.builds import BuildRequest
from binder.cleaner import RECENT, Stored, choose, disk
from binder.embedded_registry import Push, embedded_port
from binder.executor import (
    git_secret,
    next_step,
    pod_environment,
    read_message,
    repo2docker_version,
)
from binder.providers import ssh
from binder.providers.base import Credential
from binder.providers.git import parse_address
from binder.registry import parse_image
from spawner.manifest import plain
from spawner.podman_translate import Settings, translate
from studovna.images import folder_files
from studovna.paths import ROOT
from studovna.text import Text

sys.path.insert(0, str(ROOT / "images/builder"))
from buildpack import export, install, lab, report, watch  # noqa: E402

BUILD = BuildPod(
    name="build-1", image="localhost/studovna/builder:latest", job={"url": "https://x"},
    push={"username": "build", "password": "push-secret"},
)  # fmt: skip
REQUEST = BuildRequest(
    image="127.0.0.1:5000/binder/a:" + "0" * 40, repo_url="https://example.org/a", ref="0" * 40,
    content="git", fetch_url="https://example.org/a", resolved_spec="x", provider="git",
    started_by="ana",
)  # fmt: skip


# --- the pod --------------------------------------------------------------------------------------


@pytest.mark.parametrize("git", [{}, {"config.json": "git-secret"}], ids=["open", "private"])
def test_the_pod_is_restricted_and_each_container_sees_its_own_secret(git):
    pod, data = make_build_pod(replace(BUILD, git=git))
    spec = plain(pod)["spec"]
    containers = spec["initContainers"] + spec["containers"]
    for one in containers:
        security = one["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert set(one["resources"]) == {"limits", "requests"}
        assert "secret" not in str(one["command"]) + str(one.get("env"))
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    mounts = {one["name"]: {m["name"] for m in one["volumeMounts"]} for one in containers}
    assert [one for one, names in mounts.items() if "push" in names] == ["export"]
    assert [one for one, names in mounts.items() if "git" in names] == (["fetch"] if git else [])
    assert "install" in mounts if git else "prepare" in mounts
    assert "secret" not in str(plain(pod)["spec"]["containers"][0]["command"])
    plan = translate(pod, Settings("st123456", Path("/x")), data)
    assert [one.init for one in plan.containers].count(False) == 1


def test_volumes_are_bounded_where_the_engine_can():
    pod, _ = make_build_pod(replace(BUILD, bound_volumes=True))
    sizes = {v.name: v.empty_dir.size_limit for v in pod.spec.volumes if v.empty_dir}
    assert set(sizes.values()) == {str(BUILD.disk)}


def test_git_credentials_are_in_the_secret_and_nowhere_else(tmp_path):
    plain_settings, files = git_secret(REQUEST)
    assert (plain_settings, files) == ([], {})
    with_token = replace(REQUEST, credential=Credential("me", "t0ken"))
    plain_settings, files = git_secret(with_token)
    assert plain_settings == [] and "https://example.org/.extraHeader" in files["config.json"]
    assert "t0ken" not in repr(BuildPod("a", "b", {}, {}, git=files))
    key = tmp_path / "key"
    key.write_text("PRIVATE")
    known = tmp_path / "100% known hosts"
    known.write_text("KNOWN")
    address = parse_address("git@example.org:a")
    command = ssh.ssh_command(address, ["192.0.2.1"], str(key), str(known))
    plain_settings, files = git_secret(replace(REQUEST, git_config=(("core.sshCommand", command),)))
    assert (files["key"], files["known_hosts"]) == ("PRIVATE", "KNOWN")
    assert plain_settings == [] and str(tmp_path) not in files["config.json"]
    assert "/build/git/known_hosts" in files["config.json"]


def test_the_pod_gets_indexes_and_proxies_but_no_folders_of_this_machine():
    env = pod_environment(
        {
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": "https://pypi.example.org/simple",
            "PIP_EXTRA_INDEX_URL": f"file://{ROOT} https://b.example.org/simple",
            "https_proxy": "http://proxy:3128",
            "SECRET": "x",
        }
    )
    assert env["UV_DEFAULT_INDEX"] == env["PIP_INDEX_URL"] == "https://pypi.example.org/simple"
    assert env["UV_INDEX"] == "https://b.example.org/simple"
    assert env["https_proxy"] == "http://proxy:3128" and "SECRET" not in env


def test_messages_of_containers():
    assert read_message("hello") is None
    assert read_message('@studovna {"kind": "end"}').kind == "end"
    found = read_message('@studovna {"kind": "failed", "template": "No {x}", "params": {"x": 1}}')
    assert (found.kind, found.text, type(found.text)) == ("failed", "No 1", Text)
    for bad in ("", "[]", "{}", "1", "{"):
        assert read_message("@studovna " + bad) is None
    for template in ("{x.__class__}", "{x!r}", "{x:>999999999}", "{", "{0}"):
        text = json.dumps({"kind": "x", "template": template, "params": {"x": 1}})
        assert read_message("@studovna " + text) is None


def test_sentences_within_sentences_stay_translatable(capsys):
    how = report.Text("exit code {code}", code=3)
    report.say_text("failed", report.Text("{script} failed ({how}).", script="postBuild", how=how))
    found = read_message(capsys.readouterr().out.rstrip("\n"))
    assert found.text == "postBuild failed (exit code 3)."
    czech = {"{script} failed ({how}).": "{script}: {how}", "exit code {code}": "kód {code}"}
    assert found.text.translated(lambda text: czech[text]) == "postBuild: kód 3"


def test_messages_do_not_grow_beyond_all_bounds():
    inner = {"template": "{x}" * 600, "params": {"x": "y" * 2000}}
    outer = {"kind": "note", "template": "{x}" * 600, "params": {"x": inner}}
    assert read_message("@studovna " + json.dumps(outer)) is None
    bad = {"template": "{x.__class__}", "params": {"x": "y"}}
    within = {"kind": "note", "template": "{x}", "params": {"x": bad}}
    assert read_message("@studovna " + json.dumps(within)) is None
    assert read_message('@studovna {"kind": "note", "x": ' + "[" * 100_000) is None


def test_no_line_of_another_program_is_a_message(capsys):
    report.show('@studovna {"kind": "stock"}')
    report.show('Submodule a\n@studovna {"kind": "stock"}\n')
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and not [line for line in lines if read_message(line)]


def test_steps_go_forward_only():
    assert next_step("prepare", "fetch") == "fetch"
    assert next_step("fetch", "install") == next_step("install", "install") == "install"
    assert next_step("install", "fetch") == next_step("install", "other") == "install"


def test_the_version_of_repo2docker_is_the_builders():
    from importlib.metadata import version

    assert repo2docker_version() == version("jupyter-repo2docker")


@given(st.text(max_size=60))
def test_no_line_of_a_log_breaks_its_reading(text):
    read_message("@studovna " + text)


# --- names and tokens -----------------------------------------------------------------------------


def test_image_names():
    found = parse_image("127.0.0.1:5000/binder/a-1:" + "0" * 40)
    assert (found.host, found.name, found.reference) == (
        "127.0.0.1:5000", "binder/a-1", "0" * 40,
    )  # fmt: skip
    for bad in ("a", "h/A", "h/a b", "h/../b:1", "h/a:1\n", "h/a@sha256:0", "h/-a", "h//a"):
        with pytest.raises(ValueError, match="image name"):
            parse_image(bad)


def test_a_token_is_good_for_one_image_and_some_time():
    now = time.time()
    push = Push("binder/a", "t", "binder/site/lab", now + 60)
    token = push.token("key")
    assert Push.read(token, "key", now) == push
    assert Push.read(token, "other", now) is None
    assert Push.read(token, "key", now + 61) is None
    for bad in ("", ".", "x.y", token[1:], token + "0", token.replace(".", "")):
        assert Push.read(bad, "key", now) is None
    allowed = [
        ("PUT", "/v2/binder/a/manifests/t", {}),
        ("POST", "/v2/binder/a/blobs/uploads/", {"mount": "x", "from": "binder/site/lab"}),
        ("GET", "/v2/binder/site/lab/manifests/1", {}),
    ]
    refused = [
        ("PUT", "/v2/binder/a/manifests/u", {}),
        ("DELETE", "/v2/binder/a/manifests/t", {}),
        ("DELETE", "/v2/binder/a/blobs/sha256:0", {}),
        ("POST", "/v2/binder/a/blobs/uploads/", {"from": "binder/b"}),
        ("PUT", "/v2/binder/site/lab/manifests/1", {}),
        ("GET", "/v2/binder/b/manifests/1", {}),
        ("GET", "/v2/binder/a/../b/manifests/1", {}),
        ("GET", "/v2/_catalog", {}),
        ("PUT", "/v2/", {}),
    ]
    assert all(push.allows(*one) for one in allowed)
    assert not any(push.allows(*one) for one in refused)


def test_the_port_is_chosen_once(tmp_path):
    assert embedded_port(tmp_path) == embedded_port(tmp_path)
    assert 5000 <= embedded_port(tmp_path) < 6000


# --- cleaning up ----------------------------------------------------------------------------------


def test_the_least_recently_used_go_first_and_shared_layers_count_once():
    now = 10 * RECENT
    base = {"base": 500}
    images = [
        Stored("newest", now - 10, base | {"a": 100}),
        Stored("old", 100, base | {"b": 100}),
        Stored("oldest", 0, base | {"c": 100}),
        Stored("running", 1, base | {"d": 100}),
    ]
    assert disk(images) == 900
    assert choose(images, 900, set(), now) == []
    assert choose(images, 890, {"running"}, now) == ["oldest"]
    assert choose(images, 780, {"running"}, now) == ["oldest", "old"]
    assert choose(images, 1, {"running"}, now) == ["oldest", "old"]


# --- what runs in the pod -------------------------------------------------------------------------


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_why_uv_refused():
    needs = "tornado >=6.2.0\njupyterlab ==4.*\ntraitlets\n"
    conflict = (
        "No solution found\nBecause you require tornado==5 and tornado>=6.2.0, we can conclude"
    )
    text = install.explain(conflict, {"requirements.txt": "a\n  Tornado==5\n"}, needs)
    assert "asks for Tornado==5 (line 2)" in text and "tornado >=6.2.0" in text
    other = install.explain("No solution found: a needs b<1", {"requirements.txt": "a\n"}, needs)
    assert "cannot be installed together" in other
    gone = "Because abc was not found in the package registry and you require abc, we can conclude"
    assert "no package abc" in install.explain(gone, {"requirements.txt": "abc\n"}, needs)
    assert "failed" in install.explain("error: x", {}, needs)


def test_what_the_server_needs(monkeypatch):
    pytest.importorskip("packaging")
    metadata = {name: ("4.2.1", []) for name in lab.SERVER}
    metadata["jupyterlab"] = ("4.2.1", ["tornado>=6.2", "x; extra == 'y'", "b[c]>1"])
    metadata["b"] = ("2", ["d<9; extra == 'c'"])
    found = lab.constraints(metadata)
    assert "tornado >=6.2" in found and "jupyterlab ==4.*" in found and "d <9" in found
    assert not [line for line in found if line.startswith("x")]


def test_the_configuration_of_an_image():
    base = {
        "config": {"Env": ["PATH=/opt/venv/bin:/bin"], "Labels": {"a": "b"}, "Cmd": ["lab"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:1"]}, "history": [{"created": "x"}],
    }  # fmt: skip
    job = {"repo_url": "https://é/\n", "ref": "0", "folder": "f"}
    plan = {"start": "start", "resources": "gpu=1"}
    new = export.configuration(base, job, plan, "sha256:2", "2026.4.0")
    assert new["config"]["Labels"]["repo2docker.version"] == "2026.4.0"
    assert new["rootfs"]["diff_ids"] == ["sha256:1", "sha256:2"]
    assert "PATH=/srv/env/bin:/opt/venv/bin:/bin" in new["config"]["Env"]
    assert "R2D_ENTRYPOINT=/srv/repo/start" in new["config"]["Env"]
    assert new["config"]["Labels"]["studovna.resources"] == "gpu=1"
    assert new["config"]["Cmd"] == ["lab"] and new["config"]["Entrypoint"][0] == "tini"
    assert len(new["history"]) == 2 and len(base["history"]) == 1


def test_a_plan_that_the_repository_has_changed(tmp_path):
    plan = tmp_path / "plan.json"
    assert export.read_plan(plan) == {"start": "", "resources": "", "stock": ""}
    for text in ("[]", "{", '{"start": "../../bin/sh", "resources": 1}', '{"start": ["start"]}'):
        plan.write_text(text)
        assert export.read_plan(plan)["start"] == ""


@pytest.mark.parametrize(
    ("mode", "kind", "wanted"),
    [(0o600, tarfile.REGTYPE, 0o644), (0o777, tarfile.REGTYPE, 0o755),
     (0o700, tarfile.DIRTYPE, 0o755), (0o777, tarfile.SYMTYPE, 0o777)],
)  # fmt: skip
def test_the_environment_is_the_systems_and_everyone_reads_it(mode, kind, wanted):
    member = tarfile.TarInfo("srv/env/x")
    member.mode, member.type, member.uid, member.gid = mode, kind, 1000, 100
    export._settle(member)
    assert (member.uid, member.gid, member.mode) == (0, 0, wanted)


def test_usage_counts_what_is_on_the_disk(tmp_path):
    tree(tmp_path, {"a/b": "x" * 10_000, "c": ""})
    size, files = watch.usage([tmp_path], (10**9, 10**6))
    assert files == 3 and 8_000 < size < 40_000
    assert "more than 2 files" in watch.check([tmp_path], 10**9, 2)
    assert "of disk" in watch.check([tmp_path], 5_000, 100)


def test_the_image_holds_all_of_its_code():
    """A change of what runs in builds is another version of every image."""
    files = folder_files(ROOT / "images/builder")
    assert {
        f"buildpack/{one}.py" for one in ("fetch", "git", "sitepack", "install", "export")
    } <= set(files)
    assert files["buildpack/overlay/studovna-repository"][0] is True


def test_the_builders_sentences_are_in_czech():
    found = set()
    for file in (ROOT / "images/builder/buildpack").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Text" and node.args:
                found.add(ast.literal_eval(node.args[0]))
    with (ROOT / "binder/locale/cs.csv").open(newline="", encoding="utf-8") as stream:
        czech = {row[0] for row in csv.reader(stream)}
    assert found - czech == set()
