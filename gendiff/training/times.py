r"""Times to train at.

Training times are quantiles of a distribution at stratified u_i = (i + u)/B (one uniform u a batch; Kingma et al. 2021,
App. I.1): each batch covers the distribution evenly, on any number of devices. With q = Phi^-1(u):

    Uniform             t = u
    LogitNormal         t = 1/(1 + exp(-(mean + std q)))                                        (Esser et al. 2024)
    LogNormal           log sigma/alpha = mean + std q                                   (Karras et al. 2022, Eq. 8)
    Beta                t ~ Beta(a, b)
    Mode                t = u - scale (sin^2(pi u/2) - u)                            (Esser et al. 2024, Sec. 3.1)
    CosineInterpolated  log-SNR of a cosine schedule, its resolution falling as u grows    (Hoogeboom et al. 2023)
    Binned              a histogram of log-SNR, such as `LossHistogram` learns
    ImportanceTimes     the same, learned while training                  (Nichol & Dhariwal 2021, here by log-SNR)

Distributions of noise levels are cut off where the schedule ends, so that no time carries a share of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.errors import (
    NOT_NEGATIVE,
    POSITIVE,
    PROPER_SHARE,
    SHARE,
    Range,
    RecipeError,
    at_least,
    check,
    ordered,
    refuse,
)  # fmt: skip
from gendiff.processes import Process, schedule_of
from gendiff.processes.schedules import Schedule
from gendiff.random import Noise


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

    def __post_init__(self) -> None:
        check(self, low=SHARE, high=SHARE)
        ordered(self, "low", "high")

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return self.low + (self.high - self.low) * u


@dataclass(frozen=True)
class LogitNormal(TimeDistribution):
    """logit t ~ N(mean, std^2)."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        check(self, std=POSITIVE)

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u)).clamp_min(1e-5)


@dataclass(frozen=True)
class LogNormal(TimeDistribution):
    """log(sigma/alpha) ~ N(mean, std^2), of the named part's schedule for bundles."""

    mean: float = -1.2
    std: float = 1.2
    part: str | None = None

    def __post_init__(self) -> None:
        check(self, std=POSITIVE)

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        schedule = schedule_of(process, self.part)
        first, last = ((-noisier / 2 - self.mean) / self.std for noisier in reversed(levels(schedule)))
        low, high = (torch.special.ndtr(torch.tensor(end, dtype=torch.float64)) for end in (first, last))
        log_sigma = self.mean + self.std * torch.special.ndtri(low + (high - low) * u)
        return schedule.time(-2 * log_sigma)


@dataclass(frozen=True)
class Mixed(TimeDistribution):
    """A share of the quantiles to a second distribution: `Mixed(LogitNormal(), Uniform(), 0.1)`."""

    first: TimeDistribution
    second: TimeDistribution
    share: float = 0.1

    def __post_init__(self) -> None:
        check(self, share=PROPER_SHARE)

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        low = u < self.share
        a = (u / self.share).clamp(1e-12, 1 - 1e-12)
        b = ((u - self.share) / (1 - self.share)).clamp(1e-12, 1 - 1e-12)
        return torch.where(low, self.second.quantile(a, process), self.first.quantile(b, process))


@dataclass(frozen=True)
class Beta(TimeDistribution):
    """t ~ Beta(a, b): a > 1 avoids the data, b > 1 the noise."""

    a: float = 1.0
    b: float = 1.5

    def __post_init__(self) -> None:
        check(self, a=POSITIVE, b=POSITIVE)

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        from scipy.special import betaincinv

        return torch.as_tensor(betaincinv(self.a, self.b, u.numpy()), dtype=torch.float64)


