r"""Schedules: how much signal and how much noise there is at time t in [0, 1].

    x_t = alpha(t) x0 + sigma(t) z,    t = 0 is data (alpha = 1, sigma = 0), t = 1 is noise

with the log signal-to-noise ratio and the clock

    logsnr(t) = 2 log(alpha/sigma)                       time(logsnr) is its inverse
    clock(t)  = sigma/alpha, the noise level of EDM      for VP, cosine, VE, EDM, discrete betas
              = sigma/(alpha + sigma)                    for flows, where alpha may end at 0

The clock is the variable in which a solver takes straight steps: with n = alpha (or alpha + sigma for flows) the state
x/n moves on the line lerp(x_t/n_t, x0, 1 - c_s/c_t). Endpoints are values, not limits. Every formula is written once
and runs on Python floats (solver tables, on the host) and on float64 tensors (training times).
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import RecipeError

Time = Any
"""A float, or a float64 tensor."""


class Floats:
    """The functions of `math`, with the limits that torch takes."""

    sqrt, exp, cos, sin, tan, expm1 = math.sqrt, math.exp, math.cos, math.sin, math.tan, math.expm1
    atan2, log1p = math.atan2, math.log1p

    @staticmethod
    def log(x: float) -> float:
        return math.log(x) if x > 0 else -math.inf

    @staticmethod
    def clip(x: float, low: float, high: float) -> float:
        return min(max(x, low), high)


class Tensors:
    """The same functions on tensors."""

    sqrt, exp, cos, sin, tan, expm1 = torch.sqrt, torch.exp, torch.cos, torch.sin, torch.tan, torch.expm1
    atan2, log1p, log, clip = torch.atan2, torch.log1p, torch.log, torch.clamp


def maths(t: Time) -> Any:
    """The namespace of functions for this kind of number."""
    return Tensors if isinstance(t, Tensor) else Floats


def exp_capped(m: Any, x: Time) -> Time:
    """exp without overflow: log-SNRs of +-inf give 0 or a huge finite number."""
    return m.exp(m.clip(x, -700.0, 700.0))


@dataclass(frozen=True)
class Schedule(ABC):
    """t to (alpha, sigma); see the top of the file."""

    @abstractmethod
    def __call__(self, t: Time) -> tuple[Time, Time]:
        """(alpha, sigma) at t in [0, 1]: floats for a float, float64 tensors for a tensor."""

    @abstractmethod
    def time(self, logsnr: Time) -> Time:
        """The t at which the log-SNR has this value, clipped to [0, 1]."""

    def logsnr(self, t: Time) -> Time:
        """2 log(alpha/sigma): +inf at t = 0, -inf where alpha = 0."""
        alpha, sigma = self(t)
        m = maths(t)
        return 2 * (m.log(alpha) - m.log(sigma))

    @property
    def bounded(self) -> bool:
        """Whether the clock is sigma/(alpha + sigma), which stays finite where alpha = 0, rather than sigma/alpha."""
        return False

    @property
    def flow(self) -> bool:
        """Whether alpha + sigma = 1."""
        return False

    def norm(self, alpha: Time, sigma: Time) -> Time:
        """What is 1 all along the path: sqrt(alpha^2 + sigma^2), alpha + sigma on flows, alpha on VE paths."""
        return maths(alpha).sqrt(alpha * alpha + sigma * sigma)

    def clock(self, t: Time) -> Time:
        """sigma/alpha, or sigma/(alpha + sigma) if the schedule is bounded: the variable of straight steps."""
        alpha, sigma = self(t)
        return sigma / (alpha + sigma) if self.bounded else sigma / alpha

    def unclock(self, c: Time) -> Time:
        """The t at which sigma/alpha is c, for every schedule."""
        return self.time(-2 * maths(c).log(c))


class Flow(Schedule):
    """Schedules with alpha + sigma = 1: the clock is sigma."""

    @property
    def bounded(self) -> bool:
        return True

    @property
    def flow(self) -> bool:
        return True

    def norm(self, alpha: Time, sigma: Time) -> Time:
        return alpha + sigma


class Exploding(Schedule):
    """Schedules with alpha = 1: the clock is sigma, without a bound."""

    def norm(self, alpha: Time, sigma: Time) -> Time:
        return alpha


@dataclass(frozen=True)
class VP(Schedule):
    """Variance preserving with linear beta: log alpha = -t^2 (b1 - b0)/4 - t b0/2 (Song et al. 2021, Eq. 32)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        half = -t * t * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2
        return m.exp(half), m.sqrt(-m.expm1(2 * half))

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        # -2 log alpha = log(1 + exp(-logsnr)), solved for the positive root without cancellation.
        log_inverse = m.log1p(exp_capped(m, -logsnr))
        a, b = (self.beta_max - self.beta_min) / 2, self.beta_min
        return m.clip(2 * log_inverse / (b + m.sqrt(b * b + 4 * a * log_inverse)), 0.0, 1.0)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = cos(pi t/2), sigma = sin(pi t/2) (Nichol & Dhariwal 2021 without offset); alpha(1) = 0."""

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        return m.sin((1 - t) * (math.pi / 2)), m.sin(t * (math.pi / 2))

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        return m.atan2(exp_capped(m, -logsnr / 4), exp_capped(m, logsnr / 4)) * (2 / math.pi)

    @property
    def bounded(self) -> bool:
        return True


@dataclass(frozen=True)
class VE(Exploding):
    """Variance exploding: alpha = 1, sigma geometric from sigma_min's scale to sigma_max (Song et al. 2021).

    sigma = sigma_max (r^t - 1)/(r - 1) with r = sigma_max/sigma_min: geometric well above sigma_min, and 0 at t = 0.
    """

    sigma_min: float = 0.01
    sigma_max: float = 80.0

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        rate = math.log(self.sigma_max / self.sigma_min)
        return t * 0 + 1.0, self.sigma_max * m.expm1(t * rate) / math.expm1(rate)

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        rate = math.log(self.sigma_max / self.sigma_min)
        sigma = exp_capped(m, -logsnr / 2) / self.sigma_max
        return m.clip(m.log1p(m.clip(sigma, 0.0, 1.0) * math.expm1(rate)) / rate, 0.0, 1.0)


@dataclass(frozen=True)
class EDM(Exploding):
    """alpha = 1, sigma = sigma_max t^rho: Karras et al. (2022), Eq. 5 with sigma_min = 0, so that t is their step."""

    sigma_max: float = 80.0
    rho: float = 7.0

    def __call__(self, t: Time) -> tuple[Time, Time]:
        return t * 0 + 1.0, self.sigma_max * t**self.rho

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        sigma = m.clip(exp_capped(m, -logsnr / 2) / self.sigma_max, 0.0, 1.0)
        return sigma ** (1 / self.rho)


@dataclass(frozen=True)
class Linear(Flow):
    """The straight path of flow matching: alpha = 1 - t, sigma = t (Lipman et al. 2023; Liu et al. 2023)."""

    def __call__(self, t: Time) -> tuple[Time, Time]:
        return 1 - t, t * 1.0

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        return 1 / (1 + exp_capped(m, logsnr / 2))


@dataclass(frozen=True)
class Exponential(Flow):
    """sigma = (exp(rate t) - 1)/(exp(rate) - 1), alpha = 1 - sigma: the parts that must settle early.

    FrameFlow (Yim et al. 2023) samples rotations by exp(-rate (1 - t)), which this equals up to its exact end at 0.
    """

    rate: float = 10.0

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        sigma = m.expm1(t * self.rate) / math.expm1(self.rate)
        return 1 - sigma, sigma

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        sigma = 1 / (1 + exp_capped(m, logsnr / 2))
        return m.log1p(sigma * math.expm1(self.rate)) / self.rate


@dataclass(frozen=True)
class Polynomial(Flow):
    """sigma = t^power, alpha = 1 - sigma; a power below 1 settles late, above 1 early."""

    power: float = 2.0

    def __call__(self, t: Time) -> tuple[Time, Time]:
        sigma = t**self.power
        return 1 - sigma, sigma

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        return (1 / (1 + exp_capped(m, logsnr / 2))) ** (1 / self.power)


@dataclass(frozen=True)
class Shifted(Schedule):
    """Another schedule with its log-SNR lowered by 2 log(shift): higher resolutions need more noise.

    The path keeps its norm: (alpha, shift sigma) is divided by alpha + shift sigma on flows and by
    sqrt(alpha^2 + shift^2 sigma^2) on VP paths (Esser et al. 2024, Eq. 23; Hoogeboom et al. 2023).
    """

    schedule: Schedule
    shift: float = 3.0

    def __call__(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = self.schedule(t)
        s = self.shift * sigma
        n = self.norm(alpha, s)
        return alpha / n, s / n

    def time(self, logsnr: Time) -> Time:
        return self.schedule.time(logsnr + 2 * math.log(self.shift))

    @property
    def bounded(self) -> bool:
        return self.schedule.bounded

    @property
    def flow(self) -> bool:
        return self.schedule.flow

    def norm(self, alpha: Time, sigma: Time) -> Time:
        return self.schedule.norm(alpha, sigma)


@dataclass(frozen=True)
class Discrete(Schedule):
    """The DDPM tables: index k = t T - 1 of T betas has alpha^2 = prod_{i <= k}(1 - beta_i); t = 0 is clean data.

    Between indices log alpha is interpolated linearly, so grids of any step may be used.

    Args:
        betas: The T variances; use `Discrete.linear(...)` or `Discrete.cosine(...)`.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < b <= 1 for b in self.betas):
            raise RecipeError(
                "Discrete got betas outside (0, 1]", "T variances, each in (0, 1]", "Discrete.linear(1000)"
            )

    @staticmethod
    def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Discrete:
        """Ho et al. (2020)."""
        return Discrete(tuple(torch.linspace(first, last, steps, dtype=torch.float64).tolist()))

    @staticmethod
    def cosine(steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Discrete:
        """Nichol & Dhariwal (2021), Eq. 17."""

        def bar(u: float) -> float:
            return math.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2

        return Discrete(tuple(min(1 - bar((i + 1) / steps) / bar(i / steps), largest) for i in range(steps)))

    def zero_terminal(self) -> Discrete:
        """The same table rescaled to alpha(1) = 0 (Lin et al. 2023, Algorithm 1)."""
        root = [math.exp(v / 2) for v in self._log2[1:]]
        first, last = root[0], root[-1]
        root = [(r - last) * first / (first - last) for r in root]
        bars = [r * r for r in root]
        alphas = [bars[0]] + [bars[i] / bars[i - 1] for i in range(1, len(bars))]
        return Discrete(tuple(1 - a for a in alphas))

    @cached_property
    def _log2(self) -> list[float]:
        """log alpha^2 at index 0 (clean) .. T."""
        total, out = 0.0, [0.0]
        for beta in self.betas:
            total += math.log1p(-beta) if beta < 1 else -math.inf
            out.append(total)
        return out

    @cached_property
    def _table(self) -> Tensor:
        return torch.tensor(self._log2, dtype=torch.float64)

    @property
    def bounded(self) -> bool:
        return self._log2[-1] == -math.inf

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha^2 at the T training indices, float64 [T]."""
        return self._table[1:].exp()

    def index(self, k: Time) -> Time:
        """The time t of training index k (0 is the least noise)."""
        return (k + 1) / len(self.betas)

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        last = len(self.betas)
        place = t * last
        if isinstance(place, Tensor):
            low = (place + 1e-9).floor().clamp(0, last).long()
            high = (low + 1).clamp(max=last)
            table = self._table.to(place.device)
            a, b = table[low], table[high]
        else:
            low = min(max(math.floor(place + 1e-9), 0), last)
            a, b = self._log2[low], self._log2[min(low + 1, last)]
        share = m.clip(place - low, 0.0, 1.0)
        # On the way to alpha = 0 it is alpha^2 that is interpolated.
        if isinstance(place, Tensor):
            line = torch.where(b == -math.inf, torch.log1p(-share), share * (b - a))
            log2 = torch.where(share < 1e-9, a, a + line)
        elif share < 1e-9:
            log2 = a
        elif b == -math.inf:
            log2 = a + Floats.log(1 - share)
        else:
            log2 = a + share * (b - a)
        return m.exp(log2 / 2), m.sqrt(-m.expm1(log2))

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        log2 = -m.log1p(exp_capped(m, -logsnr))
        if isinstance(log2, Tensor):
            table = -self._table.to(log2.device)
            high = torch.searchsorted(table, -log2.contiguous()).clamp(1, len(self.betas))
            a, b = -table[high - 1], -table[high]
            share = torch.where(b == -math.inf, -torch.expm1(log2 - a), (log2 - a) / (b - a))
            return (high - 1 + share.clamp(0, 1)) / len(self.betas)
        high = min(max(bisect.bisect_left(self._log2, -log2, key=lambda v: -v), 1), len(self.betas))
        a, b = self._log2[high - 1], self._log2[high]
        share = -math.expm1(log2 - a) if b == -math.inf else (log2 - a) / (b - a)
        return (high - 1 + min(max(share, 0.0), 1.0)) / len(self.betas)

    def __repr__(self) -> str:
        return f"Discrete({len(self.betas)} betas, {self.betas[0]:.4g} to {self.betas[-1]:.4g})"
