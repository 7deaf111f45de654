"""Samples by many measures, beside real data in the samples' place and beside answers to shuffled requests.

    score      every measure of samples, of real artifacts in their place (the floor), and of raw samples
    obeyed     whether what was asked is found, by whoever can tell; shuffled requests are what chance gives

Descriptions of artifacts are made once for all measures that share them, in pieces of `PIECE` wherever they are made,
so that the numbers are the same on one process and on many.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from gendiff.errors import DataError
from gendiff.evaluation.measures import HALVES, Estimate, Features, Measure
from gendiff.executors import results

Observer = Callable[[Sequence[Any]], Sequence[Any]]
"""What artifacts show of a condition: a value of each, as one would ask for it, or None."""

PIECE = 64
ARROWS = {"lower": "↓", "higher": "↑", "real": "≈ real"}
COLUMNS = ("samples", "real", "raw", "shuffled")


@dataclass(frozen=True)
class Judge:
    """Who judges samples beside the domain's own measures: a model that has seen real data alone, or a published tool.

    Args:
        name: With what it depends on: a version, data.
        measures: What it says of samples.
        observed: What it finds of conditions, by a condition's name.
        facts: How far it can be trusted: its accuracy on real data that it has not seen; JSON-able.
    """

    name: str
    measures: tuple[Measure, ...] = ()
    observed: Mapping[str, Observer] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasureScore:
    """What a measure says.

    Attributes:
        measure: Which.
        samples: Of the samples; None if there were too few, see `note`.
        real: Of real artifacts in their place: what a perfect model would reach.
        raw: Of the samples before the domain finished them (`Domain.finish`).
        shuffled: Of the samples, taken for answers to each other's requests.
        by: Who told what samples are, for a measure of what was asked.
        note: Why there is no number.
    """

    measure: Measure
    samples: Estimate | None = None
    real: Estimate | None = None
    raw: Estimate | None = None
    shuffled: Estimate | None = None
    by: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """Of the measure, and of who told."""
        return f"{self.measure.name} ({self.by})" if self.by else self.measure.name


@dataclass(frozen=True)
class Scores:
    """A table of scores, printed as text; JSON, CSV, Markdown and LaTeX by their methods.

    Attributes:
        rows: One for each measure.
        facts: What was compared with what, how it was drawn, by name; JSON-able.
    """

    rows: tuple[MeasureScore, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> MeasureScore:
        """The row of a name, or of a measure's name.

        Raises:
            KeyError: If there is none.
        """
        for row in self.rows:
            if name in (row.name, row.measure.name):
                return row
        raise KeyError(f"{name!r}; there are {', '.join(row.name for row in self.rows)}")

    def values(self, column: str = "samples") -> dict[str, float]:
        """The numbers of a column by name; NaN where there is none."""
        found = {row.name: getattr(row, column) for row in self.rows}
        return {name: math.nan if one is None else one.value for name, one in found.items()}

    @property
    def columns(self) -> list[str]:
        """Those of `COLUMNS` that any row has, and "samples", where notes stand."""
        return [
            name for name in COLUMNS if name == "samples" or any(getattr(row, name) is not None for row in self.rows)
        ]

    def json(self) -> str:
        """Everything, with NaN as null."""
        rows = [
            {
                "name": row.name, "unit": row.measure.unit, "better": row.measure.better, "about": row.measure.about,
                **{name: numbers(getattr(row, name)) for name in self.columns},
                **({"note": row.note} if row.note else {}),
            }
            for row in self.rows
        ]  # fmt: skip
        return json.dumps({**self.facts, "measures": rows}, indent=2, ensure_ascii=False) + "\n"

    def csv(self) -> str:
        """A row for each measure, with the ends of intervals."""
        parts = ("value", "low", "high", "n")
        head = ["measure", "unit", "better", *(f"{name}_{part}" for name in self.columns for part in parts), "note"]
        with io.StringIO(newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(head)
            for row in self.rows:
                own = [numbers(getattr(row, name)) or dict.fromkeys(parts) for name in self.columns]
                cells = ["" if one[part] is None else repr(one[part]) for one in own for part in parts]
                table.writerow([row.name, row.measure.unit, row.measure.better, *cells, row.note])
            return file.getvalue()

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """The table's head and its cells as text, intervals in brackets."""
        head = ["measure", "", *self.columns]
        return head, [
            [row.name + (f", {row.measure.unit}" if row.measure.unit else ""), ARROWS[row.measure.better]]
            + [row.note if name == "samples" and row.note else cell(getattr(row, name)) for name in self.columns]
            for row in self.rows
        ]

    def markdown(self) -> str:
        """A Markdown table."""
        head, rows = self.grid()
        lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
        return "".join(f"| {' | '.join(one.replace('|', chr(92) + '|') for one in line)} |\n" for line in lines)

    def latex(self) -> str:
        """A LaTeX tabular; needs the package booktabs."""
        head, rows = self.grid()
        signs = {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "≈ real": r"$\approx$ real"}
        lines = [[signs.get(one, escaped(one)) for one in line] for line in (head, *rows)]
        body = [" & ".join(line) + r" \\" for line in lines]
        columns = "ll" + "r" * (len(head) - 2)
        return "\n".join(
            [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule",
             r"\end{tabular}", ""]
        )  # fmt: skip

    def __str__(self) -> str:
        head, rows = self.grid()
        widths = [max(len(line[k]) for line in (head, *rows)) for k in range(len(head))]
        aligned = (
            [one.ljust(w) if k < 2 else one.rjust(w) for k, (one, w) in enumerate(zip(line, widths, strict=True))]
            for line in (head, *rows)
        )
        return "\n".join("  ".join(line).rstrip() for line in aligned)


