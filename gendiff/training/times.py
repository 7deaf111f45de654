r"""Times to train at.

Training times are quantiles of a distribution at stratified u_i = (i + u)/B (one uniform u a batch; Kingma et al. 2021,
App. I.1): each batch covers the distribution evenly, on any number of devices. With q = Phi^-1(u):

    Uniform             t = u
    LogitNormal         t = 1/(1 + exp(-(mean + std q)))                                        (Esser et al. 2024)
    LogNormal           log sigma/alpha = mean + std q                                   (Karras et al. 2022, Eq. 8)
    Beta                t ~ Beta(a, b)
    Mode                t = u - scale (sin^2(pi u/2) - u)                            (Esser et al. 2024, Sec. 3.1)
    CosineInterpolated  log-SNR of a cosine schedule, its resolution shift falling with u  (Hoogeboom et al. 2023)
    Binned              a histogram of log-SNR, such as `LossHistogram` learns
    ImportanceTimes     the same, learned while training                  (Nichol & Dhariwal 2021, here by log-SNR)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.processes import Process, schedule_of
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


@dataclass(frozen=True)
class Beta(TimeDistribution):
    """t ~ Beta(a, b): a > 1 avoids the data, b > 1 the noise."""

    a: float = 1.0
    b: float = 1.5

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        from scipy.special import betaincinv

        return torch.as_tensor(betaincinv(self.a, self.b, u.numpy()), dtype=torch.float64)


@dataclass(frozen=True)
class Mode(TimeDistribution):
    """More of the middle (scale > 0) or of the ends (scale < 0, from -1): Esser et al. (2024), "mode sampling"."""

    scale: float = 1.29

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return u - self.scale * (torch.sin(u * (math.pi / 2)) ** 2 - u)


@dataclass(frozen=True)
class CosineInterpolated(TimeDistribution):
    """A cosine schedule's log-SNR, shifted by a resolution that moves from `low` to `high` as noise grows.

    logsnr(u) = lerp(c(u; low), c(u; high), u), c(u; d) = -2 log tan(...) + 2 log(d/size), both running from the
    log-SNR of sigma_min to that of sigma_max (Hoogeboom et al. 2023, "simple diffusion").

    Args:
        size: The resolution of the data.
        low: The resolution whose noise is right for the details.
        high: The resolution whose noise is right for the coarse structure.
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

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return schedule_of(process, self.part).time(self.logsnr(u) - 2 * math.log(self.sigma_data))

    def logsnr(self, u: Tensor) -> Tensor:
        """The log-SNR for data of unit variance at the quantile u."""
        top = -2 * math.log(self.sigma_min / self.sigma_data)
        end = -2 * math.log(self.sigma_max / self.sigma_data)

        def cosine(resolution: float) -> Tensor:
            shift = 2 * math.log(resolution / self.size)
            first, last = (math.atan(math.exp(-(bound - shift) / 2)) for bound in (top, end))
            return -2 * torch.log(torch.tan(first + u * (last - first))) + shift

        return torch.lerp(cosine(self.low), cosine(self.high), u)


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

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        mass = torch.tensor(self.mass, dtype=torch.float64)
        edges = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
        u = (1 - u) * edges[-1]  # large quantiles are late times
        k = (torch.searchsorted(edges, u, right=True) - 1).clamp(0, len(self.mass) - 1)
        place = (k + (u - edges[k]) / mass[k]) / len(self.mass)
        return schedule_of(process, self.part).time(self.low + (self.high - self.low) * place)

    def correction(self, t: Tensor, process: Process) -> Tensor:
        """What a loss at t must be multiplied by to count as if log-SNRs were drawn evenly, [B]."""
        k = bins(t, process, self)
        return 1 / (torch.tensor(self.mass, dtype=torch.float64)[k] * len(self.mass))


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

    def quantile(self, u: Tensor, process: Process) -> Tensor:
        return self.started().even.quantile(u, process)

    def started(self) -> LossHistogram:
        """Bins that have seen no loss."""
        return LossHistogram(self.low, self.high, bins=self.bins, memory=self.memory, floor=self.floor, part=self.part)
