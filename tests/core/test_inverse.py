"""Operators by their adjoints; measurements against posteriors in closed form; edits."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    DDIM,
    VP,
    Centered,
    Denoiser,
    DPMpp2M,
    Euler,
    Gaussian,
    Given,
    Guided,
    Heun,
    Linear,
    LinearGrid,
    LogSNRGrid,
    UpAndDown,
    Velocity,
)
from gendiff.denoisers import Mixture, Normal
from gendiff.errors import GendiffError, RequestError, SamplerError
from gendiff.guidance import (
    CFG,
    DPS,
    MMPS,
    TMPD,
    Average,
    Blur,
    CFGPlusPlus,
    Chain,
    Differences,
    DiffPIR,
    From,
    Magnitudes,
    Mask,
    Matrix,
    Measurement,
    Method,
    PiGDM,
    PosteriorMean,
    conjugate,
    known,
    noised_start,
    with_resampling,
)
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.testing import distance, randomised, row

F64 = torch.float64
GRID = LogSNRGrid(0.005, 100.0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


OPERATORS: list[tuple[Any, tuple[int, ...]]] = [
    (Mask(randn(2, 6, seed=1) > 0), (2, 6, 3)),
    (Mask(randn(1, 1, 6, 4, seed=1) > 0), (2, 3, 6, 4)),
    (Differences(torch.tensor([[True, True, False, True, False, False]])), (2, 6, 3)),
    (Matrix(randn(5, 18, seed=2)), (2, 6, 3)),
    (Average(2), (2, 3, 6, 4)),
    (Average(3, (1,)), (2, 6, 5)),
    (Blur((0.1, 0.2, 0.5, 0.15, 0.05)), (2, 3, 6, 4)),
    (Blur.gaussian(1.5, (1,)), (2, 20, 3)),
    (Chain(Blur.gaussian(0.7), Average(2), Mask(randn(1, 1, 3, 2, seed=3) > 0)), (2, 3, 6, 4)),
]


@pytest.mark.parametrize(("operator", "shape"), OPERATORS, ids=[f"{type(o).__name__}{s}" for o, s in OPERATORS])
def test_adjoints(operator: Any, shape: tuple[int, ...]) -> None:
    """<A x, y> = <x, A^T y> for each sample, and A^T is the transpose that autograd finds."""
    x = randn(*shape).requires_grad_()
    seen = operator(x)
    y = randn(*seen.shape, seed=5)
    back = operator.adjoint(y, x)
    left, right = ((a * b).flatten(1).sum(1) for a, b in ((seen, y), (x, back)))
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
    assert distance(torch.autograd.grad(seen, x, y)[0], back) < 1e-12


def test_operators_are_what_they_say() -> None:
    x = randn(1, 1, 4, 4)
    assert distance(Average(2)(x)[0, 0, 0, 0], x[0, 0, :2, :2].mean()) < 1e-14
    kernel = (0.2, 0.5, 0.3)
    line = randn(1, 9)
    ours = Blur(kernel, (1,))(line)
    theirs = torch.nn.functional.conv1d(line[:, None], torch.tensor(kernel[::-1], dtype=F64)[None, None], padding=1)
    assert distance(ours, theirs[:, 0]) < 1e-14
    assert sum(Blur.gaussian(2.0).kernel) == pytest.approx(1.0)
    with pytest.raises(GendiffError, match="odd"):
        Blur((0.5, 0.5))
    with pytest.raises(GendiffError, match="multiple of 3"):
        Average(3)(x)
    t = torch.arange(2048, dtype=F64) / 2048
    spectrum = Magnitudes(256, 64)(torch.sin(2 * math.pi * 160 * t)[None])
    assert int(spectrum[0, :, 16].argmax()) == 20
    with pytest.raises(SamplerError, match="linear"):
        Measurement(Magnitudes(), spectrum)


def test_conjugate_gradients_solve_each_sample_for_itself() -> None:
    a = randn(3, 6, 6)
    a = a @ a.mT + 0.1 * torch.eye(6, dtype=F64)
    b = randn(3, 6, seed=1) * torch.tensor([1.0, 1e-8, 0.0], dtype=F64)[:, None]
    x = conjugate(lambda v: (a @ v[..., None])[..., 0], b, 12)
    torch.testing.assert_close(x, torch.linalg.solve(a, b), rtol=1e-6, atol=1e-16)
    alone = conjugate(lambda v: (a[:1] @ v[..., None])[..., 0], b[:1], 12)
    assert distance(alone, x[:1]) < 1e-12


def gaussian16(schedule: Any = None) -> tuple[Normal, Tensor, Tensor, Tensor]:
    """The oracle, A [6, 16], y, and the posterior covariance and mean by Kalman's formulas, noise 0.3."""
    q = torch.linalg.qr(randn(16, 16))[0]
    covariance = q @ torch.diag(torch.exp(torch.linspace(-4, 0, 16, dtype=F64))) @ q.mT
    mean = randn(16, seed=4)
    a = randn(6, 16, seed=2) / 2
    y = randn(6, seed=3)
    gain = covariance @ a.mT @ torch.linalg.inv(a @ covariance @ a.mT + 0.09 * torch.eye(6, dtype=F64))
    oracle = Normal(Gaussian(schedule or VP()), mean, covariance)
    return oracle, a, mean + gain @ (y - a @ mean), covariance - gain @ a @ covariance


