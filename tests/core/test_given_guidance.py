"""Known parts against a posterior in closed form; guidance as a geodesic mix."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from gendiff import (
    DDPM,
    EDM,
    SO3,
    VP,
    Autoguidance,
    Centered,
    Denoiser,
    DPMpp2M,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Given,
    Guided,
    Heads,
    Heun,
    Joint,
    Karras,
    Linear,
    LogSNRGrid,
    Tangent,
    UpAndDown,
    Velocity,
)
from gendiff.denoisers import Normal
from gendiff.guidance import with_resampling
from gendiff.random import Noise
from gendiff.sampling import Progress, sample
from gendiff.sampling.solvers import Solver
from gendiff.spaces import State
from gendiff.testing import distance, randomised

F64 = torch.float64
RHO = 0.9


def pair(schedule: Any) -> Normal:
    return Normal(Gaussian(schedule), torch.zeros(2, dtype=F64), torch.tensor([[1, RHO], [RHO, 1]], dtype=F64))


def posterior_of(solver: Solver, schedule: Any, n: int = 4000) -> tuple[float, float]:
    """Mean and deviation of x_2 given x_1 = 1 under N(0, [[1, rho], [rho, 1]])."""
    given = Given(torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([[True, False]])).expand(n)
    x = sample(pair(schedule), torch.empty(n, 2, dtype=F64), solver=solver, noise=Noise.of(0, n), given=given)
    assert bool((x[:, 0] == 1).all())
    return float(x[:, 1].mean()), float(x[:, 1].std())


def replaced(solver: Solver, schedule: Any) -> tuple[float, float]:
    """The same in closed form, for single steps: the known x_1 is N(alpha_t, sigma_t^2) afresh at every evaluation."""
    process = Gaussian(schedule)
    rows = solver.rows(process)
    mean, var = 0.0, process.schedule(rows[0].t)[1] ** 2
    for row in rows:
        (alpha, sigma), (alpha_s, sigma_s) = process.schedule(row.t), process.schedule(row.s)
        if row.move is None:
            a = alpha_s / alpha
            mean, var = a * mean, a * a * var + sigma_s**2 - (a * sigma) ** 2
            continue
        # D = alpha C S^-1 x, S = alpha^2 C + sigma^2 I, for C = [[1, rho], [rho, 1]]
        s, cross = alpha**2 + sigma**2, alpha**2 * RHO
        own, other = (alpha * v / (s * s - cross * cross) for v in (s - cross * RHO, RHO * s - cross))
        own, other = row.move.keep + row.move.pull * own, row.move.pull * other
        mean, var = own * mean + other * alpha, own**2 * var + other**2 * sigma**2 + row.move.churn**2
    return mean, var**0.5


@pytest.mark.parametrize(
    ("schedule", "grid"),
    [(VP(), LogSNRGrid(0.01, 100.0)), (Linear(), LogSNRGrid(0.01, 100.0)), (EDM(), Karras())],
    ids=["VP", "Linear", "EDM"],
)
@pytest.mark.parametrize("solver", [Euler(30), DDPM(30)], ids=["Euler", "DDPM"])
def test_replacement_is_biased_and_resampling_mends_it(solver: Any, schedule: Any, grid: Any) -> None:
    """The truth is 0.900 +- 0.436. What replacement leaves is known exactly, and goes as the walk is repeated.

    DPM-Solver++(2M) on VP: plain 0.458 +- 0.669, repeated 5, 10 and 20 times 0.786 +- 0.459, 0.857 +- 0.435, 0.872 +-
    0.419; Heun(30) plain and repeated 10 times 0.427 +- 0.693, 0.851 +- 0.462.
    """
    n, solver = 4000, replace(solver, times=grid)
    for repeats in (1, 5):
        again = with_resampling(solver, repeats)
        (mean, sd), found = replaced(again, schedule), posterior_of(again, schedule, n)
        assert abs(found[0] - mean) < 4 * sd / n**0.5 and abs(found[1] / sd - 1) < 4 / (2 * n) ** 0.5, (found, mean, sd)
    biases = [RHO - replaced(with_resampling(solver, repeats), schedule)[0] for repeats in (1, 5, 10, 30)]
    assert all(b < 0.75 * a for a, b in pairwise(biases)) and biases[0] > 0.1 and abs(biases[-1]) < 0.025, biases


def test_resampling_wraps_a_grid_once_and_works_with_every_solver() -> None:
    for solver in (Euler(5), Heun(5), DPMpp2M(5), DDPM(5)):
        again = with_resampling(solver, 3, 2)
        assert again.times == UpAndDown(solver.times, 2, 3) and type(again) is type(solver)
        assert with_resampling(again) is again
        assert again.evaluations(Gaussian(Linear())) > solver.evaluations(Gaussian(Linear()))


def frames() -> tuple[Joint, State, State]:
    process = Joint(pos=Gaussian(Linear()), rot=Geodesic(SO3(), Exponential(3.0)))
    like = {"pos": torch.empty(4, 6, 3, dtype=F64), "rot": torch.empty(4, 6, 3, 3, dtype=F64)}
    return process, like, process.space.random(like, Noise.of(1, 4))


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.label = nn.Linear(12, 6), nn.Embedding(3, 6)

    def forward(self, x: State, t: Tensor, kind: Tensor, mask: Tensor | None = None) -> State:
        h = self.inner(torch.cat([x["pos"], x["rot"].flatten(-2)], -1)) + self.label(kind)[:, None]
        return dict(zip(("pos", "rot"), torch.tanh(h).split(3, -1), strict=True))


def model(process: Joint, seed: int = 0) -> Denoiser:
    network = randomised(Toy().double(), seed).requires_grad_(False)
    return Denoiser(network, Heads(pos=Velocity(), rot=Tangent()), process)


@pytest.mark.parametrize("solver", [Euler(5), Heun(4), DPMpp2M(5), DDPM(5), with_resampling(DPMpp2M(5), 3)], ids=repr)
def test_known_sites_are_exact_at_the_end_and_noised_on_the_way(solver: Solver) -> None:
    process, like, x0 = frames()
    keep = torch.rand(4, 6) < 0.5
    given, seen = Given(x0, {"pos": keep, "rot": ~keep}), list[Progress]()
    cond = {"kind": torch.tensor([0, 1, 2, 0])}
    x = sample(model(process), like, solver=solver, noise=Noise.of(0, 4), cond=cond, given=given, callback=seen.append)
    assert torch.equal(x["pos"][keep], x0["pos"][keep]) and distance(x["rot"][~keep], x0["rot"][~keep]) < 1e-14
    assert distance(x["pos"][~keep], x0["pos"][~keep]) > 0.1
    halfway = seen[len(seen) // 2].state["pos"]
    assert distance(halfway[keep], x0["pos"][keep]) > 0.05


def test_a_centred_motif_keeps_its_shape() -> None:
    """Where only shapes count, known positions come back up to the shift that centres the whole."""
    process = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3()))
    _, like, x0 = frames()
    keep = (torch.arange(6) < 3).expand(4, 6)
    cond = {"kind": torch.zeros(4, dtype=torch.int64)}
    x = sample(model(process), like, solver=Heun(5), noise=Noise.of(0, 4), cond=cond, given=Given(x0, keep))
    shift = (x["pos"] - x0["pos"])[:, :3]
    assert distance(shift, shift[:, :1].expand_as(shift)) < 1e-12
    assert float(x["pos"].sum(1).abs().max()) < 1e-12


def test_given_goes_by_parts_and_rows() -> None:
    _, _, x0 = frames()
    one = Given({k: v[:1] for k, v in x0.items()}, torch.ones(1, 6, dtype=torch.bool))
    assert one.expand(3).x0["rot"].shape == (3, 6, 3, 3) and one.expand(3).keep.shape == (3, 6)
    some = Given(x0, torch.ones(4, 6, dtype=torch.bool)).select(slice(1, 3), torch.device("cpu"))
    assert torch.equal(some.x0["pos"], x0["pos"][1:3]) and some.keep.shape == (2, 6)


# Guidance


def without(cond: dict[str, Any]) -> dict[str, Any]:
    return {**cond, "kind": torch.full_like(cond["kind"], 2)}


COND = {"kind": torch.tensor([0, 1, 0, 1]), "mask": torch.arange(6)[None] < torch.tensor([6, 5, 3, 2])[:, None]}


def branches() -> tuple[Denoiser, State, State, State]:
    process, like, _ = frames()
    denoiser = model(process)
    x = process.prior(like, Noise.of(0, 4))
    return denoiser, x, denoiser(x, 0.6, **without(COND)), denoiser(x, 0.6, **COND)


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0, 1.8, 3.0])
def test_guidance_is_a_lerp_from_without_to_with(w: float) -> None:
    denoiser, x, free, full = branches()
    guided = Guided(denoiser, w, without)(x, 0.6, **COND)
    assert distance(guided["pos"], (1 - w) * free["pos"] + w * full["pos"]) < 1e-13
    space = SO3()
    assert distance(guided["rot"], space.lerp(free["rot"], full["rot"], w)) < 1e-13
    gram = guided["rot"].mT @ guided["rot"]
    assert distance(gram, torch.eye(3, dtype=F64).expand_as(gram)) < 1e-12
    # On the geodesic: the angle from `free` is w times the angle to `full` (these are small enough not to wrap).
    step, whole = (space.log(free["rot"], r) for r in (guided["rot"], full["rot"]))
    assert distance(step, w * whole) < 1e-12


def test_guidance_of_one_is_off() -> None:
    denoiser, x, _, full = branches()
    guided = Guided(denoiser, 1.0, without)
    assert distance(guided(x, 0.6, **COND), full) < 1e-14
    _, like, _ = frames()
    a, b = (sample(d, like, solver=Heun(6), noise=Noise.of(0, 4), cond=COND) for d in (denoiser, guided))
    assert distance(a, b) < 1e-12


def test_guidance_has_a_scale_by_sample_and_by_part() -> None:
    denoiser, x, free, full = branches()
    w = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=F64)
    many = Guided(denoiser, w, without)(x, 0.6, **COND)
    for i in range(4):
        one = Guided(denoiser, float(w[i]), without)(x, 0.6, **COND)
        assert distance({k: v[i] for k, v in many.items()}, {k: v[i] for k, v in one.items()}) < 1e-13
    split = Guided(denoiser, {"pos": 2.0, "rot": 0.0}, without)(x, 0.6, **COND)
    assert distance(split["rot"], free["rot"]) < 1e-13
    assert distance(split["pos"], 2 * full["pos"] - free["pos"]) < 1e-13


def test_guidance_takes_times_by_sample() -> None:
    denoiser, x, _, _ = branches()
    guided, t = Guided(denoiser, 1.7, without), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=F64)
    many = guided(x, t, **COND)
    for i in range(4):
        one = guided(x, float(t[i]), **COND)
        assert distance({k: v[i] for k, v in many.items()}, {k: v[i] for k, v in one.items()}) < 1e-12


def test_autoguidance_moves_away_from_the_weaker_model() -> None:
    denoiser, x, _, full = branches()
    weaker = model(frames()[0], seed=1)
    weak = weaker(x, 0.6, **COND)
    assert distance(Autoguidance(denoiser, weaker, 1.0)(x, 0.6, **COND), full) < 1e-14
    out = Autoguidance(denoiser, weaker, 2.0)(x, 0.6, **COND)
    assert distance(out["pos"], 2 * full["pos"] - weak["pos"]) < 1e-13
    assert Autoguidance(denoiser, weaker, 2.0).process is denoiser.process


@pytest.mark.parametrize("schedule", [VP(), Linear()], ids=repr)
@pytest.mark.parametrize("w", [-0.5, 0.0, 0.4, 1.0, 2.0])
def test_the_guided_denoiser_of_two_gaussians_is_that_of_the_tilted_one(schedule: Any, w: float) -> None:
    """At each level p_t(x | y)^w p_t(x)^(1 - w) is a Gaussian: its denoiser, by its own score."""
    process, c = Gaussian(schedule), torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64)
    wide, narrow = (torch.tensor([0.4, 0.0], dtype=F64), 2 * c.mT @ c + torch.eye(2, dtype=F64)), (c[0], c)
    free, full = Normal(process, *wide), Normal(process, *narrow)

    class Both:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x: Tensor, t: float, *, kind: Tensor, **cond: Any) -> Tensor:
            return torch.where((kind == 2)[:, None], free(x, t), full(x, t))

    x, kind = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64), torch.zeros(5).long()
    for t in (0.1, 0.5, 0.9):
        alpha, sigma = process.schedule(t)
        inverses = [torch.linalg.inv(alpha**2 * v + sigma**2 * torch.eye(2, dtype=F64)) for _, v in (wide, narrow)]
        precision = (1 - w) * inverses[0] + w * inverses[1]
        centre = alpha * torch.linalg.solve(precision, (1 - w) * inverses[0] @ wide[0] + w * inverses[1] @ narrow[0])
        exact = (x - sigma**2 * (x - centre) @ precision) / alpha
        assert distance(Guided(Both(), w, without)(x, t, kind=kind), exact) < 1e-10


@pytest.mark.parametrize("w", [1.0, 2.0, 4.0])
def test_guided_samples_end_where_the_guided_flow_ends(w: float) -> None:
    """Two classes N(+-1, 0.25), seen together as N(0, 1.25): the flow is linear, and solved here by quadrature.

    d log c: y = a m + b z with a' = a - D(a), b' = b - D'(b) for y = x/alpha and c = sigma/alpha.
    """

    class Classes:
        process = Gaussian(VP())

        def __call__(self, x: Tensor, t: float, *, kind: Tensor, **cond: Any) -> Tensor:
            mean = torch.tensor([-1.0, 1.0, 0.0], dtype=F64)[kind][:, None]
            var = torch.tensor([0.25, 0.25, 1.25], dtype=F64)[kind][:, None]
            alpha, sigma = self.process.schedule(t)
            return mean + alpha * var / (alpha**2 * var + sigma**2) * (x - alpha * mean)

    def slope(log_c: float, state: Any) -> list[float]:
        full, free = (v / (v + math.exp(2 * log_c)) for v in (0.25, 1.25))
        gain, mean = w * full + (1 - w) * free, w * (1 - full)
        return [state[0] - gain * state[0] - mean, state[1] - gain * state[1]]

    low, high = math.log(0.01), math.log(100.0)
    found = solve_ivp(slope, (high, low), [0.0, math.hypot(1.0, 100.0) / math.hypot(1.0, 1e-2)], rtol=1e-10, atol=1e-12)
    n, cond = 4000, {"kind": torch.ones(4000, dtype=torch.int64)}
    solver, like = DPMpp2M(300, times=LogSNRGrid(0.01, 100.0)), torch.empty(n, 1, dtype=F64)
    start = Classes.process.schedule(solver.rows(Classes.process)[0].t)
    mean, sd = found.y[0, -1], found.y[1, -1] / found.y[1, 0] * start[1] / start[0]
    x = sample(Guided(Classes(), w, without), like, solver=solver, noise=Noise.of(0, n), cond=cond)
    assert abs(float(x.mean()) - mean) < 4 * sd / n**0.5 + 2e-3
    assert abs(float(x.std()) / sd - 1) < 4 / (2 * n) ** 0.5 + 2e-3
