"""Schedules: endpoints are values, inverses invert, floats and tensors agree, no digits are lost near t = 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from gendiff import (
    EDM,
    VE,
    VP,
    Cosine,
    Discrete,
    Exponential,
    Laplace,
    Linear,
    Polynomial,
    Shifted,
    Sigmoid,
    TrigFlow,
    ZeroTerminal,
)
from gendiff.errors import RecipeError
from gendiff.processes.schedules import Flow, Schedule

Golden = Callable[[str], dict[str, Tensor]]
SMOOTH = [
    VP(),
    VP(0.5, 8.0),
    Cosine(),
    VE(),
    EDM(),
    EDM(50.0, 5.0),
    Linear(),
    Exponential(),
    Exponential(2.0),
    Polynomial(2.0),
    Polynomial(0.5),
    Shifted(Linear(), 3.0),
    Shifted(Cosine(), 0.5),
    Shifted(VP(), 2.0),
    Shifted(EDM(), 2.0),
    Shifted(Exponential(3.0), 0.7),
    Shifted(Shifted(Linear(), 2.0), 1.5),
    TrigFlow(),
    TrigFlow(1.0),
    Sigmoid(),
    Sigmoid(0.0, 3.0, 0.7),
    Laplace(),
    Laplace(1.0, 1.5),
    ZeroTerminal(VP()),
    ZeroTerminal(EDM()),
    ZeroTerminal(Linear()),
    Shifted(TrigFlow(), 2.0),
    Shifted(ZeroTerminal(VP()), 2.0),
]
TABLES: list[Schedule] = [
    Discrete.linear(),
    Discrete.cosine(),
    Discrete.linear().zero_terminal(),
    Discrete.linear(10, 0.1, 0.9),
]
TABLES.append(ZeroTerminal(Discrete.linear()))
ALL = [*SMOOTH, *TABLES]
TIMES = [1e-6, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.77, 0.9, 0.99, 0.9995]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_endpoints_are_values(schedule: Schedule) -> None:
    assert schedule(0.0) == (1.0, 0.0)
    alpha, sigma = schedule(torch.zeros(3, dtype=torch.float64))
    assert torch.equal(alpha, torch.ones(3, dtype=torch.float64)) and torch.equal(
        sigma, torch.zeros(3, dtype=torch.float64)
    )
    assert schedule.clock(0.0) == 0 and schedule.logsnr(0.0) == math.inf
    if schedule.bounded:
        inner = schedule.schedule if isinstance(schedule, Shifted) else schedule
        last = inner.sigma_data if isinstance(inner, TrigFlow) else 1.0
        assert schedule(1.0) == (0.0, last) and schedule.logsnr(1.0) == -math.inf
        assert schedule.clock(1.0) == 1
        alpha, sigma = schedule(torch.ones(1, dtype=torch.float64))
        assert float(alpha) == 0 and float(sigma) == last
        assert float(schedule.logsnr(torch.ones(1, dtype=torch.float64))) == -math.inf


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_floats_and_tensors_agree(schedule: Schedule) -> None:
    t = torch.tensor([0.0, *TIMES, 1.0], dtype=torch.float64)
    for of in (lambda u: schedule(u)[0], lambda u: schedule(u)[1], schedule.clock, schedule.logsnr):
        many, single = of(t), torch.tensor([of(float(u)) for u in t], dtype=torch.float64)
        assert many.dtype == torch.float64
        torch.testing.assert_close(many, single, rtol=1e-12, atol=1e-15)
    logsnr = torch.tensor([-math.inf, -800, -30, -3, 0, 3, 30, 800, math.inf], dtype=torch.float64)
    single = torch.tensor([schedule.time(float(v)) for v in logsnr], dtype=torch.float64)
    torch.testing.assert_close(schedule.time(logsnr), single, rtol=1e-12, atol=1e-15)
    assert bool((single >= 0).all()) and bool((single <= 1).all())


EXTREME: list[Schedule] = [
    *(Sigmoid(*ends, tau) for ends in ((-3.0, 3.0), (0.0, 3.0), (-20.0, 0.0)) for tau in (0.1, 0.3, 90.0)),
    *(VP(*betas) for betas in ((0.01, 1.0), (1e-3, 200.0), (5.0, 5.0))),
    *(VE(*sigmas) for sigmas in ((1e-4, 1e4), (1.0, 2.0))),
    *(EDM(80.0, rho) for rho in (0.5, 1.0, 2.0, 20.0, 100.0)),
    *(Exponential(rate) for rate in (-10.0, 0.01, 100.0, 700.0)),
    *(Polynomial(power) for power in (0.01, 20.0, 300.0)),
    *(Laplace(mean, scale) for mean in (-10.0, 5.0) for scale in (0.01, 50.0)),
    *(TrigFlow(sigma) for sigma in (1e-6, 1e6)),
    Discrete((0.5,)),
    Discrete.cosine(30).zero_terminal(),
]


@pytest.mark.parametrize("schedule", [*ALL, *EXTREME], ids=repr)
def test_times_of_no_noise_and_of_no_signal_are_exact(schedule: Schedule) -> None:
    infinite = torch.tensor([math.inf, -math.inf], dtype=torch.float64)
    for of in (schedule, Shifted(schedule, 1e6), Shifted(schedule, 1e-6), ZeroTerminal(schedule)):
        assert (of.time(math.inf), of.time(-math.inf)) == (0.0, 1.0)
        assert of.time(infinite).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_time_is_the_inverse_of_the_log_snr(schedule: Schedule) -> None:
    for t in [*TIMES, 0.0, 1.0]:
        assert schedule.time(schedule.logsnr(t)) == pytest.approx(t, rel=1e-9, abs=1e-12)
    t = torch.tensor([0.0, *TIMES, 1.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.logsnr(t)), t, rtol=1e-9, atol=1e-12)
    for sigma in (0.01, 0.5, 0.9):
        alpha, noise = schedule(schedule.unclock(sigma))
        assert noise / alpha == pytest.approx(sigma, rel=1e-12)
        assert float(schedule.unclock(torch.tensor(sigma, dtype=torch.float64))) == pytest.approx(
            schedule.unclock(sigma)
        )


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_noise_grows_and_signal_never_does(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert bool((alpha.diff() <= 1e-15).all()) and bool((alpha >= 0).all()) and bool((sigma >= 0).all())
    assert bool((schedule.clock(t).diff() > 0).all())
    if isinstance(schedule, Flow):
        torch.testing.assert_close(alpha + sigma, torch.ones_like(t))
    if isinstance(schedule, VP | Cosine | Discrete | Sigmoid | Laplace):
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))


def precise(schedule: Schedule, t: float) -> tuple[Any, Any]:
    """(alpha, sigma) by the schedule's definition with 40 digits."""
    with mpmath.workdps(40):
        u, m = mpmath.mpf(t), mpmath
        match schedule:
            case VP(b0, b1):
                b0, b1 = m.mpf(b0), m.mpf(b1)
                alpha = m.exp(-u * u * (b1 - b0) / 4 - u * b0 / 2)
                return alpha, m.sqrt(1 - alpha * alpha)
            case Cosine():
                return m.cos(m.pi * u / 2), m.sin(m.pi * u / 2)
            case Linear():
                return 1 - u, u
            case Exponential(rate):
                sigma = (m.exp(rate * u) - 1) / (m.exp(rate) - 1)
                return 1 - sigma, sigma
            case VE(low, high):
                r = m.mpf(high) / m.mpf(low)
                return m.mpf(1), high * (r**u - 1) / (r - 1)
            case TrigFlow(d):
                return m.cos(m.pi * u / 2), d * m.sin(m.pi * u / 2)
            case Sigmoid(a, b, tau):
                low, now, high = (1 / (1 + m.exp(-m.mpf(v) / tau)) for v in (a, a + u * (b - a), b))
                return m.sqrt((high - now) / (high - low)), m.sqrt((now - low) / (high - low))
            case Laplace(mean, scale):
                half = m.mpf(1) / 2
                logsnr = mean - scale * m.sign(half - u) * m.log(1 - 2 * abs(u - half))
                return 1 / m.sqrt(1 + m.exp(-logsnr)), 1 / m.sqrt(1 + m.exp(logsnr))
            case ZeroTerminal(inner):
                left, a = precise(inner, 1.0)[0], precise(inner, t)[0]
                alpha = (a - left) / (1 - left)
                return alpha, m.sqrt(1 - alpha * alpha)
            case Discrete(betas):
                place = u * len(betas)
                k = int(m.floor(place))
                log = sum(m.log(1 - m.mpf(b)) for b in betas[:k])
                log += (place - k) * m.log(1 - m.mpf(betas[k]))
                return m.exp(log / 2), m.sqrt(1 - m.exp(log))
        raise AssertionError(schedule)


