"""The tables themselves: measured orders, ends, one Brownian path, correctors, config round trips, and their cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    DDPM,
    EDM,
    SO3,
    VE,
    VP,
    Centered,
    Cosine,
    Discrete,
    DPMpp2M,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Heun,
    Joint,
    Karras,
    Linear,
    LinearGrid,
    LogSNRGrid,
    PowerGrid,
    Torus,
    UpAndDown,
)
from gendiff.config import from_config, to_config
from gendiff.denoisers import Mixture, Normal
from gendiff.errors import GendiffError, SamplerError
from gendiff.random import Increment, Noise
from gendiff.sampling import Progress, run, sample
from gendiff.sampling.grids import Fixed, Grid
from gendiff.sampling.solvers import (
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    RK4,
    Adams,
    Churn,
    Circle,
    Clock,
    Consistency,
    DPMpp2S,
    DPMpp3M,
    DPMpp3S,
    DPMSolver,
    LogSNR,
    Midpoint,
    OnePath,
    Points,
    Rates,
    SASolver,
    Soft,
    Solver,
    UniPC,
    adams,
)
from gendiff.spaces import State
from gendiff.testing import Smooth, check_order

F64 = torch.float64
MEANS = torch.tensor([[1.0, 0.3], [-0.8, 0.5], [0.1, -1.0]], dtype=F64)


def mixture(process: Gaussian) -> Mixture:
    return Mixture(process, MEANS, 0.2, torch.tensor([0.5, 0.3, 0.2], dtype=F64))


@dataclass(frozen=True)
class Gentle(Grid):
    """Quadratic in the number of the step, so that the first steps, of low order, are too short to count."""

    start: float
    end: float

    def __call__(self, process: Any, steps: int) -> list[float]:
        return [self.start + (self.end - self.start) * (i / steps) ** 2 for i in range(steps + 1)]


FLAT: dict[str, tuple[Any, Callable[[], Gentle]]] = {
    "cosine": (mixture(Gaussian(Cosine())), lambda: Gentle(0.9, 0.1)),
    "flow": (mixture(Gaussian(Linear())), lambda: Gentle(0.9, 0.1)),
    "EDM": (mixture(Gaussian(EDM(5.0, 3.0))), lambda: Gentle(1.0, 0.35)),
}
SOFT = Points(Soft())
SECOND: list[Solver] = [
    Midpoint(),
    DPMSolver(),
    DPMpp2S(),
    DPMpp3S(order=2),
    DPMpp3M(50),
    SASolver(eta=0.0),
    Adams(order=2, corrector=0),
    Adams(order=2, view=SOFT, corrector=0),
    DEIS(order=2),
    LMS(order=2),
    UniPC(order=1),
]
THIRD: list[Solver] = [
    DPMpp3S(),
    Adams(order=3, corrector=0),
    Adams(order=3, view=SOFT, corrector=0),
    Adams(order=2, view=SOFT, corrector=3),
    Adams(order=2, corrector=3),
    Adams(order=3, view=Points(LogSNR()), corrector=0),
    DEIS(),
    LMS(order=3),
    DPMSolver(order=3),
    UniPC(order=2, settle=False),
]

FOURTH: list[Solver] = [RK4(), LMS(), Adams(order=3)]


@pytest.mark.parametrize("case", FLAT)
@pytest.mark.parametrize(
    ("solver", "order"),
    [*((s, 2) for s in SECOND), *((s, 3) for s in THIRD), *((s, 4) for s in FOURTH), (Adams(order=4), 5)],
    ids=lambda v: repr(v) if isinstance(v, Solver) else str(v),
)
def test_order_on_flat_spaces(case: str, solver: Solver, order: int) -> None:
    denoiser, grid = FLAT[case]
    like = torch.empty(8, 2, dtype=F64)
    start = denoiser.process.prior(like, Noise.of(4, 8), grid().start)
    errors = []
    truth = sample(denoiser, like, solver=RK4(600, grid()), noise=Noise.of(0, 8), start=start)
    counts = (48, 96, 192)
    for n in counts:
        x = sample(denoiser, like, solver=replace(solver, steps=n, times=grid()), noise=Noise.of(0, 8), start=start)  # type: ignore[type-var]
        errors.append(float((x - truth).square().mean().sqrt()))
    found = math.log(errors[1] / errors[2]) / math.log(2)
    assert found > order - 0.4, (found, errors)


@pytest.mark.parametrize(
    "process",
    [
        Geodesic(SO3()),
        Geodesic(Torus()),
        Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0))),
    ],
    ids=["SO(3)", "torus", "SE(3)"],
)
@pytest.mark.parametrize(
    "solver",
    [
        Midpoint(), Adams(order=2, corrector=0), Adams(order=4), Adams(order=2, view=SOFT, corrector=0), DPMpp2S(),
        DPMpp3S(), DPMpp3S(order=2), DPMSolver(), UniPC(order=1),
    ],
    ids=repr,
)  # fmt: skip
def test_order_on_curved_spaces(process: Any, solver: Solver) -> None:
    shapes = {"pos": (8, 4, 3), "rot": (8, 4, 3, 3)}
    like: State = (
        {k: torch.empty(shape, dtype=F64) for k, shape in shapes.items()}
        if isinstance(process, Joint)
        else torch.empty((8, 3, 3, 3) if isinstance(process.space, SO3) else (8, 4), dtype=F64)
    )
    start = process.prior(like, Noise.of(4, 8), 0.9)
    fine = Heun(512, times=LinearGrid(0.9, 0.2))
    found = check_order(
        solver, Smooth(process), like, grid=lambda: LinearGrid(0.9, 0.2), start=start, reference=fine, tolerance=9.0
    )
    assert found > 1.7


EVERY: list[Solver] = [
    Midpoint(),
    RK4(),
    DPMSolver(order=2),
    DPMSolver(order=3),
    DPMpp2S(),
    DPMpp2S(eta=1.0),
    DPMpp2S(eta=1.0, inner=True),
    DPMpp3S(),
    SASolver(low=0.1, high=2.0),
    DPMSolver(eta=1.0),
    DDPM(large=True),
    Consistency(),
    DPMpp2M(eta=1.0),
    DPMpp3M(),
    DPMpp3M(eta=1.0),
    Adams(),
    Adams(order=3, corrector=0),
    Adams(view=SOFT),
    Adams(order=3, view=SOFT, corrector=0),
    DEIS(),
    IPNDM(),
    LMS(),
    PNDM(),
    UniPC(),
    UniPC(bh2=False),
    SASolver(),
    Churn(),
    OnePath(),
    OnePath(solver=DPMpp2M(eta=1.0)),
]
SCHEDULES = [VP(), Cosine(), VE(), EDM(), Linear(), Discrete.linear(), Discrete.linear().zero_terminal()]


@pytest.mark.parametrize("solver", EVERY, ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: repr(s)[:40])
def test_ends_are_values(solver: Solver, schedule: Any) -> None:
    """Finite, and near the data, from alpha = 0 to sigma = 0 in 1 to 1000 steps, in both precisions."""
    process = Gaussian(schedule)
    for dtype in (torch.float32, torch.float64):
        data = Normal(process, torch.zeros(2, dtype=dtype), 0.25 * torch.eye(2, dtype=dtype))
        for n in (1, 2, 3, 12):
            own = replace(solver, steps=n)  # type: ignore[type-var]
            for chosen in (own, replace(own, times=LinearGrid())):
                x = sample(data, torch.empty(16, 2, dtype=dtype), solver=chosen, noise=Noise.of(1, 16))
                assert bool(torch.isfinite(x).all()), (chosen, n)
                if n == 12 and chosen is own:
                    assert 0.1 < float(x.square().mean().sqrt()) < 1.5, (chosen, n)


@pytest.mark.parametrize("solver", [Adams(), DEIS(), UniPC(), LMS(), PNDM(), SASolver()], ids=repr)
def test_a_thousand_steps(solver: Solver) -> None:
    data = Normal(Gaussian(Cosine()), torch.zeros(2), 0.25 * torch.eye(2))
    chosen = replace(solver, steps=1000)  # type: ignore[type-var]
    x = sample(data, torch.empty(200, 2), solver=chosen, noise=Noise.of(1, 200))
    assert float(x.std()) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("solver", EVERY, ids=repr)
def test_config_and_batches(solver: Solver) -> None:
    assert from_config(json.loads(json.dumps(to_config(solver)))) == solver
    process = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))
    denoiser = Smooth(process)
    for times in (solver.times, UpAndDown(LinearGrid(), 2, 2)):
        chosen = replace(solver, steps=5, times=times)  # type: ignore[type-var]
        like = {"pos": torch.empty(6, 4, 3, dtype=F64), "rot": torch.empty(6, 4, 3, 3, dtype=F64)}
        whole = sample(denoiser, like, solver=chosen, noise=Noise.of(2, 6))
        one = sample(denoiser, {k: v[:1] for k, v in like.items()}, solver=chosen, noise=Noise.of(2, 1, 3))
        for name, part in one.items():
            torch.testing.assert_close(part[0], whole[name][3], rtol=1e-9, atol=1e-9)


def test_weights_sum_to_one_and_reproduce_polynomials() -> None:
    """Interpolation in q integrates polynomials of q exactly."""
    leaf, at, s = Gaussian(EDM()), [0.5, 0.6, 0.8], 0.4
    lam = [leaf.schedule.logsnr(u) / 2 for u in (*at, s)]
    for power in (1.0, 2.0, -1.0):
        w = adams(leaf, at, at[0], s, LogSNR(), power)
        assert sum(w) == pytest.approx(1, abs=1e-12)
        u = torch.linspace(lam[0], lam[3], 200001, dtype=F64)
        mass = torch.exp(power * u)
        for k in (1, 2):
            exact = torch.trapezoid(u**k * mass, u) / torch.trapezoid(mass, u)
            assert sum(a * q**k for a, q in zip(w, lam, strict=False)) == pytest.approx(float(exact), rel=1e-7)
    c = [leaf.schedule.clock(u) for u in at]
    w = adams(leaf, at, at[0], 0.0, Soft(0.3), 1.0)
    q = [math.log1p((v / 0.3) ** 2) for v in c]
    assert sum(a * v for a, v in zip(w, q, strict=True)) == pytest.approx(0, abs=1e-9)
    assert sum(a * v * v for a, v in zip(w, q, strict=True)) == pytest.approx(0, abs=1e-9)


def test_an_exact_prediction_ends_exactly() -> None:
    """A constant prediction is reached by all, a constant noise prediction is followed by all."""
    for solver in (Adams(view=SOFT), DEIS(), UniPC(), LMS(), PNDM(), DPMSolver(), RK4(), IPNDM()):
        point = Mixture(Gaussian(EDM()), torch.tensor([[0.4, -0.2]], dtype=F64), 1e-30)
        x = sample(point, torch.empty(4, 2, dtype=F64), solver=replace(solver, steps=6), noise=Noise.of(0, 4))  # type: ignore[type-var]
        torch.testing.assert_close(x, torch.tensor([[0.4, -0.2]], dtype=F64).expand(4, 2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", [EDM(), Linear(), VP(), Cosine(), Discrete.linear().zero_terminal()], ids=repr)
def test_on_the_circle_a_gaussian_of_its_width_is_followed_exactly(schedule: Any) -> None:
    """One step of any length, from either kind of noise end into sigma = 0, with F = 0 and so with any history."""
    process = Gaussian(schedule)
    data = Normal(process, torch.zeros(3, dtype=F64), 0.7**2 * torch.eye(3, dtype=F64))
    z = Noise.of(0, 4).normal((4, 3), F64)
    alpha, sigma = schedule(1.0)
    for steps, corrector in ((1, 0), (5, 0), (5, 4)):
        solver = Adams(steps, 3, view=Circle(0.7), corrector=corrector, times=LinearGrid())
        x = sample(data, z, solver=solver, noise=Noise.of(0, 4), start=sigma * z)
        expected = sigma * z * 0.7 / math.hypot(0.7 * alpha, sigma)  # y/r is constant
        torch.testing.assert_close(x, expected, rtol=1e-10, atol=1e-12)


def test_a_time_that_comes_twice_counts_once() -> None:
    process = Gaussian(EDM(5.0, 3.0))
    once, twice = (0.9, 0.7, 0.5, 0.3, 0.2, 0.0), (0.9, 0.7, 0.5, 0.5, 0.3, 0.2, 0.2, 0.0)
    for solver in (Adams(5, 3), UniPC(5), DEIS(5), Heun(5), Adams(5, 3, view=SOFT)):
        rows = [replace(solver, times=Fixed(t)).rows(process) for t in (once, twice)]  # type: ignore[type-var]
        assert rows[0] == rows[1]


def test_the_limits_of_the_circle_are_points_and_rates() -> None:
    leaf, at = Gaussian(EDM(5.0, 3.0)), [0.6, 0.7, 0.85]
    c = [leaf.schedule.clock(u) for u in (*at, 0.5)]
    move = leaf.move(at[0], 0.5)
    for width, view, q in ((1e-4, "points", [1 / v for v in c]), (1e4, "rates", c)):
        circle = Circle(width)
        w, n = circle.weights(leaf, at, at[0], 0.5), circle.norms(leaf, at[0], at[0], 0.5)
        # With Lagrange polynomials in the limit's own measure, the integral over it.
        u = torch.linspace(q[0], q[3], 100001, dtype=F64)
        basis = [math.prod((u - b) / (a - b) for b in q[:3] if b != a) for a in q[:3]]
        mean = [float(torch.trapezoid(b, u) / (q[3] - q[0])) for b in basis]  # type: ignore[arg-type]
        if view == "rates":  # l_j = -c_j e_j, and the move pulls by 1 - c_s/c_t
            mean = [m * c[0] / v for m, v in zip(mean, c, strict=False)]
            assert n is not None and n[1] == pytest.approx(1, rel=1e-6)
        assert w == pytest.approx(mean, rel=1e-5)
        assert move.keep == pytest.approx(c[3] / c[0])


def test_noise_goes_with_points() -> None:
    with pytest.raises(SamplerError, match="points"):
        Adams(eta=1.0)


@pytest.mark.parametrize(
    "solver", [UniPC(7), UniPC(7, 2, bh2=False), Adams(7, 3, view=SOFT, corrector=4), Adams(7, 4, corrector=3),
               Adams(7, 3, view=Rates(Clock()), corrector=3), replace(SASolver(7), noise_scale=0.0)], ids=repr
)  # fmt: skip
def test_a_corrector_and_the_next_step_are_one_row(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    """On flat spaces the merged rows reach the states of the rows as they are written."""
    denoiser, like = mixture(Gaussian(EDM())), torch.empty(8, 2, dtype=F64)
    rows = solver.rows(denoiser.process)
    assert len(rows) == 7 and all(row.at == row.t and not row.redo for row in rows)
    start = denoiser.process.prior(like, Noise.of(4, 8))
    once = run(denoiser, denoiser.process, rows, start, noise=Noise.of(0, 8), cond={})
    monkeypatch.setattr("gendiff.sampling.solvers.table.merged", lambda rows: rows)
    written = solver.rows(denoiser.process)
    assert len(written) == 13
    twice = run(denoiser, denoiser.process, written, start, noise=Noise.of(0, 8), cond={})
    torch.testing.assert_close(once, twice, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "solver", [UniPC(4), UniPC(4, 1), SASolver(4, eta=0.0), Adams(4, 2, view=SOFT), Adams(4, 3)], ids=repr
)
def test_a_last_level_that_comes_twice_is_corrected(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more row, with a prediction made there; from merged rows and from those written, the same state."""
    denoiser, like = mixture(Gaussian(EDM())), torch.empty(8, 2, dtype=F64)
    chosen = replace(solver, times=Fixed((0.9, 0.7, 0.5, 0.3, 0.3)))  # type: ignore[type-var]
    rows = chosen.rows(denoiser.process)
    assert len(rows) == 4 and rows[-1].redo and rows[-1].at == 0.3
    start = denoiser.process.prior(like, Noise.of(4, 8), 0.9)
    once = run(denoiser, denoiser.process, rows, start, noise=Noise.of(0, 8), cond={})
    monkeypatch.setattr("gendiff.sampling.solvers.table.merged", lambda rows: rows)
    written = chosen.rows(denoiser.process)
    assert len(written) == 6
    twice = run(denoiser, denoiser.process, written, start, noise=Noise.of(0, 8), cond={})
    torch.testing.assert_close(once, twice, rtol=1e-10, atol=1e-10)


