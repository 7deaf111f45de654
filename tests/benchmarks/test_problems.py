"""The benchmark's problems: their denoisers and their exact ends against something independent."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.problems import DATA, SCHEDULES, Cloud, gaussian_end, integrated, started
from gendiff import Gaussian, PowerGrid
from gendiff.denoisers import Mixture
from gendiff.sampling.solvers import Adams

F64 = torch.float64


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_a_cloud_is_a_mixture() -> None:
    means, x = normal(20, 5), normal(7, 5, 1)
    process = Gaussian(SCHEDULES["flow"])
    mixture = Mixture(process, means, 0.2**2)
    for t in (1.0, 0.6, 0.05, 0.0):
        torch.testing.assert_close(Cloud(process, means, 0.2)(x, t), mixture(x, t), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("start", list(SCHEDULES))
def test_integration_ends_where_one_gaussian_does(start: str) -> None:
    problem = started("gauss64", start, DATA["gauss64"]().on(SCHEDULES[start]), normal(4, 64))
    alpha, sigma = SCHEDULES[start](1.0)
    end = integrated(problem.denoiser, problem.x, float(alpha), float(sigma))
    torch.testing.assert_close(problem.end, end, rtol=0, atol=1e-9)


def test_a_gaussian_keeps_its_probabilities() -> None:
    # The flow is increasing along each axis, so (x - alpha mu)/deviation is the same at both ends.
    model = DATA["gauss1"]().on(SCHEDULES["vp"])
    alpha, sigma = (float(v) for v in SCHEDULES["vp"](1.0))
    x = normal(9, 1)
    before = (x - alpha * 0.7) / math.sqrt(alpha**2 * 0.3**2 + sigma**2)
    torch.testing.assert_close((gaussian_end(model, x, alpha, sigma) - 0.7) / 0.3, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("start", list(SCHEDULES))
def test_fine_steps_reach_the_ends_of_a_mixture(start: str) -> None:
    schedule = SCHEDULES[start]
    model, x = DATA["lattice50"]().on(schedule), (80.0 if start == "ve" else 1.0) * normal(8, 2)
    alpha, sigma = (float(v) for v in schedule(1.0))
    problem = started("lattice50", start, model, normal(8, 2), integrated(model, x, alpha, sigma))
    error = [problem.error(Adams(n, times=PowerGrid(sigma_max=1e4))) for n in (200, 400)]
    # At least second order: from alpha = 0 the first step, which has no past, is of first order.
    assert error[1] < error[0] / 3.8
    assert error[1] < 5e-5
