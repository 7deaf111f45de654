r"""Times to train at, and grids of times to sample on.

Training times are quantiles of a distribution at stratified u_i = (i + u)/B (one uniform u a batch; Kingma et al. 2021,
App. I.1): each batch covers the distribution evenly, on any number of devices.

    Uniform       t = u
    LogitNormal   t = 1/(1 + exp(-(mean + std q))),      q = Phi^-1(u)      (Esser et al. 2024)
    LogNormal     log sigma/alpha = mean + std q          (Karras et al. 2022, Eq. 8)

Grids run from noise to data and end at exactly 0. `steps` counts the intervals.

    LinearGrid    t_i = start + (end - start) i/n
    Karras        sigma_i = (smax^(1/rho) + i/(n-1) (smin^(1/rho) - smax^(1/rho)))^rho, then 0    (Karras 2022, Eq. 5)
    LogSNRGrid    the same with log sigma, rho -> infinity
    UpAndDown     a grid that also returns towards noise: RePaint (Lugmayr et al. 2022), for every solver
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gendiff.errors import SamplerError
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.schedules import Discrete, Schedule


def schedule_of(process: Process, part: str | None = None) -> Schedule:
    """The schedule of a leaf process, or of a bundle's named (else first) part."""
    schedules = process.per_part(lambda leaf: leaf.schedule)
    while isinstance(schedules, dict):
        if part is not None and part not in schedules:
            raise SamplerError(f"The process has no part {part!r}", f"one of {', '.join(schedules)}")
        schedules = schedules[part] if part is not None else next(iter(schedules.values()))
        part = None
    return schedules


def stratified(n: int, noise: Noise, total: int | None = None, start: int = 0) -> Tensor:
    """n of `total` stratified uniforms in (0, 1), from place `start`: float64 [n] on the host.

    Args:
        n: How many this device needs.
        noise: A source whose first sample gives the common offset.
        total: The batch over all devices, n by default.
        start: The place of this device's first sample in it.
    """
    u = noise.select(slice(0, 1)).to("cpu").uniform((1,))
    return (torch.arange(start, start + n, dtype=torch.float64) + u) / (total or n)


class TimeDistribution(ABC):
    """Which times to train at."""

    @abstractmethod
    def quantile(self, u: Tensor, process: Process) -> Tensor:
        """The times at quantiles u in (0, 1), float64."""


@dataclass(frozen=True)
class Uniform(TimeDistribution):
    """t uniform in [low, high]."""

    low: float = 1e-4
    high: float = 1.0

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return self.low + (self.high - self.low) * u


@dataclass(frozen=True)
class LogitNormal(TimeDistribution):
    """logit t ~ N(mean, std^2)."""

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)).clamp_min(1e-5)


@dataclass(frozen=True)
class LogNormal(TimeDistribution):
    """log(sigma/alpha) ~ N(mean, std^2), of the named part's schedule for bundles."""

    mean: float = -1.2
    std: float = 1.2
    part: str | None = None

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(u)
        return schedule_of(process, self.part).time(-2 * log_sigma)


@dataclass(frozen=True)
class Mixed(TimeDistribution):
    """A share of the quantiles to a second distribution: `Mixed(LogitNormal(), Uniform(), 0.1)`."""

    first: TimeDistribution
    second: TimeDistribution
    share: float = 0.1

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        low = u < self.share
        a = (u / self.share).clamp(1e-12, 1 - 1e-12)
        b = ((u - self.share) / (1 - self.share)).clamp(1e-12, 1 - 1e-12)
        return torch.where(low, self.second.quantile(a, process), self.first.quantile(b, process))


class Grid(ABC):
    """The times a sampler visits: `grid(process, steps)` is a list of floats from noise to 0."""

    @abstractmethod
    def __call__(self, process: Process, steps: int) -> list[float]:
        """steps + 1 times (more on grids that also go up)."""


def counted(steps: int) -> int:
    """A number of steps that is at least one."""
    if steps < 1:
        raise SamplerError(f"A sampler got steps={steps}", "at least one step", "Euler(50)")
    return steps


@dataclass(frozen=True)
class LinearGrid(Grid):
    """Even in t, from start to end; the process's schedule then decides the noise levels."""

    start: float = 1.0
    end: float = 0.0

    def __call__(self, process: Process, steps: int) -> list[float]:
        counted(steps)
        return [self.start + (self.end - self.start) * (i / steps) for i in range(steps)] + [self.end]


@dataclass(frozen=True)
class Karras(Grid):
    """Even in sigma^(1/rho) from sigma_max to sigma_min, then 0; sigma is the noise-to-signal ratio sigma/alpha."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    part: str | None = None

    def sigmas(self, steps: int) -> list[float]:
        """The noise levels, without the final 0."""
        a, b = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return [(a + (b - a) * (i / max(steps - 1, 1))) ** self.rho for i in range(counted(steps))]

    def __call__(self, process: Process, steps: int) -> list[float]:
        return from_sigmas(schedule_of(process, self.part), self.sigmas(steps))


@dataclass(frozen=True)
class LogSNRGrid(Grid):
    """Even in log sigma/alpha from sigma_max to sigma_min, then 0: the home of exponential integrators."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    part: str | None = None

    def sigmas(self, steps: int) -> list[float]:
        """The noise levels, without the final 0."""
        a, b = math.log(self.sigma_max), math.log(self.sigma_min)
        return [math.exp(a + (b - a) * (i / max(steps - 1, 1))) for i in range(counted(steps))]

    def __call__(self, process: Process, steps: int) -> list[float]:
        return from_sigmas(schedule_of(process, self.part), self.sigmas(steps))


def from_sigmas(schedule: Schedule, sigmas: list[float]) -> list[float]:
    """Times of descending noise levels, then 0; levels beyond the schedule's end are moved to it and merged."""
    out: list[float] = []
    for sigma in sigmas:
        t = schedule.unclock(sigma)
        if out and t >= out[-1]:
            out[-1] = t if len(out) == 1 else out[-1]
            continue
        out.append(t)
    return [*out, 0.0]


@dataclass(frozen=True)
class Levels(Grid):
    """Noise levels sigma/alpha given one by one, noisiest first; the last may be 0."""

    sigmas: tuple[float, ...]
    part: str | None = None

    def __call__(self, process: Process, steps: int) -> list[float]:
        schedule = schedule_of(process, self.part)
        return [schedule.unclock(sigma) if sigma > 0 else 0.0 for sigma in self.sigmas]


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
