"""Particles against the exact posterior and evidence of the chain they tilt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import DDPM, SO3, VP, DPMpp2M, Gaussian, Geodesic, Heun, LogSNRGrid
from gendiff.errors import SamplerError
from gendiff.inverse import Measured
from gendiff.operators import Matrix
from gendiff.oracles import Normal
from gendiff.particles import Likelihood, Reward, effective, resample, steer
from gendiff.random import Noise
from gendiff.solvers import Solver
from gendiff.testing import distance

F64 = torch.float64
GRID = LogSNRGrid(0.02, 50.0)
COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.8, 0.2], [0.0, 0.2, 0.5]], dtype=F64)
A = torch.tensor([[1.0, -0.5, 0.3]], dtype=F64)


def chain(oracle: Normal, solver: Solver) -> Tensor:
    """The covariance of what the ancestral chain samples: by eigenvalue, v_s = (keep + pull gain)^2 v_t + churn^2."""
    process = oracle.process
    rows = solver.rows(process)
    c = oracle.variances[0]
    v = torch.full_like(c, process.schedule(rows[0].t)[1] ** 2)
    for r in rows:
        alpha, sigma = process.schedule(r.t)
        v = (r.move.keep + r.move.pull * alpha * c / (alpha**2 * c + sigma**2)) ** 2 * v + r.move.churn**2
    return oracle.axes[0] @ torch.diag(v) @ oracle.axes[0].mT


@pytest.mark.parametrize("steps", [12, 40])
def test_twisted_particles_give_the_posterior_and_the_evidence_of_the_chain(steps: int) -> None:
    """Exact for any number of steps: 300 groups of 64, moments and Z within their standard errors."""
    oracle = Normal(Gaussian(VP()), torch.zeros(3, dtype=F64), COVARIANCE)
    solver, y, noise, b, k = DDPM(steps, times=GRID), 1.2, 0.4, 300, 64
    prior = chain(oracle, solver)
    s = (A @ prior @ A.mT).item() + noise**2
    mean, covariance = (prior @ A.mT)[:, 0] * y / s, prior - prior @ A.mT @ A @ prior / s
    evidence = math.exp(-0.5 * y * y / s) / math.sqrt(2 * math.pi * s)
    likelihood = Likelihood(Measured(Matrix(A), torch.tensor([[y]], dtype=F64), noise), spread=0.8)
    out = steer(oracle, torch.empty(b, 3, dtype=F64), likelihood, solver=solver, noise=Noise.of(0, b), particles=k)
    z = out.log_evidence.exp()
    assert abs(float(z.mean()) - evidence) < 4 * float(z.std()) / b**0.5
    assert float(z.std()) / evidence < 0.4
    means = out.mean()
    assert bool(((means.mean(0) - mean).abs() < 4 * means.std(0) / b**0.5 + 0.01).all()), (means.mean(0), mean)
    x = out.draw(Noise.of(1, b))
    assert x.shape == (b, 3) and float((x.mean(0) - mean).abs().max()) < 4 * float(
        (covariance.diagonal() / b).sqrt().max()
    )
    second = out.mean(lambda v: (v - mean)[:, :, None] * (v - mean)[:, None, :]).mean(0)
    assert float((second - covariance).abs().max()) < 0.06
    assert bool((out.sizes > 0.999).all()) and bool((out.sizes <= k + 1e-6).all())
    assert float(out.sizes[-1].mean()) > 0.3 * k
    torch.testing.assert_close(torch.logsumexp(out.log_weights, 1), torch.zeros(b, dtype=F64), atol=1e-12, rtol=0)


def test_a_linear_reward_moves_the_mean() -> None:
    """Tilting N(0, C) by exp(r.x) gives N(C r, C), and log Z = r C r/2; Feynman-Kac steering finds both."""
    oracle = Normal(Gaussian(VP()), torch.zeros(3, dtype=F64), COVARIANCE)
    solver, b = DDPM(30, times=GRID), 200
    prior, r = chain(oracle, solver), torch.tensor([0.5, 0.0, -0.7], dtype=F64)
    reward = Reward(lambda x: x @ r)
    out = steer(oracle, torch.empty(b, 3, dtype=F64), reward, solver=solver, noise=Noise.of(2, b), particles=64)
    means, z = out.mean(), out.log_evidence.exp()
    assert bool(((means.mean(0) - prior @ r).abs() < 4 * means.std(0) / b**0.5 + 0.01).all())
    assert abs(float(z.mean()) - math.exp(0.5 * float(r @ prior @ r))) < 4 * float(z.std()) / b**0.5


@pytest.mark.parametrize("kind", ["reward", "likelihood"])
def test_groups_do_not_see_each_other(kind: str) -> None:
    oracle = Normal(Gaussian(VP()), torch.zeros(3, dtype=F64), COVARIANCE)
    y = torch.tensor([[0.0], [30.0], [-2.0]], dtype=F64)

    def run(part: slice) -> Any:
        n = len(y[part])
        potential: Any = Likelihood(Measured(Matrix(A), y[part], 0.3))
        if kind == "reward":
            potential = Reward(lambda x: 3 * x[:, 0], power=1.0)
        return steer(
            oracle, torch.empty(n, 3, dtype=F64), potential, solver=DDPM(8, times=GRID),
            noise=Noise.of(0, n, part.start), particles=5,
        )  # fmt: skip

    whole = run(slice(0, 3))
    for i in range(3):
        alone = run(slice(i, i + 1))
        assert distance(alone.state, whole.state[5 * i : 5 * i + 5]) < 1e-12 * (1 + float(alone.state.abs().max()))
        assert abs(float(alone.log_evidence[0] - whole.log_evidence[i])) < 1e-9 * (
            1 + abs(float(alone.log_evidence[0]))
        )


def test_steering_works_on_rotations() -> None:
    """A reward needs no density: rotations are steered towards the identity, and stay rotations."""

    class Rest:
        process = Geodesic(SO3())

        def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
            return x

    reward = Reward(lambda r: 2 * r.diagonal(dim1=-2, dim2=-1).sum((1, 2)))
    like = torch.empty(50, 1, 3, 3, dtype=F64)
    trace = lambda r: r.diagonal(dim1=-2, dim2=-1).sum((1, 2))  # noqa: E731
    out = steer(Rest(), like, reward, solver=DDPM(5), noise=Noise.of(0, 50), particles=16)
    assert float(out.mean(trace).mean()) > 1.5  # uniform rotations have 0 on average
    x = out.draw(Noise.of(0, 50))
    assert distance(x.mT @ x, torch.eye(3, dtype=F64).expand_as(x)) < 1e-12


def test_systematic_resampling_keeps_the_expected_counts() -> None:
    """Particle j is kept floor or ceil of K w_j times, K w_j on average; groups above the threshold stay."""
    b, k = 4000, 5
    w = torch.tensor([0.5, 0.23, 0.17, 0.1, 0.0], dtype=F64)
    log_w = w.clamp_min(1e-300).log().expand(b, k).clone()
    log_w[0] = 0.0
    new, evidence, kept, size = resample(log_w, torch.zeros(b, dtype=F64), 0.9, Noise.of(0, b))
    counts = torch.stack([(kept.reshape(b, k) % k == j).sum(1) for j in range(k)], 1).double()
    assert bool((kept.reshape(b, k)[0] == torch.arange(k)).all()) and float(size[0]) == pytest.approx(5)
    assert bool((kept // k == torch.arange(b).repeat_interleave(k)).all())
    assert bool(((counts[1:] - k * w).abs() < 1).all())
    assert float((counts[1:].mean(0) - k * w).abs().max()) < 0.04
    assert bool((new[1:] == 0).all()) and float(evidence[1]) == pytest.approx(math.log(1 / k))
    assert float(effective(log_w)[1]) == pytest.approx(1 / float((w * w).sum()))


@pytest.mark.parametrize("solver", [Heun(4), DPMpp2M(4)], ids=repr)
def test_solvers_with_memory_are_refused(solver: Solver) -> None:
    oracle = Normal(Gaussian(VP()), torch.zeros(3, dtype=F64), COVARIANCE)
    with pytest.raises(SamplerError, match="DDPM"):
        steer(oracle, torch.empty(2, 3, dtype=F64), Reward(lambda x: x[:, 0]), solver=solver, noise=Noise.of(0, 2))
