"""log p by the probability flow against closed forms, by changes of variables, and against its own bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    EDM,
    SO3,
    VE,
    VP,
    Absorbing,
    Adaptive,
    BrownianSO3,
    Centered,
    Cosine,
    Discrete,
    Gaussian,
    Geodesic,
    Hutchinson,
    Joint,
    Linear,
    LinearGrid,
    Sphere,
    Torus,
    elbo,
    log_likelihood,
    vlb,
)
from gendiff.denoisers import Mixture, Normal, RotationMixture
from gendiff.errors import GendiffError
from gendiff.evaluation import first_time, strata
from gendiff.random import Noise
from gendiff.sampling import EvenSteps, Flow
from gendiff.spaces import State, exp_so3, per_sample

F64 = torch.float64
Golden = Callable[[str], dict[str, Tensor]]
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=F64)
MEAN = torch.tensor([0.7, -0.4], dtype=F64)
POINTS = torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.5, 0.2], [2.0, 0.3]], dtype=F64)


class Field:
    """A denoiser that is just a function."""

    def __init__(self, process: Any, f: Callable[..., State]) -> None:
        self.process, self.f = process, f

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        return self.f(x, t, **cond)


def pentagon(schedule: Any) -> Mixture:
    k = torch.arange(5, dtype=F64) * 2 * math.pi / 5
    weights = torch.tensor([1, 2, 3, 2, 1], dtype=F64) / 9
    return Mixture(Gaussian(schedule), 1.25 * torch.stack([k.cos(), k.sin()], -1), 0.15**2, weights)


def test_the_golden_mixture(golden: Golden) -> None:
    case = golden("likelihood")
    found = log_likelihood(pentagon(Linear()), case["x"])
    assert float((found.log_p - case["logp_nats"]).abs().max()) < 1e-6
    assert float((found.bits_per_dim - case["bits_per_dim"]).abs().max()) < 1e-6
    assert bool((found.evaluations < 400).all())


def expected(oracle: Mixture, x: Tensor, end: Tensor, t: float = 1.0) -> Tensor:
    """log p(x) of the flow that starts from the prior rather than from p_t: p_0(x) prior(end)/p_t(end), [B]."""
    return oracle.log_density(x) + oracle.process.log_prior(end, t) - oracle.log_density(end, t)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), VP(), EDM()], ids=repr)
def test_gaussians_and_mixtures(schedule: Any) -> None:
    for oracle in (Normal(Gaussian(schedule), MEAN, COVARIANCE), pentagon(schedule)):
        found = log_likelihood(oracle, POINTS)
        assert float((found.log_p - expected(oracle, POINTS, found.end)).abs().max()) < 1e-6
        assert bool((found.error == 0).all())


def test_other_ends_fixed_steps_and_single_precision() -> None:
    oracle: Mixture = Normal(Gaussian(VP()), MEAN, COVARIANCE)
    short = log_likelihood(oracle, POINTS, solver=Adaptive(1e-8, 1e-8, times=LinearGrid(0.7)))
    assert float((short.log_p - expected(oracle, POINTS, short.end, 0.7)).abs().max()) < 1e-6
    even = log_likelihood(oracle, POINTS, solver=EvenSteps(40))
    assert float((even.log_p - expected(oracle, POINTS, even.end)).abs().max()) < 1e-6
    assert even.evaluations.tolist() == [242] * 4
    oracle = pentagon(VP())
    single = Mixture(oracle.process, oracle.means.float(), oracle.variances.float(), oracle.weights.float())
    rough = log_likelihood(single, POINTS.float())
    assert rough.log_p.dtype == torch.float32
    assert float((rough.log_p - expected(oracle, POINTS, rough.end.double())).abs().max()) < 5e-3


def test_hutchinson_is_within_its_error_and_belongs_to_the_sample() -> None:
    d, n = 6, 400
    q, _ = torch.linalg.qr(Noise.of(0, 1).normal((1, d, d), F64)[0])
    covariance = q @ torch.diag(torch.linspace(0.1, 1.5, d, dtype=F64)) @ q.T
    oracle = Normal(Gaussian(Linear()), torch.zeros(d, dtype=F64), covariance)
    x = oracle.draw(n)
    truth = oracle.log_density(x)
    solver = Adaptive(1e-4, 1e-4)
    for gaussian in (False, True):
        found = log_likelihood(oracle, x, solver=solver, divergence=Hutchinson(8, gaussian), noise=Noise.of(1, n))
        miss = found.log_p - truth
        # Without bias, to a twentieth of one sample's error; and the errors are as large as they say.
        assert abs(float(miss.mean())) < 4 * float(miss.std()) / n**0.5 + 1e-3
        assert 0.8 < float(miss.square().mean() / found.error.square().mean()) < 1.25
    rows = torch.tensor([5, 2])
    one = log_likelihood(oracle, x[rows], solver=solver, divergence=Hutchinson(4), noise=Noise(1, rows))
    whole = log_likelihood(oracle, x, solver=solver, divergence=Hutchinson(4), noise=Noise.of(1, n))
    assert float((one.log_p - whole.log_p[rows]).abs().max()) < 1e-12
    single = log_likelihood(oracle, x, solver=EvenSteps(1), divergence=Hutchinson(1), noise=Noise.of(1, n))
    assert bool(single.error.isinf().all())
    with pytest.raises(GendiffError, match="noise"):
        log_likelihood(oracle, x, divergence=Hutchinson(1))


@pytest.mark.parametrize("method", ["flow", "bound"])
def test_centred_clouds_have_three_n_minus_one_dimensions(method: str) -> None:
    """N(0, 0.3) on the subspace, two lengths in one batch, by either way; padding does not enter."""
    variance, mask = 0.3, torch.tensor([[True] * 4, [True] * 3 + [False]])
    process = Gaussian(Linear(), Centered())
    x0 = process.masked(mask).space.random(torch.empty(2, 4, 3, dtype=F64), Noise.of(0, 2)) * variance**0.5

    def posterior(x: Tensor, t: Any, **cond: Any) -> Tensor:
        alpha, sigma = process.schedule(torch.as_tensor(t, dtype=F64))
        return (alpha * variance / (alpha**2 * variance + sigma**2)).reshape(-1, 1, 1) * x

    dims = torch.tensor([9.0, 6.0], dtype=F64)
    expected = -0.5 * ((x0**2).sum((1, 2)) / variance + dims * math.log(2 * math.pi * variance))
    if method == "flow":
        found = log_likelihood(Field(process, posterior), x0, cond={"mask": mask})
        assert float((found.log_p - expected).abs().max()) < 1e-6
    else:
        n = 400
        found = elbo(
            Field(process, posterior), x0.repeat(n, 1, 1), Noise.of(0, 2 * n), draws=8, cond={"mask": mask.repeat(n, 1)}
        )
        each = found.log_p.reshape(n, 2)
        assert bool(((each.mean(0) - expected).abs() < 4 * each.std(0) / n**0.5 + 1e-3).all())
    assert found.dim[:2].tolist() == [9, 6]


CENTERS = exp_so3(torch.tensor([[0.3, 0.2, -0.4], [1.5, 0.5, 1.0]], dtype=F64))


def test_rotations_by_brownian_motion() -> None:
    """A mixture of IGSO(3), known in closed form."""
    oracle = RotationMixture(BrownianSO3(VE(0.05, 4.5)), CENTERS, 0.6, torch.tensor([0.7, 0.3], dtype=F64))
    x = SO3().exp(CENTERS[[0, 0, 1]], torch.tensor([[0.1, 0.2, 0.0], [0.9, -0.5, 0.3], [0.0, 0.4, 0.4]], dtype=F64))
    found = log_likelihood(oracle, x, solver=Adaptive(1e-7, 1e-7))
    assert float((found.log_p - oracle.log_density(x)).abs().max()) < 1e-6


PULL = torch.tensor([0.4, -0.3, 0.7], dtype=F64)


def turning(space: Any) -> Field:
    """A denoiser on rotations or the sphere, smooth everywhere, that goes to x itself as the noise ends."""

    def predict(x: Tensor, t: Any, **cond: Any) -> Tensor:
        v = x @ PULL if x.ndim == 3 else PULL * (x[..., :1] + 0.5)
        return space.exp(x, torch.as_tensor(t).reshape(-1, 1) * space.tangent(x, torch.sin(v)))

    return Field(Geodesic(space), predict)


def test_a_flow_on_the_circle_integrates_to_one_and_is_a_change_of_variables() -> None:
    process = Geodesic(Torus())
    wave = Field(process, lambda x, t, **cond: x + per_sample(t, x) * (0.6 * torch.sin(x) + 0.3 * torch.cos(2 * x)))
    x = (torch.arange(200, dtype=F64) / 200 * 2 * math.pi - math.pi)[:, None]
    found = log_likelihood(wave, x)
    assert float(found.log_p.exp().mean()) * 2 * math.pi == pytest.approx(1, abs=1e-8)
    # Even steps make the ends smooth in x, as differences need them.
    h = 1e-5
    ends = [log_likelihood(wave, x + sign * h, solver=EvenSteps(64)).end for sign in (1, -1)]
    stretch = process.space.log(ends[1], ends[0])[:, 0] / (2 * h)
    assert float((found.log_p + math.log(2 * math.pi) - stretch.log()).abs().max()) < 1e-6
    assert float(found.log_p.exp().max() / found.log_p.exp().min()) > 2


@pytest.mark.parametrize("space", [SO3(), Sphere()], ids=repr)
def test_flows_on_curved_spaces_are_changes_of_variables(space: Any) -> None:
    """log p = log p_1(end) + log |det d end/dx| in orthonormal frames, by finite differences."""
    n, h = 2, 1e-4
    shape = (n, 3, 3) if isinstance(space, SO3) else (n, 3)
    x = space.random(torch.empty(shape, dtype=F64), Noise.of(0, n))
    model = turning(space)

    def frame(x: Tensor) -> Tensor:
        """Orthonormal tangents at x, [n, d, 3]."""
        if isinstance(space, SO3):
            return torch.eye(3, dtype=F64).expand(n, 3, 3)
        _, _, vh = torch.linalg.svd(x[:, None, :], full_matrices=True)
        return vh[:, 1:]

    found = log_likelihood(model, x)
    columns = []
    for i in range(frame(x).shape[1]):
        # Even steps make the ends smooth in x, as differences need them.
        ends = [sample_back(model, space.exp(x, s * h * frame(x)[:, i])) for s in (1, -1)]
        move = (space.log(found.end, ends[0]) - space.log(found.end, ends[1])) / (2 * h)
        columns.append((frame(found.end) * move[:, None]).sum(-1))
    expected = space.log_random(found.end) + torch.linalg.det(torch.stack(columns, -1)).abs().log()
    assert float((found.log_p - expected).abs().max()) < 1e-6
    assert float(found.log_p.std()) > 0.05


def sample_back(model: Field, x: Tensor) -> Tensor:
    """Where x flows to as noise comes in, by even steps."""
    solver = EvenSteps(16)
    return solver.follow(Flow(model, x, (0.0, 1.0), solver.scale, {}), x).state


def test_volumes() -> None:
    assert float(SO3().log_random(torch.eye(3, dtype=F64)[None])) == pytest.approx(-math.log(8 * math.pi**2))
    assert float(Torus().log_random(torch.zeros(1, 2, dtype=F64))) == pytest.approx(-2 * math.log(2 * math.pi))
    assert float(Sphere().log_random(torch.zeros(1, 3, dtype=F64))) == pytest.approx(-math.log(4 * math.pi))


def test_joints_add_up_and_batches_do_not_mix() -> None:
    flat, curved = Normal(Gaussian(Cosine()), MEAN, COVARIANCE), turning(SO3())
    joint = Joint(a=flat.process, b=curved.process)
    both = Field(joint, lambda x, t, **cond: {"a": flat(x["a"], t), "b": curved(x["b"], t)})
    x = {"a": POINTS, "b": SO3().random(torch.empty(4, 3, 3, dtype=F64), Noise.of(1, 4))}
    solver = Adaptive(1e-7, 1e-7)
    found = log_likelihood(both, x, solver=solver)
    parts = sum(log_likelihood(part, x[k], solver=solver).log_p for k, part in (("a", flat), ("b", curved)))
    assert float((found.log_p - parts).abs().max()) < 1e-6
    one = log_likelihood(both, {name: part[2:3] for name, part in x.items()}, solver=solver)
    assert float((one.log_p - found.log_p[2:3]).abs().max()) < 1e-12
    assert found.dim.tolist() == [5.0] * 4


@pytest.mark.parametrize("schedule", [Linear(), VP(), Discrete.linear(20, 0.001, 0.5).zero_terminal()], ids=repr)
def test_bounds_on_a_gaussian(schedule: Any) -> None:
    """At the exact denoiser the bound is log p; on a grid, or for a worse one, it is below."""
    n = 500
    oracle = Normal(Gaussian(schedule), MEAN, COVARIANCE)
    x0 = POINTS.repeat(n, 1)
    found = elbo(oracle, x0, Noise.of(0, len(x0)), draws=12)
    each = found.log_p.reshape(n, -1)
    assert bool(((each.mean(0) - oracle.log_density(POINTS)).abs() < 4 * each.std(0) / n**0.5 + 2e-3).all())
    # The error is an upper estimate of the scatter of the bound, whose strata it leaves out.
    scatter, told = each.std(0), found.error.reshape(n, -1).square().mean(0).sqrt()
    assert bool((scatter < 1.1 * told).all()) and bool((told < 30 * scatter).all())
    grid = [(1 - i / 20) ** 2 for i in range(20)] + [1e-4, 0.0]
    coarse = vlb(oracle, x0, Noise.of(0, len(x0)), grid=grid).log_p.reshape(n, -1)
    closed = ancestral_bound(oracle, POINTS, grid)
    assert bool(((coarse.mean(0) - closed).abs() < 4 * coarse.std(0) / n**0.5 + 1e-3).all())
    assert bool((closed < oracle.log_density(POINTS) - 0.01).all())
    shrunk = Field(oracle.process, lambda x, t, **cond: 0.8 * oracle(x, t))
    worse = elbo(shrunk, x0, Noise.of(0, len(x0)), draws=12).log_p
    assert float(worse.mean()) < float(oracle.log_density(POINTS).mean()) - 0.5
    rows = torch.tensor([7, 3])
    again = elbo(oracle, x0[rows], Noise(0, rows), draws=12)
    assert float((again.log_p - found.log_p[rows]).abs().max()) < 1e-10


def ancestral_bound(oracle: Mixture, x0: Tensor, grid: list[float]) -> Tensor:
    """The bound of `vlb` at the exact denoiser of one Gaussian, in closed form, [B].

    The posterior mean is D = m + K(x - alpha m), so x0 - D = (1 - alpha K)(x0 - m) - sigma K z; the KL of two Gaussians
    of equal variance is half the squared distance of their means in its units.
    """
    schedule, total = oracle.process.schedule, torch.zeros(len(x0), dtype=F64)
    y = (x0 - oracle.means[0]) @ oracle.axes[0]
    times = [t for t in grid if t > 0]
    for t, s in pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = schedule(t), schedule(s)
        gain = alpha * oracle.variances[0] / (alpha**2 * oracle.variances[0] + sigma**2)
        miss = (((1 - alpha * gain) * y) ** 2 + (sigma * gain) ** 2).sum(-1)
        a = alpha / alpha_s
        deviation = sigma_s**2 * (1 - (a * sigma_s / sigma) ** 2)  # of q(x_s | x_t, x0)
        weight = alpha_s * (1 - (a * sigma_s / sigma) ** 2)  # of x0 in its mean
        total += 0.5 * weight**2 * miss / deviation
    (alpha, sigma), (left, noise) = schedule(times[-1]), schedule(1.0)
    decode = 0.5 * x0.shape[1] * (1 + math.log(2 * math.pi * (sigma / alpha) ** 2))
    return -(total + decode + 0.5 * (left / noise) ** 2 * (x0**2).sum(-1))


def test_the_error_of_the_divergence_is_controlled_too() -> None:
    """Ripples too small to move a state, steep enough to change volumes: uncontrolled, log p is off by .34."""
    process = Gaussian(Linear())

    def predict(x: Tensor, t: Any, **cond: Any) -> Tensor:
        u = per_sample(torch.as_tensor(t, dtype=F64).expand(len(x)), x)
        return x * (1 - 0.5 * u) + u * 2e-3 * torch.sin(100 * x)

    x = torch.linspace(-1, 1, 16, dtype=F64)[:, None]
    exact, rough = (log_likelihood(Field(process, predict), x, solver=Adaptive(tol, tol)) for tol in (1e-8, 1e-3))
    assert float((rough.end - exact.end).abs().max()) < 4e-3
    assert float((rough.log_p - exact.log_p).abs().max()) < 0.15


@pytest.mark.parametrize("schedule", [EDM(80.0), VP(), Discrete.linear()], ids=repr)
def test_log_p_of_the_data_where_their_deviation_is_known(schedule: Any) -> None:
    """The path from the data does not end in N(0, sigma^2) where alpha(1) > 0."""
    process, std = Gaussian(schedule), 1.3
    oracle = Normal(process, torch.zeros(2, dtype=F64), std**2 * torch.eye(2, dtype=F64))
    found = log_likelihood(oracle, POINTS, data_std=std)
    assert float((found.log_p - oracle.log_density(POINTS)).abs().max()) < 1e-6
    plain = log_likelihood(oracle, POINTS)
    assert float((plain.log_p - found.log_p).abs().max()) > 1e-5
    assert float((plain.log_p - expected(oracle, POINTS, plain.end)).abs().max()) < 1e-6
    for wrong in (-1.0, {"pos": -1.0}, math.nan):
        with pytest.raises(GendiffError, match="data_std"):
            log_likelihood(oracle, POINTS, data_std=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [Discrete.linear(20).zero_terminal(), Discrete.linear().zero_terminal(), Cosine()])
def test_strata_weigh_the_last_stretch_to_pure_noise(schedule: Any) -> None:
    process = Gaussian(schedule)
    start, n = first_time(process, 1e-3), 200_000
    t, weight = strata(process, (torch.arange(n, dtype=F64) + 0.5) / n, start)
    assert bool((weight > 0).all()) and bool((process.rate(t) * weight).isfinite().all())
    assert float(weight.mean()) == pytest.approx(1 - start, rel=1e-4)
    last = t > 1 - 1 / 20
    assert float(weight[last].sum()) / n == pytest.approx(1 / 20, rel=1e-2)


def test_what_has_no_flow_or_no_bound_says_so() -> None:
    words = torch.zeros(2, 3, dtype=torch.int64)
    guess = Field(Absorbing(3), lambda x, t, **cond: torch.zeros(2, 3, 3, dtype=F64))
    with pytest.raises(GendiffError, match="probability flow"):
        log_likelihood(guess, words)
    with pytest.raises(GendiffError, match="no variational bound"):
        elbo(turning(SO3()), CENTERS, Noise.of(0, 2))
    with pytest.raises(GendiffError, match="steps=0"):
        log_likelihood(Normal(Gaussian(), MEAN, COVARIANCE), POINTS, solver=EvenSteps(0))