@pytest.mark.parametrize("schedule", [VP(), Linear()], ids=repr)
def test_moment_matching_is_exact_on_gaussians(schedule: Any) -> None:
    """E[x0 | x_t, y] in closed form, then 16-D samples with the posterior's mean and covariance."""
    oracle, a, mean, covariance = gaussian16(schedule)
    measured = Measurement(Matrix(a), randn(6, seed=3)[None], 0.3, MMPS(6))
    denoiser, exact = PosteriorMean(oracle, measured), Normal(oracle.process, mean, covariance)
    for t in (0.05, 0.4, 0.8):
        x = oracle.process.noise(exact.draw(5), t, Noise.of(0, 5))
        assert distance(denoiser(x, t), exact(x, t)) < 1e-8
    n = 2000
    with torch.no_grad():
        x = sample(denoiser, torch.empty(n, 16, dtype=F64), solver=DPMpp2M(30, times=GRID), noise=Noise.of(0, n))
    error = (x.mean(0) - mean) / (covariance.diagonal() / n).sqrt()
    assert float(error.abs().max()) < 4
    assert float((torch.cov(x.T) - covariance).norm() / covariance.norm()) < 0.1


def by_formula(method: Method, covariance: Tensor, mean: Tensor, a: Tensor, y: Tensor, s: float, schedule: Any, t: float) -> Any:  # fmt: skip # noqa: E501
    """A method's prediction on N(mean, covariance), as in its paper: x -> x0, and (h, H) of x0 = h + H x if affine."""
    alpha, sigma = schedule(t)
    eye, i = torch.eye(len(mean), dtype=F64), torch.eye(len(y), dtype=F64)
    jacobian = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
    v = sigma**2 / alpha * jacobian
    if isinstance(method, DPS):

        def moved(x: Tensor) -> Tensor:
            x0 = mean + (x - alpha * mean) @ jacobian.mT
            r = y - x0 @ a.mT
            return x0 + method.strength * (r / r.norm(dim=1, keepdim=True)) @ a @ jacobian

        return moved, None
    if isinstance(method, PiGDM):
        d2 = method.data_std**2
        r2 = d2 * sigma**2 / (d2 * alpha**2 + sigma**2)
        pull = r2 * torch.linalg.inv(s**2 * i + r2 * a @ a.mT) @ a @ jacobian

        def weighed(x: Tensor) -> Tensor:
            x0 = mean + (x - alpha * mean) @ jacobian.mT
            return x0 + (y - x0 @ a.mT) @ pull

        return weighed, None
    if isinstance(method, MMPS):
        gain = v @ a.mT @ torch.linalg.inv(s**2 * i + a @ v @ a.mT)
    elif isinstance(method, TMPD):
        rows = (a @ v @ a.mT).sum(1).clamp_min(method.floor * sigma**2 / (alpha**2 + sigma**2))
        gain = v @ a.mT @ torch.linalg.inv(s**2 * i + torch.diag(rows))
    else:
        assert isinstance(method, DiffPIR)
        # argmin lambda (alpha/sigma)^2 |x0 - D|^2 + |y - A x0|^2/s^2, by its normal equations where s > 0
        if s > 0:
            precision = method.weight * (alpha / sigma) ** 2 * eye + a.mT @ a / s**2
            gain = torch.linalg.solve(precision, a.mT / s**2)
        else:
            gain = torch.linalg.pinv(a)
    slope = (eye - gain @ a) @ jacobian
    offset = gain @ y + (eye - gain @ a) @ mean - slope @ (alpha * mean)
    return (lambda x: offset + x @ slope.mT), (offset, slope)


