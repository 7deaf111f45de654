r"""Means over seeds, with intervals, as text, CSV, JSON, Markdown and LaTeX.

    mean +- t s / sqrt(k),   k seeds with standard deviation s, t the 97.5 % quantile of Student's law of k - 1

With one seed there is no interval. A table is of one measure on one domain: a row for each method, a column for each
number of evaluations, then real data in the samples' place (the floor) and, where the measure is of what was asked,
shuffled requests (chance). The best mean of a column is bold: the least, the largest, or the nearest to the floor, as
the measure says; intervals that overlap say that it may be another.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from gendiff.evaluation.scores import ARROWS, escaped
from gendiff.modelfile import write_whole

from .running import Outcome
from .suite import TAKEN

FLOOR, CHANCE = TAKEN
INTERVAL = "Means over seeds with 95 % intervals by Student's t; none with one seed."


@dataclass(frozen=True)
class Stat:
    """A mean over seeds, NaN without any; `low` and `high` are NaN without an interval.

    Attributes:
        calls: Evaluations of the network, as they were counted.
        error: Why there is no number.
    """

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    calls: float = math.nan
    error: str = ""

    @staticmethod
    def of(values: Sequence[float | None], calls: float = math.nan, error: str = "") -> Stat:
        """The mean of those that are numbers."""
        own = [value for value in values if value is not None and math.isfinite(value)]
        k = len(own)
        if not k:
            return Stat(calls=calls, error=error)
        mean = math.fsum(own) / k
        if k == 1:
            return Stat(mean, seeds=1, calls=calls, error=error)
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in own) / (k - 1))
        half = float(student.ppf(0.975, k - 1)) * sd / math.sqrt(k)
        return Stat(mean, mean - half, mean + half, k, calls, error)

    def text(self, wanted: int | None = None) -> str:
        """As many digits as its interval lets one read, and how many evaluations were made where others were asked."""
        if self.seeds == 0:
            return "error" if self.error else "–"
        half = (self.high - self.low) / 2
        if math.isfinite(half) and half > 0:
            places = min(6, max(0, 1 - math.floor(math.log10(half))))
            found = f"{self.mean:.{places}f} ± {half:.{places}f}"
        else:
            found = f"{self.mean:.3g}"
        made = "" if wanted is None or not math.isfinite(self.calls) or self.calls == wanted else f" ({self.calls:g})"
        return found + made + (" !" if self.error else "")


@dataclass(frozen=True)
class Table:
    """One measure on one domain.

    Attributes:
        domain, measure: Which.
        unit, better, about: Of the measure.
        rows: By method and evaluations.
        floor: Of real data.
        chance: Of shuffled requests, by method and evaluations; empty for a measure of no request.
        best: (method, evaluations) of the best of each column.
        cost: Whether it is of what samples cost.
    """

    domain: str
    measure: str
    unit: str
    better: str
    about: str
    evaluations: tuple[int, ...]
    rows: Mapping[str, Mapping[int, Stat]]
    floor: Stat | None = None
    chance: Stat | None = None
    best: frozenset[tuple[str, int]] = frozenset()
    cost: bool = False

    @property
    def title(self) -> str:
        """With unit and direction."""
        return f"{self.measure}{f', {self.unit}' if self.unit else ''} {ARROWS[self.better]}"

    @property
    def empty(self) -> bool:
        """Whether there is neither a number nor an error in it."""
        return not any(one.seeds or one.error for row in self.rows.values() for one in row.values())

    def grid(self) -> tuple[list[str], list[list[tuple[str, bool]]]]:
        """The head, and rows of cells as text, each with whether it is the best of its column."""
        head = ["method", *map(str, self.evaluations)]
        lines = [
            [(name, False)]
            + [
                (own[count].text(count), (name, count) in self.best) if count in own else ("", False)
                for count in self.evaluations
            ]
            for name, own in self.rows.items()
        ]
        for name, stat in ((FLOOR, self.floor), (CHANCE, self.chance)):
            if stat is not None:
                lines.append([(name, False), (stat.text(), False), *[("", False)] * (len(self.evaluations) - 1)])
        return head, lines

    def markdown(self) -> str:
        """A Markdown table, the best of each column bold."""
        head, rows = self.grid()
        lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
        lines += [[f"**{text}**" if bold else text for text, bold in row] for row in rows]
        return "".join(f"| {' | '.join(one.replace('|', chr(92) + '|') for one in line)} |\n" for line in lines)

    def latex(self) -> str:
        """A LaTeX tabular for booktabs, the best of each column bold."""
        head, rows = self.grid()
        body = [" & ".join(map(latex_of, head))]
        body += [
            " & ".join(rf"\textbf{{{latex_of(text)}}}" if bold else latex_of(text) for text, bold in r) for r in rows
        ]
        split = 1 + len(self.rows)
        lines = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", rf"{body[0]} \\", r"\midrule"]
        lines += [rf"{line} \\" for line in body[1:split]]
        lines += [r"\midrule", *(rf"{line} \\" for line in body[split:]), r"\bottomrule", r"\end{tabular}", ""]
        return "\n".join(lines)


def latex_of(text: str) -> str:
    """Text for LaTeX, with its signs."""
    signs = {
        "±": r"$\pm$",
        "–": "--",
        "↓": r"$\downarrow$",
        "↑": r"$\uparrow$",
        "≈": r"$\approx$",
        "<": "$<$",
        ">": "$>$",
    }
    signs |= {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
    return "".join(signs.get(c, escaped(c)) for c in text)


@dataclass(frozen=True)
class Tables:
    """All tables of a benchmark.

    Attributes:
        name: Of the suite.
        tables: One for each domain and measure, then costs.
        cells, real, fitted: The results that they are of.
    """

    name: str
    tables: tuple[Table, ...]
    cells: list[dict[str, Any]] = field(default_factory=list, repr=False)
    real: list[dict[str, Any]] = field(default_factory=list, repr=False)
    fitted: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @staticmethod
    def of(outcome: Outcome) -> Tables:
        """The tables of what a run has found."""
        tables = []
        for entry in outcome.suite.domains:
            cells = [one for one in outcome.cells if one["domain"] == entry.name]
            floors = [one for one in outcome.real if one["domain"] == entry.name]
            said: dict[str, dict[str, Any]] = {}
            for one in (*floors, *cells):
                said.update({name: row for name, row in one.get("measures", {}).items() if name not in said})
            fits = {one["method"]: one.get("seconds") for one in outcome.fitted if one["domain"] == entry.name}
            tables += [table_of(outcome, entry.name, name, row, cells, floors) for name, row in said.items()]
            tables += costs(outcome, entry.name, cells, fits)
        return Tables(outcome.suite.name, tuple(tables), outcome.cells, outcome.real, outcome.fitted)

    def notes(self, domain: str) -> list[str]:
        """Why some measures of a domain have no numbers."""
        cells = [one for one in self.cells if one["domain"] == domain]
        rows = [(name, row) for one in cells for name, row in one.get("measures", {}).items() if row.get("note")]
        return list(dict.fromkeys(f"Not measured: {row['note']}." for _, row in rows))

    def domains(self) -> dict[str, list[Table]]:
        """The tables by domain."""
        found: dict[str, list[Table]] = {}
        for table in self.tables:
            found.setdefault(table.domain, []).append(table)
        return found

    def text(self) -> str:
        """For a terminal."""
        lines = []
        for table in self.tables:
            if table.empty:
                continue
            head, rows = table.grid()
            cells = [head, *([text + ("*" if bold else "") for text, bold in row] for row in rows)]
            widths = [max(len(line[k]) for line in cells) for k in range(len(head))]
            lines += [f"{table.domain}: {table.title}"]
            lines += [
                "  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
            ]
            lines += [""]
        return "\n".join(
            [*lines, f"* the best of its column. {INTERVAL} (7): evaluations made, where others were asked."]
        )

    def markdown(self) -> str:
        """All of them under their titles."""
        parts = [f"# {self.name}\n\n{INTERVAL} In brackets: evaluations made, where others were asked.\n"]
        for domain, tables in self.domains().items():
            shown = [one for one in tables if not one.empty]
            parts += [f"\n## {domain}\n", *(f"\n{one.title}\n\n{one.markdown()}" for one in shown)]
            parts += [f"\n{note}\n" for note in self.notes(domain)]
        return "".join(parts)

    def latex(self) -> str:
        """All of them, each after a comment that says what it is; needs booktabs."""
        return "\n".join(f"% {one.domain}: {one.title}\n{one.latex()}" for one in self.tables if not one.empty)

    def csv(self) -> str:
        """Long form: a row for each cell and measure, and for real data."""
        head = [
            "domain", "method", "evaluations", "seed", "measure", "value", "chance", "unit", "better", "n", "calls",
            "passes", "steps", "seconds", "cpu_seconds", "joules", "fitted_seconds", "error",
        ]  # fmt: skip
        fits = {(one["domain"], one["method"]): one.get("seconds") for one in self.fitted}
        with io.StringIO(newline="") as file:
            table = csv.DictWriter(file, head, lineterminator="\n", extrasaction="ignore", restval="")
            table.writeheader()
            for one in (*self.real, *self.cells):
                own = {k: v for k, v in one.items() if k in head}
                own |= {"method": FLOOR, "evaluations": ""} if one["kind"] == "real" else {}
                own["fitted_seconds"] = fits.get((one["domain"], one["method"]), "")
                for name, row in (one.get("measures") or {"": {}}).items():
                    table.writerow({k: spelled(v) for k, v in {**own, "measure": name, **row}.items()})
            return file.getvalue()

    def json(self) -> str:
        """Tables and cells, with NaN as null."""
        tables = []
        for one in self.tables:
            rows = {name: {str(k): bare(stat) for k, stat in own.items()} for name, own in one.rows.items()}
            said = {k: getattr(one, k) for k in ("domain", "measure", "unit", "better", "about", "evaluations")}
            best = sorted(one.best, key=str)
            tables.append({**said, "rows": rows, "floor": bare(one.floor), "chance": bare(one.chance), "best": best})
        data = {
            "name": self.name, "intervals": INTERVAL, "tables": tables, "cells": self.cells, "real": self.real,
            "fitted": [{k: v for k, v in one.items() if k != "tables"} for one in self.fitted],
        }  # fmt: skip
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def spelled(value: Any) -> Any:
    """A value of a CSV cell: floats to the last bit."""
    return "" if value is None else repr(value) if isinstance(value, float) else value


def bare(stat: Stat | None) -> dict[str, Any] | None:
    """A number as JSON has it."""
    if stat is None:
        return None
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(stat).items()}


def by_cell(outcome: Outcome, cells: Sequence[Mapping[str, Any]], value: Any) -> dict[str, dict[int, Stat]]:
    """The mean over seeds of a value of each cell, by method and evaluations."""
    rows: dict[str, dict[int, Stat]] = {}
    for method in outcome.suite.methods:
        rows[method.name] = {}
        for count in method.evaluations or outcome.suite.evaluations:
            own = [one for one in cells if (one["method"], one["evaluations"]) == (method.name, count)]
            calls = next((one["calls"] for one in own if "calls" in one), math.nan)
            error = next((one["error"] for one in own if "error" in one), "")
            rows[method.name][count] = Stat.of([value(one) for one in own], calls, error)
    return rows


def table_of(
    outcome: Outcome,
    domain: str,
    name: str,
    said: Mapping[str, Any],
    cells: Sequence[Mapping[str, Any]],
    floors: Sequence[Mapping[str, Any]],
) -> Table:
    """The table of a measure on a domain."""

    def value(one: Mapping[str, Any], key: str = "value") -> float | None:
        return one.get("measures", {}).get(name, {}).get(key)

    rows, floor = by_cell(outcome, cells, value), Stat.of([value(one) for one in floors])
    chance = Stat.of([value(one, "chance") for one in cells])
    head = said["unit"], said["better"], said.get("about", "")
    best = best_of(rows, outcome.suite.evaluations, said["better"], floor.mean)
    return Table(
        domain, name, *head, outcome.suite.evaluations, rows, floor, chance if chance.seeds else None, frozenset(best)
    )


def best_of(
    rows: Mapping[str, Mapping[int, Stat]], evaluations: Sequence[int], better: str, floor: float
) -> list[tuple[str, int]]:
    """The best of each column: all that share its mean."""
    found = []
    for count in evaluations:
        own = {name: row[count].mean for name, row in rows.items() if count in row and row[count].seeds}
        if better == "real" and not math.isfinite(floor):
            continue
        far = {name: {"lower": v, "higher": -v, "real": abs(v - floor)}[better] for name, v in own.items()}
        found += [(name, count) for name, one in far.items() if one == min(far.values())]
    return found


def costs(
    outcome: Outcome, domain: str, cells: Sequence[Mapping[str, Any]], fits: Mapping[str, float | None]
) -> list[Table]:
    """What samples cost: network passes and milliseconds of a sample, and joules where they were counted."""
    about = "Drawing and decoding, processor time." + (
        f" Fitting took {', '.join(f'{name} {s:.0f} s' for name, s in fits.items() if s is not None)}." if fits else ""
    )
    wanted = {
        "network passes a sample": ("", "passes", 1.0, "Evaluations times the branches of guidance."),
        "processor time a sample": ("ms", "cpu_seconds", 1000.0, about),
        "energy a sample": ("J", "joules", 1.0, "Of the whole processor, whoever used it."),
    }
    tables = []
    for name, (unit, key, scale, said) in wanted.items():

        def value(one: Mapping[str, Any], key: str = key, scale: float = scale) -> float | None:
            found = one.get(key)
            return None if found is None else scale * found / (1 if key == "passes" else one["n"])

        rows = by_cell(outcome, cells, value)
        if any(stat.seeds for own in rows.values() for stat in own.values()):
            tables.append(Table(domain, name, unit, "lower", said, outcome.suite.evaluations, rows, cost=True))
    return tables


def write_tables(tables: Tables, out: Path) -> None:
    """Writes results.csv, results.json, tables.md and tables.tex."""
    forms = {
        "results.csv": tables.csv,
        "results.json": tables.json,
        "tables.md": tables.markdown,
        "tables.tex": tables.latex,
    }
    for name, form in forms.items():
        write_whole(out / name, form().encode())
