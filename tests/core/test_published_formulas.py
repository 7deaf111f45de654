"""Schedules, grids and training times against the formulas of their papers, written again from them here."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from gendiff import (
    EDM,
    VE,
    VP,
    BetaGrid,
    Cosine,
    CosineInterpolated,
    Discrete,
    Exponential,
    Gaussian,
    Karras,
    Laplace,
    Linear,
    LogitNormal,
    LogNormal,
    LogSNRGrid,
    Mode,
    PolyExponential,
    Polynomial,
    Shifted,
    Sigmoid,
    TrigFlow,
    Uniform,
)
from gendiff.processes.schedules import Schedule
from gendiff.training import Beta, Binned, ImportanceTimes, LossHistogram, Mixed, TimeDistribution

F64 = torch.float64
TIMES = [0.03, 0.2, 0.5, 0.77, 0.98]


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def sigmoid_gamma(t: float, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> float:
    """Jabri et al. (2023), Appendix: the falling piece of a sigmoid, stretched to [0, 1]; alpha^2."""
    first, last = logistic(start / tau), logistic(end / tau)
    return (last - logistic((t * (end - start) + start) / tau)) / (last - first)


def preserving(square: float) -> tuple[float, float]:
    return math.sqrt(square), math.sqrt(1 - square)


def with_logsnr(value: float) -> tuple[float, float]:
    return preserving(logistic(value))


def vp(t: float) -> tuple[float, float]:
    """Song et al. (2021): alpha^2 = exp(-int beta), beta = 0.1 + 19.9 t; the integral as a sum."""
    n = 20000
    total = sum(0.1 + 19.9 * t * (i + 0.5) / n for i in range(n)) * t / n
    return preserving(math.exp(-total))


def laplace(t: float, mean: float, b: float) -> float:
    """Hang et al. (2024), Table 1."""
    return mean - b * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(t - 0.5))


PUBLISHED: list[tuple[Schedule, Callable[[float], tuple[float, float]]]] = [
    (VP(), vp),
    (Cosine(), lambda t: (math.cos(math.pi * t / 2), math.sin(math.pi * t / 2))),
    (TrigFlow(0.5), lambda t: (math.cos(math.pi * t / 2), 0.5 * math.sin(math.pi * t / 2))),
    (Sigmoid(), lambda t: preserving(sigmoid_gamma(t))),
    (Sigmoid(0.0, 3.0, 0.9), lambda t: preserving(sigmoid_gamma(t, 0.0, 3.0, 0.9))),
    (Laplace(0.3, 0.5), lambda t: with_logsnr(laplace(t, 0.3, 0.5))),
    (EDM(80.0, 7.0), lambda t: (1.0, (80 ** (1 / 7) + (1 - t) * (0 - 80 ** (1 / 7))) ** 7)),
    (Linear(), lambda t: (1 - t, t)),
    (Polynomial(3.0), lambda t: (1 - t**3, t**3)),
    # FrameFlow's rotations go by exp(-10 (time of theirs, 1 - t)); ours ends at 0 exactly, which moves it by e^-10.
    (Exponential(10.0), lambda t: (1 - math.exp(-10 * (1 - t)), math.exp(-10 * (1 - t)))),
    # Esser et al. (2024), Eq. 23, and Hoogeboom et al. (2023), Sec. 3.1: log-SNR less 2 log(shift).
    (Shifted(Linear(), 3.0), lambda t: (1 - 3 * t / (1 + 2 * t), 3 * t / (1 + 2 * t))),
    (Shifted(Cosine(), 4.0), lambda t: with_logsnr(-2 * math.log(math.tan(math.pi * t / 2)) + 2 * math.log(64 / 256))),
    # Flux: mu from 0.5 at 256 tokens to 1.15 at 4096, exp(mu)/(exp(mu) + 1/t - 1).
    (
        Shifted.dynamic(Linear(), 1024),
        lambda t: (lambda m: (1 - m / (m + 1 / t - 1), m / (m + 1 / t - 1)))(
            math.exp(0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256))
        ),
    ),
]


@pytest.mark.parametrize(("schedule", "published"), PUBLISHED, ids=[repr(s) for s, _ in PUBLISHED])
def test_schedules(schedule: Schedule, published: Callable[[float], tuple[float, float]]) -> None:
    exact = 5e-5 if isinstance(schedule, Exponential) else 1e-9
    for t in TIMES:
        assert schedule(t) == pytest.approx(published(t), rel=exact, abs=exact)


def test_the_exploding_schedule_is_geometric_above_its_least_sigma() -> None:
    """Song et al. (2021): sigma = smin (smax/smin)^t; ours is less by about smin, so that it begins at 0."""
    for t in TIMES:
        assert VE(0.01, 80.0)(t)[1] + 0.01 == pytest.approx(0.01 * 8000**t, rel=1e-3)


def test_tables_of_betas() -> None:
    """`linspace` of beta, of its root, and the squared cosine cut at 0.999; for the goldens see test_schedules."""
    linear = np.linspace(1e-4, 0.02, 1000)
    roots = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    bar = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(1001)]
    cosine = [min(1 - b / a, 0.999) for a, b in pairwise(bar)]
    for table, betas in ((Discrete.linear(), linear), (Discrete.scaled_linear(), roots), (Discrete.cosine(), cosine)):
        np.testing.assert_allclose(table.betas, betas, rtol=1e-12)
        np.testing.assert_allclose(table.alphas_cumprod.numpy(), np.cumprod(1 - np.asarray(betas)), rtol=1e-9)
    # Stable Diffusion's first and last noise levels, as everybody quotes them.
    ends = [Discrete.scaled_linear().clock(Discrete.scaled_linear().index(k)) for k in (0, 999)]
    assert ends == pytest.approx([0.0292, 14.6146], rel=2e-3)


def test_grids() -> None:
    process, n = Gaussian(EDM(100.0)), 9
    steps = [i / (n - 1) for i in range(n)]
    low, high = 0.002, 80.0
    published = {
        Karras(): [(high ** (1 / 7) + u * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for u in steps],
        LogSNRGrid(): [high * (low / high) ** u for u in steps],
        PolyExponential(rho=1.7): [low * (high / low) ** ((1 - u) ** 1.7) for u in steps],
        BetaGrid(0.6, 0.6, (low, high)): [low + (high - low) * stats.beta.ppf(1 - u, 0.6, 0.6) for u in steps],
    }
    for grid, sigmas in published.items():
        assert [process.schedule(t)[1] for t in grid(process, n)] == pytest.approx([*sigmas, 0.0], rel=1e-8)


U = torch.tensor([0.001, 0.05, 0.3, 0.5, 0.8, 0.95, 0.999], dtype=F64)


def cosine_interpolated(u: float, size: float, low: float, high: float, smin: float, smax: float, data: float) -> float:
    """sigma by Hoogeboom et al. (2023), Sec. 3.1: t logsnr_low + (1 - t) logsnr_high, t = 1 noise, in their names."""
    logsnr_max, logsnr_min = -2 * math.log(smin / data), -2 * math.log(smax / data)

    def shifted(t: float, noise_d: float) -> float:
        shift = 2 * math.log(noise_d / size)
        t_min = math.atan(math.exp(-0.5 * (logsnr_max - shift)))
        t_max = math.atan(math.exp(-0.5 * (logsnr_min - shift)))
        return -2 * math.log(math.tan(t_min + t * (t_max - t_min))) + shift

    return math.exp(-(u * shifted(u, low) + (1 - u) * shifted(u, high)) / 2) * data


def test_cosine_interpolated_times_as_published() -> None:
    process = Gaussian(EDM(1e4))
    for arguments in [(256.0, 32.0, 256.0, 1e-3, 1e3, 1.0), (64.0, 32.0, 64.0, 2e-3, 80.0, 0.5)]:
        t = CosineInterpolated(*arguments).quantile(U, process)
        sigma = process.schedule(t)[1]
        expected = [cosine_interpolated(u, *arguments) for u in U.tolist()]
        assert sigma.tolist() == pytest.approx(expected, rel=1e-8)
    t = CosineInterpolated(256.0, 32.0, 256.0).quantile(torch.tensor([0.05, 0.95], dtype=F64), process)
    assert process.schedule(t)[1].tolist() == pytest.approx([0.088, 83.8], rel=1e-2)


def test_training_times_as_published() -> None:
    flow, edm = Gaussian(Linear()), Gaussian(EDM(1e4))
    normal = torch.from_numpy(stats.norm.ppf(U.numpy()))
    t = LogitNormal(0.4, 0.7).quantile(U, flow)  # Esser et al. (2024), Eq. 19
    torch.testing.assert_close(torch.log(t / (1 - t)), 0.4 + 0.7 * normal)
    sigma = edm.schedule(LogNormal(-1.2, 1.2).quantile(U, edm))[1]  # Karras et al. (2022), Table 1
    torch.testing.assert_close(sigma, torch.exp(-1.2 + 1.2 * normal), rtol=1e-4, atol=0)
    s, u = 1.29, 1 - U  # Esser et al. (2024), Eq. 20: 1 - u - s (cos^2(pi u/2) - 1 + u)
    torch.testing.assert_close(Mode(s).quantile(U, flow), 1 - u - s * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u))
    torch.testing.assert_close(Beta(1.5, 1.0).quantile(U, flow), U ** (1 / 1.5))
    torch.testing.assert_close(Uniform(0.1, 0.9).quantile(U, flow), 0.1 + 0.8 * U)


SPREAD: list[TimeDistribution] = [
    LogNormal(2.0, 3.0),
    CosineInterpolated(64.0, 32.0, 64.0),
    Binned(-12.0, 12.0, tuple(1 / 24 for _ in range(24))),
    Binned(-20.0, 4.0, (0.1, 0.5, 0.4)),
    ImportanceTimes(),
    Mixed(LogNormal(3.0, 2.0), ImportanceTimes(), 0.3),
]


@pytest.mark.parametrize("schedule", [EDM(80.0), VP(), Discrete.linear(), Linear(), VE(0.01, 5.0)], ids=repr)
@pytest.mark.parametrize("times", SPREAD, ids=repr)
def test_no_time_has_a_mass_of_its_own(times: TimeDistribution, schedule: Any) -> None:
    """Neither the end of the schedule nor its beginning: what lies beyond is cut off, not moved there."""
    u = (torch.arange(20000, dtype=F64) + 0.5) / 20000
    t = times.quantile(u, Gaussian(schedule))
    assert bool((t.diff().abs() > 0).all()) and float(t.min()) > 0 and float(t.max()) < 1


@pytest.mark.parametrize("schedule", [EDM(80.0), VP(), Linear()], ids=repr)
def test_learned_times_weigh_to_even_log_snrs(schedule: Any) -> None:
    """The weights are 1 on average, and the weighted mean of any function is its mean over the log-SNRs there are."""
    process, histogram = Gaussian(schedule), LossHistogram(-12.0, 12.0, bins=24)
    even = histogram.even.quantile((torch.arange(4000, dtype=F64) + 0.5) / 4000, process)
    histogram.update(even, 1 / (1 + schedule.logsnr(even).abs()), process)
    learned = histogram.snapshot()
    t = learned.quantile((torch.arange(200_000, dtype=F64) + 0.5) / 200_000, process)
    weights = learned.correction(t, process)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-4) and float(weights.std()) > 0.2
    lowest = max(-12.0, float(schedule.logsnr(1.0)))
    logsnr = schedule.logsnr(t)
    assert float((weights * logsnr).mean()) == pytest.approx((lowest + 12) / 2, abs=1e-2)
    assert float((weights * logsnr.square()).mean()) == pytest.approx((12**3 - lowest**3) / (12 - lowest) / 3, rel=1e-2)
