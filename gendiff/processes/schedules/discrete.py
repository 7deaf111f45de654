"""The tables of betas that DDPM-like models were trained with."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gendiff.errors import NOT_NEGATIVE, Range, RecipeError, check, number, refuse, whole
from gendiff.processes.schedules.base import Schedule
from gendiff.processes.schedules.numbers import Dual, Floats, Time, exp_capped, maths

BETA = Range(0, 1, "(]")


@dataclass(frozen=True)
class Discrete(Schedule):
    """The DDPM tables: index k = t T - 1 of T betas has alpha^2 = prod_{i <= k}(1 - beta_i); t = 0 is clean data.

    Between indices log alpha is interpolated linearly, so grids of any step may be used.

    Args:
        betas: The T variances; use `Discrete.linear(...)`, `scaled_linear` or `cosine`.
    """

    betas: tuple[float, ...]
    _log2: list[float] = field(init=False, repr=False, compare=False)
    """log alpha^2 at index 0 (clean) .. T."""
    _table: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check(self, betas=Range(0, 1, "(]", "T variances, each in (0, 1], such as Discrete.linear(1000) has"))
        if not self.betas:
            refuse(self, "betas", "T variances, each in (0, 1]", "Discrete.linear(1000)")
        # Made here and not when first needed: a compiled training step only reads it.
        log2 = [0.0]
        for beta in self.betas:
            log2.append(log2[-1] + (math.log1p(-beta) if beta < 1 else -math.inf))
        object.__setattr__(self, "_log2", log2)
        object.__setattr__(self, "_table", torch.tensor(log2, dtype=torch.float64))

    @staticmethod
    def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Discrete:
        """Ho et al. (2020): even steps of beta."""
        whole("Discrete.linear", "steps", steps)
        for name, beta in (("first", first), ("last", last)):
            number("Discrete.linear", name, beta, BETA)
        return Discrete(tuple(torch.linspace(first, last, steps, dtype=torch.float64).tolist()))

    @staticmethod
    def scaled_linear(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Discrete:
        """Even steps of sqrt(beta), as latent diffusion and Stable Diffusion train (Rombach et al. 2022)."""
        whole("Discrete.scaled_linear", "steps", steps)
        for name, beta in (("first", first), ("last", last)):
            number("Discrete.scaled_linear", name, beta, BETA)
        roots = torch.linspace(math.sqrt(first), math.sqrt(last), steps, dtype=torch.float64)
        return Discrete(tuple((roots**2).tolist()))

    @staticmethod
    def cosine(steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Discrete:
        """Nichol & Dhariwal (2021), Eq. 17."""
        whole("Discrete.cosine", "steps", steps)
        number("Discrete.cosine", "offset", offset, NOT_NEGATIVE)
        number("Discrete.cosine", "largest", largest, BETA)

        def bar(u: float) -> float:
            return math.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2

        return Discrete(tuple(min(1 - bar((i + 1) / steps) / bar(i / steps), largest) for i in range(steps)))

    def zero_terminal(self) -> Discrete:
        """The same table rescaled to alpha(1) = 0 (Lin et al. 2023, Algorithm 1)."""
        if len(self.betas) < 2:
            raise RecipeError(f"{self!r} has one training time", "two or more, of which the last becomes noise alone")
        root = [math.exp(v / 2) for v in self._log2[1:]]
        first, last = root[0], root[-1]
        root = [(r - last) * first / (first - last) for r in root]
        bars = [r * r for r in root]
        alphas = [bars[0]] + [bars[i] / bars[i - 1] for i in range(1, len(bars))]
        return Discrete(tuple(1 - a for a in alphas))

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
        if isinstance(t, Dual):
            return self.dual(t)
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

    def dual(self, t: Dual) -> tuple[Dual, Dual]:
        """(alpha, sigma) with their slopes, those of the step that begins at t."""
        last = len(self.betas)
        t = Dual(maths(t.value).clip(t.value, 2e-9 / last, 1 - 2e-9 / last), t.slope)  # nodes are met exactly
        alpha, sigma = self(t.value)
        if isinstance(t.value, Tensor):
            low = (t.value * last + 1e-9).floor().clamp(0, last - 1).long()
            table = self._table.to(t.value.device)
            a, b = table[low], table[low + 1]
            falls = torch.where(b == -math.inf, -a.exp(), alpha**2 * torch.where(b == -math.inf, 0.0, b - a))
        else:
            low = min(max(math.floor(t.value * last + 1e-9), 0), last - 1)
            a, b = self._log2[low], self._log2[low + 1]
            falls = -math.exp(a) if b == -math.inf else alpha**2 * (b - a)
        rate = falls * last * t.slope / 2  # d alpha^2/dt, halved
        return Dual(alpha, rate / alpha), Dual(sigma, -rate / sigma)

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