PRECISE = [VP(), Cosine(), Linear(), Exponential(), VE(), Discrete.linear()]
PRECISE += [TrigFlow(), Sigmoid(), Laplace(), ZeroTerminal(VP())]


@pytest.mark.parametrize("schedule", PRECISE, ids=repr)
@pytest.mark.parametrize("t", [1e-12, 1e-9, 1e-7, 1e-5, 1.23e-4, 1e-3, 0.0377, 0.42, 0.999])
def test_no_digits_are_lost_near_the_data(schedule: Schedule, t: float) -> None:
    """sqrt(1 - exp(2 log alpha)) has lost half of them at t = 1e-5."""
    if isinstance(schedule, Discrete) and t < 1e-11:
        pytest.skip("below a billionth of a table step")
    alpha, sigma = schedule(t)
    for value, exact in zip((alpha, sigma), precise(schedule, t), strict=True):
        assert float(abs(value - exact) / exact) < 2e-13, (value, exact)
    many = schedule(torch.tensor([t], dtype=torch.float64))
    for value, exact in zip(many, precise(schedule, t), strict=True):
        assert float(abs(value.item() - exact) / exact) < 2e-13


def test_golden_cumulative_products(golden: Golden) -> None:
    g = golden("alphas_cumprod")
    tables = {
        "linear": Discrete.linear(),
        "linear_zero_snr": Discrete.linear().zero_terminal(),
        "linear_0.0005_0.01_T250": Discrete.linear(250, 0.0005, 0.01),
        "linear_0.0005_0.01_T250_zero_snr": Discrete.linear(250, 0.0005, 0.01).zero_terminal(),
        "squaredcos_cap_v2": Discrete.cosine(),
    }
    for name, table in tables.items():
        torch.testing.assert_close(
            table.alphas_cumprod, g[name], rtol=1e-11, atol=1e-15, msg=lambda m, n=name: f"{n}: {m}"
        )
        k = torch.arange(len(g[name]), dtype=torch.float64)
        alpha, _ = table(table.index(k))
        torch.testing.assert_close(alpha**2, g[name], rtol=1e-10, atol=1e-15)
    assert float(tables["linear_zero_snr"].alphas_cumprod[-1]) == 0