def test_levels_in_the_wrong_order_are_refused() -> None:
    for make in (lambda: SASolver(low=2.0, high=1.0), lambda: Churn(low=2.0, high=1.0)):
        with pytest.raises(GendiffError, match="low"):
            make()


def test_one_brownian_path() -> None:
    source = Noise.of(3, 4000)
    shape = (4000, 2)
    whole = Increment.between(source, 1.0, 0.0).normal(shape, F64)
    parts = [
        Increment.between(source, t, s).normal(shape, F64) * math.sqrt(t - s)
        for t, s in [(1.0, 0.7), (0.7, 0.25), (0.25, 0.0)]
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-12)
    for part, length in zip(parts, (0.3, 0.45, 0.25), strict=True):
        assert float(part.var()) == pytest.approx(length, rel=0.06)
    assert abs(float((parts[0] * parts[1]).mean())) < 0.02
    for t, s in ((1e-5, 9e-6), (1e-6, 9e-7), (1e-12, 9.9e-13), (1 - 9.9e-9, 1 - 1e-8), (0.3, 0.2999), (1.0, 1 - 2e-15)):
        assert float(Increment.between(source, t, s).normal(shape, F64).var()) == pytest.approx(1, rel=0.06), (t, s)
    near, nearer = (Increment.between(source, t, s).normal(shape, F64) for t, s in ((2e-12, 1e-12), (1e-12, 5e-13)))
    assert abs(float((near * nearer).mean())) < 0.04
    for draw in (Increment.uniform, lambda i, shape: i.integers(shape, 1 << 20)):  # of this increment alone too
        u, v = (draw(Increment.between(source, t, s), shape).double() for t, s in ((0.7, 0.4), (0.4, 0.1)))
        assert abs(float(torch.corrcoef(torch.stack([u.flatten(), v.flatten()]))[0, 1])) < 0.04
        assert float(u.var() / u.mean() ** 2) == pytest.approx(1 / 3, rel=0.05)
    # The same sample is refined: runs of 40 and 80 steps stay together, and apart from another seed's.
    data = mixture(Gaussian(Linear()))
    like = torch.empty(32, 2, dtype=F64)

    def end(n: int, solver: Solver) -> Tensor:
        return sample(data, like, solver=replace(solver, steps=n), noise=Noise.of(1, 32))  # type: ignore[type-var]

    one = float((end(64, OnePath()) - end(128, OnePath())).square().mean())
    other = float((end(64, DDPM()) - end(128, DDPM())).square().mean())
    assert one < 0.2 * other, (one, other)


