r"""Grids of times to sample on: from noise to data, ending at exactly 0. `steps` counts the intervals.

LinearGrid       t_i = start + (end - start) i/n
Linspace         n times from start to last, then 0; Leading and Trailing count a table's training times
Karras           sigma_i = (smax^(1/rho) + i/(n-1) (smin^(1/rho) - smax^(1/rho)))^rho, then 0      (2022, Eq. 5)
LogSNRGrid       the same with log sigma, rho -> infinity; "exponential" in k-diffusion
PowerGrid        sigma/(d alpha + sigma) = top (1 - i/n)^power,  d the deviation of the data
EvenParts        even in the mean of sigma/(d alpha + sigma) over the parts of a bundle
PolyExponential  log sigma_i = log smin + (1 - i/(n-1))^rho log(smax/smin), then 0
BetaGrid         quantiles of a Beta distribution                                                  (Lee et al. 2024)
ShiftedGrid      another grid at a log-SNR lower by 2 log(shift)
AlignYourSteps   published tables, interpolated in log sigma                                   (Sabour et al. 2024)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gendiff.errors import (
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_OR_INFINITE,
    Range,
    SamplerError,
    check,
    nearest,
    ordered,
    refuse,
)
from gendiff.processes import Leaf, Process, leaf_of, schedule_of
from gendiff.processes.schedules import Schedule

TIME = Range(0, 1, text="a time in [0, 1]")


class Grid(ABC):
    """The times a sampler visits: `grid(process, steps)` is a list of floats from noise to 0."""

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def __call__(self, process: Process, steps: int) -> list[float]:
        """steps + 1 times (more on grids that also go up)."""


def counted(steps: int) -> int:
    """A number of steps that is at least one."""
    if steps < 1:
        raise SamplerError(f"A sampler got steps={steps}", "at least one step", "Euler(50)")
    return steps


def falling(grid: Grid, name: str, most: float) -> None:
    """Refuses numbers given one by one unless there are two or more, falling within [0, most]."""
    check(grid)
    values = getattr(grid, name)
    if len(values) < 2 or not all(most >= a and b >= 0 and (a >= b or math.isclose(a, b)) for a, b in pairwise(values)):
        expected = f"two numbers or more, the largest first, within [0, {most:g}]"
        refuse(grid, name, expected, f"{type(grid).__name__}((1.0, 0.5, 0.1))")


@dataclass(frozen=True)
class LinearGrid(Grid):
    """Even in t, from start to end; the process's schedule then decides the noise levels."""

    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        check(self, start=TIME, end=TIME)

    def __call__(self, process: Process, steps: int) -> list[float]:
        counted(steps)
        return [self.start + (self.end - self.start) * (i / steps) for i in range(steps)] + [self.end]


@dataclass(frozen=True)
class PowerGrid(Grid):
    """sigma/(d alpha + sigma) = top (1 - i/n)^power: the same noise levels on every schedule, whatever its own time.

    d is the standard deviation of the data that the process knows, `Gaussian(data_std=...)`, else 1; then on flows that
    is t itself. Levels of many times the data's scale, where predictions hardly change, get few steps,
    and the last steps shrink with their number rather than to a fixed sigma_min.

    Args:
        power: 1 is even; above it steps are shorter towards the data.
        sigma_max: The first sigma/alpha over d, if the schedule goes further; infinity is all of it.
        part: Whose schedule, for bundles.
    """

    power: float = 1.5
    sigma_max: float = 80.0
    part: str | None = None

    def __post_init__(self) -> None:
        check(self, power=POSITIVE, sigma_max=POSITIVE_OR_INFINITE)

    def __call__(self, process: Process, steps: int) -> list[float]:
        leaf = leaf_of(process, self.part)
        schedule, d = leaf.schedule, leaf.data_std or 1.0
        alpha, sigma = schedule(1.0)
        most = self.sigma_max * d
        ends = alpha == 0 or sigma / alpha <= most
        top = sigma / (d * alpha + sigma) if ends else most / (d + most)
        levels = [top * (1 - i / steps) ** self.power for i in range(counted(steps))]
        first = 1.0 if ends else schedule.unclock(most)
        return [first, *(schedule.unclock(d * k / (1 - k)) for k in levels[1:]), 0.0]