def test_between_training_times_a_table_is_monotonic_and_invertible() -> None:
    for table in TABLES:
        t = torch.linspace(0, 1, 37 * 13 + 1, dtype=torch.float64)
        torch.testing.assert_close(table.time(table.logsnr(t)), t, rtol=1e-9, atol=1e-10)


def test_a_shift_lowers_the_log_snr_and_two_shifts_are_one() -> None:
    for inner in (Linear(), Cosine(), VP(), EDM()):
        shifted, twice = Shifted(inner, 3.0), Shifted(Shifted(inner, 2.0), 1.5)
        for t in TIMES:
            assert shifted.logsnr(t) == pytest.approx(inner.logsnr(t) - 2 * math.log(3), abs=1e-9)
            assert twice(t) == pytest.approx(shifted(t), rel=1e-12)
    for t in TIMES:  # Esser et al. (2024), Eq. 23
        assert Shifted(Linear(), 3.0)(t)[1] == pytest.approx(3 * t / (1 + 2 * t), rel=1e-14)


def test_edm_times_are_karras_steps() -> None:
    rho, high = 7.0, 80.0
    for i in range(11):
        t = 1 - i / 10
        assert EDM(high, rho)(t)[1] == pytest.approx((high ** (1 / rho) * t) ** rho, rel=1e-12)


