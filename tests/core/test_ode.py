"""The adaptive probability flow: exact ends, its order on every space, and samples that know nothing of each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from gendiff import (
    EDM,
    SO3,
    VE,
    VP,
    Adaptive,
    BrownianSO3,
    Centered,
    Cosine,
    Denoiser,
    Discrete,
    Eps,
    Euclidean,
    Exponential,
    Gaussian,
    Geodesic,
    Heun,
    Joint,
    Linear,
    LinearGrid,
    PowerGrid,
    Sphere,
    Torus,
    TrigFlow,
    cite,
    log_likelihood,
    sample,
)
from gendiff.config import from_config, to_config
from gendiff.denoisers import Mixture, Normal, Prediction, RotationMixture
from gendiff.errors import GendiffError, SamplerError
from gendiff.guidance import From
from gendiff.random import Noise
from gendiff.sampling import Draw, EvenSteps, Path, Progress
from gendiff.spaces import Space, State, exp_so3, map_state, tensors
from gendiff.testing import distance

F64 = torch.float64
Golden = Callable[[str], dict[str, Tensor]]


class Field:
    """A denoiser that is just a function."""

    def __init__(self, process: Any, f: Callable[..., State]) -> None:
        self.process, self.f = process, f

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        return self.f(x, t, **cond)


def rms(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().mean().sqrt())


@pytest.mark.parametrize("name", ["gmm2d", "gauss16"])
@pytest.mark.parametrize(("start", "schedule", "sigma"), [("ve_from_80", EDM(), 80.0), ("flow_from_t1", Linear(), 1.0)])
def test_exact_ends(golden: Golden, name: str, start: str, schedule: Any, sigma: float) -> None:
    """To 1e-7 at rtol 1e-9; the error falls with the tolerance, and so do the evaluations."""
    g, n = golden("problems"), 64
    oracle = Mixture(Gaussian(schedule), *(g[f"{name}__{key}"] for key in ("means", "eigvals", "weights", "eigvecs")))
    x, end = sigma * g[f"{name}__z"][:n], g[f"{name}__end_{start}"][:n]
    found = [Adaptive(r, r).arrival(Draw(oracle, x, Noise.of(0, n), {}, x)) for r in (1e-3, 1e-6, 1e-9)]
    errors = [rms(one.state, end) for one in found]
    assert errors[0] < 2e-2 and errors[1] < 1e-5 and errors[2] < 1e-7, errors
    spent = [float(one.evaluations.double().mean()) for one in found]
    assert spent[0] < 30 and spent[1] < 85 and spent[2] < 270, spent
    assert bool((found[0].evaluations % 6 == 1).all())


def test_exact_states_on_the_way(golden: Golden) -> None:
    """Between any two noise levels, from an unbounded clock, a bounded one, and one that preserves variance."""
    g = golden("exact_pf_ode")
    m = golden("mixture_denoiser")
    noise = Noise.of(0, 8)

    def oracle(schedule: Any) -> Mixture:
        return Mixture(Gaussian(schedule), m["means"], float(m["std"]) ** 2, m["weights"])

    for schedule in (EDM(), Linear(), VP(), Cosine(), TrigFlow()):
        for first in (5.0, 50.0):
            for level, row in zip((0.5, 0.01, 0.0), (0, 2, 3), strict=True):
                t, s = schedule.unclock(first), schedule.unclock(level) if level else 0.0
                solver = Adaptive(1e-9, 1e-9, times=LinearGrid(t, s))
                (up, _), (down, _) = schedule(t), schedule(s)
                start = up * first * g["z"]
                state = sample(oracle(schedule), start, solver=solver, noise=noise, start=start)
                assert rms(state / down, g[f"ve_from{first:.0f}__y_at_0.5_0.1_0.01_0"][row]) < 1e-7
    state = sample(oracle(Linear()), g["z"], solver=Adaptive(1e-9, 1e-9), noise=noise, start=g["z"])
    assert rms(state, g["flow_from_t1__end"]) < 1e-7


def test_as_many_evaluations_as_another_integrator_of_the_same_pair() -> None:
    """scipy's RK45 on the same equation, written out for one Gaussian: N(0, diag v), u = k, alpha = 1 - u, scale 1."""
    v = np.array([1.0, 0.3, 0.05])
    oracle = Normal(Gaussian(Linear()), torch.zeros(3, dtype=F64), torch.diag(torch.from_numpy(v)))
    z = Noise.of(3, 1).normal((1, 3), F64)

    def rate(tau: float, y: np.ndarray) -> np.ndarray:
        u = max(1 - tau, 1e-8)
        return -(y - (1 - u) * v / ((1 - u) ** 2 * v + u**2) * y) / u

    exact = z.numpy()[0] * v**0.5
    for r in (1e-4, 1e-7):
        theirs = solve_ivp(rate, (0.0, 1.0), z.numpy()[0], method="RK45", rtol=r, atol=r)
        ours = Adaptive(r, r, scale=1.0).arrival(Draw(oracle, z, Noise.of(0, 1), {}, z))
        assert 0.7 < int(ours.evaluations) / theirs.nfev < 1.2
        assert float((ours.state[0] - torch.from_numpy(exact)).abs().max()) < 20 * r
        assert np.abs(theirs.y[:, -1] - exact).max() < 100 * r


