r"""Tables that were fitted to a model, and the grids they and the default solvers walk.

    SoftGrid     c_i = scale sinh((1 - i/n)^power asinh(c_max/scale)), c the schedule's clock: log above the scale,
                 even below it, so that the last steps shrink with their number rather than to a fixed sigma_min
    Calibrated   another solver, with weights and times replaced where a table of this number of steps was fitted
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from gendiff.processes import Process
from gendiff.solvers.table import Past, Row, Solver
from gendiff.times import Grid, counted, schedule_of


@dataclass(frozen=True)
class SoftGrid(Grid):
    """Even in asinh(clock/scale), from the noisy end (or sigma_max) to 0."""

    scale: float = 0.1
    power: float = 1.3
    sigma_max: float = 80.0
    part: str | None = None

    def __call__(self, process: Process, steps: int) -> list[float]:
        schedule = schedule_of(process, self.part)
        top = 1.0 if schedule.bounded else min(self.sigma_max, schedule.clock(1.0))
        whole = math.asinh(top / self.scale)
        clocks = [self.scale * math.sinh(whole * (1 - i / steps) ** self.power) for i in range(counted(steps))]
        if schedule.bounded:  # the clock is sigma/(alpha + sigma)
            return [1.0] + [schedule.unclock(c / (1 - c)) for c in clocks[1:]] + [0.0]
        return [schedule.unclock(c) for c in clocks] + [0.0]


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
    """A solver with tables fitted to a model by `gendiff.calibration.calibrate`; steps they do not know are its own.

    Args:
        solver: The analytic solver, used wherever there is no table.
        tables: One for each number of steps.
    """

    order: ClassVar[int] = 1
    steps: int
    solver: Solver
    tables: tuple[Fitted, ...]
    times: Grid = field(default_factory=SoftGrid)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        for table in self.tables:
            done = len(past)
            if len(table.weights) == self.steps and table.times[: done + 2] == (*past, t, s):
                yield Row(t, s, at=t, weights=table.weights[done], move=process.move(t, s))
                return
        yield from self.solver.step(process, t, s, past)

    def with_table(self, table: Fitted) -> Calibrated:
        """With one more table, in place of an earlier one of as many steps."""
        kept = tuple(other for other in self.tables if len(other.weights) != len(table.weights))
        tables = (*kept, table)
        return replace(self, tables=tables, times=FittedTimes(tables, self.solver.times))
