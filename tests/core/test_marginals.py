"""What samplers draw: moments, weights and closed-form variances on R^n; atoms and churn on compact spaces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    DDIM,
    DDPM,
    EDM,
    SO3,
    VP,
    Cosine,
    DPMpp2M,
    Euler,
    Gaussian,
    Geodesic,
    Heun,
    Karras,
    Linear,
    LogSNRGrid,
    Sphere,
    Torus,
)
from gendiff.denoisers import Mixture, Normal
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.sampling.solvers import Solver
from gendiff.spaces import exp_so3
from gendiff.testing import distance

F64 = torch.float64
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=F64)
MEAN = torch.tensor([0.7, -0.4], dtype=F64)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), torch.cov(x.T)


def check_moments(x: Tensor, mean: Tensor, cov: Tensor, bias: float = 0.0) -> None:
    """Mean and covariance within 4.5 standard errors (and what the steps cost)."""
    n = len(x)
    m, c = moments(x)
    variances = cov.diagonal()
    assert bool(((m - mean).abs() < 4.5 * (variances / n).sqrt() + bias).all()), (m, mean)
    error = ((variances[:, None] * variances + cov**2) / n).sqrt()
    assert bool(((c - cov).abs() < 4.5 * error + bias).all()), (c, cov)


@pytest.mark.parametrize(
    ("schedule", "solver", "bias"),
    [
        (VP(), DDPM(300, times=LogSNRGrid(0.005, 150.0)), 0.012),
        (Cosine(), DDPM(300), 0.012),
        (Linear(), DDPM(300, times=LogSNRGrid(0.005, 100.0)), 0.012),
        (EDM(), DDPM(300, times=Karras()), 0.012),
        (VP(), DDIM(300, eta=0.5, times=LogSNRGrid(0.005, 150.0)), 0.012),
        (VP(), Heun(50, times=LogSNRGrid(0.005, 150.0)), 0.01),
        (EDM(), Heun(40, times=Karras()), 0.01),
        (Linear(), Heun(60), 0.01),
        (Cosine(), DPMpp2M(60, times=LogSNRGrid(0.005, 100.0)), 0.01),
    ],
    ids=repr,
)
def test_samples_of_a_gaussian_have_its_moments(schedule: Any, solver: Solver, bias: float) -> None:
    n = 10000
    oracle = Normal(Gaussian(schedule), MEAN, COVARIANCE)
    x = sample(oracle, torch.empty(n, 2, dtype=F64), solver=solver, noise=Noise.of(0, n))
    check_moments(x, MEAN, COVARIANCE, bias)


def test_ddpm_on_a_gaussian_is_exact_where_theory_says_so() -> None:
    """On N(0, c I) with the exact denoiser every step is linear: the variance it gives is known in closed form."""
    n, c, schedule = 40000, 0.5, Cosine()
    oracle = Normal(Gaussian(schedule), torch.zeros(1, dtype=F64), torch.tensor([[c]], dtype=F64))
    for solver in (DDPM(12), DDIM(12, eta=0.4), Euler(12)):
        variance = 1.0
        for row in solver.rows(oracle.process):
            alpha, sigma = schedule(row.t)
            gain = alpha * c / (alpha * alpha * c + sigma * sigma)
            variance = (row.move.keep + row.move.pull * gain) ** 2 * variance + row.move.churn**2
        x = sample(oracle, torch.empty(n, 1, dtype=F64), solver=solver, noise=Noise.of(0, n))
        assert abs(float(x.var()) / variance - 1) < 4.5 * (2 / n) ** 0.5, (solver, variance)


def test_a_mixture_keeps_its_weights() -> None:
    n, weights = 10000, torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    means = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 3.0]], dtype=F64)
    oracle = Mixture(Gaussian(Linear()), means, 0.04, weights)
    for solver in (Heun(40), DDPM(300), DPMpp2M(60, times=LogSNRGrid(0.005, 100.0))):
        x = sample(oracle, torch.empty(n, 2, dtype=F64), solver=solver, noise=Noise.of(0, n))
        near = (x[:, None] - means).norm(dim=-1)
        share = torch.bincount(near.argmin(1), minlength=3) / n
        assert float((share - weights).abs().max()) < 4.5 * 0.5 / n**0.5 + 0.005, (solver, share)
        assert float(near.min(1).values.square().mean()) == pytest.approx(2 * 0.04, rel=0.06)


def test_a_low_spread_shrinks() -> None:
    n = 4000
    oracle = Normal(Gaussian(VP()), MEAN, COVARIANCE)
    variances = []
    for spread in (1.0, 0.7, 0.4):
        solver = DDPM(100, noise_scale=spread, times=LogSNRGrid(0.01, 100.0))
        x = sample(oracle, torch.empty(n, 2, dtype=F64), solver=solver, noise=Noise.of(0, n))
        assert float((x.mean(0) - MEAN).abs().max()) < 0.08
        variances.append(float(torch.cov(x.T).trace()))
    assert variances[0] > 1.3 * variances[1] > 1.6 * variances[2], variances


class Wrapped:
    """The exact mean tangent to wrapped-normal data around K points of a compact space, by enumeration of atoms.

    For data at atoms a_k with weights w_k and x_t = exp_a(kappa log_a z), z uniform, the density of x_t given a_k is
    the uniform one pulled back, known on the circle (1/kappa inside a window) and on SO(3) ((1 - cos(w/kappa))/(kappa
    (1 - cos w)) inside the ball w < kappa pi).
    """

    def __init__(self, process: Geodesic, atoms: Tensor, weights: Tensor) -> None:
        self.process, self.atoms, self.weights = process, atoms, weights

    def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        space, kappa = self.process.space, self.process.schedule(t)[1]
        shape = (len(x), len(self.atoms), *x.shape[1:])
        v = space.log(x[:, None].expand(shape), self.atoms.expand(shape))  # [B, K, tangent]
        angle = v.norm(dim=-1)
        density = self.weights * (angle < kappa * math.pi + 1e-9)
        if isinstance(space, SO3):
            w = angle.clamp_min(1e-9)
            density = density * (1 - torch.cos((w / kappa).clamp_max(math.pi))) / (1 - torch.cos(w))
        r = density / density.sum(1, keepdim=True).clamp_min(1e-300)
        return space.exp(x, (r[..., None] * v).sum(1))


@pytest.mark.parametrize("case", ["torus", "SO(3)"])
def test_geodesic_flow_ends_in_the_data_with_their_weights(case: str) -> None:
    """The mean tangent transports the uniform measure to the atoms, each with its share."""
    n, weights = 3000, torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    angles = torch.tensor([[0.3], [2.5], [-2.0]], dtype=F64)
    if case == "torus":
        process, atoms, like = Geodesic(Torus()), angles, torch.empty(n, 1, dtype=F64)
    else:
        axis = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0.6, 0, 0.8]], dtype=F64)
        process, atoms, like = Geodesic(SO3()), exp_so3(axis * angles), torch.empty(n, 3, 3, dtype=F64)
    model = Wrapped(process, atoms, weights)
    for solver in (Heun(60), Euler(100), DPMpp2M(60)):
        x = sample(model, like, solver=solver, noise=Noise.of(0, n))
        shape = (n, 3, *x.shape[1:])
        far = process.space.log(x[:, None].expand(shape), atoms.expand(shape)).norm(dim=-1)
        share = torch.bincount(far.argmin(1), minlength=3) / n
        assert float((share - weights).abs().max()) < 4.5 * 0.5 / n**0.5 + 0.01, (case, solver, share)
        assert float((far.min(1).values < 0.1).double().mean()) > 0.96


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8, 1.0])
def test_churn_on_a_curved_space_keeps_the_second_moment(share: float) -> None:
    """With the true x0 as target, E |log_x0(x_s)|^2 = kappa_s^2 E |log_x0(z)|^2, whatever the churn."""
    n, t, s = 20000, 0.8, 0.45
    for space, x0 in [(SO3(), torch.eye(3, dtype=F64).expand(n, 3, 3)), (Torus(), torch.full((n, 1), 1.0, dtype=F64))]:
        process = Geodesic(space)
        z = space.dist2(x0, space.random(x0, Noise.of(7, n)))
        x = process.step(process.noise(x0, t, Noise.of(0, n)), x0, t, s, share * s, Noise.of(1, n))
        found, error = space.dist2(x0, x), s * s * float(z.std()) / n**0.5
        assert abs(float(found.mean()) - s * s * float(z.mean())) < 6.5 * error, (space, share)


@dataclass
class Constant:
    """A denoiser that always predicts one point."""

    process: Geodesic
    point: Tensor

    def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        return self.point.expand_as(x)


def test_the_sphere_stays_the_sphere() -> None:
    n = 50
    pole = torch.tensor([[0.0, 0.0, 1.0]], dtype=F64)
    model = Constant(Geodesic(Sphere()), pole)
    for solver in (Euler(10), Heun(10), DDPM(10), DPMpp2M(10), DDIM(10, eta=0.5)):
        norms: list[float] = []
        x = sample(
            model,
            torch.empty(n, 3, dtype=F64),
            solver=solver,
            noise=Noise.of(0, n),
            callback=lambda p: norms.append(float((p.state.norm(dim=-1) - 1).abs().max())),  # noqa: B023
        )
        assert max(norms) < 1e-12 and distance(x, pole.expand(n, 3)) < 1e-9
