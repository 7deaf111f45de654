"""Brownian motion on SO(3): marginals, scores, steps and samples against IGSO(3) in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import DDPM, EDM, SO3, VE, VP, BrownianSO3, Euler, Heun, Joint, LinearGrid, LogSNRGrid, Tangent
from gendiff.denoisers import RotationMixture
from gendiff.errors import GendiffError
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.sampling.solvers import DEIS, LMS, RK4, Adams, DPMSolver, Midpoint, Solver
from gendiff.spaces import IGSO3, exp_so3, log_so3
from gendiff.testing import check_head, check_process, distance

F64 = torch.float64
PROCESS = BrownianSO3()


def rotations(n: int, seed: int = 0) -> Tensor:
    return SO3().random(torch.empty(n, 3, 3, dtype=F64), Noise.of(seed, n))


def angle(x: Tensor, y: Tensor) -> Tensor:
    return log_so3(x.mT @ y).norm(dim=-1)


def kolmogorov(angles: Tensor, sigma: float) -> float:
    """sqrt(n) times the largest distance of the angles' distribution from IGSO3(sigma)'s; 1.95 has a chance of 1e-3."""
    n = len(angles)
    cdf = IGSO3(sigma).angle_cdf(angles.sort().values)
    rank = torch.arange(1, n + 1, dtype=F64) / n
    return float(max((cdf - rank).abs().max(), (cdf - rank + 1 / n).abs().max())) * n**0.5


def test_the_laws_of_a_process() -> None:
    check_process(BrownianSO3(VE(0.02, 3.0)), torch.empty(4, 5, 3, 3), tolerance=2e-6)
    check_process(
        Joint(a=BrownianSO3(), b=BrownianSO3(EDM(4.0))), {k: torch.empty(3, 3, 3) for k in "ab"}, tolerance=2e-6
    )


def test_schedules_that_shrink_the_data_are_refused() -> None:
    for schedule in (VP(), VE(0.01, 0.5)):
        with pytest.raises(GendiffError, match="alpha = 1"):
            BrownianSO3(schedule)


def test_sigma_per_sample_is_sigma_one_by_one() -> None:
    sigma, w = torch.tensor([0.03, 0.4, 1.4, 1.6, 3.0], dtype=F64), torch.linspace(0.01, 3.1, 40, dtype=F64)
    for name in ("log_density", "score"):
        whole = getattr(IGSO3(sigma[:, None]), name)(w.expand(5, -1))
        for i, s in enumerate(sigma.tolist()):
            torch.testing.assert_close(whole[i], getattr(IGSO3(s), name)(w), rtol=1e-12, atol=1e-12)
    x = IGSO3(sigma).sample((5, 7), Noise.of(0, 5), F64)
    for i, s in enumerate(sigma.tolist()):
        assert distance(IGSO3(s).sample((1, 7), Noise.of(0, 1, i), F64), x[i : i + 1]) < 1e-3
        assert torch.equal(IGSO3(sigma[i : i + 1]).sample((1, 7), Noise.of(0, 1, i), F64), x[i : i + 1])


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_marginals_and_steps_of_noise(t: float) -> None:
    n = 2000
    x0, sigma = rotations(n), PROCESS.schedule(t)[1]
    x = PROCESS.noise(x0, torch.full((n,), t, dtype=F64), Noise.of(1, n))
    assert kolmogorov(angle(x0, x), sigma) < 1.95
    up = PROCESS.renoise(x, t, t + 0.08, Noise.of(2, n))
    assert kolmogorov(angle(x0, up), PROCESS.schedule(t + 0.08)[1]) < 1.95
    s = t - 0.06
    churn = 0.7 * PROCESS.schedule(s)[1]
    down = PROCESS.step(x, x0, t, s, churn, Noise.of(3, n))
    assert kolmogorov(angle(x0, down), PROCESS.schedule(s)[1]) < 1.95


def test_the_score_is_the_gradient() -> None:
    x0, h = rotations(6, 1), 1e-5
    for t in (0.2, 0.5, 0.8, 0.97):
        x, sigma = PROCESS.noise(x0, t, Noise.of(4, 6)), PROCESS.schedule(t)[1]
        score = PROCESS.score(x, x0, t)
        for i in range(3):
            e = torch.zeros(6, 3, dtype=F64)
            e[:, i] = h
            ends = [IGSO3(sigma).log_density(angle(x0, SO3().exp(x, sign * e))) for sign in (1, -1)]
            torch.testing.assert_close(score[:, i], (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-5 / sigma**2)


def test_steps_with_times_per_sample() -> None:
    x0 = rotations(4)
    t, s = torch.tensor([0.9, 0.7, 0.5, 0.3], dtype=F64), torch.tensor([0.5, 0.6, 0.0, 0.29], dtype=F64)
    x = PROCESS.noise(x0, t, Noise.of(1, 4))
    whole = PROCESS.step(x, x0, t, s)
    for i in range(4):
        one = PROCESS.step(x[i : i + 1], x0[i : i + 1], float(t[i]), float(s[i]))
        assert distance(one, whole[i : i + 1]) < 1e-6


def test_the_loss_is_smooth_at_the_truth_and_zero_there() -> None:
    x0 = rotations(5)
    t = torch.linspace(0.01, 1, 5, dtype=F64)
    x = PROCESS.noise(x0, t, Noise.of(1, 5))
    guess = x0.clone().requires_grad_()
    loss = PROCESS.error(x, guess, x0, t)
    loss.sum().backward()
    assert guess.grad is not None
    assert float(loss.detach().abs().max()) < 1e-20 and bool(torch.isfinite(guess.grad).all())


CENTERS = exp_so3(torch.tensor([[0.3, 0.2, -0.4], [2.0, 0.5, 1.0], [-1.0, 1.5, 0.7]], dtype=F64))
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)


@pytest.mark.parametrize(
    "solver", [Heun(12, times=LogSNRGrid(0.02, 4.0)), DDPM(50, times=LogSNRGrid(0.02, 4.0))], ids=repr
)
def test_samples_of_a_mixture_of_rotations(solver: Solver) -> None:
    """Weights, and the spread within each component, with the exact denoiser."""
    n, width = 500, 0.25
    oracle = RotationMixture(PROCESS, CENTERS, width, WEIGHTS)
    x = sample(oracle, torch.empty(n, 3, 3, dtype=F64), solver=solver, noise=Noise.of(0, n))
    angles = torch.stack([angle(x, c.expand_as(x)) for c in CENTERS], -1)
    nearest = angles.argmin(-1)
    share = torch.bincount(nearest, minlength=3) / n
    assert bool(((share - WEIGHTS).abs() < 4 * (WEIGHTS * (1 - WEIGHTS) / n).sqrt() + 0.01).all()), share
    assert kolmogorov(angles.min(-1).values, width) < 2.6


def test_a_set_of_rotations_is_reached_exactly() -> None:
    oracle = RotationMixture(PROCESS, CENTERS)
    x = sample(oracle, torch.empty(16, 3, 3, dtype=F64), solver=Euler(25), noise=Noise.of(0, 16))
    closest = torch.stack([angle(x, c.expand_as(x)) for c in CENTERS], -1).min(-1).values
    assert float(closest.max()) < 1e-6


def test_one_sample_one_seed() -> None:
    oracle = RotationMixture(PROCESS, CENTERS, 0.2)
    solver = DDPM(4)
    whole = sample(oracle, torch.empty(9, 3, 3, dtype=F64), solver=solver, noise=Noise.of(0, 9))
    part = sample(oracle, torch.empty(1, 3, 3, dtype=F64), solver=solver, noise=Noise.of(0, 1, 4))
    assert distance(part, whole[4:5]) < 1e-12


def test_the_tangent_head_goes_round() -> None:
    check_head(Tangent(), BrownianSO3(VE(0.02, 3.0)), torch.empty(3, 4, 3, 3), tolerance=1e-7)
    assert math.isclose(Tangent().scale(PROCESS, 1.0), 4.0)


class Always:
    """A denoiser that predicts one rotation at all times."""

    process = PROCESS

    def __init__(self, x0: Tensor) -> None:
        self.x0 = x0

    def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        return self.x0.expand_as(x)


@pytest.mark.parametrize(
    "solver", [Adams(5), LMS(5), DEIS(5), Heun(5), Midpoint(5), RK4(5), DPMSolver(5), DPMSolver(5, 3)], ids=repr
)
def test_every_solver_keeps_to_the_flow_at_a_constant_prediction(solver: Solver) -> None:
    """The angle does not fall as sigma does, so rates in the clock would leave the flow by hundredths of a radian."""
    x0, turned = CENTERS[:1], exp_so3(torch.tensor([[0.4, 0.1, 0.2], [1.0, -1.0, 0.5], [0.0, 2.0, -0.6]], dtype=F64))
    start, high, low = x0 @ turned, 0.9, 0.6
    solver = replace(solver, times=LinearGrid(high, low))  # type: ignore[type-var]
    x = sample(Always(x0), start, solver=solver, noise=Noise.of(0, 3), start=start)
    exact = PROCESS.step(start, x0.expand_as(start), high, low)
    assert float(angle(start, exact).min()) > 0.05
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-5)