PULL = torch.tensor([0.4, -0.3, 0.7], dtype=F64)


def smooth(process: Any) -> Field:
    """A smooth prediction on a curved space, one point [3] or [3, 3] a sample."""

    def f(x: Tensor, t: Any, **cond: Any) -> Tensor:
        pull, space = PULL.to(x), process.space
        v = torch.sin(x @ pull) if x.ndim == 3 else pull * (torch.cos(x[..., :1]) + 0.5)
        kappa = torch.as_tensor(process.schedule(t)[1]).to(x).reshape(-1, 1)
        return space.exp(x, kappa * space.tangent(x, v))  # to x itself as the noise ends

    return Field(process, f)


def frames(x: State, t: Any, mask: Any = None) -> State:
    """Points and rotations that see the mean of the real points, and each other."""
    real = torch.ones_like(x["pos"][..., 0]).bool() if mask is None else mask
    n, pull = real.sum(1)[:, None, None], PULL.to(x["pos"])
    middle = torch.where(real[..., None], torch.sin(x["pos"] + pull), 0.0).sum(1, keepdim=True) / n
    kappa = FRAMES.clock(t)
    a, b = (torch.as_tensor(kappa[k]).to(pull).reshape(-1, 1, 1) for k in ("pos", "rot"))
    pos = x["pos"] + a * torch.sin(x["pos"] + 0.5 * middle * x["rot"][..., 0])
    return {"pos": Centered(real).project(pos), "rot": SO3().exp(x["rot"], b * torch.sin(x["pos"] + middle))}


FRAMES = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(4.0)))
MODELS: dict[str, tuple[Field, State]] = {
    "rotations": (smooth(Geodesic(SO3())), torch.empty(3, 3, 3)),
    "sphere": (smooth(Geodesic(Sphere())), torch.empty(3, 3)),
    "torus": (smooth(Geodesic(Torus(), Exponential(3.0))), torch.empty(3, 3)),
    "Brownian": (smooth(BrownianSO3(VE(0.1, 3.0))), torch.empty(2, 3, 3)),
    "frames": (Field(FRAMES, frames), {"pos": torch.empty(2, 4, 3), "rot": torch.empty(2, 4, 3, 3)}),
}


