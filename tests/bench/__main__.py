"""``make bench``: print the tables and write ``var/bench.json``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest
from rich.console import Console

from studovna.paths import ROOT
from tests.bench import (
    binder,
    cluster_many,
    cluster_start,
    desktop,
    fresh,
    images,
    people,
    start,
)
from tests.bench.results import Results


def main() -> None:
    """Measure the named cases, or all; those of a cluster where KUBECONFIG names one."""
    console = Console()
    results = Results()
    cases: dict[str, Callable[[], None]] = {
        "start": lambda: start.measure(results, arguments.runs),
        "fresh": lambda: fresh.measure(results),
        "binder": lambda: binder.measure(results, arguments.runs),
        "images": lambda: images.measure(results),
        "desktop": lambda: desktop.measure(results, arguments.runs),
        "people": lambda: people.measure(results),
        "cluster-start": lambda: cluster_start.measure(results, arguments.runs),
        "cluster-500": lambda: cluster_many.measure(results, arguments.servers),
    }
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*cases, []], default=[])
    parser.add_argument("--runs", type=int, default=7, help="starts of each subject")
    parser.add_argument("--servers", type=int, default=500, help="how many cluster-500 starts")
    arguments = parser.parse_args()
    for name in arguments.cases or cases:
        try:
            cases[name]()
        except pytest.skip.Exception as reason:
            console.print(f"{name} is not measured: {reason}")
    results.write(ROOT / "var" / "bench.json")
    results.show(console)


if __name__ == "__main__":
    main()
