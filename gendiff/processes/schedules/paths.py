"""The schedules with a formula."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gendiff.errors import POSITIVE, check, ordered, refuse
from gendiff.processes.schedules.base import Exploding, Flow, Schedule
from gendiff.processes.schedules.numbers import Time, exp_capped, maths


def unexpm1(share: Time, rate: float) -> Time:
    """The t in [0, 1] with expm1(t rate)/expm1(rate) = share, exactly 0 and 1 at the ends."""
    m = maths(share)
    return m.select(share >= 1, share * 0 + 1.0, m.clip(m.log1p(share * math.expm1(rate)) / rate, 0.0, 1.0))


def noise_share(logsnr: Time) -> Time:
    """sigma/(alpha + sigma), exactly 0 and 1 at log-SNRs of +-inf."""
    m = maths(logsnr)
    noise = exp_capped(m, -logsnr / 2)
    return noise / (1 + noise)


@dataclass(frozen=True)
class VP(Schedule):
    """Variance preserving with linear beta: log alpha = -t^2 (b1 - b0)/4 - t b0/2 (Song et al. 2021, Eq. 32)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        check(self, beta_min=POSITIVE, beta_max=POSITIVE)
        ordered(self, "beta_min", "beta_max", equal=True)

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
class TrigFlow(Schedule):
    """alpha = cos(pi t/2), sigma = sigma_data sin(pi t/2): the circle of sCM (Lu & Song 2025), theirs being pi t/2.

    Args:
        sigma_data: The standard deviation of the data, so that x_t keeps it.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check(self, sigma_data=POSITIVE)

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        return m.sin((1 - t) * (math.pi / 2)), self.sigma_data * m.sin(t * (math.pi / 2))

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        shifted = logsnr + 2 * math.log(self.sigma_data)
        return m.atan2(exp_capped(m, -shifted / 4), exp_capped(m, shifted / 4)) * (2 / math.pi)

    @property
    def bounded(self) -> bool:
        return True

    def norm(self, alpha: Time, sigma: Time) -> Time:
        return maths(alpha).sqrt(alpha * alpha + sigma * sigma / self.sigma_data**2)


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """Variance preserving, alpha^2 a piece of a falling sigmoid stretched to [0, 1] (Jabri et al. 2023; Chen 2023).

    With u = (start + t (end - start))/tau: alpha^2 = (s(end/tau) - s(u))/(s(end/tau) - s(start/tau)), s the logistic
    function; written by expm1, so that no digits are lost at either end.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        check(self, tau=POSITIVE)
        ordered(self, "start", "end")

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        width, low, high = self.numbers()
        noise = m.expm1(t * width) * high
        signal = m.exp(t * width) * m.expm1((1 - t) * width) * low
        return m.sqrt(signal / (signal + noise)), m.sqrt(noise / (signal + noise))

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        width, low, high = self.numbers()
        # signal/noise = e^logsnr, solved for expm1(t width)/expm1(width).
        grown, shrunk = exp_capped(m, logsnr / 2), exp_capped(m, -logsnr / 2)
        return unexpm1(shrunk / (shrunk + (high / low) * grown), width)

    def numbers(self) -> tuple[float, float, float]:
        """(end - start)/tau, 1 + exp(start/tau), 1 + exp(end/tau)."""
        a, b = self.start / self.tau, self.end / self.tau
        return b - a, 1 + math.exp(a), 1 + math.exp(b)

    @property
    def bounded(self) -> bool:
        return True


@dataclass(frozen=True)
class Laplace(Schedule):
    """Variance preserving with a Laplace-distributed log-SNR (Hang et al. 2024).

    logsnr = mean - scale sgn(1/2 - t) log(1 - 2|t - 1/2|): most times at the noise levels that matter.
    """

    mean: float = 0.0
    scale: float = 0.5

    def __post_init__(self) -> None:
        check(self, scale=POSITIVE)

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        noise = math.exp(-self.mean) * m.clip(2 * t, 0.0, 1.0) ** self.scale
        # Cut just below 1, so that at t = 1/2, where both bounds meet, one of them has a slope.
        signal = m.clip(2 * (1 - t), 0.0, 1 - 2.0**-53) ** self.scale
        return m.sqrt(signal / (signal + noise)), m.sqrt(noise / (signal + noise))

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        y = (self.mean - logsnr) / self.scale
        return (m.exp(m.clip(y, -math.inf, 0.0)) - m.expm1(-m.clip(y, 0.0, math.inf))) / 2

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

    def __post_init__(self) -> None:
        check(self, sigma_min=POSITIVE, sigma_max=POSITIVE)
        ordered(self, "sigma_min", "sigma_max")

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        rate = math.log(self.sigma_max / self.sigma_min)
        return t * 0 + 1.0, self.sigma_max * m.expm1(t * rate) / math.expm1(rate)

    def time(self, logsnr: Time) -> Time:
        m = maths(logsnr)
        rate = math.log(self.sigma_max / self.sigma_min)
        sigma = exp_capped(m, -logsnr / 2) / self.sigma_max
        return unexpm1(m.clip(sigma, 0.0, 1.0), rate)


@dataclass(frozen=True)
class EDM(Exploding):
    """alpha = 1, sigma = sigma_max t^rho: Karras et al. (2022), Eq. 5 with sigma_min = 0, so that t is their step."""

    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check(self, sigma_max=POSITIVE, rho=POSITIVE)

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
        return noise_share(logsnr)


@dataclass(frozen=True)
class Exponential(Flow):
    """sigma = (exp(rate t) - 1)/(exp(rate) - 1), alpha = 1 - sigma: the parts that must settle early.

    FrameFlow (Yim et al. 2023) samples rotations by exp(-rate (1 - t)), which this equals up to its exact end at 0.
    """

    rate: float = 10.0

    def __post_init__(self) -> None:
        check(self)
        if not self.rate:
            refuse(self, "rate", "a number other than zero")

    def __call__(self, t: Time) -> tuple[Time, Time]:
        m = maths(t)
        sigma = m.expm1(t * self.rate) / math.expm1(self.rate)
        return 1 - sigma, sigma

    def time(self, logsnr: Time) -> Time:
        return unexpm1(noise_share(logsnr), self.rate)


@dataclass(frozen=True)
class Polynomial(Flow):
    """sigma = t^power, alpha = 1 - sigma; a power below 1 settles late, above 1 early."""

    power: float = 2.0

    def __post_init__(self) -> None:
        check(self, power=POSITIVE)

    def __call__(self, t: Time) -> tuple[Time, Time]:
        sigma = t**self.power
        return 1 - sigma, sigma

    def time(self, logsnr: Time) -> Time:
        return noise_share(logsnr) ** (1 / self.power)
