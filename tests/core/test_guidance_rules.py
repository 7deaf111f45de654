"""Rules of guidance: their formulas, what is evaluated, and that no sample sees another."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    DDPM,
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
    Guided,
    Heads,
    Heun,
    Joint,
    Linear,
    LogSNRGrid,
    Tangent,
    Velocity,
)
from gendiff.denoisers import Mixture, Normal, Prediction
from gendiff.errors import SamplerError
from gendiff.guidance import (
    APG,
    CFG,
    CFGPlusPlus,
    CFGRescale,
    CFGZeroStar,
    ClassifierGuidance,
    Constrained,
    GuidanceInterval,
    Rule,
)
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.sampling.solvers import Solver
from gendiff.spaces import State, map_state
from gendiff.testing import distance, randomised, row

F64 = torch.float64
MASK = torch.arange(6)[None] < torch.tensor([6, 5, 3, 2])[:, None]
COND = {"kind": torch.tensor([0, 1, 0, 1]), "mask": MASK}
RULES: list[Rule] = [
    CFG(2.5),
    APG(3.0, 0.5, 0.2),
    CFGZeroStar(2.0),
    CFGRescale(CFG(4.0), 0.7),
    CFGRescale(APG(4.0), 0.5),
    GuidanceInterval(CFG(3.0), 0.3, 3.0),
    CFGPlusPlus(CFG(0.6)),
    CFGRescale(CFGPlusPlus(APG(0.8)), 0.3),
    GuidanceInterval(CFGPlusPlus(), 0.3, 3.0),
]


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.label = nn.Linear(12, 6), nn.Embedding(3, 6)
        self.rows: list[int] = []

    def forward(self, x: State, t: Tensor, kind: Tensor, mask: Tensor | None = None) -> State:
        self.rows.append(len(t))
        h = self.inner(torch.cat([x["pos"], x["rot"].flatten(-2)], -1)) + self.label(kind)[:, None]
        return dict(zip(("pos", "rot"), torch.tanh(h).split(3, -1), strict=True))


def bodies(seed: int = 0) -> tuple[Any, State]:
    process = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))
    like = {"pos": torch.empty(4, 6, 3, dtype=F64), "rot": torch.empty(4, 6, 3, 3, dtype=F64)}
    network = randomised(Toy().double(), seed).requires_grad_(False)
    return Denoiser(network, Heads(pos=Velocity(), rot=Tangent()), process), like


def without(cond: dict[str, Any]) -> dict[str, Any]:
    return {**cond, "kind": torch.full_like(cond["kind"], 2)}


@pytest.mark.parametrize("solver", [Euler(5), Heun(4), DPMpp2M(6), DDPM(5)], ids=repr)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_works_with_every_solver_and_no_sample_sees_another(rule: Rule, solver: Solver) -> None:
    denoiser, like = bodies()
    guided = Guided(denoiser, rule, without)
    whole = sample(guided, like, solver=solver, noise=Noise.of(0, 4), cond=COND)
    for i in (0, 3):
        cond = {k: v[i : i + 1] for k, v in COND.items()}
        alone = sample(guided, row(like, i), solver=solver, noise=Noise.of(0, 1, i), cond=cond)
        assert distance(alone, row(whole, i)) < 1e-12
    plain = sample(denoiser, like, solver=solver, noise=Noise.of(0, 4), cond=COND)
    assert distance(whole["pos"], plain["pos"]) > 1e-4
    assert float(whole["pos"].sum(1).abs().max()) < 1e-12
    gram = whole["rot"].mT @ whole["rot"]
    assert distance(gram, torch.eye(3, dtype=F64).expand_as(gram)) < 1e-12


@pytest.mark.parametrize(
    "rule", [1.0, 1, CFG(1.0), APG(1.0), CFGZeroStar(1.0), GuidanceInterval(CFG(9.0), high=0.0), {"pos": 1}]
)
def test_off_is_plain_bit_for_bit_and_costs_one_branch(rule: Any) -> None:
    denoiser, like = bodies()
    rows = denoiser.network.rows
    plain = sample(denoiser, like, solver=Heun(4), noise=Noise.of(0, 4), cond=COND)
    cost = sum(rows)
    rows.clear()
    for guided in (Guided(denoiser, rule, without), Autoguidance(denoiser, bodies(1)[0], rule)):
        rows.clear()
        x = sample(guided, like, solver=Heun(4), noise=Noise.of(0, 4), cond=COND)
        assert all(torch.equal(x[k], plain[k]) for k in x)
        assert sum(rows) == cost


def test_an_interval_of_noise_levels_costs_nothing_outside() -> None:
    """The number of doubled evaluations is that of the levels inside, on any grid."""
    denoiser, like = bodies()
    rule, solver = GuidanceInterval(CFG(3.0), 0.28, 2.9), Euler(20)
    sample(Guided(denoiser, rule, without), like, solver=solver, noise=Noise.of(0, 4), cond=COND)
    levels = [t / (1 - t) if t < 1 else float("inf") for t in solver.times(denoiser.process, 20)[:-1]]
    assert denoiser.network.rows == [8 if 0.28 < sigma <= 2.9 else 4 for sigma in levels]
    x = denoiser.process.prior(like, Noise.of(0, 4))
    times = torch.tensor([0.1, 0.5, 0.6, 0.95], dtype=F64)
    many = Guided(denoiser, rule, without)(x, times, **COND)
    for i, t in enumerate(times.tolist()):
        assert distance(row(many, i), row(Guided(denoiser, rule, without)(x, t, **COND), i)) < 1e-12


def flat() -> tuple[Gaussian, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, free, full = (torch.randn(5, 7, 3, generator=g, dtype=F64) for _ in range(3))
    return Gaussian(Linear()), x, free, full


def test_projected_guidance_against_its_formula() -> None:
    process, x, free, full = flat()
    out = APG(4.0, radius=2.0, parallel=0.25).join(process, x, free, full, 0.5)
    for i in range(5):
        d = full[i] - free[i]
        d = d * min(1.0, 2.0 / float(d.norm()))
        unit = full[i] / full[i].norm()
        per_sample = (d * unit).sum() * unit
        assert distance(out[i], full[i] + 3.0 * (d - per_sample + 0.25 * per_sample)) < 1e-12
    assert distance(APG(4.0, parallel=1.0).join(process, x, free, full, 0.5), CFG(4.0).join(process, x, free, full, 0.5)) < 1e-12  # fmt: skip # noqa: E501


def test_rescaling_gives_back_the_spread() -> None:
    process, x, free, full = flat()
    joint = CFG(5.0).join(process, x, free, full, 0.5)
    out = CFGRescale(CFG(5.0), 1.0).join(process, x, free, full, 0.5)
    spread = lambda v: v.flatten(1).std(1)  # noqa: E731
    torch.testing.assert_close(spread(out), spread(full), rtol=1e-12, atol=0)
    torch.testing.assert_close(CFGRescale(CFG(5.0), 0.0).join(process, x, free, full, 0.5), joint)
    assert bool((spread(joint) > 2 * spread(full)).all())


def test_zero_star_finds_the_best_scale_of_the_free_velocity() -> None:
    """On a linear flow: v = (1 - w) q v_free + w v_full, q the least-squares scale; above a level nothing moves."""
    process, x, free, full = flat()
    v = lambda x0: (x - x0) / 0.5  # noqa: E731
    a, b = v(free), v(full)
    q = ((a * b).sum((1, 2)) / (a * a).sum((1, 2)))[:, None, None]
    out = CFGZeroStar(3.0).join(process, x, free, full, 0.5)
    assert distance(v(out), -2.0 * q * a + 3.0 * b) < 1e-12
    denoiser, like = bodies()
    seen: list[Any] = []
    guided = Guided(denoiser, CFGZeroStar(2.0, still_above=5.0), without)
    sample(guided, like, solver=Euler(10), noise=Noise.of(0, 4), cond=COND, callback=seen.append)
    assert denoiser.network.rows == [8] * 8  # t = 1 and 0.9 stand still
    assert distance(seen[0].state, seen[1].state) < 1e-12
    assert distance(seen[1].state, seen[2].state) > 1e-3


@pytest.mark.parametrize("schedule", [VP(), Linear()], ids=repr)
def test_plusplus_is_its_formula_on_flat_spaces(schedule: Any) -> None:
    """x_s = alpha_s x0 + sigma_s (x_t - alpha_t free)/sigma_t: Algorithm 2 of Chung et al. (2024)."""

    class Two:
        process = Gaussian(schedule)

        def __call__(self, x: Tensor, t: float, *, kind: Tensor, **cond: Any) -> Tensor:
            return torch.tanh(x * (1 + t)) + torch.tensor([-1.0, 1.0, 0.0], dtype=F64)[kind][:, None]

    two, grid = Two(), LogSNRGrid(0.01, 50.0)
    cond = {"kind": torch.tensor([0, 1, 1])}
    like = torch.empty(3, 2, dtype=F64)
    x = sample(Guided(two, CFGPlusPlus(CFG(0.7)), without), like, solver=Euler(9, times=grid), noise=Noise.of(0, 3), cond=cond)  # fmt: skip # noqa: E501
    times = grid(two.process, 9)
    y = two.process.prior(like, Noise.of(0, 3).fork("prior"), times[0])
    for t, s in pairwise(times):
        (a_t, s_t), (a_s, s_s) = schedule(t), schedule(s)
        free, full = two(y, t, **without(cond)), two(y, t, **cond)
        y = a_s * (0.3 * free + 0.7 * full) + s_s * (y - a_t * free) / s_t
    assert distance(x, y) < 1e-12


@pytest.mark.parametrize("solver", [Euler(6), Heun(5), DPMpp2M(6)], ids=repr)
def test_plusplus_of_zero_is_the_free_model_with_every_solver(solver: Solver) -> None:
    denoiser, like = bodies()
    x = sample(Guided(denoiser, CFGPlusPlus(CFG(0.0)), without), like, solver=solver, noise=Noise.of(0, 4), cond=COND)
    free = sample(denoiser, like, solver=solver, noise=Noise.of(0, 4), cond=without(COND))
    assert distance(x, free) < 1e-12


def test_corrections_reach_both_kinds_of_prediction() -> None:
    denoiser, like = bodies()
    x = denoiser.process.prior(like, Noise.of(0, 4))
    halve = lambda x0, t, **cond: {"pos": x0["pos"] / 2, "rot": x0["rot"]}  # noqa: E731
    guided = Guided(denoiser, CFGPlusPlus(), without)
    plain, out = guided(x, 0.5, **COND), Constrained(guided, halve)(x, 0.5, **COND)
    assert isinstance(out, Prediction)
    assert distance(out.x0["pos"], plain.x0["pos"] / 2) < 1e-12 and distance(out.back, plain.back) == 0


def test_an_exact_classifier_gives_the_exact_class() -> None:
    """A mixture's denoiser, with the gradient of log p(class | x_t), is the denoiser of that class."""
    process = Gaussian(VP())
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=F64)
    both = Mixture(process, means, 0.2, torch.tensor([0.3, 0.7], dtype=F64))
    first = Normal(process, means[0], 0.2 * torch.eye(2, dtype=F64))

    def log_p(x: Tensor, t: float, **cond: Any) -> Tensor:
        return torch.log_softmax(both.parts(x, *process.schedule(t))[0], 1)[:, 0]

    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for t in (0.1, 0.5, 0.9):
        assert distance(ClassifierGuidance(both, log_p)(x, t), first(x, t)) < 1e-10
        assert torch.equal(ClassifierGuidance(both, log_p, 0.0)(x, t), both(x, t))


