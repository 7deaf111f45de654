"""Solvers that follow the reverse SDE or Langevin's: by exact recursions of mean and variance wherever there is one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gendiff import (
    EDM,
    SO3,
    VP,
    BrownianSO3,
    Cosine,
    Euler,
    Gaussian,
    Geodesic,
    Joint,
    Linear,
    LinearGrid,
    LogSNRGrid,
    Torus,
)
from gendiff.denoisers import Mixture
from gendiff.errors import SamplerError
from gendiff.random import Noise
from gendiff.sampling import sample, table
from gendiff.sampling.solvers import DDIM, AnnealedLangevin, EulerMaruyama, Langevin, OnePath, Row, Solver, corrected

F64 = torch.float64
M, C = 0.7, 0.3


def moments(process: Gaussian, rows: list[Row], mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance after rows that evaluate where they start, for data N(M, C): each row is an affine map."""
    for row in rows:
        alpha, sigma = process.schedule(row.t)
        gain = alpha * C / (alpha * alpha * C + sigma * sigma) if row.at is not None else 0.0
        a = row.move.keep + row.move.pull * gain
        mean = a * mean + row.move.pull * (M - gain * alpha * M)
        variance = a * a * variance + row.move.churn**2
    return mean, variance


def marginal(process: Gaussian, t: float) -> tuple[float, float]:
    alpha, sigma = process.schedule(t)
    return alpha * M, alpha * alpha * C + sigma * sigma


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.3])
@pytest.mark.parametrize("schedule", [VP(), Cosine(), EDM(20.0, 2.0), Linear()], ids=repr)
def test_euler_maruyama_is_weakly_first_order(schedule: Any, eta: float) -> None:
    process = Gaussian(schedule)
    errors = []
    for n in (200, 400):
        rows = EulerMaruyama(n, eta=eta, times=LinearGrid(0.9, 0.1)).rows(process)
        found, exact = moments(process, rows, *marginal(process, 0.9)), marginal(process, 0.1)
        errors.append([abs(a - b) for a, b in zip(found, exact, strict=True)])
    for coarse, fine in zip(*errors, strict=True):
        # With alpha = 1 the mean is the data's throughout.
        assert coarse < 1e-14 or (1.8 < coarse / fine < 2.2 and fine < 0.02), errors


def test_euler_maruyama_samples_a_mixture() -> None:
    data = Mixture(Gaussian(VP()), torch.tensor([[1.0], [-1.0]], dtype=F64), 0.02, torch.tensor([0.8, 0.2], dtype=F64))
    x = sample(data, torch.empty(3000, 1, dtype=F64), solver=EulerMaruyama(300), noise=Noise.of(1, 3000))
    assert float((x > 0).double().mean()) == pytest.approx(0.8, abs=0.025)
    assert float(x[x > 0].std()) == pytest.approx(math.sqrt(0.02), rel=0.06)


def test_what_has_no_meaning_is_refused() -> None:
    refused: list[tuple[Any, Solver, str]] = [
        (Gaussian(Linear()), EulerMaruyama(), "alpha = 0"),
        (Joint(a=Gaussian(VP()), b=Geodesic(Torus())), EulerMaruyama(), "Gaussian processes"),
        (Gaussian(Cosine()), AnnealedLangevin(times=LinearGrid()), "alpha = 0"),
    ]
    with pytest.raises(SamplerError, match=r"snr=0\.6"):
        Langevin(snr=0.6)
    for process, solver, said in refused:
        with pytest.raises(SamplerError, match=said):
            solver.rows(process)