@pytest.mark.parametrize("betas", [(), (0.0,), (0.1, 1.5), (float("nan"),)])
def test_a_table_refuses_betas_that_are_none(betas: tuple[float, ...]) -> None:
    with pytest.raises(RecipeError, match="betas"):
        Discrete(betas)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_slopes_are_exact_derivatives(schedule: Schedule) -> None:
    """Against central differences, on floats and on tensors; and against 40 digits where there is a formula."""
    times = [0.0104, 0.1003, 0.3004, 0.5005, 0.7703, 0.9002, 0.9805]  # off the nodes of the tables
    for t in times:
        if isinstance(schedule, Discrete) and len(schedule.betas) == 10:
            t += 0.0131
        h = 1e-6 if not isinstance(schedule, Discrete | ZeroTerminal) else 2e-5
        (a0, s0), (a1, s1) = schedule(t - h), schedule(t + h)
        slopes = schedule.slopes(t)
        assert slopes == pytest.approx(((a1 - a0) / (2 * h), (s1 - s0) / (2 * h)), rel=2e-5, abs=1e-7), t
        c0, c1 = schedule.clock(t - h), schedule.clock(t + h)
        assert schedule.clock_slope(t) == pytest.approx((c1 - c0) / (2 * h), rel=2e-5, abs=1e-7), t
        many = schedule.slopes(torch.tensor([t], dtype=torch.float64))
        assert (float(many[0]), float(many[1])) == pytest.approx(slopes, rel=1e-12, abs=1e-300)
    for t in (0.0, 1.0):
        assert all(math.isfinite(v) for v in schedule.slopes(t)), t


@pytest.mark.parametrize("schedule", [s for s in PRECISE if not isinstance(s, Discrete)], ids=repr)
def test_slopes_keep_their_digits(schedule: Schedule) -> None:
    for t in (1e-5, 0.037, 0.42, 0.77, 0.999):
        with mpmath.workdps(40):
            h = mpmath.mpf(t) * mpmath.mpf("1e-10")
            low, high = precise(schedule, mpmath.mpf(t) - h), precise(schedule, mpmath.mpf(t) + h)  # type: ignore[arg-type]
            exact = [float((b - a) / (2 * h)) for a, b in zip(low, high, strict=True)]
        assert schedule.slopes(t) == pytest.approx(exact, rel=1e-12, abs=1e-300)


def test_golden_paths_and_their_velocities(golden: Golden) -> None:
    """Their time runs the other way, so d/dt changes its sign."""
    g = golden("flow_paths")
    t, z, x0 = 1 - g["t"], g["x_noise"], g["x_data"]

    def col(v: Tensor) -> Tensor:
        return v[:, None]

    close: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}
    for name, schedule in [("CondOT", Linear()), ("Cosine", Cosine())]:
        (alpha, sigma), (da, ds) = schedule(t), schedule.slopes(t)
        for value, key in [(alpha, "alpha"), (sigma, "sigma"), (-da, "d_alpha"), (-ds, "d_sigma")]:
            torch.testing.assert_close(value, g[f"{name}__{key}"], **close)
        torch.testing.assert_close(col(alpha) * x0 + col(sigma) * z, g[f"{name}__x_t"], **close)
        torch.testing.assert_close(-(col(da) * x0 + col(ds) * z), g[f"{name}__dx_t"], **close)


def test_shifts_by_resolution_and_by_tokens() -> None:
    assert Shifted.resolution(Linear(), 1024**2, 512**2) == Shifted(Linear(), 2.0)
    assert Shifted.dynamic(Linear(), 256).shift == pytest.approx(math.exp(0.5))
    assert Shifted.dynamic(Linear(), 4096).shift == pytest.approx(math.exp(1.15))


def test_a_bent_schedule_is_the_bent_table() -> None:
    """Both rescale sqrt(alpha_bar) linearly; the table keeps its first entry, the wrapper t = 0."""
    bent = ZeroTerminal(Discrete.linear())
    alphas = torch.tensor([bent(k / 1000)[0] for k in range(1, 1001)], dtype=torch.float64)
    torch.testing.assert_close(alphas, Discrete.linear().zero_terminal().alphas_cumprod.sqrt(), rtol=1e-4, atol=1e-4)
    assert ZeroTerminal(Linear())(0.3) == Linear()(0.3) and ZeroTerminal(Linear()).flow
