r"""The grid that solvers of high order walk by default.

SoftGrid     c_i = scale sinh((1 - i/n)^power asinh(c_max/scale)), c the schedule's clock: log above the scale,
             even below it, so that the last steps shrink with their number rather than to a fixed sigma_min
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gendiff.processes import Process
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