@pytest.mark.parametrize("schedule", [VP(), EDM(), Linear()], ids=repr)
def test_corrections_have_the_marginal_as_their_limit(schedule: Any) -> None:
    """Their stationary law on a Gaussian is known; it nears the marginal in proportion to the step eta^2."""
    process, t = Gaussian(schedule), 0.6
    mean, variance = marginal(process, t)
    sigma = schedule(t)[1]
    biases = []
    for snr in (0.1, 0.1 / math.sqrt(2)):
        found = moments(process, list(corrected(process, t, 6000, snr)), 5.0, 9.0)
        eta = 2 * snr
        a = 1 - (1 - math.sqrt(1 - eta**2)) * sigma**2 / variance
        assert found[0] == pytest.approx(mean, rel=1e-9)
        assert found[1] == pytest.approx((eta * sigma) ** 2 / (1 - a * a), rel=1e-9)
        biases.append(abs(found[1] - variance))
    assert biases[0] / biases[1] == pytest.approx(2, rel=0.02) and biases[0] < 0.03 * variance


def test_corrections_mend_a_coarse_predictor() -> None:
    """Three Euler steps miss the variance; the corrected ones come nearer, the more corrections the nearer."""
    process, exact = Gaussian(VP()), marginal(Gaussian(VP()), 0.1)[1]
    errors = []
    for count in (0, 3, 100):
        rows = Langevin(3, LinearGrid(1.0, 0.1), Euler(), count, 0.2).rows(process)
        errors.append(abs(moments(process, rows, 0.0, 1.0)[1] - exact) / exact)
    assert errors[0] > errors[1] > 10 * errors[2], errors


@pytest.mark.parametrize("schedule", [EDM(20.0), VP()], ids=repr)
def test_annealed_langevin_finds_the_weights_of_a_mixture(schedule: Any) -> None:
    weights = torch.tensor([0.75, 0.25], dtype=F64)
    data = Mixture(Gaussian(schedule), torch.tensor([[1.0], [-1.0]], dtype=F64), 0.01, weights)
    solver = AnnealedLangevin(16, LogSNRGrid(0.05, 10.0), corrections=12, snr=0.2)
    assert solver.evaluations(data.process) == 16 * 12 + 1
    x = sample(data, torch.empty(2000, 1, dtype=F64), solver=solver, noise=Noise.of(0, 2000))
    assert float((x > 0).double().mean()) == pytest.approx(0.75, abs=0.04)
    assert float(x[x > 0].mean()) == pytest.approx(1.0, abs=0.02)
    assert float(x[x > 0].std()) == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize(
    ("process", "shape"),
    [(Geodesic(Torus()), (2,)), (Geodesic(SO3()), (3, 3)), (BrownianSO3(), (3, 3))],
    ids=["torus", "SO(3)", "Brownian"],
)
def test_corrections_keep_the_law_at_a_constant_prediction(process: Any, shape: tuple[int, ...]) -> None:
    """With the data at one point the noise is redrawn, and stays what it was; at the end is the point."""
    n, t = 3000, 0.3
    x0 = process.space.random(torch.empty(1, *shape, dtype=F64), Noise.of(5, 1)).expand(n, *shape)
    x = process.noise(x0, t, Noise.of(6, n))
    before = process.space.dist2(x, x0)
    y = x
    for k, row in enumerate(corrected(process, t, 3, 0.1)):
        y = process.take(y, x0, row.move, Noise.of(7, n).at(k))
    after = process.space.dist2(y, x0)
    assert float(after.mean()) == pytest.approx(float(before.mean()), rel=0.06)
    assert float((after - before).abs().mean()) > 0.05 * float(before.mean())

    class Point:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x: Any, t: Any, **cond: Any) -> Any:
            return x0[: len(x)]

    for solver in (Langevin(4), AnnealedLangevin(3, LinearGrid(), corrections=2)):
        end = sample(Point(), x0[:4], solver=solver, noise=Noise.of(0, 4))
        assert float(process.space.dist2(end, x0[:4]).max()) < 1e-18


def test_a_correction_is_one_evaluation() -> None:
    process = Gaussian(VP())
    assert Langevin(10, corrections=2, solver=DDIM(eta=1.0)).evaluations(process) == 10 + 2 * 9
    # On one Brownian path a correction, which takes no time, draws noise of its own.
    rows = table(OnePath(10, solver=Langevin()), process)
    assert [row.path for row in rows] == [row.s < row.t for row in rows] and len(rows) == 19