@pytest.mark.parametrize("solver", [LMS(1000), Adams(1000, 4, Karras(), Points(Soft()))], ids=("rates", "points"))
def test_a_long_last_step_keeps_single_precision(solver: Solver) -> None:
    ends = []
    for dtype in (torch.float32, F64):
        data = Normal(Gaussian(), torch.tensor([0.5], dtype=dtype), torch.tensor([[0.3]], dtype=dtype))
        ends.append(sample(data, torch.empty(64, 1, dtype=dtype), solver=solver, noise=Noise.of(0, 64)).double())
    assert float((ends[0] - ends[1]).abs().max()) < 1e-4


def test_each_descent_has_a_path_of_its_own() -> None:
    """A grid that goes up sees new noise each time, the marginal is kept, and a run may be cut in two."""
    n, data = 4000, Normal(Gaussian(Linear()), torch.zeros(1, dtype=F64), torch.tensor([[0.3]], dtype=F64))
    like, noise = torch.empty(n, 1, dtype=F64), Noise.of(2, n)
    rows = OnePath(20, UpAndDown(LinearGrid(), 1, 5)).rows(data.process)
    first = data.process.prior(like, noise.fork("prior"), 1.0)
    seen: list[Progress] = []
    x = run(data, data.process, rows, first, noise=noise, cond={}, callback=seen.append)
    plain = sample(data, like, solver=DDPM(20, times=UpAndDown(LinearGrid(), 1, 5)), noise=noise)
    assert float(x.var()) == pytest.approx(float(plain.var()), rel=0.1)
    cut = seen[6]
    assert isinstance(cut.state, Tensor)
    again = run(data, data.process, rows, cut.state, noise=noise, cond={}, first=cut.number + 1, past=[cut.prediction])
    torch.testing.assert_close(again, x, rtol=0, atol=0)