@dataclass(frozen=True)
class EvenParts(Grid):
    """Even in the mean over the parts of a bundle of k = sigma/(d alpha + sigma), d the deviation of the part's data.

    Where clocks differ, each part gets its share of the steps: classes that are decided while positions are still noise
    are decided a few at a time. k of masked classes is the share that is masked. With one part it is even in its k.

    Args:
        weights: Of parts by name, "a.pos" of a bundle in a bundle; 1 where a part is not named.

    Raises:
        SamplerError: For names of parts that there are not, and weights that are all 0.
    """

    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self, weights=NOT_NEGATIVE)

    def __call__(self, process: Process, steps: int) -> list[float]:
        names = flat(process.per_part(lambda leaf: leaf))
        for name in self.weights:
            if name not in names:
                raise SamplerError(
                    f"EvenParts got a weight for {name!r}", f"names among {', '.join(names)}.{nearest(name, names)}"
                )
        leaves = [(self.weights.get(name, 1.0), leaf) for name, leaf in names.items()]
        if not any(weight for weight, _ in leaves):
            raise SamplerError("EvenParts got weights that are all 0", "one above 0", "EvenParts()")

        def mean(t: float) -> float:
            return sum(weight * leaf.schedule.share(t, leaf.data_std or 1.0) for weight, leaf in leaves)

        top = mean(1.0)
        return [1.0, *(halved(mean, top * (1 - i / steps)) for i in range(1, counted(steps))), 0.0]


def flat(parts: Any, name: str = "") -> dict[str, Leaf]:
    """Leaves by name, those of bundles in bundles by the names on the way, "a.pos"."""
    if not isinstance(parts, dict):
        return {name: parts}
    return {
        key: leaf for own, part in parts.items() for key, leaf in flat(part, f"{name}.{own}" if name else own).items()
    }


def halved(f: Callable[[float], float], value: float) -> float:
    """The t in [0, 1] at which a rising f has a value, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if f(middle) < value else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Karras(Grid):
    """Even in sigma^(1/rho) from sigma_max to sigma_min, then 0; sigma is the noise-to-signal ratio sigma/alpha."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    part: str | None = None

    def __post_init__(self) -> None:
        check(self, sigma_min=POSITIVE, sigma_max=POSITIVE, rho=POSITIVE)
        ordered(self, "sigma_min", "sigma_max")

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

    def __post_init__(self) -> None:
        check(self, sigma_min=POSITIVE, sigma_max=POSITIVE)
        ordered(self, "sigma_min", "sigma_max")

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

    def __post_init__(self) -> None:
        falling(self, "sigmas", math.inf)

    def __call__(self, process: Process, steps: int) -> list[float]:
        schedule = schedule_of(process, self.part)
        return [schedule.unclock(sigma) if sigma > 0 else 0.0 for sigma in self.sigmas]