@pytest.mark.parametrize("name", MODELS)
def test_heun_converges_to_it_at_its_own_order(name: str) -> None:
    """On curved spaces and with two clocks: Heun's distance from it falls by four when its steps are doubled."""
    model, like = MODELS[name]
    like = map_state(lambda x: x.double(), like)
    n = len(tensors(like)[0])
    x, noise = model.process.prior(like, Noise.of(2, n)), Noise.of(0, n)

    def end(solver: Any) -> State:
        return sample(model, like, solver=solver, noise=noise, start=x)

    found = end(Adaptive(1e-8, 1e-8))
    steps = 32 if name == "Brownian" else 96
    far, near = (distance(end(Heun(n, times=PowerGrid())), found) for n in (steps, 2 * steps))
    assert near < 2e-3 and 3.5 < far / near < 4.6, (far, near)
    assert distance(end(Adaptive(1e-4, 1e-4)), found) < 1e-3


@pytest.mark.parametrize("space", [SO3(), Sphere(), Torus(), Centered()], ids=repr)
def test_a_tangent_is_carried_by_the_derivative_of_log(space: Space) -> None:
    """In closed form and by the rule for any space, from 1e-6 to more than a radian away."""
    x = space.random(torch.empty(30, 3, 3) if isinstance(space, SO3) else torch.empty(30, 3), Noise.of(0, 30)).double()
    x = space.project(space.project(x))
    lengths = torch.logspace(-6, 0.1, 30, dtype=F64)[:, None]
    y = space.exp(x, space.tangent(x, lengths * Noise.of(1, 30).normal((30, 3), F64)))
    v, h = space.tangent(y, Noise.of(2, 30).normal((30, 3), F64)), 1e-5
    ahead, behind = (space.log(x, space.exp(y, sign * h * v)) for sign in (1, -1))
    assert distance(space.carry(x, y, v), (ahead - behind) / (2 * h)) < 1e-8
    assert distance(Space.carry(space, x, y, v), space.carry(x, y, v)) < 1e-12


