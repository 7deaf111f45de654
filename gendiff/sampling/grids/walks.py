"""Grids that also go up: a solver renoises there and walks the stretch again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gendiff.errors import POSITIVE, SamplerError, at_least, check, ordered
from gendiff.processes import Process, schedule_of
from gendiff.sampling.grids.continuous import Grid, Karras, LinearGrid


@dataclass(frozen=True)
class UpAndDown(Grid):
    """A grid that walks `length` steps down, returns up, and repeats: RePaint's resampling.

    Args:
        grid: The grid to walk.
        length: Steps down before each return.
        repeats: How often each stretch is walked in all; 1 is the plain grid.
    """

    grid: Grid = field(default_factory=LinearGrid)
    length: int = 1
    repeats: int = 5

    def __post_init__(self) -> None:
        check(self, length=at_least(1), repeats=at_least(1))

    def __call__(self, process: Process, steps: int) -> list[float]:
        times = self.grid(process, steps)
        out = [times[0]]
        for i in range(0, len(times) - 1, self.length):
            stretch = times[i : i + self.length + 1]
            # The last stretch ends in data and is walked once.
            repeats = 1 if stretch[-1] <= 0 else self.repeats
            for r in range(repeats):
                if r:
                    out.append(stretch[0])
                out.extend(stretch[1:])
        return out


@dataclass(frozen=True)
class Interval:
    """A stretch of noise levels sigma/alpha to walk again: from `high` to `low` in `steps`, `repeats` times."""

    low: float
    high: float
    steps: int = 3
    repeats: int = 1
    rho: float = 7.0

    def __post_init__(self) -> None:
        check(self, low=POSITIVE, high=POSITIVE, steps=at_least(1), repeats=at_least(1), rho=POSITIVE)
        ordered(self, "low", "high")


@dataclass(frozen=True)
class Restart(Grid):
    """Jumps back to more noise within intervals, and down again (Xu et al. 2023).

    The first descent is the inner grid's. When it has come to an interval's low end (to the level of the grid nearest
    to it), it jumps to the high end, or to the grid's own first time if that is below, and descends by Karras's levels,
    as often as the interval says.

    Args:
        grid: The main descent.
        intervals: Noisiest first.
    """

    grid: Grid = field(default_factory=Karras)
    intervals: tuple[Interval, ...] = (Interval(0.06, 0.30),)
    part: str | None = None

    def __call__(self, process: Process, steps: int) -> list[float]:
        schedule, times = schedule_of(process, self.part), self.grid(process, steps)
        alpha, sigma = schedule(times[0])
        highest = sigma / alpha if alpha > 0 else math.inf
        after: dict[int, list[Interval]] = {}
        for interval in self.intervals:
            low = schedule.unclock(interval.low)
            inner = [i for i, t in enumerate(times) if 0 < t < min(schedule.unclock(interval.high), times[0])]
            if not inner:
                raise SamplerError(
                    f"Restart({interval}): the grid of {steps} steps has no time below its high end",
                    "a grid with a level inside the interval",
                )
            after.setdefault(min(inner, key=lambda i: abs(times[i] - low)), []).append(interval)
        out: list[float] = []
        for i, t in enumerate(times):
            out.append(t)
            for interval in after.get(i, ()):
                alpha, sigma = schedule(t)
                top = min(interval.high, highest)
                levels = Karras(sigma / alpha, top, interval.rho).sigmas(interval.steps + 1)[:-1]
                for _ in range(interval.repeats):
                    out += [*(schedule.unclock(level) for level in levels), t]
        return out