@dataclass(frozen=True)
class Mode(TimeDistribution):
    """Esser et al. (2024), "mode sampling with heavy tails": more of the middle (scale > 0) or of the ends (scale < 0).

    Args:
        scale: From -1 to 2/(pi - 2) = 1.75; beyond them u to t would not be monotone.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        check(self, scale=Range(-1.0, 2 / (math.pi - 2)))

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return u - self.scale * (torch.sin(u * (math.pi / 2)) ** 2 - u)


@dataclass(frozen=True)
class CosineInterpolated(TimeDistribution):
    """A cosine schedule's log-SNR, shifted by a resolution that moves from `high` to `low` as noise grows.

    logsnr(u) = u c(u; low) + (1 - u) c(u; high), c(u; d) = -2 log tan(...) + 2 log(d/size), both running from the
    log-SNR of sigma_min at u = 0 to that of sigma_max at 1 (Hoogeboom et al. 2023, "simple diffusion", Sec. 3.1).

    Args:
        size: The resolution of the data.
        low: The lower resolution, whose shift rules the coarse structure, at high noise.
        high: The higher resolution, whose shift rules the details, at low noise.
        sigma_min: The least sigma/alpha.
        sigma_max: The largest.
        sigma_data: The standard deviation of the data.
    """

    size: float = 64.0
    low: float = 32.0
    high: float = 64.0
    sigma_min: float = 1e-3
    sigma_max: float = 1e3
    sigma_data: float = 1.0
    part: str | None = None

    def __post_init__(self) -> None:
        check(
            self,
            size=POSITIVE,
            low=POSITIVE,
            high=POSITIVE,
            sigma_min=POSITIVE,
            sigma_max=POSITIVE,
            sigma_data=POSITIVE,
        )
        ordered(self, "low", "high", equal=True)
        ordered(self, "sigma_min", "sigma_max")

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        schedule, data = schedule_of(process, self.part), 2 * math.log(self.sigma_data)
        noisy, clean = levels(schedule)
        first, last = self.place(clean + data), self.place(noisy + data)
        return schedule.time(self.logsnr(first + (last - first) * u) - data)

    def place(self, logsnr: float) -> float:
        """The quantile of a log-SNR, by bisection; 0 or 1 where it lies outside."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            below = float(self.logsnr(torch.tensor(middle, dtype=torch.float64))) > logsnr
            low, high = (middle, high) if below else (low, middle)
        return low if high == 1.0 else high

    def logsnr(self, u: Tensor) -> Tensor:
        """The log-SNR for data of unit variance at the quantile u."""
        top = -2 * math.log(self.sigma_min / self.sigma_data)
        end = -2 * math.log(self.sigma_max / self.sigma_data)

        def cosine(resolution: float) -> Tensor:
            shift = 2 * math.log(resolution / self.size)
            first, last = (math.atan(math.exp(-(bound - shift) / 2)) for bound in (top, end))
            return -2 * torch.log(torch.tan(first + u * (last - first))) + shift

        return torch.lerp(cosine(self.high), cosine(self.low), u)


@dataclass(frozen=True)
class Binned(TimeDistribution):
    """A histogram of log-SNR, from the noisiest bin up.

    Args:
        low: The lower edge of the first bin.
        high: The upper edge of the last.
        mass: The share of each bin; they sum to one.
    """

    low: float
    high: float
    mass: tuple[float, ...]
    part: str | None = None

    def __post_init__(self) -> None:
        check(self, mass=NOT_NEGATIVE)
        ordered(self, "low", "high")
        if not self.mass or not math.isclose(sum(self.mass), 1, rel_tol=1e-6):
            refuse(self, "mass", "shares that sum to one", "Binned(-12.0, 12.0, (0.5, 0.5))")

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        schedule, mass = schedule_of(process, self.part), torch.tensor(self.mass, dtype=torch.float64)
        edges, low, high, _ = self.cut(schedule)
        u = high - (high - low) * u  # large quantiles are late times
        k = (torch.searchsorted(edges, u, right=True) - 1).clamp(0, len(self.mass) - 1)
        place = (k + (u - edges[k]) / mass[k].clamp_min(1e-300)) / len(self.mass)
        return schedule.time(self.low + (self.high - self.low) * place)

    def correction(self, t: Tensor, process: Process) -> Tensor:
        """What a loss at t must be multiplied by to count as if log-SNRs were drawn evenly, [B]; 1 on average."""
        _, low, high, covered = self.cut(schedule_of(process, self.part))
        k = bins(t, process, self)
        return (high - low) / (torch.tensor(self.mass, dtype=torch.float64)[k] * covered)

    def cut(self, schedule: Schedule) -> tuple[Tensor, float, float, float]:
        """The bins as the schedule cuts them off: no time has a log-SNR beyond the schedule's own.

        Returns:
            The cumulated mass at the edges, its values where the schedule ends and begins, and how many bins lie
            between, as a fraction.

        Raises:
            RecipeError: Where nothing is left.
        """
        mass = torch.tensor(self.mass, dtype=torch.float64)
        edges, n = torch.cat([mass.new_zeros(1), mass.cumsum(0)]), len(self.mass)
        ends = [(end - self.low) / (self.high - self.low) * n for end in levels(schedule)]
        first, last = (min(max(end, 0.0), n) for end in ends)
        below = [min(int(place), n - 1) for place in (first, last)]
        low, high = (float(edges[k] + (place - k) * mass[k]) for k, place in zip(below, (first, last), strict=True))
        if not high > low:
            raise RecipeError(
                f"{type(self).__name__} covers log-SNRs from {self.low:g} to {self.high:g}, {schedule!r} none of them",
                "bins within the schedule's log-SNRs",
                "ImportanceTimes(low=-8.0, high=8.0)",
            )
        return edges, low, high, last - first