METHODS: list[Method] = [MMPS(6), TMPD(), PiGDM(), PiGDM(0.7), DiffPIR(), DiffPIR(3.0), DPS(0.3), DPS(2.0)]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("schedule", [VP(), Linear()], ids=repr)
def test_methods_are_their_formulas_on_gaussians(method: Method, schedule: Any) -> None:
    """Predictions at a low, a middle and a high noise, to rounding: every sign and factor."""
    oracle, a, _, _ = gaussian16(schedule)
    y, s = randn(6, seed=3), 0.3
    covariance = oracle.axes[0] @ torch.diag(oracle.variances[0]) @ oracle.axes[0].mT
    denoiser = PosteriorMean(oracle, Measurement(Matrix(a), y[None], s, method))
    for t in (0.05, 0.4, 0.8):
        x = oracle.process.noise(oracle.draw(5), t, Noise.of(0, 5))
        exact, _ = by_formula(method, covariance, oracle.means[0], a, y, s, schedule, t)
        found = denoiser(x, t)
        if isinstance(method, DPS | PiGDM):
            assert distance(found.back, oracle(x, t)) < 1e-12
            found = found.x0
        assert distance(found, exact(x)) < 1e-9 * (1 + float(exact(x).abs().max()))


PAIR = torch.tensor([[1, 0.9], [0.9, 1]], dtype=F64)
KNOWN = torch.tensor([[1.0, 0.0]], dtype=F64)


def ends(method: Method, steps: int) -> tuple[float, float]:
    """Mean and deviation of x_2 after Euler's steps with x_1 = 1 known: affine maps of a Gaussian, in closed form."""
    solver, process = Euler(steps, times=LogSNRGrid(0.01, 100.0)), Gaussian(VP())
    rows = solver.rows(process)
    mean, covariance = torch.zeros(2, dtype=F64), process.schedule(rows[0].t)[1] ** 2 * torch.eye(2, dtype=F64)
    for r in rows:
        _, (offset, slope) = by_formula(
            method, PAIR, torch.zeros(2, dtype=F64), KNOWN, torch.ones(1, dtype=F64), 0.0, process.schedule, r.t
        )
        step = r.move.keep * torch.eye(2, dtype=F64) + r.move.pull * slope
        mean, covariance = step @ mean + r.move.pull * offset, step @ covariance @ step.mT
    return float(mean[1]), float(covariance[1, 1]) ** 0.5


