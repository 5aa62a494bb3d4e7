"""The rows of a measurement: a table for people, ``var/bench.json`` for programs."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One subject of one case; ``median`` over ``runs`` measurements, in ``unit``."""

    case: str
    subject: str
    median: float
    unit: str
    runs: int


class Results:
    """Collects single measurements and sums them up."""

    def __init__(self) -> None:
        self._measured: dict[tuple[str, str, str], list[float]] = defaultdict(list)

    def add(self, case: str, subject: str, value: float, unit: str) -> None:
        """One measurement."""
        self._measured[case, subject, unit].append(value)

    def rows(self) -> list[Row]:
        """Medians, in the order in which the subjects were first measured."""
        return [
            Row(case, subject, round(statistics.median(values), 3), unit, len(values))
            for (case, subject, unit), values in self._measured.items()
        ]

    def show(self, console: Console) -> None:
        """A table a case, with each subject's ratio to the first."""
        cases: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows():
            cases[row.case].append(row)
        for case, rows in cases.items():
            table = Table(title=case, title_justify="left", box=None, pad_edge=False)
            for column in ("subject", "median", "runs", "ratio to the first"):
                table.add_column(column, justify="left" if column == "subject" else "right")
            for row in rows:
                ratio = f"{row.median / rows[0].median:.2f}" if rows[0].median else "–"
                median = f"{row.median:.2f} {row.unit}"
                table.add_row(row.subject, median, str(row.runs), ratio)
            console.print(table)
            console.print()

    def write(self, file: Path) -> None:
        """``var/bench.json``: rows of other cases that are there stay."""
        rows = [asdict(row) for row in self.rows()]
        measured = {(row["case"], row["subject"]) for row in rows}
        try:
            kept = [
                row
                for row in json.loads(file.read_text())
                if (row["case"], row["subject"]) not in measured
            ]
        except (OSError, ValueError, KeyError):
            kept = []
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(kept + rows, indent=1) + "\n")