def test_stochastic_solvers_keep_the_marginal() -> None:
    data = Normal(Gaussian(Cosine()), torch.tensor([0.5], dtype=F64), torch.tensor([[0.3]], dtype=F64))
    solvers = (
        DPMpp2M(60, eta=1.0), DPMpp3M(60, eta=1.0), SASolver(60), DPMpp2S(40, eta=1.0), OnePath(100),
        DPMpp2S(320, eta=1.0, inner=True), DPMSolver(60, eta=1.0), DDPM(200), DDPM(400, large=True),
    )  # fmt: skip
    for solver in solvers:
        x = sample(data, torch.empty(5000, 1, dtype=F64), solver=solver, noise=Noise.of(2, 5000))
        assert float(x.mean()) == pytest.approx(0.5, abs=0.04), solver
        assert float(x.var()) == pytest.approx(0.3, rel=0.1), solver


def test_correctors_cost_nothing() -> None:
    process = Gaussian(EDM())
    for solver in (UniPC(9), Adams(9, corrector=3), Euler(9), DEIS(9)):
        assert solver.evaluations(process) == 9
    assert PNDM(9).evaluations(process) == 10
    assert Clock()(math.inf, Linear()) == 1.0


class Impulse:
    """Predicts 0, and 1 at one of its evaluations."""

    def __init__(self, process: Gaussian | Geodesic, at: int) -> None:
        self.process, self.at, self.seen = process, at, 0

    def __call__(self, x: Tensor, t: float, **cond: object) -> Tensor:
        self.seen += 1
        return torch.full_like(x, float(self.seen == self.at))


@pytest.mark.parametrize("times", [PowerGrid(1.2), PowerGrid(1.65), Karras(), LogSNRGrid()], ids=repr)
@pytest.mark.parametrize("process", [Gaussian(Linear()), Gaussian(EDM()), Geodesic(Torus())], ids=repr)
def test_the_default_amplifies_no_error_of_a_prediction(process: Gaussian | Geodesic, times: Grid) -> None:
    """An error of one prediction moves the end by at most 2.2 times as much; corrected everywhere, by up to 800."""
    zero, none = torch.zeros(1, 1, dtype=F64), Noise.of(0, 1)

    def worst(solver: Adams) -> float:
        ends = [
            sample(Impulse(process, 1 + k), zero, solver=solver, start=zero, noise=none) for k in range(solver.steps)
        ]
        return float(torch.stack(ends).abs().max())

    for steps in (3, 5, 8, 12, 20):
        assert worst(Adams(steps, times=times)) < 2.2
    assert worst(Adams(5, times=times, corrector=3)) > (100 if times == Karras() and process.on.flat else 1.9)
