"""Particles against the exact posterior and evidence of the chain they tilt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.special import iv
from torch import Tensor

from gendiff import (
    DDPM,
    RK4,
    SO3,
    VP,
    Absorbing,
    Adams,
    Centered,
    DPMpp2M,
    FeynmanKac,
    Gaussian,
    Geodesic,
    Heun,
    Joint,
    Langevin,
    Linear,
    LinearGrid,
    LogSNRGrid,
    OnePath,
)
from gendiff.denoisers import Normal
from gendiff.errors import SamplerError
from gendiff.guidance import Likelihood, Matrix, Measurement, Reward, effective, resample, steer
from gendiff.random import Noise
from gendiff.sampling import Progress, sample
from gendiff.sampling.solvers import Solver
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
    likelihood = Likelihood(Measurement(Matrix(A), torch.tensor([[y]], dtype=F64), noise), data_std=0.8)
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
        potential: Any = Likelihood(Measurement(Matrix(A), y[part], 0.3))
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


class Beside:
    """Exact denoisers side by side: a known Gaussian, and rotations about which nothing is known."""

    def __init__(self, normal: Normal) -> None:
        self.normal, self.process = normal, Joint(pos=normal.process, rot=Geodesic(SO3()))

    def __call__(self, x: dict[str, Tensor], t: float, **cond: Any) -> dict[str, Tensor]:
        return {"pos": self.normal(x["pos"], t), "rot": x["rot"]}


def trace(r: Tensor) -> Tensor:
    return r.diagonal(dim1=-2, dim2=-1).sum((1, 2))


def frames(n: int) -> dict[str, Tensor]:
    return {"pos": torch.empty(n, 3, dtype=F64), "rot": torch.empty(n, 1, 3, 3, dtype=F64)}


def test_a_reward_on_both_parts_of_a_joint() -> None:
    """exp(r.pos + s tr R): uniform rotations have Z = e^s (I_0 - I_1)(2s) and the mean trace d log Z/ds."""
    oracle = Normal(Gaussian(VP()), torch.zeros(3, dtype=F64), COVARIANCE)
    solver, b, s, r = DDPM(12, times=GRID), 300, 0.5, torch.tensor([0.5, 0.0, -0.7], dtype=F64)
    prior = chain(oracle, solver)
    reward = Reward(lambda x: x["pos"] @ r + s * trace(x["rot"]))
    out = steer(Beside(oracle), frames(b), reward, solver=solver, noise=Noise.of(0, b), particles=64)
    z = out.log_evidence.exp()
    exact = math.exp(s + 0.5 * float(r @ prior @ r)) * (iv(0, 2 * s) - iv(1, 2 * s))
    assert abs(float(z.mean()) - exact) < 4 * float(z.std()) / b**0.5 and float(z.std()) < 0.3 * exact
    h = 1e-5
    mean = 1 + (math.log(iv(0, 2 * s + h) - iv(1, 2 * s + h)) - math.log(iv(0, 2 * s - h) - iv(1, 2 * s - h))) / h
    traces, means = out.mean(lambda x: trace(x["rot"])), out.mean(lambda x: x["pos"])
    assert abs(float(traces.mean()) - mean) < 4 * float(traces.std()) / b**0.5 + 0.01
    assert bool(((means.mean(0) - prior @ r).abs() < 4 * means.std(0) / b**0.5 + 0.01).all())
    x = out.state["rot"]
    assert distance(x.mT @ x, torch.eye(3, dtype=F64).expand_as(x)) < 1e-12


def test_a_likelihood_of_one_part_moves_that_part_alone() -> None:
    """Proposals follow the gradient on positions; rotations beside them stay uniform: mean trace 0, variance 1."""
    oracle = Normal(Gaussian(VP()), torch.zeros(3, dtype=F64), COVARIANCE)
    solver, b, y, noise = DDPM(12, times=GRID), 300, 1.2, 0.4
    prior = chain(oracle, solver)
    s = (A @ prior @ A.mT).item() + noise**2
    likelihood = Likelihood(Measurement(Matrix(A), torch.tensor([[y]], dtype=F64), noise, part="pos"), data_std=0.8)
    out = steer(Beside(oracle), frames(b), likelihood, solver=solver, noise=Noise.of(1, b), particles=32)
    z, means = out.log_evidence.exp(), out.mean(lambda x: x["pos"])
    evidence = math.exp(-0.5 * y * y / s) / math.sqrt(2 * math.pi * s)
    assert abs(float(z.mean()) - evidence) < 4 * float(z.std()) / b**0.5
    exact = (prior @ A.mT)[:, 0] * y / s
    assert bool(((means.mean(0) - exact).abs() < 4 * means.std(0) / b**0.5 + 0.02).all())
    traces = trace(out.draw(Noise.of(1, b))["rot"])
    assert abs(float(traces.mean())) < 4 / b**0.5 and abs(float((traces**2).mean()) - 1) < 4 * math.sqrt(2 / b)


def test_classes_beside_numbers_are_steered_by_what_is_measured_of_the_numbers() -> None:
    """x ~ N(+-1, v) by class, x measured: the class has its posterior, through a joint with categories."""
    process, v, prior = Joint(kind=Absorbing(2), pos=Gaussian(Linear())), 0.3, torch.tensor([0.8, 0.2], dtype=F64)

    class Classes:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x: dict[str, Tensor], t: float, **cond: Any) -> dict[str, Tensor]:
            alpha, sigma = process.parts["pos"].schedule(t)  # type: ignore[attr-defined]
            means, s = torch.tensor([-1.0, 1.0], dtype=F64), alpha**2 * v + sigma**2
            shown = x["kind"] == torch.arange(2)
            like = prior.log() - 0.5 * (x["pos"] - alpha * means) ** 2 / s
            logs = torch.log_softmax(torch.where((x["kind"] == 2) | shown, like, -100.0), -1)
            x0 = (logs.exp() * (means + alpha * v / s * (x["pos"] - alpha * means))).sum(-1, keepdim=True)
            return {"kind": logs[:, None], "pos": x0}

    b, y, noise = 400, 0.4, 0.6
    like = {"kind": torch.empty(b, 1, dtype=torch.int64), "pos": torch.empty(b, 1, dtype=F64)}
    one = torch.ones(1, 1, dtype=F64)
    likelihood = Likelihood(Measurement(Matrix(one), y * one, noise, part="pos"))
    out = steer(Classes(), like, likelihood, solver=DDPM(100), noise=Noise.of(0, b), particles=32)
    joint = prior * torch.exp(-0.5 * (y - torch.tensor([-1.0, 1.0], dtype=F64)) ** 2 / (v + noise**2))
    share = out.mean(lambda x: x["kind"].double())[:, 0]
    assert abs(float(share.mean()) - float(joint[1] / joint.sum())) < 4 * float(share.std()) / b**0.5 + 0.01
    z = out.log_evidence.exp()
    exact = float(joint.sum()) / math.sqrt(2 * math.pi * (v + noise**2))
    assert abs(float(z.mean()) - exact) < 4 * float(z.std()) / b**0.5 + 0.01 * exact


def test_padding_changes_nothing() -> None:
    """A masked batch is steered as its samples alone, each of its own length; what stands in padding is not read."""

    class Soft:
        process = Gaussian(Linear(), Centered())

        def __call__(self, x: Tensor, t: float, mask: Tensor, **cond: Any) -> Tensor:
            return self.process.masked(mask).space.project(torch.tanh(2 * x + t))

    def reward(x: Tensor) -> Tensor:
        return -(x * x).flatten(1).sum(1)

    def run(index: Tensor, length: int) -> Any:
        cond = {"mask": torch.arange(length)[None] < (3 + index)[:, None]}
        like = torch.empty(len(index), length, 2, dtype=F64)
        return steer(
            Soft(), like, Reward(reward), solver=DDPM(6), noise=Noise(3, index), particles=4, threshold=0.9, cond=cond
        )

    whole = run(torch.arange(3), 8)
    for i in range(3):
        alone = run(torch.tensor([i]), 3 + i)
        assert distance(alone.state, whole.state[4 * i : 4 * i + 4, : 3 + i]) < 1e-12
        assert distance(alone.log_weights, whole.log_weights[i : i + 1]) < 1e-12
    assert bool((whole.sizes[:-1] < 0.9 * 4).any())


@pytest.mark.parametrize("kind", ["reward", "likelihood"])
def test_the_error_falls_with_the_number_of_particles(kind: str) -> None:
    """A reward -(A x - y)^2/2s^2 and the likelihood: Z without bias at every K, its deviation as K^-1/2."""
    oracle = Normal(Gaussian(VP()), torch.zeros(3, dtype=F64), COVARIANCE)
    solver, y, noise, b = DDPM(12, times=GRID), 0.8, 0.7, 800
    prior = chain(oracle, solver)
    s = (A @ prior @ A.mT).item() + noise**2
    evidence = math.exp(-0.5 * y * y / s) * noise / math.sqrt(s)
    mean, covariance = (prior @ A.mT)[:, 0] * y / s, prior - prior @ A.mT @ A @ prior / s
    potential: Any = Reward(lambda x: -0.5 * ((x @ A[0] - y) / noise) ** 2)
    if kind == "likelihood":
        potential = Likelihood(Measurement(Matrix(A), torch.tensor([[y]], dtype=F64), noise), data_std=0.8)
        evidence /= math.sqrt(2 * math.pi) * noise
    found = []
    for k in (4, 16, 64):
        like = torch.empty(b, 3, dtype=F64)
        out = steer(oracle, like, potential, solver=solver, noise=Noise.of(k, b), particles=k)
        z = out.log_evidence.exp()
        assert abs(float(z.mean()) - evidence) < 4 * float(z.std()) / b**0.5, (k, float(z.mean()), evidence)
        found.append(float(z.std()) / evidence)
    assert -0.65 < math.log(found[-1] / found[0]) / math.log(16) < -0.4, found
    means = out.mean()
    assert bool(((means.mean(0) - mean).abs() < 4 * means.std(0) / b**0.5 + 0.005).all())
    second = out.mean(lambda v: (v - mean)[:, :, None] * (v - mean)[:, None, :])
    assert bool(((second.mean(0) - covariance).abs() < 4 * second.std(0) / b**0.5 + 0.005).all())


def oracle3() -> Normal:
    return Normal(Gaussian(VP()), torch.zeros(3, dtype=F64), COVARIANCE)


@pytest.mark.parametrize("solver", [DDPM(8, times=GRID), OnePath(8, times=GRID), Langevin(8, times=GRID)], ids=repr)
def test_one_particle_is_the_solver_itself(solver: Solver) -> None:
    like, reward = torch.empty(4, 3, dtype=F64), Reward(lambda x: x[:, 0])
    plain = sample(oracle3(), like, solver=solver, noise=Noise.of(5, 4))
    assert distance(sample(oracle3(), like, solver=FeynmanKac(solver, reward, 1), noise=Noise.of(5, 4)), plain) < 1e-12


def test_a_steered_sample_is_one_of_its_group_and_its_own_in_every_batch() -> None:
    like = torch.empty(6, 3, dtype=F64)
    solver, reward = DDPM(8, times=GRID), Reward(lambda x: 2 * x[:, 0], power=1.0)
    steered = FeynmanKac(solver, reward, 5, threshold=0.8)
    whole = sample(oracle3(), like, solver=steered, noise=Noise.of(1, 6))
    group = steer(oracle3(), like, reward, solver=solver, noise=Noise.of(1, 6), particles=5, threshold=0.8)
    inside = (group.state.unflatten(0, (6, 5)) - whole[:, None]).abs().amax(-1) == 0
    assert bool(inside.any(1).all())
    for index in (torch.tensor([4]), torch.tensor([3, 0, 5])):
        part = sample(oracle3(), like[: len(index)], solver=steered, noise=Noise(1, index))
        assert distance(part, whole[index]) < 1e-12


def test_steering_from_a_start_and_seen_on_the_way() -> None:
    """All particles set out from the start: one step N(m, V) tilted has Z = exp(r.m + r V r/2)."""
    oracle, b, k, t = oracle3(), 300, 32, 0.5
    x, r = torch.tensor([[0.7, -0.2, 0.4]], dtype=F64).expand(b, 3), torch.tensor([0.5, 0.3, -0.7], dtype=F64)
    solver, seen = DDPM(1, times=LinearGrid(0.5, 0.3)), list[Progress]()
    (row,) = solver.rows(oracle.process)
    mean = row.move.keep * x[0] + row.move.pull * oracle(x[:1], t)[0]
    exact = math.exp(float(r @ mean) + 0.5 * float(r @ r) * row.move.churn**2)
    out = steer(
        oracle, x, Reward(lambda v: v @ r), solver=solver, noise=Noise.of(0, b), particles=k, start=x,
        callback=seen.append,
    )  # fmt: skip
    z = out.log_evidence.exp()
    assert abs(float(z.mean()) - exact) < 4 * float(z.std()) / b**0.5
    assert [(p.number, p.total, p.time) for p in seen] == [(0, 1, 0.3)] and seen[0].state.shape == (b * k, 3)


def test_systematic_resampling_keeps_the_expected_counts() -> None:
    """Particle j is kept floor or ceil of K w_j times; groups above the threshold stay."""
    b, k = 4000, 5
    w = torch.tensor([0.5, 0.23, 0.17, 0.1, 0.0], dtype=F64)
    log_w = w.clamp_min(1e-300).log().expand(b, k).clone()
    log_w[0] = 0.0
    new, evidence, kept, size = resample(log_w, torch.zeros(b, dtype=F64), 0.9, Noise.of(0, b))
    counts = torch.stack([(kept.reshape(b, k) % k == j).sum(1) for j in range(k)], 1).double()
    assert bool((kept.reshape(b, k)[0] == torch.arange(k)).all()) and float(size[0]) == pytest.approx(5)
    assert bool((kept // k == torch.arange(b).repeat_interleave(k)).all())
    assert bool(((counts[1:] - k * w).abs() < 1).all())
    assert bool((new[1:] == 0).all()) and float(evidence[1]) == pytest.approx(math.log(1 / k))
    assert float(effective(log_w)[1]) == pytest.approx(1 / float((w * w).sum()))


def test_systematic_resampling_is_unbiased() -> None:
    """The counts, integrated over the one uniform that chooses them, are K w: by the midpoint rule, to its error."""

    class Even(Noise):
        def uniform(self, shape: Sequence[int], dtype: torch.dtype = F64) -> Tensor:
            return (torch.arange(shape[0], dtype=dtype) + 0.5) / shape[0]

    b, w = 2000, torch.tensor([0.41, 0.02, 0.0, 0.23, 0.17, 0.17], dtype=F64)
    k = len(w)
    log_w = w.log().expand(b, k) + 3.7
    _, evidence, kept, _ = resample(log_w, torch.zeros(b, dtype=F64), 1.0, Even(0, torch.arange(b)))
    counts = torch.bincount(kept % k, minlength=k).double() / b
    assert float((counts - k * w).abs().max()) < 2 / b and float(counts[2]) == 0
    torch.testing.assert_close(evidence, torch.full_like(evidence, 3.7 - math.log(k)))


@pytest.mark.parametrize("solver", [Heun(4), DPMpp2M(4), Adams(6), RK4(3)], ids=repr)
def test_solvers_with_memory_are_refused(solver: Solver) -> None:
    oracle = Normal(Gaussian(VP()), torch.zeros(3, dtype=F64), COVARIANCE)
    with pytest.raises(SamplerError, match="DDPM"):
        steer(oracle, torch.empty(2, 3, dtype=F64), Reward(lambda x: x[:, 0]), solver=solver, noise=Noise.of(0, 2))


def test_measurements_without_noise_or_of_other_samples_are_refused() -> None:
    y = torch.zeros(3, 1, dtype=F64)
    with pytest.raises(SamplerError, match="positive standard deviation"):
        Likelihood(Measurement(Matrix(A), y))
    steered = FeynmanKac(DDPM(4), Likelihood(Measurement(Matrix(A), y, 0.1)))
    with pytest.raises(SamplerError, match="one for each sample"):
        sample(oracle3(), torch.empty(2, 3, dtype=F64), solver=steered, noise=Noise.of(0, 2))