@dataclass(frozen=True)
class PolyExponential(Grid):
    """log sigma falls as (1 - i/(n - 1))^rho from sigma_max to sigma_min, then 0; rho = 1 is `LogSNRGrid`."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 1.0
    part: str | None = None

    def __post_init__(self) -> None:
        check(self, sigma_min=POSITIVE, sigma_max=POSITIVE, rho=POSITIVE)
        ordered(self, "sigma_min", "sigma_max")

    def sigmas(self, steps: int) -> list[float]:
        """The noise levels, without the final 0."""
        a, b = math.log(self.sigma_max), math.log(self.sigma_min)
        return [math.exp(b + (a - b) * (1 - i / max(steps - 1, 1)) ** self.rho) for i in range(counted(steps))]

    def __call__(self, process: Process, steps: int) -> list[float]:
        return from_sigmas(schedule_of(process, self.part), self.sigmas(steps))


@dataclass(frozen=True)
class BetaGrid(Grid):
    """Quantiles of Beta(a, b), dense at both ends: "Beta sampling is all you need" (Lee et al. 2024).

    Args:
        a: The first parameter of the distribution.
        b: The second.
        sigmas: None spaces the times t_i = Q(1 - i/n); (low, high) spaces the noise levels sigma/alpha between them.
    """

    a: float = 0.6
    b: float = 0.6
    sigmas: tuple[float, float] | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        check(self, a=POSITIVE, b=POSITIVE, sigmas=POSITIVE)

    def __call__(self, process: Process, steps: int) -> list[float]:
        from scipy.special import betaincinv

        counted(steps)
        schedule = schedule_of(process, self.part)
        if self.sigmas is None:
            return [float(betaincinv(self.a, self.b, 1 - i / steps)) for i in range(steps)] + [0.0]
        low, high = self.sigmas
        shares = [float(betaincinv(self.a, self.b, 1 - i / max(steps - 1, 1))) for i in range(steps)]
        return from_sigmas(schedule, [low + (high - low) * share for share in shares])


@dataclass(frozen=True)
class ShiftedGrid(Grid):
    """The times of another grid moved to a log-SNR lower by 2 log(shift): more steps in the noise.

    A model whose own schedule is `Shifted` needs none: its times are shifted already.
    """

    grid: Grid = field(default_factory=LinearGrid)
    shift: float = 3.0
    part: str | None = None

    def __post_init__(self) -> None:
        check(self, shift=POSITIVE)

    def __call__(self, process: Process, steps: int) -> list[float]:
        schedule = schedule_of(process, self.part)
        lower = 2 * math.log(self.shift)
        times = [schedule.time(schedule.logsnr(t) - lower) if t > 0 else 0.0 for t in self.grid(process, steps)]
        # Where the schedule ends before the shifted log-SNR, all of them are its end.
        return [t for i, t in enumerate(times) if i == len(times) - 1 or t < 1 or times[i + 1] < 1]


AYS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deepfloyd": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""Noise levels of ten steps: Sabour et al., "Align Your Steps" (2024), Table 3."""


@dataclass(frozen=True)
class AlignYourSteps(Grid):
    """Noise levels tuned by others for a model: `AlignYourSteps(AYS["sdxl"])`, log-linear between the table's entries.

    Args:
        table: Noise levels sigma/alpha, noisiest first, of any number of steps.
    """

    table: tuple[float, ...] = AYS["sd15"]
    part: str | None = None

    def __post_init__(self) -> None:
        falling(self, "table", math.inf)
        if self.table[-1] <= 0:
            refuse(self, "table", "noise levels above zero", 'AlignYourSteps(AYS["sdxl"])')

    def sigmas(self, steps: int) -> list[float]:
        """The noise levels, without the final 0, which stands for the table's last."""
        logs = [math.log(sigma) for sigma in self.table]
        places = [i / steps * (len(logs) - 1) for i in range(counted(steps))]
        lows = [min(int(place), len(logs) - 2) for place in places]
        return [
            math.exp(logs[k] + (place - k) * (logs[k + 1] - logs[k])) for k, place in zip(lows, places, strict=True)
        ]

    def __call__(self, process: Process, steps: int) -> list[float]:
        return from_sigmas(schedule_of(process, self.part), self.sigmas(steps))


@dataclass(frozen=True)
class Fixed(Grid):
    """Times given one by one, noisiest first: what a fitted grid is saved as. `steps` is not read."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        falling(self, "times", 1.0)

    def __call__(self, process: Process, steps: int) -> list[float]:
        return list(self.times)
