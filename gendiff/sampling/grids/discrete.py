"""Grids on the training times of a table of betas, numbered k = 0 .. T - 1 as its authors did."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gendiff.errors import at_least, check
from gendiff.processes import Process, schedule_of
from gendiff.processes.schedules import Discrete
from gendiff.sampling.grids.continuous import TIME, Grid, LinearGrid, counted


@dataclass(frozen=True)
class Trailing(Grid):
    """Of T discrete training times, every T/n-th counted from the noisy end, then 0 (Lin et al. 2023)."""

    def __call__(self, process: Process, steps: int) -> list[float]:
        schedule = schedule_of(process)
        if not isinstance(schedule, Discrete):
            return LinearGrid()(process, steps)
        last = len(schedule.betas)
        return [round(last - i * last / steps) / last for i in range(counted(steps))] + [0.0]


@dataclass(frozen=True)
class Leading(Grid):
    """Of T discrete training times, every T//n-th counted from the clean end, then 0; the last ones are never seen.

    Args:
        offset: Added to every number (1 in Stable Diffusion).
        dropped: How many more times are counted and left out at the clean end.
    """

    offset: int = 0
    dropped: int = 0

    def __post_init__(self) -> None:
        check(self, offset=at_least(0), dropped=at_least(0))

    def __call__(self, process: Process, steps: int) -> list[float]:
        schedule, total = schedule_of(process), counted(steps) + self.dropped
        if not isinstance(schedule, Discrete):
            return [(total - i) / (total + 1) for i in range(steps)] + [0.0]
        stride = len(schedule.betas) // total
        return [schedule.index(k * stride + self.offset) for k in reversed(range(self.dropped, total))] + [0.0]


@dataclass(frozen=True)
class Linspace(Grid):
    """n times evenly from the first to the last, then 0.

    On a table of betas they are evenly spaced numbers from T - 1 to 0, rounded to training times, or else between them
    by sigma/alpha; on other schedules, times from `start` to `last`.

    Args:
        start: The first time.
        last: The last one before 0.
        rounded: Whether only a table's own times are used.
        dropped: How many more times are counted and left out at the clean end.
    """

    start: float = 1.0
    last: float = 1e-3
    rounded: bool = True
    dropped: int = 0

    def __post_init__(self) -> None:
        check(self, start=TIME, last=TIME, dropped=at_least(0))

    def __call__(self, process: Process, steps: int) -> list[float]:
        schedule, total = schedule_of(process), counted(steps) + self.dropped
        if not isinstance(schedule, Discrete):
            return [*np.linspace(self.start, self.last, total)[:steps].tolist(), 0.0]
        # Counted from the clean end, as others do, so that halves fall to the same side.
        last = len(schedule.betas) - 1
        places = np.linspace(0, last, total)[::-1][:steps].tolist() if total > 1 else [float(last)]
        if self.rounded:
            return [schedule.index(round(place)) for place in places] + [0.0]
        return [self.between(schedule, place) for place in places] + [0.0]

    @staticmethod
    def between(schedule: Discrete, place: float) -> float:
        """The time at which sigma/alpha is interpolated between two training times."""
        low = math.floor(place + 1e-9)
        if place - low < 1e-9:
            return schedule.index(low)
        a, b = schedule.clock(schedule.index(low)), schedule.clock(schedule.index(low + 1))
        return schedule.unclock(a + (place - low) * (b - a))