def levels(schedule: Schedule) -> tuple[float, float]:
    """The log-SNRs between which a schedule runs: at t = 1, and at t = 0."""
    return float(schedule.logsnr(1.0)), float(schedule.logsnr(0.0))


def bins(t: Tensor, process: Process, of: Binned) -> Tensor:
    """The bin of each time, int64 [B]; what lies outside counts to the bins at the ends."""
    logsnr = schedule_of(process, of.part).logsnr(t.double().cpu())
    place = (logsnr - of.low) / (of.high - of.low) * len(of.mass)
    return place.clamp(0, len(of.mass) - 1).long()


class LossHistogram:
    """Learns where the loss is large: the importance sampling of Nichol & Dhariwal (2021), by log-SNR.

    share of a bin = floor/bins + (1 - floor) root mean square of its losses/sum of these

    Every device may keep its own and add the others' losses, or one be told all of them.

    Args:
        low: The lower edge of the first bin.
        high: The upper edge of the last.
        bins: How many.
        memory: Losses a bin looks back on, roughly.
        floor: The share of the mass spread evenly.
        part: Whose schedule gives the log-SNR, for bundles.
    """

    def __init__(
        self,
        low: float = -12.0,
        high: float = 12.0,
        *,
        bins: int = 24,
        memory: float = 1000.0,
        floor: float = 0.1,
        part: str | None = None,
    ) -> None:
        ImportanceTimes(low, high, bins=bins, memory=memory, floor=floor, part=part)  # checks them
        self.even = Binned(low, high, (1 / bins,) * bins, part)
        self.memory, self.floor = memory, floor
        self.squares = torch.zeros(bins, dtype=torch.float64)
        self.counts = torch.zeros(bins, dtype=torch.float64)

    def update(self, t: Tensor, losses: Tensor, process: Process) -> None:
        """Takes in the losses [B] at the times t [B]; this waits for the device."""
        k, losses = bins(t, process, self.even), losses.detach().double().cpu()
        seen = torch.zeros_like(self.counts).index_add_(0, k, torch.ones_like(losses))
        keep = (1 - 1 / self.memory) ** seen
        self.squares = keep * self.squares + torch.zeros_like(self.squares).index_add_(0, k, losses * losses)
        self.counts = keep * self.counts + seen

    def snapshot(self) -> Binned:
        """The distribution to draw from now: frozen, and as such in configs. Bins without a loss get the mean."""
        known = self.counts > 0
        root = (self.squares / self.counts.clamp_min(1e-300)).sqrt()
        if not bool(known.any()) or float(root[known].sum()) == 0:
            return self.even
        root = torch.where(known, root, root[known].mean())
        n = len(self.counts)
        mass = self.floor / n + (1 - self.floor) * root / root.sum()
        return Binned(self.even.low, self.even.high, tuple((mass / mass.sum()).tolist()), self.even.part)

    def state_dict(self) -> dict[str, Tensor]:
        return {"squares": self.squares.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.squares, self.counts = state["squares"].clone(), state["counts"].clone()


@dataclass(frozen=True)
class ImportanceTimes(TimeDistribution):
    """More of the noise levels where the loss is large, learned on the way; even in log-SNR until then.

    What a recipe holds; the trainer keeps the `LossHistogram`, told the losses of all devices, and corrects the loss by
    the density it drew from, so that the objective is that of even log-SNRs.

    Args:
        low: The lower edge of the first bin.
        high: The upper edge of the last.
        bins: How many.
        memory: Losses a bin looks back on, roughly.
        floor: The share of the mass spread evenly.
        every: Steps between two looks at the losses; each waits for the device.
        part: Whose schedule gives the log-SNR, for bundles.
    """

    low: float = -12.0
    high: float = 12.0
    bins: int = 24
    memory: float = 1000.0
    floor: float = 0.1
    every: int = 50
    part: str | None = None

    def __post_init__(self) -> None:
        check(self, bins=at_least(1), memory=at_least(1), floor=Range(0, 1, "(]"), every=at_least(1))
        ordered(self, "low", "high")

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return self.started().even.quantile(u, process)

    def started(self) -> LossHistogram:
        """Bins that have seen no loss."""
        return LossHistogram(self.low, self.high, bins=self.bins, memory=self.memory, floor=self.floor, part=self.part)