@pytest.mark.parametrize("name", ["rotations", "torus"])
def test_even_steps_are_of_fifth_order(name: str) -> None:
    model, like = MODELS[name]
    x = model.process.prior(like.double(), Noise.of(2, 3))
    found = sample(model, x, solver=Adaptive(1e-10, 1e-10), noise=Noise.of(0, 3), start=x)
    counts = (6, 12, 24)
    errors = [distance(sample(model, x, solver=EvenSteps(n), noise=Noise.of(0, 3), start=x), found) for n in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -6.2 < slope < -4.5, errors


def test_a_sample_is_its_own() -> None:
    """The same in batches of 1, 7 and 64, in any order, to 1e-12; log p likewise."""
    oracle = pentagon(Cosine())
    order = torch.randperm(64)
    whole = Adaptive().arrival(Draw(oracle, torch.empty(64, 2, dtype=F64), Noise.of(1, 64), {}))
    assert len(whole.evaluations.unique()) > 2
    for rows in (order[:1], order[:7], order):
        part = Adaptive().arrival(Draw(oracle, torch.empty(len(rows), 2, dtype=F64), Noise(1, rows), {}))
        assert distance(part.state, whole.state[rows]) < 1e-12
        assert torch.equal(part.evaluations, whole.evaluations[rows])
    x = oracle.draw(9)
    found = log_likelihood(oracle, x, solver=Adaptive(1e-5, 1e-5)).log_p
    one = log_likelihood(oracle, x[[4, 2]], solver=Adaptive(1e-5, 1e-5)).log_p
    assert float((one - found[[4, 2]]).abs().max()) < 1e-12


def test_padding_changes_nothing() -> None:
    """Frames of three and four sites, alone and padded to six."""
    model, noise = MODELS["frames"][0], Noise.of(5, 2)
    wide = {"pos": torch.empty(2, 6, 3, dtype=F64), "rot": torch.empty(2, 6, 3, 3, dtype=F64)}
    mask = torch.arange(6)[None] < torch.tensor([3, 4])[:, None]
    start = model.process.masked(mask).prior(wide, noise)
    padded = Adaptive().arrival(Draw(model, wide, noise, {"mask": mask}, start))
    for i, sites in enumerate((3, 4)):
        alone = map_state(lambda x, i=i, sites=sites: x[i : i + 1, :sites], start)
        found = Adaptive().arrival(Draw(model, alone, noise, {}, alone))
        assert distance(found.state, map_state(lambda x, i=i, s=sites: x[i : i + 1, :s], padded.state)) < 1e-12
        assert int(found.evaluations) == int(padded.evaluations[i])
    assert float(padded.state["pos"][~mask].abs().max()) == 0


@pytest.mark.parametrize("name", [*MODELS, "pentagon"])
def test_single_precision(name: str) -> None:
    if name == "pentagon":
        model, double = pentagon(VP()), torch.empty(5, 2, dtype=F64)
        single = Mixture(
            model.process, model.means.float(), model.variances.float(), model.weights.float(), model.axes.float()
        )
    else:
        model, like = MODELS[name]
        single, double = model, map_state(lambda x: x.double(), like)
    n = len(tensors(double)[0])
    x, noise = model.process.prior(double, Noise.of(3, n)), Noise.of(0, n)
    found = sample(model, x, solver=Adaptive(1e-7, 1e-7), noise=noise, start=x)
    x = map_state(lambda part: part.float(), x)
    rough = sample(single, x, solver=Adaptive(1e-5, 1e-5), noise=noise, start=x)
    assert distance(map_state(lambda part: part.double(), rough), found) < 1e-3


def pentagon(schedule: Any) -> Mixture:
    k = torch.arange(5, dtype=F64) * 2 * math.pi / 5
    weights = torch.tensor([1, 2, 3, 2, 1], dtype=F64) / 9
    return Mixture(Gaussian(schedule), 1.25 * torch.stack([k.cos(), k.sin()], -1), 0.15**2, weights)


@pytest.mark.parametrize("solver", [Adaptive(1e-8, 1e-8), EvenSteps(40)], ids=repr)
def test_a_path_may_begin_anywhere_and_is_seen(solver: Path) -> None:
    """Cut in two at t = 0.5 it ends where the whole does; a callback sees every step."""
    oracle, noise = pentagon(Linear()), Noise.of(4, 3)
    seen: list[Progress] = []
    like = torch.empty(3, 2, dtype=F64)
    whole = sample(oracle, like, solver=solver, noise=noise, callback=seen.append)
    half = sample(oracle, like, solver=cut(solver, LinearGrid(1.0, 0.5)), noise=noise)
    rest = sample(oracle, like, solver=cut(solver, From(LinearGrid(), 0.5)), noise=noise, start=half)
    assert distance(rest, whole) < 1e-5
    assert [p.number for p in seen] == list(range(len(seen))) and seen[-1].number == seen[-1].total - 1
    assert seen[-1].time < 1e-5 and distance(seen[-1].state, whole) < 1e-4
    assert distance(seen[-1].prediction, whole) < 1e-12  # the last step is the last prediction
    assert all(p.time >= q.time for p, q in pairwise(seen))


def cut(solver: Path, times: Any) -> Path:
    return Adaptive(1e-8, 1e-8, times=times) if isinstance(solver, Adaptive) else EvenSteps(40, times=times)


def test_the_time_of_each_sample_is_that_of_a_number() -> None:
    """Oracles at times [B] are oracles at each time by itself."""
    t = torch.tensor([0.05, 0.4, 0.9], dtype=F64)
    oracle, x = pentagon(VP()), Noise.of(0, 3).normal((3, 2), F64)
    rotation = RotationMixture(BrownianSO3(VE(0.05, 4.5)), exp_so3(torch.eye(3, dtype=F64)[:2]), 0.6)
    r = SO3().random(torch.empty(3, 3, 3, dtype=F64), Noise.of(1, 3))
    for i, s in enumerate(t.tolist()):
        row = slice(i, i + 1)
        assert distance(oracle(x, t)[row], oracle(x[row], s)) < 1e-13
        assert float((oracle.log_density(x, t)[i] - oracle.log_density(x[row], s)).abs()) < 1e-12
        assert distance(rotation(r, t)[row], rotation(r[row], s)) < 1e-9
        assert float((rotation.log_density(r, t)[i] - rotation.log_density(r[row], s)).abs()) < 1e-12


@pytest.mark.parametrize("schedule", [VP(), Cosine(), VE(), EDM(), Linear(), TrigFlow(), Discrete.linear()], ids=repr)
def test_the_share_and_its_pace(schedule: Any) -> None:
    scale, h = 0.3, 1e-6
    for t in (0.1337, 0.5003, 0.9003):
        k = schedule.share(t, scale)
        assert 0 < k < 1 and schedule.unshare(k, scale) == pytest.approx(t, rel=1e-9)
        up, down = (math.log(schedule.share(t + s * h, scale)) for s in (1, -1))
        assert schedule.pace(t, scale) == pytest.approx((up - down) / (2 * h), rel=1e-6)
    assert schedule.share(0.0, scale) == 0 and schedule.unshare(0.0, scale) < 1e-40


def test_a_model_file_may_name_it() -> None:
    solver = Adaptive(1e-4, 1e-5, times=PowerGrid(sigma_max=20.0))
    assert from_config(to_config(solver)) == solver
    assert "Dormand" in cite(solver)


def test_what_cannot_be_followed_says_so() -> None:
    oracle, noise = pentagon(Cosine()), Noise.of(0, 2)
    like = torch.empty(2, 2, dtype=F64)
    with pytest.raises(SamplerError, match="most=20"):
        sample(oracle, like, solver=Adaptive(1e-9, 1e-9, most=2), noise=noise)
    late = lambda t: torch.where(torch.as_tensor(t).reshape(-1, 1) < 0.5, math.nan, 1.0)  # noqa: E731
    nothing = Field(oracle.process, lambda x, t, **cond: x * late(t))
    with pytest.raises(SamplerError, match="finite predictions"):
        sample(nothing, like, solver=Adaptive(), noise=noise)
    twofold = Field(oracle.process, lambda x, t, **cond: Prediction(x, x))
    with pytest.raises(SamplerError, match="two parts"):
        sample(twofold, like, solver=Adaptive(), noise=noise)
    with pytest.raises(SamplerError, match="alpha = 0"):
        sample(Denoiser(Zero(), Eps(), Gaussian(Cosine())), like, solver=Adaptive(), noise=noise)
    with pytest.raises(GendiffError, match=r"steps=0; expected a number of at least 1"):
        sample(oracle, like, solver=EvenSteps(0), noise=noise)


class Zero(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_a_part_that_settles_early_does_not_lead() -> None:
    """Two Gaussians side by side, one settled long before the other: both ends are exact, whatever their order."""
    slow, fast = Gaussian(Linear()), Gaussian(Exponential(10.0), Euclidean())
    v = 0.25

    def posterior(process: Any, x: Tensor, t: Any) -> Tensor:
        alpha, sigma = (torch.as_tensor(u, dtype=F64).reshape(-1, 1) for u in process.schedule(t))
        return alpha * v / (alpha**2 * v + sigma**2) * x

    z = {"a": Noise.of(0, 4).normal((4, 3), F64), "b": Noise.of(1, 4).normal((4, 2), F64)}
    for process in (Joint(a=slow, b=fast), Joint(a=fast, b=slow)):
        model = Field(process, lambda x, t, p=process: {k: posterior(p.parts[k], x[k], t) for k in x})
        end = sample(model, z, solver=Adaptive(1e-9, 1e-9), noise=Noise.of(0, 4), start=z)
        assert distance(end, map_state(lambda x: x * v**0.5, z)) < 1e-7
