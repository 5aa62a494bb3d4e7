"""Builds with real pods, a real registry and a real git server; each way to fail."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from kubernetes_asyncio.client import (
    V1Container,
    V1EmptyDirVolumeSource,
    V1EnvVar,
    V1ObjectMeta,
    V1Pod,
    V1PodSecurityContext,
    V1PodSpec,
    V1Volume,
    V1VolumeMount,
)
from yarl import URL

from binder import executor as executor_module
from binder.buildpod import make_build_pod
from binder.builds import BuildRequest
from binder.cleaner import Cleaner, images_in_use
from binder.embedded_registry import Push, embedded_port
from binder.errors import Failed
from binder.providers.base import Credential
from binder.store import BuildStore
from studovna.paths import ROOT, site_id
from studovna.secrets import read_secret
from tests.binder.githost import TOKEN, GitHost, commit, git
from tests.building import Place, built, refused, run, said

THREE = "cowsay==6.1\nemoji\ntabulate\n"
pytestmark = pytest.mark.slow


# --- what works -----------------------------------------------------------------------------------


async def test_three_packages_become_a_layer_on_the_lab(place, executor, request_of):
    request = request_of(
        {
            "requirements.txt": THREE + "traitlets==5.14.3\n",
            "postBuild": "#!/bin/sh\npip install --no-deps iniconfig\necho $HOME > made.txt\n",
            "start": '#!/bin/sh\nexport FROM_START=yes\nexec "$@"\n',
            ".resources": "cpul=2\n",
            "index.ipynb": "{}",
        }
    )
    events = await built(executor, request)
    phases = [event["phase"] for event in events]
    assert sorted(set(phases), key=phases.index)[-3:] == ["fetching", "building", "pushing"]
    assert " + cowsay==6.1" in said(events)
    info = await executor.registry.image(request.image)
    assert info is not None
    assert info.labels["repo2docker.repo"] == request.repo_url
    assert info.labels["repo2docker.ref"] == request.ref
    assert info.labels["studovna.resources"] == "cpul=2\n"
    assert max(info.blobs.values()) > 10**8 and sorted(info.blobs.values())[1] < 3 * 10**6
    place.podman.run("pull", "--quiet", request.image)
    out = run(
        place,
        request.image,
        "pwd; cat made.txt; echo $FROM_START; which tabulate; git status --short; git log -1 "
        "--format=%H; python -c 'import cowsay, iniconfig, traitlets as t, jupyterlab as j; "
        "print(cowsay.__file__, t.__version__, j.__file__)'; touch own; ls ..",
    )
    assert "/home/jovyan/r" in out and "/srv/repo\n" in out and "\nyes\n" in out
    assert "/srv/env/bin/tabulate" in out and request.ref in out
    assert "/srv/env/lib/python3.13/site-packages/cowsay" in out
    assert " 5.14.3 /opt/venv/" in out
    await asyncio.gather(*executor._tasks)
    assert request.name not in await executor.running()
    # The same commit is the same layer, whoever builds it and when.
    again = replace(request, image=request.image.replace("binder/", "binder/again-"))
    await built(executor, again)
    other = await executor.registry.image(again.image)
    assert other is not None and set(other.blobs) == set(info.blobs)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "No environment file"),
        (
            {"pyproject.toml": '[project]\nname="hello"\nversion="1"\ndependencies=["cowsay"]\n'
             "[build-system]\nrequires=['setuptools']\n", "hello.py": "x = 1\n"},
            " + hello==1",
        ),
        ({"pyproject.toml": '[project]\nname="a"\nversion="1"\ndependencies=["emoji"]\n'}, "emoji"),
        (
            {"binder/environment.yml":
             "dependencies:\n- python=3.13\n- pip\n- pip:\n  - -r r.txt\n",
             "binder/r.txt": "cowsay\n", "requirements.txt": "no-such-package-at-all\n"},
            " + cowsay",
        ),
        ({"requirements.txt": "-e .\n", "setup.py": "from setuptools import setup\n"
          "setup(name='edit', version='2', py_modules=['edit'])\n", "edit.py": ""}, " + edit==2"),
    ],
    ids=["nothing", "package", "dependencies", "environment.yml", "editable"],
)  # fmt: skip
async def test_every_kind_of_environment_file(executor, request_of, files, expected):
    assert expected in said(await built(executor, request_of(files)))


async def test_what_post_build_does_to_sys_prefix_is_in_the_image(place, executor, request_of):
    script = (
        "#!/bin/bash\nset -ex\n"
        "jupyter labextension disable some-extension\n"
        "jupyter server extension disable --sys-prefix jupyter_resource_usage\n"
        "python -m ipykernel install --sys-prefix --name mine\n"
        "pip install iniconfig\n"
        'test "$NB_PYTHON_PREFIX" = "$(python -c \'import sys; print(sys.prefix)\')"\n'
    )
    setup = "from setuptools import setup\nsetup(name='edit', version='2', py_modules=['edit'])\n"
    files = {"requirements.txt": "-e .\ntabulate\n", "setup.py": setup, "edit.py": "x = 1\n"}
    start = '#!/bin/bash\nexport FROM_START=$REPO_DIR\nexec "$@"\n'
    request = request_of(files | {"postBuild": script, "start": start})
    assert " + edit==2" in said(await built(executor, request))
    place.podman.run("pull", "--quiet", request.image)
    out = run(
        place,
        request.image,
        "echo started in $FROM_START; jupyter kernelspec list; jupyter labextension list 2>&1;"
        "jupyter server extension list 2>&1 | grep _usage; ls $NB_PYTHON_PREFIX/etc/jupyter;"
        "bash -lc 'which tabulate jupyter'; touch /srv/env/x 2>&1;"
        "python -c 'import site; print(site.ENABLE_USER_SITE)';"
        "echo y = 2 >> /srv/repo/edit.py; cd /; for python in python /opt/venv/bin/python; do"
        " $python -c 'import edit, iniconfig, jupyterlab as j; print(edit.__file__, edit.y)'; done;"
        "python -c 'from jupyterlab_server.config import get_static_page_config as g; print(g())'",
    )
    assert "started in /home/jovyan/r" in out
    assert "/srv/env/share/jupyter/kernels/mine" in out and "/jupyter/kernels/python3" in out
    assert "/srv/env/bin/tabulate" in out and "/srv/env/bin/jupyter\n" in out
    assert out.count("/srv/repo/edit.py 2") == 2
    # What the site has set for its Lab is still so, beside what the repository has.
    assert "'some-extension': True" in out and "announcements': True" in out
    assert "jupyter_resource_usage \x1b[31mdisabled" in out
    # What people install goes to their homes, as in every other server.
    assert "'/srv/env/x': Permission denied" in out and "\nTrue\n" in out


def _look() -> str:
    """A script that starts the Lab and prints its kernels, and whether its pages are there."""
    look = (
        "import json, subprocess, time, urllib.request as u\n"
        "lab = ['jupyter-lab', '--no-browser', '--port=8765', '--ServerApp.token=']\n"
        "p = subprocess.Popen(lab)\n"
        "while True:\n"
        "    try: page = u.urlopen('http://127.0.0.1:8765/lab').read().decode(); break\n"
        "    except OSError: time.sleep(0.2)\n"
        "kernels = json.load(u.urlopen('http://127.0.0.1:8765/api/kernelspecs'))\n"
        "print(sorted(kernels['kernelspecs']), '@jupyterlab/git' in page)\n"
        "start = page.index('static/lab/main.'); name = page[start:page.index('\"', start)]\n"
        "print(len(u.urlopen('http://127.0.0.1:8765/' + name).read()) > 1000); p.terminate()\n"
    )
    return f"cat > /tmp/look.py <<'EOF'\n{look}\nEOF\npython /tmp/look.py 2>/dev/null"


async def test_the_lab_serves_its_pages_from_a_repositorys_image(place, executor, request_of):
    request = request_of({"requirements.txt": "tabulate\n"})
    await built(executor, request)
    place.podman.run("pull", "--quiet", request.image)
    assert run(place, request.image, _look()).splitlines()[-2:] == ["['python3'] True", "True"]


async def test_what_people_install_in_a_running_server_is_in_their_home(
    place, executor, request_of
):
    request = request_of({"requirements.txt": "tabulate==0.9.0\n"})
    await built(executor, request)
    place.podman.run("pull", "--quiet", request.image)
    script = (
        "set -ex; cd /home/jovyan\npip install --no-deps iniconfig rich\n"
        "python -c 'import iniconfig, rich, tabulate;"
        " print(*(m.__file__ for m in (iniconfig, rich, tabulate)))'\n"
        "test -d .local/lib/python3.*/site-packages/iniconfig; find /srv/env -newer /proc/1\n"
    )
    pod = V1Pod(
        metadata=V1ObjectMeta(name="people"),
        spec=V1PodSpec(
            containers=[
                V1Container(
                    name="main",
                    image=request.image,
                    args=["bash", "-c", script],
                    env=[V1EnvVar(name=name, value=one) for name, one in executor._env.items()],
                    volume_mounts=[V1VolumeMount(name="home", mount_path="/home/jovyan")],
                )
            ],
            volumes=[V1Volume(name="home", empty_dir=V1EmptyDirVolumeSource())],
            security_context=V1PodSecurityContext(run_as_user=1000, run_as_group=100, fs_group=100),
        ),
    )
    await executor.engine.run(pod)
    try:

        async def ended() -> bool:
            return (await executor.engine.state("people")).phase in ("Succeeded", "Failed")

        await _until(ended, 120)
        logs = executor.engine.logs("people", "main", follow=False)
        out = "\n".join([line async for line in logs])
        assert (await executor.engine.state("people")).phase == "Succeeded", out
    finally:
        await executor.engine.end("people", 0)
    home = "/home/jovyan/.local/lib/python3.13/site-packages"
    assert f"{home}/iniconfig/__init__.py" in out and "/srv/env/lib/python3.13" in out


async def test_packages_of_the_lab_are_replaced_with_their_commands_and_files(
    place, executor, request_of
):
    request = request_of({"requirements.txt": "jupyterlab==4.5.8\nipykernel==7.2.0\n"})
    log = said(await built(executor, request))
    assert "jupyterlab==4.5.8" in log and "ipykernel==7.2.0" in log
    place.podman.run("pull", "--quiet", request.image)
    script = (
        "jupyter lab --version; jupyter kernelspec list; jupyter lab path; cd /;"
        "python -c 'import ipykernel, jupyterlab as j; print(ipykernel.__version__, j.__file__)';"
        "uv pip list --python /srv/env 2>/dev/null | grep -e ^jupyterlab' ' -e ^ipykernel;"
        "head -1 $(which jupyter-lab); ls -l /srv/env/share/jupyter/lab;" + _look()
    )
    out = run(place, request.image, script)
    assert out.startswith("4.5.8\n") and "7.2.0 /srv/env/lib" in out, out
    assert "#!/srv/env/bin/python" in out and "/srv/env/share/jupyter/kernels/python3" in out, out
    assert "static\n" in out and "static ->" not in out, out
    assert out.splitlines()[-2:] == ["['python3'] True", "True"], out


async def test_a_script_cannot_ask_for_a_builder(executor, request_of):
    lines = [{"kind": "step", "name": "fetch"}, {"kind": "stock", "buildpack": "DockerBuildPack"}]
    script = "".join(f"echo '@studovna {json.dumps(line)}'\n" for line in lines)
    request = request_of({"postBuild": script})
    events = await built(executor, request)
    assert await executor.registry.image(request.image) is not None
    layer = next(event for event in events if event["message"].startswith("One layer"))
    assert layer["text"]["template"] == "One layer of {size} MB" and layer["phase"] == "pushing"
    there = await executor.registry.image(request.image)
    assert there is not None
    assert there.labels["repo2docker.version"] == executor.repo2docker


# --- submodules -----------------------------------------------------------------------------------


def submodule(folder: Path, name: str, url: str, commit: str) -> str:
    """Add a submodule to a repository as one finds it there, whatever its address; the commit."""
    git(folder, "config", "--file", ".gitmodules", f"submodule.{name}.path", name)
    git(folder, "config", "--file", ".gitmodules", f"submodule.{name}.url", url)
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},{name}")
    git(folder, "add", ".gitmodules")
    git(folder, "commit", "-q", "-m", "a submodule")
    return git(folder, "rev-parse", "HEAD")


def _folder(place: Place, request: BuildRequest) -> Path:
    return place.host.root / request.repo_url.removeprefix(f"{place.host.url}/")


async def test_submodules_are_there_whole_and_in_each_other(place, executor, request_of):
    deepest, middle, outer = request_of({"deep": "3"}), request_of({"mid": "2"}), request_of({})
    name = deepest.repo_url.rsplit("/", 1)[1]
    ref = submodule(_folder(place, middle), "in ner", f"../{name}", deepest.ref)
    ref = submodule(_folder(place, outer), "sub", middle.repo_url, ref)
    # A commit that no branch of the submodule has any more.
    git(_folder(place, middle), "commit", "-q", "--amend", "-m", "other")
    outer = replace(outer, ref=ref, image=outer.image.rpartition(":")[0] + ":" + ref)
    await built(executor, outer)
    place.podman.run("pull", "--quiet", outer.image)
    out = run(place, outer.image, "cat sub/mid 'sub/in ner/deep'; git submodule status --recursive")
    assert out.startswith("23") and out.count("\n") == 2
    again = replace(outer, image=outer.image.replace("binder/", "binder/again-"))
    await built(executor, again)
    images = [await executor.registry.image(one.image) for one in (outer, again)]
    assert images[0] is not None and images[1] is not None
    assert set(images[0].blobs) == set(images[1].blobs)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://10.11.12.13/a", "which is inside the site's own network"),
        ("https://[::ffff:127.0.0.1]/a", "which is inside the site's own network"),
        ("http://localhost:1/a", "which is inside the site's own network"),
        ("git://169.254.169.254/a", "which is inside the site's own network"),
        ("file:///etc", "by https, http, git or ssh only"),
        ("/srv/repo", "by https, http, git or ssh only"),
        ("ext::sh -c id", "by https, http, git or ssh only"),
        ("--upload-pack=id", "by https, http, git or ssh only"),
        ("ssh://-oProxyCommand=id/a", "by https, http, git or ssh only"),
        ("../../../x", "by https, http, git or ssh only"),
        ("git@example.org:a/b", "from the repository's own host only"),
        ("../there-is-none", "A submodule could not be fetched"),
    ],
)
async def test_submodules_from_elsewhere_are_refused_by_name(
    place, executor, request_of, url, sentence
):
    request = request_of({})
    ref = submodule(_folder(place, request), "one", url, request.ref)
    text = await refused(executor, replace(request, ref=ref))
    assert sentence in text and ("one" in text or "there-is-none" in text)


async def test_submodules_from_a_host_that_the_site_allows(place, make_executor, request_of):
    host = GitHost(place.host.root, place.host.url.removeprefix("http://").split(":")[0])
    try:
        inner, outer = request_of({"a": "1"}), request_of({})
        name = inner.repo_url.rsplit("/", 1)[1]
        ref = submodule(_folder(place, outer), "sub", f"{host.url}/{name}", inner.ref)
        outer = replace(outer, ref=ref)
        assert "(binder: allow_hosts)" in await refused(make_executor(), outer)
        assert not host.requests
        await built(make_executor(allow_hosts=[host.url.removeprefix("http://")]), outer)
        assert host.requests
    finally:
        host.close()


# --- for a builder --------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [False, True], ids=["prepare", "fetch"])
async def test_a_repository_for_a_builder_is_left_with_a_statement(
    place, executor, request_of, private
):
    files = {
        "environment.yml": "dependencies: [gdal]\n",
        ".resources": "cpul=2\n",
        "postBuild": "x",
    }
    request = request_of(files, "private/" if private else "")
    if private:
        request = replace(request, credential=Credential("reader", TOKEN))
        request = replace(request, git_config=(("protocol.allow", "always"),))
    base = executor._base_of(request.image)
    await executor.push_base(base)
    build = executor.pod(request, base)
    pod, data = make_build_pod(replace(build, job={**build.job, "stock": True}))
    await executor.engine.run(pod, data=data)
    try:

        async def ended() -> bool:
            return (await executor.engine.state(request.name)).phase in ("Succeeded", "Failed")

        await _until(ended, 60)
        assert (await executor.engine.state(request.name)).phase == "Succeeded"
        first = "fetch" if private else "prepare"
        logs = executor.engine.logs(request.name, first, follow=False)
        lines = [line async for line in logs]
        said = [json.loads(line.split(" ", 1)[1]) for line in lines if "@studovna" in line]
        statement = next(one for one in said if one["kind"] == "stock")
        assert (statement["buildpack"], statement["file"], statement["resources"]) == (
            "CondaBuildPack", "environment.yml", "cpul=2\n",
        )  # fmt: skip
        assert said[-1]["kind"] == "end" and "done" not in [one["kind"] for one in said]
        empty = place.state / "engine/pods" / request.name / "empty"
        plan = json.loads((empty / "plan/plan.json").read_text())
        assert plan["stock"]["params"] == {"names": "gdal"}
        folder = empty / "repo"
        assert (folder / "environment.yml").read_text() == files["environment.yml"]
        assert (folder / ".git").is_dir() and (folder / "postBuild").stat().st_uid == 1000
        assert await executor.registry.image(request.image) is None
    finally:
        await executor.engine.end(request.name, 0)


async def test_a_link_to_the_credential_leads_nowhere(place, executor, request_of):
    request = request_of({}, "private/")
    folder = _folder(place, request)
    (folder / ".resources").symlink_to("/build/git/config.json")
    ref = commit(folder, {"a": "b"})
    request = replace(request, ref=ref, credential=Credential("reader", TOKEN))
    request = replace(request, git_config=(("protocol.allow", "always"),))
    text = await refused(executor, request)
    assert ".resources leads out of it" in text and TOKEN not in text


async def test_a_private_repository_and_what_its_code_can_see(place, executor, request_of):
    look = (
        "#!/bin/sh\nls /build /build/git /build/push; cat /build/git/* /build/push/*; env\n"
        "cat /proc/1/environ; cat .git/config; touch /opt/x /etc/x; id; cat /proc/self/status\n"
    )
    request = request_of({"postBuild": look}, "private/")
    assert "does not let this site read it" in await refused(executor, request)
    request = replace(request, credential=Credential("reader", TOKEN))
    host = place.host.url
    request = replace(request, git_config=(("protocol.allow", "always"),))
    log = said(await built(executor, request))
    assert host in log and "NoNewPrivs:\t1" in log and "CapEff:\t0000000000000000" in log
    assert "uid=1000" in log and "'/opt/x': Read-only file system" in log
    for secret in (TOKEN, "Authorization", "credential.json", "password"):
        assert secret not in log
    place.podman.run("pull", "--quiet", request.image)
    assert not run(place, request.image, f"grep -rl -e {TOKEN} -e cmVhZGVy /srv || true")


async def test_a_commit_that_no_branch_has_any_more_is_still_fetched(place, executor, request_of):
    request = request_of({"a": "1"})
    folder = place.host.root / request.repo_url.rsplit("/", 1)[1]
    commit(folder, {"a": "2"})
    git(folder, "reset", "-q", "--hard", "HEAD~1")
    git(folder, "commit", "-q", "--amend", "-m", "other")
    await built(executor, request)


# --- what does not --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"requirements.txt": "numpy\ntornado==5.1\n"},
         "requirements.txt asks for tornado==5.1 (line 2), but the Jupyter of this site needs"),
        ({"requirements.txt": "jupyterlab==3.6\n"}, "needs jupyterlab ==4.*"),
        ({"requirements.txt": "no-such-package-xyzzy\n"}, "no package no-such-package-xyzzy"),
        ({"apt.txt": "gdal-bin\n"}, "because of apt.txt: Debian packages are installed as root"),
        ({"binder/Dockerfile": "FROM x\n"}, "because of binder/Dockerfile: it describes an image"),
        ({"environment.yml": "dependencies: [numpy]\n"}, "asks for conda packages (numpy)"),
        ({"runtime.txt": "python-3.7"}, "it asks for Python 3.7, and the site's image has"),
        ({"environment.yml": "a: [\n"}, "environment.yml is not YAML"),
        ({"binder/x": "", ".binder/x": ""}, "folder binder and a folder .binder"),
        ({"postBuild": "#!/bin/sh\nexit 3\n"}, "postBuild failed (exit code 3)"),
        ({"postBuild": "#!/no/such\n"}, "postBuild cannot be run"),
        ({"postBuild": "python3 -c 'x = bytearray(10**9)'\n"}, "took more than 0.25 GB of memory"),
        ({"postBuild": "head -c 300M /dev/zero > big; sleep 60\n"}, "more than 0.1 GB of disk"),
        ({"postBuild": "for i in $(seq 3000); do mkdir d$i; touch d$i/a d$i/b; done; sleep 60\n"},
         "more than 5000 files"),
        ({"postBuild": "truncate -s 1T sparse\n"}, "are larger than 0.1 GB"),
    ],
    ids=["downgrade", "lab", "misspelt", "apt", "docker", "conda", "python", "yaml", "folders",
         "exit", "interpreter", "memory", "disk", "files", "sparse"],
)  # fmt: skip
async def test_what_cannot_be_built_is_said(executor, request_of, monkeypatch, files, sentence):
    monkeypatch.setattr(executor_module, "MAX_DISK", 10**8)
    monkeypatch.setattr(executor_module, "MAX_FILES", 5000)
    executor.memory_limit = 256 * 2**20
    assert sentence in await refused(executor, request_of(files))


async def test_a_host_that_breaks_off_in_the_middle(place, executor, request_of):
    request = request_of({"big": "x" * 10_000})
    name = request.fetch_url.rpartition("/")[2]
    broken = replace(request, fetch_url=f"{place.host.url}/cut/{name}")
    said = await refused(executor, broken)
    assert request.repo_url in said and "could not be fetched" in said
    await built(executor, request)  # it is there again, and what was begun is in nobody's way


async def test_a_commit_that_is_gone(executor, request_of):
    request = replace(request_of({}), ref="1" * 40)
    assert "is no longer in" in await refused(executor, request)


async def test_a_script_that_never_ends_or_forks_for_ever(make_executor, request_of):
    executor = make_executor(build_minutes=0.12)
    assert "longer than 0.12 minutes" in await refused(
        executor, request_of({"postBuild": "sleep 1000\n"})
    )
    bomb = "#!/bin/bash\nb() { b | b & }; b; sleep 1000\n"
    assert "longer than" in await refused(executor, request_of({"postBuild": bomb}))
    assert b"b() { b | b & }" not in _processes()


async def test_cancel_ends_every_process(executor, request_of):
    script = "#!/bin/bash\nfor i in 1 2 3; do (exec -a stbuildtest sleep 777) & done; wait\n"
    request = request_of({"postBuild": script})
    running = asyncio.create_task(built(executor, request))
    await _until(lambda: b"stbuildtest" in _processes())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert request.name in await executor.running()
    await executor.cancel(request.name)
    assert b"stbuildtest" not in _processes()
    assert request.name not in await executor.running()


async def test_a_new_service_follows_what_the_old_one_began(make_executor, request_of):
    request = request_of({"postBuild": "echo first; sleep 3; echo second\n"})
    running = asyncio.create_task(built(make_executor(), request))
    await _until(lambda: b"\0sleep\x003\0" in b"\0" + _processes())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    after = make_executor()
    assert request.name in await after.running()
    log = said(await built(after, request))
    assert "first\n" in log and "second\n" in log and log.count("Running postBuild") == 1
    assert await after.registry.image(request.image) is not None


async def test_the_registry_goes_away_in_the_middle(place, executor, request_of):
    request = request_of({"postBuild": "echo here; sleep 2\n"})
    away = asyncio.create_task(asyncio.to_thread(lambda: None))
    with pytest.raises(Failed, match="registry cannot be reached"):
        async for event in executor.run(request):
            if event["message"] == "here\n":
                away = asyncio.create_task(asyncio.to_thread(place.stop_registry))
    await away
    assert not await executor.registry.healthy()
    place.start_registry()
    await _until(executor.registry.healthy)
    assert await executor.registry.image(request.image) is None
    await built(executor, request)
    # Away for a moment only: the push is tried again.
    request = request_of({"postBuild": "echo here; sleep 1\n"})
    async for event in executor.run(request):
        if event["message"] == "here\n":
            await asyncio.to_thread(place.stop_registry)
        if event["message"].startswith("The registry failed"):
            place.start_registry()
    assert await executor.registry.image(request.image) is not None


async def test_a_killed_export_leaves_no_image(place, executor, request_of):
    request = request_of({"postBuild": "head -c 80M /dev/urandom > noise\n"})
    pod = f"{site_id(place.state)}-{request.name}"
    with pytest.raises(Failed, match="Pushing the image failed with exit code 137"):
        async for event in executor.run(request):
            if event["message"].startswith("One layer"):
                await place.podman.arun("kill", "--signal", "KILL", pod)
    assert await executor.registry.image(request.image) is None
    await built(executor, request)
    assert await executor.registry.image(request.image) is not None


# --- the registry ---------------------------------------------------------------------------------


async def test_who_may_do_what_at_the_gate(place, executor, request_of):
    await built(executor, request_of({}))
    password = read_secret(place.state, "registry-password")[0]
    port = embedded_port(place.state)
    inside = f"http://127.0.0.1:{port}"
    outside = f"http://{executor.engine.hub_address()}:{port}"
    push = Push("binder/a", "t", "binder/site/lab", time.time() + 60)
    site, token = ("studovna", password), ("build", push.token(password))
    late = ("build", replace(push, until=time.time() - 1).token(password))
    tag = executor.version
    table = [
        (inside, "GET", "/v2/", None, 401),
        (inside, "GET", "/v2/", site, 200),
        (outside, "GET", "/v2/", site, 401),
        (outside, "GET", "/v2/", ("build", "x.y"), 401),
        (outside, "GET", "/v2/", late, 401),
        (outside, "GET", "/v2/", token, 200),
        (outside, "GET", f"/v2/binder/site/lab/manifests/{tag}", token, 200),
        (outside, "PUT", f"/v2/binder/site/lab/manifests/{tag}", token, 403),
        (outside, "POST", "/v2/binder/site/lab/blobs/uploads/", token, 403),
        (outside, "POST", "/v2/binder/a/blobs/uploads/", token, 202),
        (outside, "POST", "/v2/binder/a/blobs/uploads/?mount=sha256:0&from=binder/b", token, 403),
        (outside, "PUT", "/v2/binder/a/manifests/other", token, 403),
        (outside, "PUT", "/v2/binder/a/../b/manifests/t", token, 403),
        (outside, "PUT", "/v2/binder/a%2f..%2fb/manifests/t", token, 403),
        (outside, "GET", "/v2/_catalog", token, 403),
        (outside, "DELETE", f"/v2/binder/a/manifests/sha256:{'0' * 64}", token, 403),
        (outside, "POST", "/studovna/collect", site, 401),
        (inside, "POST", "/studovna/collect", token, 401),
    ]
    async with aiohttp.ClientSession() as session:
        for base, method, path, who, status in table:
            url = URL(base + path, encoded=True)
            accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
            if who:
                pair = base64.b64encode(":".join(who).encode()).decode()
                accept["Authorization"] = f"Basic {pair}"
            async with session.request(method, url, headers=accept) as answer:
                assert answer.status == status, (method, path, who and who[0])
                begun = answer.headers.get("Location") if status == 202 else None
            if begun:  # a push that goes on holds up the collection of garbage
                end = URL(base).join(URL(begun, encoded=True))
                auth = {"Authorization": accept["Authorization"]}
                async with session.delete(end, headers=auth) as answer:
                    assert answer.status == 204


async def test_garbage_goes_and_all_else_stays(place, executor, request_of):
    keep = request_of({"postBuild": "head -c 5M /dev/urandom > noise\n"})
    drop = request_of({"postBuild": "head -c 20M /dev/urandom > noise\n"})
    await built(executor, keep)
    await built(executor, drop)
    before = _disk(place.state / "registry")
    assert await executor.registry.delete(drop.image)
    assert not await executor.registry.delete(drop.image)
    assert await executor.registry.image(drop.image) is None
    await executor.registry.collect()
    await _until(lambda: _disk(place.state / "registry") < before - 15 * 10**6, 30)
    place.podman.run("pull", "--quiet", keep.image)
    # What was deleted can be built again, onto layers that others kept.
    await built(executor, drop)
    place.podman.run("pull", "--quiet", drop.image)


async def test_a_registry_that_lends_no_layers_gets_copies(place, executor, request_of, tmp_path):
    await built(executor, request_of({}))
    monkey = pytest.MonkeyPatch()
    monkey.syspath_prepend(str(ROOT / "images/builder"))
    from buildpack import export
    from buildpack.registry import Registry

    monkey.setattr(export, "TMP", tmp_path)
    password = read_secret(place.state, "registry-password")[0]
    registry = Registry(executor.registry.url, "studovna", password)
    manifest, _ = registry.manifest("binder/site/lab", executor.version)
    entry = max(manifest["layers"], key=lambda one: one["size"])
    assert entry["size"] > 10**8 and not registry.has("binder/copied", entry["digest"])
    await asyncio.to_thread(export._copy, registry, "binder/site/lab", "binder/copied", entry)
    assert registry.has("binder/copied", entry["digest"])
    monkey.undo()


async def test_images_stay_within_their_budget(place, executor, request_of, tmp_path):
    requests = [
        request_of({"postBuild": "head -c 8M /dev/urandom > noise\n"}, "budget-") for _ in range(3)
    ]
    for request in requests:
        await built(executor, request)
        place.podman.run("pull", "--quiet", request.image)
    running, old, new = (request.image for request in requests)
    place.podman.run("run", "--detach", "--name", "stbuild-kept", running, "sleep", "300")
    # The site's image of an earlier builder, and an earlier image.
    host = f"127.0.0.1:{embedded_port(place.state)}"
    lab, base = f"{host}/binder/site/lab", executor.site.image_reference("base")
    await _tag_again(place, "binder/site/lab", executor.version, "same")
    place.podman.run("push", "--quiet", "--format", "oci", base, f"{lab}:other", timeout=300)
    cleaner = Cleaner(
        executor.registry, BuildStore(tmp_path), tmp_path, budget=10**12,
        prefix=f"127.0.0.1:{embedded_port(place.state)}/binder/", version=executor.version,
        in_use=lambda: images_in_use(place.podman), podman=place.podman,
    )  # fmt: skip
    try:
        assert await cleaner.clean() == []
        cleaner._used = {image: float(when) for when, image in enumerate((running, old))}
        cleaner.used(new)
        cleaner._budget = 1
        assert old in await cleaner.clean()
    finally:
        place.podman.run("rm", "--force", "--time", "0", "stbuild-kept")
    assert await executor.registry.image(old) is None
    assert await executor.registry.image(running) is not None
    assert await executor.registry.image(new) is not None
    copies = place.podman.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert old not in copies and new in copies and running in copies
    tags = await executor.registry.tags("binder/site/lab")
    assert executor.version in tags and "same" in tags and "other" not in tags
    await built(executor, requests[1])


async def _tag_again(place: Place, name: str, tag: str, new: str) -> None:
    password = read_secret(place.state, "registry-password")[0]
    auth = aiohttp.BasicAuth("studovna", password)
    folder = f"http://127.0.0.1:{embedded_port(place.state)}/v2/{name}/manifests"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    async with aiohttp.ClientSession(auth=auth) as session:
        async with session.get(f"{folder}/{tag}", headers=accept) as answer:
            kind, manifest = answer.headers["Content-Type"], await answer.read()
        more = {"Content-Type": kind}
        async with session.put(f"{folder}/{new}", headers=more, data=manifest) as answer:
            assert answer.status == 201


async def test_a_registry_that_is_killed_comes_back(place, executor):
    for process in psutil.Process(place.service.pid).children():
        assert process.name() == "docker-registry"
        process.kill()
    assert executor.version in await executor.registry.tags("binder/site/lab")


def _disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


async def _until(what: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = (
                await asyncio.to_thread(what)
                if not asyncio.iscoroutinefunction(what)
                else (await what())
            )
            if found:
                return
            await asyncio.sleep(0.1)


def _processes() -> bytes:
    found = b""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += file.read_bytes()
        except OSError:
            continue
    return found
