"""Where guidance could go wrong without a word: infinities, tensor times, starts and their grids, numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    APG,
    CFG,
    DDPM,
    DPS,
    MMPS,
    TMPD,
    VP,
    Average,
    CFGPlusPlus,
    CFGRescale,
    CFGZeroStar,
    Chain,
    ClassifierGuidance,
    DiffPIR,
    DPMpp2M,
    Euler,
    Exponential,
    FeynmanKac,
    Gaussian,
    Given,
    GuidanceInterval,
    Guided,
    Interval,
    Joint,
    Karras,
    Laplace,
    Likelihood,
    Linear,
    LinearGrid,
    LogSNRGrid,
    Magnitudes,
    Mask,
    Measurement,
    Parallel,
    PiGDM,
    PosteriorMean,
    Rescheduled,
    Restart,
    Reward,
    Sphere,
    Torus,
    UpAndDown,
    sample,
)
from gendiff.denoisers import Normal, Prediction
from gendiff.errors import GendiffError, RecipeError, SamplerError
from gendiff.guidance import From, Method, Rule, effective, resample, steer
from gendiff.processes import Geodesic
from gendiff.random import Noise
from gendiff.spaces import State
from gendiff.testing import distance

F64 = torch.float64
INF = float("inf")


def oracle() -> Normal:
    return Normal(Gaussian(VP()), torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))


GRID = LogSNRGrid(0.02, 50.0)


def spread(solver: Any) -> float:
    """The deviation of what the ancestral chain draws of N(0, 1): v_s = (keep + pull alpha)^2 v_t + churn^2."""
    process = Gaussian(VP())
    rows = solver.rows(process)
    v = process.schedule(rows[0].t)[1] ** 2
    for row in rows:
        v = (row.move.keep + row.move.pull * process.schedule(row.t)[0]) ** 2 * v + row.move.churn**2
    return v**0.5


def right(x: Tensor) -> Tensor:
    """-inf left of 0.3: one sample of N(0, I) in three is allowed."""
    return torch.where(x[:, 0] > 0.3, 0.0, -math.inf)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_what_must_not_be_is_not_drawn(threshold: float) -> None:
    """A reward of -inf: every draw obeys, weights are finite or zero, and Z is the probability of obeying."""
    n, k, solver = 300, 24, DDPM(12, times=GRID)
    exact = 0.5 * math.erfc(0.3 / spread(solver) / math.sqrt(2))
    like = torch.empty(n, 2, dtype=F64)
    found = steer(oracle(), like, Reward(right), solver=solver, noise=Noise.of(0, n), particles=k, threshold=threshold)
    assert bool((found.draw(Noise.of(1, n))[:, 0] > 0.3).all())
    assert not bool(found.log_weights.isnan().any()) and bool((found.log_weights < 1e-9).all())
    z = found.log_evidence.exp()
    assert abs(float(z.mean()) - exact) < 4 * float(z.std()) / n**0.5, (float(z.mean()), exact)
    assert bool((found.sizes >= 0).all())


def test_draws_go_by_weight() -> None:
    """Without resampling all is in the weights: the mean of draws is that of N(0, 1) tilted by exp(x)."""
    n, solver = 600, DDPM(12, times=GRID)
    goal = spread(solver) ** 2
    steered = FeynmanKac(solver, Reward(lambda x: x[:, 0]), 64, threshold=0.0)
    x = sample(oracle(), torch.empty(n, 2, dtype=F64), solver=steered, noise=Noise.of(0, n))
    assert abs(float(x[:, 0].mean()) - goal) < 0.2 and abs(float(x[:, 1].mean())) < 0.2 < 0.3 < goal


def test_groups_without_any_weight_say_so() -> None:
    like, none = torch.empty(3, 2, dtype=F64), Reward(lambda x: torch.full_like(x[:, 0], -INF))
    found = steer(oracle(), like, none, solver=DDPM(4), noise=Noise.of(0, 3), particles=4)
    assert bool((found.log_evidence == -INF).all()) and bool((found.log_weights == -math.log(4)).all())
    assert bool(found.state.isfinite().all())
    with pytest.warns(UserWarning, match="3 of 3 samples have no particle"):
        sample(oracle(), like, solver=FeynmanKac(DDPM(4), none, 4), noise=Noise.of(0, 3))
    assert float(effective(torch.full((1, 4), -INF))) == 0
    log_w, _, kept, _ = resample(torch.full((1, 4), -INF), torch.zeros(1), 1.0, Noise.of(0, 1))
    assert kept.tolist() == [0, 1, 2, 3] and bool((log_w == -INF).all())


@pytest.mark.parametrize("value", [math.nan, INF])
def test_rewards_that_are_no_numbers_are_refused(value: float) -> None:
    like = torch.empty(3, 2, dtype=F64)
    bad = Reward(lambda x: torch.where(torch.arange(len(x)) == 5, value, 0.0))
    with pytest.raises(SamplerError, match="1 of 12 particles at t = 1"):
        sample(oracle(), like, solver=FeynmanKac(DDPM(4), bad, 4), noise=Noise.of(0, 3))
    shapes: tuple[Any, ...] = (lambda x: x, lambda x: x.sum(), lambda x: 1.0)
    for shape in shapes:
        with pytest.raises(SamplerError, match="The reward gave for 12 particles"):
            sample(oracle(), like, solver=FeynmanKac(DDPM(4), Reward(shape), 4), noise=Noise.of(0, 3))
    # alpha^power is 0 at the noise end, and 0 times -inf counts nothing.
    linear = Normal(Gaussian(Linear()), torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    x = sample(
        linear, torch.empty(50, 2, dtype=F64), noise=Noise.of(0, 50),
        solver=FeynmanKac(DDPM(8), Reward(right, power=1.0), 24),
    )  # fmt: skip
    assert bool((x[:, 0] > 0.3).all())


class Two:
    """Two predictions apart, by label."""

    def __init__(self, schedule: Any) -> None:
        self.process = Gaussian(schedule)

    def __call__(self, x: Tensor, t: Any, *, kind: Tensor, **cond: Any) -> Tensor:
        return torch.tanh(x) + torch.tensor([-1.0, 1.0, 0.0], dtype=F64)[kind][:, None]


def without(cond: dict[str, Any]) -> dict[str, Any]:
    return {**cond, "kind": torch.full_like(cond["kind"], 2)}


COND = {"kind": torch.tensor([0, 1, 1])}
MEASURED = Measurement(Mask(torch.tensor([[True, False]])), torch.tensor([[0.5, 0.0]], dtype=F64), 0.1, DPS(0.5))
WRAPPED: dict[str, Callable[[Any], Any]] = {
    "plus plus": lambda d: Guided(d, CFGPlusPlus(0.7), without),
    "interval of plus plus": lambda d: Guided(d, GuidanceInterval(CFGPlusPlus(0.7), 0.2, 2.0), without),
    "dps": lambda d: PosteriorMean(d, MEASURED),
    "dps of plus plus": lambda d: PosteriorMean(Guided(d, CFGPlusPlus(0.7), without), MEASURED),
    "plus plus of dps": lambda d: Guided(PosteriorMean(d, MEASURED), CFGPlusPlus(0.7), without),
    "zero star": lambda d: Guided(d, CFGZeroStar(2.0, still_above=3.0), without),
    "interval of zero star": lambda d: Guided(d, GuidanceInterval(CFGZeroStar(2.0, 4.0), 0.2), without),
    "moments": lambda d: PosteriorMean(d, Measurement(MEASURED.operator, MEASURED.y)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_one_particle_is_the_solver_and_so_is_parallel(name: str) -> None:
    """Predictions in two keep both halves; rules do at tensor times what they do at float times, from alpha = 0 on."""
    guided, like, noise = WRAPPED[name](Two(Linear())), torch.empty(3, 2, dtype=F64), Noise.of(2, 3)
    plain = sample(guided, like, solver=DDPM(6), noise=noise, cond=COND)
    one = FeynmanKac(DDPM(6), Reward(lambda x: x[:, 0]), 1)
    assert distance(sample(guided, like, solver=one, noise=noise, cond=COND), plain) < 1e-12
    for solver in (Euler(8), DPMpp2M(8)):
        whole = sample(guided, like, solver=solver, noise=noise, cond=COND)
        parallel = Parallel(solver, tolerance=0.0)
        assert distance(sample(guided, like, solver=parallel, noise=noise, cond=COND), whole) < 1e-10
    x, times = torch.randn(3, 2, dtype=F64), torch.tensor([1.0, 0.85, 0.4], dtype=F64)
    many = guided(x, times, **COND)
    for i, t in enumerate(times.tolist()):
        alone = guided(x, t, **COND)
        for half in (lambda p: getattr(p, "x0", p), lambda p: getattr(p, "back", p)):
            assert distance(half(many)[i], half(alone)[i]) < 1e-10


def test_a_measured_prediction_keeps_the_free_branch_s_noise() -> None:
    guided = Guided(Two(VP()), CFGPlusPlus(0.7), without)
    x = torch.randn(3, 2, dtype=F64)
    for method in (MMPS(2), DiffPIR(), DPS(0.5)):
        found = PosteriorMean(guided, Measurement(MEASURED.operator, MEASURED.y, 0.1, method))(x, 0.5, **COND)
        assert isinstance(found, Prediction)
        assert distance(found.back, Two(VP())(x, 0.5, **without(COND))) < 1e-12
        assert distance(found.x0[:, 0], guided(x, 0.5, **COND).x0[:, 0]) > 1e-3


def test_statistics_see_real_sites_and_own_schedules() -> None:
    """Rescaling leaves padding out; an interval and a method go by the part they are told."""
    g = torch.Generator().manual_seed(0)
    x, free, full = (torch.randn(2, 6, 3, generator=g, dtype=F64) for _ in range(3))
    mask = torch.arange(6)[None] < torch.tensor([[6], [3]])
    process = Gaussian(Linear()).masked(mask)
    noisy = [torch.where(mask[..., None], part, 50.0) for part in (x, free, full)]
    rule: Rule = CFGRescale(CFG(4.0), 0.7)
    a, b = rule.join(process, x, free, full, 0.5), rule.join(process, noisy[0], noisy[1], noisy[2], 0.5)
    assert distance(a[mask], b[mask]) < 1e-12
    alone = rule.join(Gaussian(Linear()), x[1:, :3], free[1:, :3], full[1:, :3], 0.5)
    assert distance(a[1:, :3], alone) < 1e-12
    # sigma/alpha at t = 0.5 is 1 for `pos`, about 0.05 for `rot`: the interval acts by one and not by the other
    joint = Joint(pos=Gaussian(Linear()), rot=Gaussian(Exponential(3.0)))
    levels = {k: s / a for k, (a, s) in ((k, p.schedule(0.5)) for k, p in joint.parts.items())}  # type: ignore[attr-defined]
    middle = (levels["pos"] * levels["rot"]) ** 0.5
    above = {k: GuidanceInterval(2.0, middle, part=k).on(joint, 0.5) for k in levels}
    assert above == {k: levels[k] > middle for k in levels} and any(above.values()) and not all(above.values())
    rest = {k: CFGZeroStar(2.0, middle, part=k).still(joint, 0.5) for k in levels}
    assert rest == above


def test_a_measured_part_goes_by_its_own_schedule() -> None:
    """Two exact Gaussians side by side on different schedules: each measured is what it would be alone."""
    schedules = {"a": Linear(), "b": VP()}
    each = {
        k: Normal(Gaussian(s), torch.zeros(2, dtype=F64), 0.5 * torch.eye(2, dtype=F64)) for k, s in schedules.items()
    }

    class Both:
        process = Joint(**{k: d.process for k, d in each.items()})

        def __call__(self, x: State, t: Any, **cond: Any) -> State:
            return {k: d(x[k], t) for k, d in each.items()}

    x = {k: torch.randn(3, 2, dtype=F64) for k in each}
    operator, y = Average(2, (1,)), torch.tensor([[0.7]], dtype=F64)
    for method in (MMPS(1), TMPD(), PiGDM(), DiffPIR()):
        for part, denoiser in each.items():
            found = PosteriorMean(Both(), Measurement(operator, y, 0.2, method, part))(x, 0.5)
            alone = PosteriorMean(denoiser, Measurement(operator, y, 0.2, method))(x[part], 0.5)
            found, alone = getattr(found, "x0", found), getattr(alone, "x0", alone)
            assert distance(found[part], alone) < 1e-10, (method, part)
            other = next(k for k in each if k != part)
            assert distance(found[other], each[other](x[other], 0.5)) < 1e-12
    potential = Likelihood(Measurement(operator, y, 0.2, part="b"))
    alone = Likelihood(Measurement(operator, y, 0.2))(x["b"], each["b"].process, 0.5)
    assert distance(potential(x, Both.process, 0.5), alone) < 1e-12


def test_projection_is_for_flat_spaces_alone() -> None:
    """On curved spaces APG is CFG: the part of a difference `along` a point means nothing there."""
    for process in (Geodesic(Sphere()), Geodesic(Torus())):
        x, free, full = (process.space.project(torch.randn(4, 3, 3, dtype=F64)) for _ in range(3))
        assert distance(APG(2.5).join(process, x, free, full, 0.5), CFG(2.5).join(process, x, free, full, 0.5)) < 1e-12


def test_guided_bundles_on_schedules_by_part() -> None:
    """`Rescheduled` by part gives times by part: rules and methods take those of their part."""
    process = Joint(a=Gaussian(Linear()), b=Gaussian(VP()))

    class Both:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x: State, t: Any, *, kind: Tensor, **cond: Any) -> State:
            return {k: torch.tanh(v + kind[:, None]) for k, v in x.items()}

    x = {k: torch.randn(3, 2, dtype=F64) for k in ("a", "b")}
    measured = Measurement(Average(2, (1,)), torch.zeros(1, 1, dtype=F64), 0.1, part="b")
    for wrapped in (
        Guided(Both(), GuidanceInterval(CFG(2.0), 0.3, 3.0, "b"), without),
        Guided(Both(), CFGZeroStar(2.0, 5.0), without),
        PosteriorMean(Both(), measured),
        PosteriorMean(Guided(Both(), APG(2.0), without), measured),
    ):
        made = Rescheduled(wrapped, {"a": VP(), "b": Linear()})
        for t in (0.5, 1.0):
            found = made(x, t, **COND)
            many = made(x, torch.full((3,), t, dtype=F64), **COND)
            for k in x:
                assert bool(found[k].isfinite().all()) and distance(found[k], many[k]) < 1e-10
        like = {k: torch.empty(3, 2, dtype=F64) for k in x}
        assert all(
            bool(v.isfinite().all())
            for v in sample(made, like, solver=DDPM(3), noise=Noise.of(0, 3), cond=COND).values()
        )


@pytest.mark.parametrize("start", [0.6, 0.55, 0.35, 1.0])
@pytest.mark.parametrize(
    "grid",
    [
        LinearGrid(),
        UpAndDown(LinearGrid(), 2, 2),
        UpAndDown(LinearGrid(), 3, 3),
        Restart(Karras(), (Interval(0.1, 2.0, 3, 2),)),
    ],
    ids=["linear", "two", "three", "restart"],
)
def test_a_start_is_never_exceeded(grid: Any, start: float) -> None:
    """Nothing is noised beyond the strength; what goes up below it still does; no step stands still."""
    process = Gaussian(Linear())
    times, whole = From(grid, start)(process, 10), grid(process, 10)
    assert times[0] == start and max(times) == start and times[-1] == whole[-1] == 0
    assert all(a != b for a, b in pairwise(times))
    below = [t for t in whole if t < start * (1 - 1e-9)]
    assert [t for t in times if t < start] == [t for t in below if t in times] and set(below) <= set(times)
    ups = sum(b > a for a, b in pairwise(times))
    assert (ups > 0) == (not isinstance(grid, LinearGrid))


def test_the_published_walk_from_a_start() -> None:
    process = Gaussian(Linear())
    times = From(UpAndDown(LinearGrid(), 2, 2), 0.6)(process, 10)
    expected = [0.6, 0.5, 0.4, 0.6, 0.5, 0.4, 0.3, 0.2, 0.4, 0.3, 0.2, 0.1, 0.0]
    assert times[: len(expected)] == pytest.approx(expected)
    inside = Restart(From(LinearGrid(), 0.3), (Interval(0.05, 9.0, 3, 2),))(process, 20)
    assert max(inside) == pytest.approx(0.3) and sum(b > a for a, b in pairwise(inside)) == 2
    with pytest.raises(SamplerError, match=r"ends at t = 0.6"):
        From(LinearGrid(1, 0.6), 0.5)(process, 10)


def test_known_parts_and_starts_take_the_state_s_precision() -> None:
    class Still:
        process = Gaussian(Linear())

        def __call__(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return torch.tanh(x)

    x0 = torch.randn(1, 2, dtype=F64)
    given, like = Given(x0, torch.tensor([[True, False]])), torch.empty(3, 2)
    for known in (given.expand(3), Given(x0.expand(3, 2), given.keep)):
        x = sample(Still(), like, solver=DPMpp2M(4), noise=Noise.of(0, 3), given=known)
        assert x.dtype == torch.float32 and torch.equal(x[:, 0], x0[:, 0].float().expand(3))
    start = torch.randn(3, 2, dtype=F64)
    assert sample(Still(), like, solver=Euler(4), noise=Noise.of(0, 3), start=start).dtype == torch.float32
    measured = Measurement(Mask(given.keep), x0, 0.1)
    assert sample(PosteriorMean(Still(), measured), like, solver=Euler(4), noise=Noise.of(0, 3)).dtype == torch.float32


WRONG: dict[str, Callable[[], Any]] = {
    "a word": lambda: CFG("2"),
    "nan": lambda: CFG(math.nan),
    "a word by part": lambda: CFG({"pos": "2"}),
    "none": lambda: CFG(None),
    "true": lambda: CFG(True),
    "APG radius": lambda: APG(2.0, -1.0),
    "APG radius nan": lambda: APG(2.0, math.nan),
    "APG word": lambda: APG("3"),
    "APG parallel": lambda: APG(2.0, parallel="x"),
    "zero star word": lambda: CFGZeroStar("2"),
    "zero star level": lambda: CFGZeroStar(2.0, -1.0),
    "rescale below": lambda: CFGRescale(2.0, -0.1),
    "rescale above": lambda: CFGRescale(2.0, 1.1),
    "interval turned": lambda: GuidanceInterval(2.0, 3.0, 0.3),
    "interval below": lambda: GuidanceInterval(2.0, -1.0),
    "interval nan": lambda: GuidanceInterval(2.0, math.nan),
    "plus plus word": lambda: CFGPlusPlus("a"),
    "MMPS 0": lambda: MMPS(0),
    "MMPS -3": lambda: MMPS(-3),
    "MMPS 1.5": lambda: MMPS(1.5),  # type: ignore[arg-type]
    "TMPD": lambda: TMPD(0.0),
    "PiGDM std": lambda: PiGDM(0.0),
    "PiGDM iterations": lambda: PiGDM(1.0, 0),
    "DiffPIR weight": lambda: DiffPIR(0.0),
    "DiffPIR iterations": lambda: DiffPIR(1.0, 0),
    "DPS": lambda: DPS(-1.0),
    "no particles": lambda: FeynmanKac(DDPM(2), Reward(right), 0),
    "threshold above": lambda: FeynmanKac(DDPM(2), Reward(right), 4, 1.5),
    "threshold below": lambda: FeynmanKac(DDPM(2), Reward(right), 4, -0.1),
    "reward strength": lambda: Reward(right, math.nan),
    "reward power": lambda: Reward(right, 1.0, -1.0),
    "average": lambda: Average(0),
    "magnitudes size": lambda: Magnitudes(0),
    "magnitudes hop": lambda: Magnitudes(8, 0),
    "start 0": lambda: From(LinearGrid(), 0.0),
    "start above": lambda: From(LinearGrid(), 1.5),
    "walk": lambda: UpAndDown(LinearGrid(), 0),
    "restart": lambda: Interval(0.3, 0.1),
    "likelihood": lambda: Likelihood(MEASURED, 0.0),
    "measurement": lambda: Measurement(Average(2), torch.zeros(1, 1), -0.1),
}


@pytest.mark.parametrize("name", WRONG)
def test_numbers_are_checked_where_they_are_written(name: str) -> None:
    with pytest.raises(GendiffError) as error:
        WRONG[name]()
    assert isinstance(error.value, RecipeError | SamplerError) and error.value.expected


NAMES: list[Rule | Method] = [
    CFG({"poss": 2.0, "rot": 1.0}), CFG({"pos": 2.0}), APG(2.0, {"pos": 1.0, "rott": 2.0}), CFGZeroStar({"x": 2.0}),
    CFGRescale(2.0, {"pos": 0.1}), GuidanceInterval(2.0, 0.1, 2.0, "poss"), CFGZeroStar(2.0, 3.0, "poss"),
]  # fmt: skip


@pytest.mark.parametrize("rule", NAMES, ids=repr)
def test_misspelt_parts_are_named(rule: Rule) -> None:
    class Both:
        process = Joint(pos=Gaussian(Linear()), rot=Gaussian(Linear()))

        def __call__(self, x: State, t: Any, **cond: Any) -> State:
            return x

    x = {k: torch.randn(3, 2, dtype=F64) for k in ("pos", "rot")}
    with pytest.raises(SamplerError, match=r"'pos', 'rot'|pos, rot"):
        Guided(Both(), rule, without)(x, 0.5, **COND)
    with pytest.raises(SamplerError, match=r'Did you mean "pos"'):
        PosteriorMean(Both(), Measurement(Average(2, (1,)), torch.zeros(1, 1), part="poss"))(x, 0.5)
    with pytest.raises(SamplerError, match="no part"):
        PosteriorMean(Two(VP()), Measurement(Average(2, (1,)), torch.zeros(1, 1), part="pos"))(x["pos"], 0.5, **COND)
    with pytest.raises(SamplerError, match="no part"):
        Guided(Two(VP()), GuidanceInterval(2.0, part="pos"), without)(x["pos"], 0.5, **COND)


@pytest.mark.parametrize("operator", [Mask(torch.ones(1, 4) > 0), Average(2, (1,)), Chain(Average(2, (1,)))], ids=repr)
def test_operators_refuse_bundles_and_classes(operator: Any) -> None:
    with pytest.raises(SamplerError, match=r"got a dict.*one part of a bundle \(pos, rot\)"):
        operator({"pos": torch.zeros(3, 4), "rot": torch.zeros(3, 4)})
    with pytest.raises(SamplerError, match="got classes"):
        operator(torch.zeros(3, 4, dtype=torch.int64))


def test_gradients_guide_where_alpha_vanishes_before_any_number_says_so() -> None:
    """The last float below 1 is early enough for schedules that fall off too fast to be inverted."""
    denoiser = Normal(Gaussian(Laplace(0.0, 0.5)), torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    guided = ClassifierGuidance(denoiser, lambda x, t, **cond: -x.square().sum(1) / 50)
    assert bool(guided(torch.randn(3, 2, dtype=F64), 1.0).isfinite().all())


@pytest.mark.parametrize("method", [MMPS(1), TMPD(), PiGDM(), DPS(0.3)], ids=repr)
def test_chained_operators_are_differentiated_in_inference_mode(method: Method) -> None:
    denoiser = Normal(Gaussian(Linear()), torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64))
    ends = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            operator = Chain(Average(2, (1,)), Mask(torch.tensor([[True, False], [True, True]])))
            measured = PosteriorMean(denoiser, Measurement(operator, torch.ones(2, 2, dtype=F64), 0.2, method))
            ends.append(sample(measured, torch.empty(2, 4, dtype=F64), solver=Euler(3), noise=Noise.of(0, 2)))
    assert distance(ends[0], ends[1]) < 1e-12


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", [MMPS(1), TMPD(), PiGDM(), DiffPIR(), DPS(0.3)], ids=repr)
def test_measured_values_that_are_not_finite_are_refused_unless_masked(method: Method, bad: float) -> None:
    denoiser = Normal(Gaussian(Linear()), torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64))
    like, y = torch.empty(2, 4, dtype=F64), torch.ones(2, 4, dtype=F64)
    y[0, 1] = bad

    def draw(operator: Any, y: Tensor) -> Tensor:
        measured = PosteriorMean(denoiser, Measurement(operator, y, 0.2, method))
        return sample(measured, like, solver=Euler(3), noise=Noise.of(0, 2))

    keep = torch.tensor([[True, False, True, True]])
    assert torch.equal(draw(Mask(keep), y), draw(Mask(keep), torch.ones_like(y)))
    for operator in (Mask(~keep), Average(1, (1,))):
        with pytest.raises(SamplerError, match="Measurement got y with"):
            draw(operator, y)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_known_values_that_are_not_finite_are_refused_where_they_are_read(bad: float) -> None:
    denoiser = Normal(Gaussian(Linear()), torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64))
    x0, keep = torch.ones(2, 4, dtype=F64), torch.tensor([[True, False, True, True]])
    x0[0, 1] = bad

    def draw(x0: Tensor, keep: Tensor) -> Tensor:
        like = torch.empty(2, 4, dtype=F64)
        return sample(denoiser, like, solver=Euler(3), noise=Noise.of(0, 2), given=Given(x0, keep))

    assert torch.equal(draw(x0, keep), draw(torch.ones_like(x0), keep))
    with pytest.raises(SamplerError, match="Given got x0 with"):
        draw(x0, ~keep)
