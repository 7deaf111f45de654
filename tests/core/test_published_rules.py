"""Rules as they are published for x = x0 + sigma z, written out step by step, against the tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gendiff import DDPM, EDM, VE, Churn, Discrete, DPMpp3M, Euler, Gaussian, Heun, Karras, Linspace
from gendiff.denoisers import Mixture
from gendiff.sampling import sample
from gendiff.sampling.grids import Levels
from gendiff.sampling.solvers import DPMpp2S, DPMpp3S, DPMSolver, SASolver, Solver
from gendiff.testing import Plain

F64 = torch.float64
SIGMAS = (20.0, 9.0, 4.0, 1.3, 0.5, 0.1, 0.0)
MODEL = Mixture(
    Gaussian(EDM()), torch.tensor([[1.0, 0.3], [-0.8, 0.5], [0.1, -1.0]], dtype=F64), 0.05,
    torch.tensor([0.5, 0.3, 0.2], dtype=F64),
)  # fmt: skip
DRAWS = torch.randn(40, 6, 2, dtype=F64, generator=torch.Generator().manual_seed(5))
Predict = Callable[[Tensor, float], Tensor]


class InOrder(Plain):
    """Given draws, handed out in the order in which they are asked for."""

    def __init__(self, draws: Iterator[Tensor]) -> None:
        super().__init__(0, torch.arange(6))
        self.draws = draws

    def at(self, step: int) -> InOrder:
        return self

    def fork(self, name: str) -> InOrder:
        return self

    def normal(self, shape: Any, dtype: Any = F64) -> Tensor:
        return next(self.draws).to(dtype)


def predict(x: Tensor, sigma: float) -> Tensor:
    return MODEL.predict(x, 1.0, sigma)


def split(now: float, then: float, eta: float) -> tuple[float, float]:
    """(down, up): the noise kept and the noise added, of an ancestral step."""
    up = min(then, eta * then * math.sqrt(1 - (then / now) ** 2))
    return math.sqrt(then**2 - up**2), up


def dpm2_ancestral(x: Tensor, z: Iterator[Tensor], eta: float) -> Tensor:
    for now, then in itertools.pairwise(SIGMAS):
        down, up = split(now, then, eta)
        slope = (x - predict(x, now)) / now
        if down > 0:
            middle = math.sqrt(now * down)
            half = x + (middle - now) * slope
            slope = (half - predict(half, middle)) / middle
        x = x + (down - now) * slope
        x = x + up * next(z) if up else x
    return x


def dpmpp_2s(x: Tensor, z: Iterator[Tensor], eta: float, inner: bool) -> Tensor:
    for now, then in itertools.pairwise(SIGMAS):
        down, up = split(now, then, eta)
        x0 = predict(x, now)
        if down > 0:
            middle = math.sqrt(now * (then if inner else down))
            low, more = split(now, middle, eta if inner else 0.0)
            half = low / now * x + (1 - low / now) * x0
            half = half + more * next(z) if more else half
            x0 = predict(half, middle)
        x = down / now * x + (1 - down / now) * x0
        x = x + up * next(z) if up else x
    return x


def dpmpp_3m(x: Tensor, z: Iterator[Tensor], eta: float) -> Tensor:
    """k-diffusion's form: its eta is the square of ours."""
    past: list[tuple[Tensor, float]] = []
    for now, then in itertools.pairwise(SIGMAS):
        x0 = predict(x, now)
        if then == 0:
            return x0
        h = math.log(now / then)
        p = h * (1 + eta)
        x1 = math.exp(-p) * x - math.expm1(-p) * x0
        phi2 = math.expm1(-p) / p + 1
        if past:
            d = (x0 - past[0][0]) * h / past[0][1]
            if len(past) > 1:
                r0, r1 = past[0][1] / h, past[1][1] / h
                second = (d - (past[0][0] - past[1][0]) / r1) / (r0 + r1)
                x1 = x1 + phi2 * (d + r0 * second) - (phi2 / p - 0.5) * second
            else:
                x1 = x1 + phi2 * d
        x = x1 + then * math.sqrt(-math.expm1(-2 * h * eta)) * next(z) if eta else x1
        past = [(x0, h), *past][:2]
    return x


def dpmpp_3s(x: Tensor, order: int) -> Tensor:
    """Singlestep DPM-Solver++ on the grid's points: x e^-h + (1 - e^-h) D_0 + h phi_2 D' + h^2 phi_3 D''."""
    base, past = (x, 0.0), []
    for number, (now, then) in enumerate(itertools.pairwise(SIGMAS)):
        past = [] if number % order == 0 else past
        base = base if past else (x, now)
        past = [(predict(x, now), math.log(base[1] / now)), *past]
        if then == 0:
            return past[0][0]
        first, h = past[-1][0], math.log(base[1] / then)
        phi2, phi3 = h - 1 + math.exp(-h), h * h / 2 - h + 1 - math.exp(-h)
        x = math.exp(-h) * base[0] - math.expm1(-h) * first
        if len(past) == 2:
            x = x + phi2 * (past[0][0] - first) / past[0][1]
        if len(past) == 3:
            (d2, r2), (d1, r1), _ = past
            curve = 2 * ((d2 - first) / r2 - (d1 - first) / r1) / (r2 - r1)
            x = x + phi2 * ((d1 - first) / r1 - curve * r1 / 2) + phi3 * curve
    return x