@pytest.mark.parametrize(
    ("method", "bias", "spread"),
    [(MMPS(1), 0.0, 0.0), (TMPD(), 0.0, 0.0), (DiffPIR(), -0.456, 0.287)],
    ids=lambda v: type(v).__name__,
)
def test_methods_on_the_correlated_pair(method: Method, bias: float, spread: float) -> None:
    """x_1 = 1 is known without noise; the truth is 0.900 +- 0.436. What steps and method leave of it, in closed form.

    With infinitely many steps the moments matched are exact, a prediction without a gradient is not.
    """
    n, truth = 4000, (0.9, 0.19**0.5)
    mean, sd = ends(method, 30)
    measured = Measurement(Mask(torch.tensor([[True, False]])), KNOWN, 0.0, method)
    solver, oracle = Euler(30, times=LogSNRGrid(0.01, 100.0)), Normal(Gaussian(VP()), torch.zeros(2, dtype=F64), PAIR)
    x = sample(PosteriorMean(oracle, measured), torch.empty(n, 2, dtype=F64), solver=solver, noise=Noise.of(0, n))
    assert abs(float(x[:, 1].mean()) - mean) < 4 * sd / n**0.5
    assert abs(float(x[:, 1].std()) / sd - 1) < 4 / (2 * n) ** 0.5
    many = ends(method, 2000)
    assert abs(many[0] - truth[0] - bias) < 0.005 and abs(many[1] - truth[1] - spread) < 0.005


def test_dps_takes_the_steps_of_its_paper() -> None:
    """x_s = DDIM's step - zeta alpha_s grad |y - A D(x_t)|, written out and differentiated here."""
    process, start = Gaussian(VP()), randn(5, 2)
    oracle, grid = Normal(process, torch.tensor([0.3, -0.2], dtype=F64), PAIR), LogSNRGrid(0.01, 100.0)
    measured = Measurement(Mask(torch.tensor([[True, False]])), KNOWN, 0.0, DPS(0.3))
    solver = Euler(20, times=grid)
    found = sample(
        PosteriorMean(oracle, measured), torch.empty(5, 2, dtype=F64), solver=solver, noise=Noise.of(0, 5), start=start
    )
    x, times = start, grid(process, 20)
    for t, s in pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)
        x = x.detach().requires_grad_()
        x0 = oracle(x, t)
        (gradient,) = torch.autograd.grad((x0[:, 0] - 1).abs().sum(), x)
        x = alpha_s * x0 + sigma_s * (x - alpha * x0) / sigma - 0.3 * alpha_s * gradient
    assert distance(found, x.detach()) < 1e-9


