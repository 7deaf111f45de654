"""What every schedule is, and the two families with a norm of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from gendiff.processes.schedules.numbers import Dual, Time, maths


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

    def slopes(self, t: Time) -> tuple[Time, Time]:
        """(d alpha/dt, d sigma/dt), exact to rounding, one-sided at the ends.

        Where a slope is infinite, as that of sigma at t = 0 on variance-preserving paths, it is very large instead.
        """
        alpha, sigma = self(moving(t))
        return alpha.slope, sigma.slope

    def clock_slope(self, t: Time) -> Time:
        """dc/dt of the clock, exact like `slopes`."""
        return self.clock(moving(t)).slope

    def clock(self, t: Time) -> Time:
        """sigma/alpha, or sigma/(alpha + sigma) if the schedule is bounded: the variable of straight steps."""
        alpha, sigma = self(t)
        return sigma / (alpha + sigma) if self.bounded else sigma / alpha

    def unclock(self, c: Time) -> Time:
        """The t at which sigma/alpha is c, for every schedule."""
        return self.time(-2 * maths(c).log(c))

    def share(self, t: Time, scale: float) -> Time:
        """k = sigma/(scale alpha + sigma) in [0, 1], for every schedule: a clock that is smooth at both of its ends."""
        alpha, sigma = self(t)
        return sigma / (scale * alpha + sigma)

    def unshare(self, k: Time, scale: float) -> Time:
        """The t at which `share` is k."""
        m = maths(k)
        return self.time(2 * (m.log(1 - k) - m.log(k * scale)))

    def pace(self, t: Time, scale: float) -> Time:
        """dlog k/dt of `share`, exact like `slopes`; t > 0."""
        (alpha, sigma), (up, down) = self(t), self.slopes(t)
        return scale * (alpha * down - sigma * up) / (sigma * (scale * alpha + sigma))


def moving(t: Time) -> Dual:
    """t with slope 1, moved inside (0, 1) by less than rounding."""
    return Dual(maths(t).clip(t, 1e-40, 1 - 2.0**-53), t * 0 + 1.0)


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