def sa_two(x: Tensor, z: Iterator[Tensor], eta: float, low: float = 0.0, high: float = math.inf) -> Tensor:
    """SA-Solver of order two, predictor and corrector, by their coefficients exp(p lambda) h^2/2 of the slope."""
    steps = list(itertools.pairwise(SIGMAS))
    past: list[tuple[Tensor, float]] = []
    last: tuple[Tensor, Tensor] | None = None

    def move(x: Tensor, now: float, then: float, base: Tensor, slope: Any, noise: Tensor) -> Tensor:
        tau = eta if low <= now <= high else 0.0
        p, h = 1 + tau * tau, math.log(now / then)
        target = base - p * h * h / 2 / math.expm1(-p * h) * slope
        x = math.exp(-p * h) * x - math.expm1(-p * h) * target
        return x + then * math.sqrt(-math.expm1(-2 * tau * tau * h)) * noise

    for number, (now, then) in enumerate(steps):
        x0 = predict(x, now)
        if last is not None:
            before = steps[number - 1][0]
            slope = (x0 - past[0][0]) / math.log(before / now)
            x = move(last[0], before, now, past[0][0], slope, last[1])
        past = [(x0, now), *past][:2]
        if then == 0:
            return x0
        noise = next(z) if eta and low <= now <= high else torch.zeros(())
        slope = (x0 - past[1][0]) / math.log(past[1][1] / now) if len(past) > 1 else 0.0
        last = (x, noise)
        x = move(x, now, then, x0, slope, noise)
    return x


RULES: dict[str, tuple[Callable[[Tensor, Iterator[Tensor]], Tensor], Solver]] = {
    **{f"DPM2 a, {e}": (lambda x, z, e=e: dpm2_ancestral(x, z, e), DPMSolver(6, eta=e)) for e in (0.0, 0.6, 1.0)},
    **{f"2S a, {e}": (lambda x, z, e=e: dpmpp_2s(x, z, e, False), DPMpp2S(6, eta=e)) for e in (0.0, 0.6, 1.0)},
    **{f"SDE, {e}": (lambda x, z, e=e: dpmpp_2s(x, z, e, True), DPMpp2S(6, eta=e, inner=True)) for e in (0.6, 1.0)},
    **{
        f"3M SDE, {e}": (
            lambda x, z, e=e: dpmpp_3m(x, z, e), DPMpp3M(6, eta=math.sqrt(e), midpoint=False, settle=False)
        )
        for e in (0.0, 0.5, 1.0)
    },
    **{f"SA 2, {e}": (lambda x, z, e=e: sa_two(x, z, e), SASolver(6, 2, eta=e)) for e in (0.0, 0.5, 1.0)},
    "SA 2, tau(t)": (lambda x, z: sa_two(x, z, 0.8, 0.5, 5.0), SASolver(6, 2, eta=0.8, low=0.5, high=5.0)),
    **{f"{k}S": (lambda x, z, k=k: dpmpp_3s(x, k), DPMpp3S(6, k)) for k in (1, 2, 3)},
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_the_table_is_the_rule(name: str) -> None:
    rule, solver = RULES[name]
    start = SIGMAS[0] * DRAWS[-1]
    chosen = type(solver)(**{**vars(solver), "times": Levels(SIGMAS)})
    found = sample(MODEL, start, solver=chosen, noise=InOrder(iter(DRAWS)), start=start)
    torch.testing.assert_close(found, rule(start, iter(DRAWS)), rtol=1e-9, atol=1e-10)


def test_fixed_large_is_the_forward_variance() -> None:
    """The mean of the posterior with beta for its variance; in strides, 1 - abar_t/abar_s."""
    table = Discrete.linear()
    leaf = Gaussian(table)
    for high, low in ((999, 998), (999, 749), (400, 300)):
        t, s = table.index(high), table.index(low)
        (small,) = DDPM().step(leaf, t, s, [])  # type: ignore[arg-type]
        (large,) = DDPM(large=True).step(leaf, t, s, [])  # type: ignore[arg-type]
        assert (small.move.keep, small.move.pull) == (large.move.keep, large.move.pull)
        abar = [float(np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: k + 1])) for k in (high, low)]
        assert large.move.churn**2 == pytest.approx(1 - abar[0] / abar[1], rel=1e-9)
        assert small.move.churn**2 == pytest.approx((1 - abar[1]) / (1 - abar[0]) * (1 - abar[0] / abar[1]), rel=1e-9)


@pytest.mark.parametrize("schedule", [EDM(), EDM(100.0), EDM(200.0), VE(0.001, 100.0), Discrete.linear()], ids=repr)
def test_churn_counts_its_bounds(schedule: Any) -> None:
    """Steps that start from S_tmin or S_tmax themselves are churned, whatever rounding does to their times."""
    for inner in (Euler(), Heun()):
        rows = Churn(7, Karras(0.05, 50.0), inner, 20.0, 0.05, 50.0).rows(Gaussian(schedule))
        assert sum(row.move is None for row in rows) == 7


@pytest.mark.parametrize("count", [2, 3, 7, 20, 30, 50, 75, 100, 333, 1000])
@pytest.mark.parametrize("dropped", [0, 1])
def test_linspace_falls_where_numpy_falls(count: int, dropped: int) -> None:
    table = Discrete.linear()
    times = Linspace(dropped=dropped)(Gaussian(table), count)
    numbers = np.linspace(0, 999, count + dropped).round()[::-1][:count]
    assert times == [*(table.index(int(k)) for k in numbers), 0.0]