def test_gradients_are_refused_on_curved_spaces() -> None:
    class Rest:
        process = Geodesic(SO3())

        def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
            return x

    eye = torch.eye(3, dtype=F64).expand(2, 4, 3, 3)
    classified = ClassifierGuidance(Rest(), lambda x, t: x.flatten(1).sum(1))
    with pytest.raises(SamplerError, match="flat"):
        classified(eye, 0.5)


def test_wrappers_compose() -> None:
    """Autoguidance of guided models, with an interval and a correction, is still a denoiser."""
    denoiser, like = bodies()
    guided = Guided(denoiser, GuidanceInterval(CFGRescale(APG(2.0), 0.5), 0.1), without)
    weaker = Guided(bodies(1)[0], 1.0, without)
    stacked = Constrained(Autoguidance(guided, weaker, 1.5), lambda x0, t, **cond: x0)
    x = sample(stacked, like, solver=DPMpp2M(5), noise=Noise.of(0, 4), cond=COND)
    assert all(bool(torch.isfinite(part).all()) for part in x.values())
    assert map_state(lambda part: part.shape, x) == map_state(lambda part: part.shape, like)


def test_a_number_is_a_scale_inside_a_rule() -> None:
    for outer in (CFGRescale, GuidanceInterval, CFGPlusPlus):
        assert outer(0.6) == outer(CFG(0.6)), outer
