"""The first container: the repository's files, and the plan for what follows."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from . import framework, records, watch
from .detect import Choice, Stock, choose
from .paths import GIT_SECRET, JOB, PLAN, REPO, TMP
from .report import Refusal, Text, say, say_text, show


def main() -> None:
    job = json.loads(JOB.read_text())
    watch.start([REPO, TMP], job["disk"], job["files"])
    if job["content"] == "git":
        _git(job)
    else:
        records.fetch(job)
    _seal(GIT_SECRET)
    choice = choose(REPO)
    for note in choice.notes:
        say_text("note", note)
    if choice.stock is None:
        say_text("note", _summary(choice))
    elif job["stock"]:
        _hand_over(choice.stock, choice.resources)
    else:
        raise Refusal(
            Text(
                "This site cannot build the repository because of {file}: {reason}. What it builds "
                "are requirements.txt, pyproject.toml, environment.yml with pip packages only, and "
                "postBuild.",
                file=choice.stock.file,
                reason=choice.stock.reason,
            )
        )
    (PLAN / "plan.json").write_text(json.dumps(plan(choice)))


def plan(choice: Choice) -> dict[str, Any]:
    """What the containers after this one read, and a builder where `stock` is set."""
    found = dataclasses.asdict(choice)
    del found["notes"]
    if choice.stock is not None:
        found["stock"] = {
            "buildpack": choice.stock.buildpack,
            "file": choice.stock.file,
            **choice.stock.reason.as_json(),
        }
    return found


def _hand_over(stock: Stock, resources: str) -> None:
    """Say what a builder has to know; the files stay where they are."""
    text = Text(
        "{file} needs a builder: {reason}. repo2docker's {buildpack} builds it.",
        file=stock.file,
        reason=stock.reason,
        buildpack=stock.buildpack,
    )
    say(
        "stock",
        buildpack=stock.buildpack,
        file=stock.file,
        resources=resources,
        **text.as_json(),
    )


def _summary(choice: Choice) -> Text:
    used = [*choice.requirements, choice.lines_from, "pyproject.toml" * choice.project]
    used += [choice.post_build, choice.start]
    named = ", ".join(one for one in used if one)
    if not named:
        return Text("No environment file: the site's own packages are all there is.")
    return Text("Found {files}", files=named)


def _seal(secret: Path) -> None:
    """Open nothing of a folder any more: a repository's files may be links that lead there."""
    if not secret.exists():
        return
    root = os.path.realpath(secret)

    def check(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | bytes):
            path = os.path.realpath(os.fsdecode(args[0]))
            if path == root or path.startswith(f"{root}/"):
                raise Refusal(
                    Text("The repository's file {file} leads out of it.", file=os.fsdecode(args[0]))
                )

    sys.addaudithook(check)


def _git(job: dict[str, Any]) -> None:
    framework.load_provider()
    from .git import SiteGit

    # While git waits for the network, what is needed next is imported.
    threading.Thread(target=_import_next, daemon=True).start()
    provider = SiteGit(job)
    spec = provider.detect(job["url"], ref=job["ref"])
    for line in provider.fetch(spec, str(REPO), yield_output=True):
        show(line)


def _import_next() -> None:
    framework.load()
    for name in ("sitepack", "install"):
        importlib.import_module(f"{__package__}.{name}")
