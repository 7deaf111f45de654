"""Schedules made of another schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gendiff.errors import POSITIVE, check, number
from gendiff.processes.schedules.base import Schedule
from gendiff.processes.schedules.numbers import Time, exp_capped, maths


@dataclass(frozen=True)
class Shifted(Schedule):
    """Another schedule with its log-SNR lowered by 2 log(shift): higher resolutions need more noise.

    The path keeps its norm: (alpha, shift sigma) is divided by alpha + shift sigma on flows and by
    sqrt(alpha^2 + shift^2 sigma^2) on VP paths (Esser et al. 2024, Eq. 23; Hoogeboom et al. 2023).
    """

    schedule: Schedule
    shift: float = 3.0

    def __post_init__(self) -> None:
        check(self, shift=POSITIVE)

    @staticmethod
    def resolution(schedule: Schedule, size: float, base: float) -> Shifted:
        """For `size` numbers per sample where the schedule suits `base`: shift = sqrt(size/base)."""
        number("Shifted.resolution", "size", size, POSITIVE)
        number("Shifted.resolution", "base", base, POSITIVE)
        return Shifted(schedule, math.sqrt(size / base))

    @staticmethod
    def dynamic(
        schedule: Schedule, tokens: int, few: tuple[float, float] = (256, 0.5), many: tuple[float, float] = (4096, 1.15)
    ) -> Shifted:
        """shift = exp(mu), mu linear in the number of tokens through (tokens, mu) at `few` and `many`, as in Flux."""
        number("Shifted.dynamic", "tokens", tokens, POSITIVE)
        slope = (many[1] - few[1]) / (many[0] - few[0])
        return Shifted(schedule, math.exp(few[1] + slope * (tokens - few[0])))

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
class ZeroTerminal(Schedule):
    """Another schedule bent so that t = 1 is noise alone (Lin et al. 2023, for any schedule).

    With the path made variance preserving, a = alpha/sqrt(alpha^2 + sigma^2): alpha' = (a(t) - a(1))/(1 - a(1)),
    sigma'^2 = 1 - alpha'^2. A schedule that ends in noise alone is left as it is.
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        check(self)

    def left(self, one: Time) -> Time:
        """a(1): the signal that the schedule leaves, in the arithmetic of `one`, so that a(1) - left is exactly 0."""
        alpha, sigma = self.schedule(one)
        return alpha / maths(one).sqrt(alpha * alpha + sigma * sigma)

    @property
    def ends(self) -> bool:
        """Whether the schedule ends in noise alone as it is."""
        return self.schedule(1.0)[0] == 0

    def __call__(self, t: Time) -> tuple[Time, Time]:
        alpha, sigma = self.schedule(t)
        if self.ends:
            return alpha, sigma
        m, left = maths(t), self.left(t * 0 + 1.0)
        n = m.sqrt(alpha * alpha + sigma * sigma)
        a = alpha / n
        gone = sigma * sigma / (n * n * (1 + a) * (1 - left))  # 1 - alpha', without cancellation
        kept = m.clip((a - left) / (1 - left), 0.0, 1.0)
        return kept, m.sqrt(gone * (1 + kept))

    def time(self, logsnr: Time) -> Time:
        if self.ends:
            return self.schedule.time(logsnr)
        m, left = maths(logsnr), self.left(1.0)
        grown, shrunk = exp_capped(m, logsnr / 2), exp_capped(m, -logsnr / 2)
        kept = m.sqrt(grown / (grown + shrunk))
        gone = shrunk / (grown + shrunk) / (1 + kept) * (1 - left)  # 1 - a
        a = left + kept * (1 - left)
        t = self.schedule.time(2 * m.log(a) - m.log(gone * (1 + a)))
        return m.select(kept > 0, t, t * 0 + 1.0)

    @property
    def bounded(self) -> bool:
        return True

    @property
    def flow(self) -> bool:
        return self.schedule.flow

    def norm(self, alpha: Time, sigma: Time) -> Time:
        return self.schedule.norm(alpha, sigma) if self.ends else maths(alpha).sqrt(alpha * alpha + sigma * sigma)