def numbers(one: Estimate | None) -> dict[str, float | int | None] | None:
    """An estimate as JSON-able numbers."""
    if one is None:
        return None
    low, high = (end if math.isfinite(end) else None for end in (one.low, one.high))
    return {"value": one.value if math.isfinite(one.value) else None, "low": low, "high": high, "n": one.n}


def cell(one: Estimate | None) -> str:
    """An estimate as text: as many digits as its interval lets one read."""
    if one is None:
        return ""
    if not math.isfinite(one.half) or one.half <= 0:
        return f"{one.value:.3g}"
    places = min(6, max(0, 1 - math.floor(math.log10(one.half))))
    return f"{one.value:.{places}f} [{one.low:.{places}f}, {one.high:.{places}f}]"


def escaped(text: str) -> str:
    """Text for LaTeX."""
    return "".join({c: rf"\{c}" for c in "&%$#_{}"}.get(c, c) for c in text)


class Described:
    """Descriptions of some artifacts, made when first asked for and once for all measures that share them.

    Args:
        artifacts: Which.
        executor: Where they are made; here by default. A piece that is lost there is made again.
    """

    def __init__(self, artifacts: Sequence[Any], executor: Executor | None = None) -> None:
        self.artifacts, self.executor = list(artifacts), executor
        self.known: list[tuple[Features, list[Any]]] = []

    def __len__(self) -> int:
        return len(self.artifacts)

    def by(self, features: Features) -> list[Any]:
        """The description of each artifact."""
        if features is list:
            return self.artifacts
        for own, rows in self.known:
            if same(own, features):
                return rows
        pieces = [(i, self.artifacts[i : i + PIECE]) for i in range(0, len(self), PIECE)]
        made = {job[0]: rows for job, rows in results(partial(described, features), pieces, self.executor)}
        rows = [row for _, piece in sorted(made.items()) for row in piece]
        if len(rows) != len(self):
            raise DataError(f"{features!r} gave {len(rows)} descriptions of {len(self)} artifacts", "one of each")
        self.known.append((features, rows))
        return rows


def described(features: Features, piece: tuple[int, Sequence[Any]]) -> Sequence[Any]:
    """The descriptions of a numbered piece."""
    return features(piece[1])


def same(a: Any, b: Any) -> bool:
    """Whether two functions are the same one, or the same with the same first arguments (`functools.partial`)."""
    parts = [(getattr(f, "func", None), getattr(f, "args", ()), getattr(f, "keywords", {})) for f in (a, b)]
    return a is b or (parts[0][0] is not None and parts[0] == parts[1])


def score(
    measures: Sequence[Measure],
    samples: Sequence[Any],
    reference: Sequence[Any],
    *,
    real: Sequence[Any] = (),
    raw: Sequence[Any] = (),
    training: Sequence[Any] = (),
    by: str = "",
    halves: int = HALVES,
    seed: int = 0,
    executor: Executor | None = None,
) -> list[MeasureScore]:
    """A row for each measure; one with too few artifacts has a note instead of numbers.

    Args:
        measures: Which.
        samples: The model's.
        reference: Real test artifacts, asked for alike.
        real: Other real artifacts, in the samples' place; against `training` the reference takes that place.
        raw: The samples before they were finished.
        training: What the model learned from; measures against it are left out without.
        by: The judge whose measures these are.
        halves: See `Measure.estimate`.
        seed: Of the halves.
        executor: Where artifacts are described.
    """
    sets = {"samples": samples, "reference": reference, "real": real, "raw": raw, "training": training}
    known = {name: Described(own, executor) for name, own in sets.items()}
    rows = []
    for measure in measures:
        learned = measure.against == "training"
        if learned and not training:
            continue
        other = known["training" if learned else "reference"]
        place = known["reference" if learned else "real"]
        try:
            measure.enough(samples, other.artifacts)
        except DataError as error:
            rows.append(MeasureScore(measure, by=by, note=f"{error.got}: {error.expected}"))
            continue
        against = [] if measure.against == "nothing" else other.by(measure.features)
        found = {
            name: measure.estimate(own.by(measure.features), against, halves, seed)
            for name, own in (("samples", known["samples"]), ("real", place), ("raw", known["raw"]))
            if len(own) >= measure.least
        }
        rows.append(MeasureScore(measure, found["samples"], found.get("real"), found.get("raw"), by=by))
    return rows


def obeyed(
    measures: Sequence[Measure],
    asked: Sequence[Any],
    found: Sequence[Any],
    *,
    real: Sequence[tuple[Any, Any]] = (),
    by: str = "",
    halves: int = HALVES,
    seed: int = 0,
) -> list[MeasureScore]:
    """How far samples are what was asked of them: measures of pairs (asked, found).

    Args:
        measures: `Condition.agreement`.
        asked: Of each sample.
        found: In each sample.
        real: Pairs of real artifacts.
        by: Who found it.
        halves: See `Measure.estimate`.
        seed: Of the halves, and of the order in which requests are shuffled for `MeasureScore.shuffled`.
    """
    order = np.random.default_rng(seed).permutation(len(asked))
    pairs: dict[str, Sequence[Any]] = {
        "samples": list(zip(asked, found, strict=True)),
        "shuffled": [(asked[i], one) for i, one in zip(order, found, strict=True)],
        "real": real,
    }
    rows = []
    for m in measures:
        told = {k: m.estimate(m.features(own), (), halves, seed) for k, own in pairs.items() if len(own) >= m.least}
        rows.append(MeasureScore(m, told.get("samples"), told.get("real"), None, told.get("shuffled"), by))
    return rows
