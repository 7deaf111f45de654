"""Tables that were fitted to a model: a solver's rows, with weights and times replaced where a table was fitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from gendiff.processes import Process
from gendiff.sampling.grids import Grid, PowerGrid
from gendiff.sampling.solvers.table import Past, Row, Solver


@dataclass(frozen=True)
class Fitted:
    """The table of one number of steps: its times, and the weights of every step (by part for bundles)."""

    times: tuple[float, ...]
    weights: tuple[Any, ...]


@dataclass(frozen=True)
class FittedTimes(Grid):
    """The times of the table with this number of steps, else another grid."""

    tables: tuple[Fitted, ...]
    otherwise: Grid

    def __call__(self, process: Process, steps: int) -> list[float]:
        for table in self.tables:
            if len(table.weights) == steps:
                return list(table.times)
        return self.otherwise(process, steps)


@dataclass(frozen=True)
class Calibrated(Solver):
    """A solver with tables fitted to a model by `gendiff.calibrate`; steps they do not know are another's.

    Args:
        solver: The analytic solver that the tables were fitted from: one evaluation a step.
        tables: One for each number of steps.
        otherwise: What takes the steps that no table knows.
        guidance: What the model was guided by when they were fitted, as text; None where nobody said.
        notes: What `calibrate` decided for each number of steps, and why.
    """

    order: ClassVar[int] = 1
    remembers: ClassVar[bool] = True
    steps: int
    solver: Solver
    tables: tuple[Fitted, ...]
    otherwise: Solver
    times: Grid = field(default_factory=PowerGrid)
    guidance: str | None = None
    notes: tuple[str, ...] = ()

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        done = len(past)
        for table in self.tables:
            if len(table.weights) == self.steps and table.times[: done + 2] == (*past, t, s):
                *_, row = replace(self.solver, steps=self.steps).step(process, t, s, past)  # type: ignore[type-var]
                yield replace(row, at=t, weights=table.weights[done])
                return
        yield from replace(self.otherwise, steps=self.steps).step(process, t, s, past)  # type: ignore[type-var]

    def under(self, guidance: str) -> Solver:
        """This solver, or under another guidance than the tables' what takes their place."""
        if self.guidance in (None, guidance):
            return self
        return replace(self.otherwise, steps=self.steps)  # type: ignore[type-var]

    def with_table(self, table: Fitted) -> Calibrated:
        """With one more table, in place of an earlier one of as many steps."""
        kept = tuple(other for other in self.tables if len(other.weights) != len(table.weights))
        tables = (*kept, table)
        return replace(self, tables=tables, times=FittedTimes(tables, self.otherwise.times))