def test_a_mixture_posterior() -> None:
    """Weights and means of the modes that agree with x_1, from MMPS with resampling, near the exact ones."""
    angle = torch.arange(8, dtype=F64) * math.pi / 4
    weights = torch.arange(1, 9, dtype=F64) / 36
    means = torch.stack([angle.cos(), angle.sin()], 1)
    oracle, n = Mixture(Gaussian(VP()), means, 0.01, weights), 2000
    posterior = torch.softmax(weights.log() - 0.5 * (0.6 - means[:, 0]) ** 2 / 0.01, 0)
    measured = Measurement(Mask(torch.tensor([[True, False]])), torch.tensor([[0.6, 0.0]], dtype=F64), method=MMPS(1))
    solver = with_resampling(DPMpp2M(20, times=LogSNRGrid(0.01, 100.0)), 2)
    x = sample(PosteriorMean(oracle, measured), torch.empty(n, 2, dtype=F64), solver=solver, noise=Noise.of(0, n))
    lower = float((x[:, 1] < 0).double().mean())
    assert abs(lower - float(posterior[means[:, 1] < -1e-9].sum())) < 0.06
    assert abs(float(x[:, 1].mean()) - float(posterior @ means[:, 1])) < 0.08


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.label = nn.Linear(3, 3), nn.Embedding(3, 3)

    def forward(self, x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
        return torch.tanh(self.inner(x) + self.label(kind)[:, None])


@pytest.mark.parametrize("method", [MMPS(3), TMPD(), PiGDM(), DiffPIR(), DPS()], ids=repr)
@pytest.mark.parametrize("rule", [1.0, CFG(2.0), CFGPlusPlus(CFG(0.6))], ids=repr)
@torch.no_grad()
def test_no_sample_sees_another_and_guidance_composes(method: Method, rule: Any) -> None:
    denoiser = Denoiser(randomised(Net().double()), Velocity(), Gaussian(Linear()))
    without = lambda cond: {"kind": torch.full_like(cond["kind"], 2)}  # noqa: E731
    y = randn(4, 2, 3) * torch.tensor([1.0, 100.0, 0.0, 1.0], dtype=F64)[:, None, None]
    measured = Measurement(Average(3, (1,)), y, 0.1, method)
    kind, like = torch.tensor([0, 1, 0, 1]), torch.empty(4, 6, 3, dtype=F64)
    whole = sample(PosteriorMean(Guided(denoiser, rule, without), measured), like, solver=Heun(4), noise=Noise.of(0, 4), cond={"kind": kind})  # fmt: skip # noqa: E501
    for i in range(4):
        part = PosteriorMean(Guided(denoiser, rule, without), measured.select(slice(i, i + 1), torch.device("cpu")))
        alone = sample(part, row(like, i), solver=Heun(4), noise=Noise.of(0, 1, i), cond={"kind": kind[i : i + 1]})
        assert distance(alone, row(whole, i)) < 1e-12 * max(1.0, float(whole[i].abs().max()))


@pytest.mark.parametrize(
    "operator",
    [
        Mask(randn(4, 5) > 0),
        Matrix(randn(4, 3, 10)),
        Chain(Mask(randn(4, 5) > 0), Matrix(randn(4, 3, 10))),
        Differences(torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 1]]) > 0),
    ],
    ids=["mask", "matrix", "chain", "differences"],
)
def test_operators_of_samples_go_with_their_samples(operator: Any) -> None:
    """In whatever order, one by one, and inside a chain; one for all stays one for all."""
    x = randn(4, 5, 2)
    y = operator(x)
    measured = Measurement(operator, y + randn(*y.shape), 0.1)
    for rows in (slice(2, 3), torch.tensor([3, 1])):
        some = measured.select(rows, torch.device("cpu"))
        assert torch.equal(some.apply(x[rows]), y[rows])
        assert torch.equal(some.back(some.y, x[rows]), measured.back(measured.y, x)[rows])
    shared = Measurement(Matrix(randn(3, 10)), y[:1], 0.1).select(slice(2, 3))
    assert shared.operator.rows.shape == (3, 10) and len(shared.y) == 1  # type: ignore[attr-defined]


def test_the_phase_of_a_sound_is_found_by_dps() -> None:
    """DPS with an operator that is not linear brings the spectrogram near: what no linear method may try."""
    t = torch.arange(256, dtype=F64) / 256
    truth = torch.sin(2 * math.pi * 20 * t)[None]
    operator = Magnitudes(64, 16)
    oracle = Normal(Gaussian(VP()), torch.zeros(256, dtype=F64), 0.5 * torch.eye(256, dtype=F64))
    measured = Measurement(operator, operator(truth), method=DPS(0.2))
    x = sample(PosteriorMean(oracle, measured), torch.empty(2, 256, dtype=F64), solver=DDIM(100, eta=1.0, times=GRID), noise=Noise.of(0, 2))  # fmt: skip # noqa: E501
    plain = sample(oracle, torch.empty(2, 256, dtype=F64), solver=DDIM(100, times=GRID), noise=Noise.of(0, 2))
    error, before = ((operator(v) - operator(truth)).flatten(1).norm(dim=1) for v in (x, plain))
    assert bool((error < 0.35 * before).all()), (error, before)


def chain() -> tuple[Any, Tensor]:
    """The exact denoiser of four points on a line, each near the one before, without a place: [B, 4, 1]."""
    steps = torch.tensor([1.0, 0.6, 0.8], dtype=F64)
    path = torch.zeros(4, 3, dtype=F64)
    for i in range(3):
        path[i + 1 :, i] = steps[i]
    path = path - path.mean(0)
    covariance = path @ path.mT
    process = Gaussian(VP(), Centered())
    values, axes = torch.linalg.eigh(covariance)

    class Chain4:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
            alpha, sigma = process.schedule(t)
            gain = axes @ torch.diag(alpha * values / (alpha**2 * values + sigma**2)) @ axes.mT
            return (gain @ x[..., 0][..., None]).reshape(x.shape)

    return Chain4(), covariance


@pytest.mark.parametrize("way", ["replaced", "moments"])
def test_a_shape_without_a_place(way: str) -> None:
    """Four centred points, two known up to a shift: the exact posterior of a third, wherever they were given."""
    oracle, covariance = chain()
    keep = torch.tensor([[True, False, True, False]])
    n, gap = 4000, 1.5
    a = torch.tensor([[-1.0, 0.0, 1.0, 0.0]], dtype=F64)  # the known gap x_3 - x_1
    b = torch.tensor([[-1.0, 1.0, 0.0, 0.0]], dtype=F64)  # asked: x_2 - x_1
    s = (a @ covariance @ a.mT).item()
    mean = (b @ covariance @ a.mT).item() / s * gap
    sd = math.sqrt((b @ covariance @ b.mT).item() - (b @ covariance @ a.mT).item() ** 2 / s)
    x0 = torch.tensor([7.0, 0.0, 7.0 + gap, 0.0], dtype=F64)[None, :, None]
    given = Given(x0, keep).expand(n)
    solver = DPMpp2M(30, times=LogSNRGrid(0.005, 200.0))
    denoiser = oracle
    if way == "moments":
        measured = known(given, oracle.process)
        assert measured is not None
        denoiser = PosteriorMean(oracle, measured)
    else:
        solver = with_resampling(solver, 20)
    x = sample(denoiser, torch.empty(n, 4, 1, dtype=F64), solver=solver, noise=Noise.of(0, n), given=given)[..., 0]
    assert distance(x[:, 2] - x[:, 0], torch.full((n,), gap, dtype=F64)) < 1e-12 and float(x.sum(1).abs().max()) < 1e-12
    asked = x[:, 1] - x[:, 0]
    assert abs(float(asked.mean()) - mean) < 0.04 and abs(float(asked.std()) - sd) < 0.04


def test_an_edit_starts_where_it_says() -> None:
    process, n = Gaussian(VP()), 4000
    grid = From(LinearGrid(), 0.35)
    assert grid(process, 10)[:2] == [0.35, pytest.approx(0.3)] and grid(process, 10)[-1] == 0
    assert From(UpAndDown(LinearGrid(), 1, 2), 0.5)(process, 4) == [0.5, 0.25, 0.5, 0.25, 0.0]
    with pytest.raises(SamplerError, match="0, 1"):
        From(LinearGrid(), 0.0)(process, 3)
    oracle = Normal(process, torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    x0 = torch.tensor([[1.5, -1.0]], dtype=F64)
    like = torch.empty(n, 2, dtype=F64)
    start = noised_start(process, x0, like, 0.35, Noise.of(0, n), {})
    alpha, sigma = process.schedule(0.35)
    assert distance(start.mean(0), alpha * x0[0]) < 4 * sigma / n**0.5
    # For N(0, I) the flow of the VP process stands still: the edit is its own start.
    errors = [
        distance(sample(oracle, like, solver=solver, noise=Noise.of(0, n), start=start), start)
        for solver in (Euler(100, times=grid), Euler(200, times=grid), Heun(200, times=grid))
    ]
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.02)  # what is left is Euler's own error
    assert errors[2] < 2e-3
    with pytest.raises(RequestError, match="same size"):
        noised_start(process, torch.zeros(1, 3), like, 0.5, Noise.of(0, n), {})
