"""Few-step methods: what each holds fixed and where it leads, what a lesson is, what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    EDM,
    SO3,
    VP,
    X0,
    Absorbing,
    Adams,
    BrownianSO3,
    Centered,
    Denoiser,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Heads,
    Joint,
    Linear,
    LinearGrid,
    PowerGrid,
    Sphere,
    Tangent,
    Torus,
    Velocity,
    sample,
)
from gendiff.config import from_config, to_config
from gendiff.denoisers import Mixture, Normal
from gendiff.errors import RecipeError, SamplerError
from gendiff.guidance import CFGRescale, Guided, ScaleInput
from gendiff.nn import UNet
from gendiff.random import Noise
from gendiff.sampling.solvers import FlowMap
from gendiff.spaces import State
from gendiff.training import (
    AdaptiveWeight,
    ConsistencyTraining,
    ContinuousConsistency,
    DistributionMatching,
    FewStep,
    Finite,
    GuidanceDistillation,
    Lesson,
    MeanFlow,
    MomentMatching,
    Progressive,
    Reflow,
    Reverse,
    ScoreRegularized,
    Shortcut,
    stratified,
)
from gendiff.training.fewstep import aim, jump
from gendiff.training.fewstep.base import teach
from gendiff.training.fewstep.consistency import distance
from tests.core.exactmaps import SCHEDULES, ExactMap, gaussian, lesson_of, own_network

METHODS: tuple[FewStep, ...] = (
    MeanFlow(), MeanFlow(improved=False), ContinuousConsistency(), ConsistencyTraining(), Shortcut(), MomentMatching(),
    Reflow(), DistributionMatching(), ScoreRegularized(begin=0.0), Progressive(2), GuidanceDistillation(),
)  # fmt: skip
B = 6


FROM_DATA = (MeanFlow(), MeanFlow(improved=False), MeanFlow(derivative=Reverse()), Shortcut(), MomentMatching(gap=0.4))
BY_TEACHER = (
    MeanFlow(), MeanFlow(derivative=Finite(1e-4)), ContinuousConsistency(), Shortcut(steps=8),
    GuidanceDistillation(guidance=1.0),
)  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize(
    ("method", "taught"), [*((m, False) for m in FROM_DATA), *((m, True) for m in BY_TEACHER)], ids=str
)
def test_the_exact_flow_map_is_a_fixed_point(method: FewStep, taught: bool, schedule: Any) -> None:
    zero = isinstance(method, ContinuousConsistency)
    denoiser, exact, draw = gaussian(schedule, zero)
    method = dataclasses.replace(method, adaptive=AdaptiveWeight(0.0)) if hasattr(method, "adaptive") else method
    own = own_network(denoiser).push
    far = 1.0 if isinstance(method, MomentMatching) else 0.2
    n, gradients = 2048, {0.0: [], far: []}
    for push, found in gradients.items():
        for seed in range(6):
            with torch.no_grad():
                own.fill_(push)
            lesson = lesson_of(denoiser, draw, exact if taught else None, n, seed, progress=1.0)
            own.grad = None
            method.losses(lesson)["loss"].mean().backward()
            assert own.grad is not None
            found.append(float(own.grad))
    still, pushed = (torch.tensor(found, dtype=torch.float64) for found in gradients.values())
    noise = float(still.std()) / len(still) ** 0.5
    assert abs(float(still.mean())) < 4 * noise + 0.03 * abs(float(pushed.mean())), (still, pushed)
    assert float(pushed.mean()) > 4 * noise  # and from elsewhere it leads back
    if taught:
        assert float(still.abs().max()) < 0.02 * float(pushed.mean())  # a teacher has no variance


class Held(Lesson):
    """Whose x_t is the same whatever the examples are."""

    def noised(self, t: Tensor) -> State:
        return torch.linspace(-1, 1, 2 * self.n, dtype=torch.float64).reshape(self.n, 2)


@pytest.mark.parametrize("method", [MeanFlow(same=0.3), Shortcut(same=0.3)], ids=lambda m: type(m).__name__)
def test_from_data_no_example_has_more_say_than_another_at_the_same_place(method: FewStep) -> None:
    """The weight of an error hangs on x_t, t and s alone: else what is learned is no mean."""
    denoiser, _, draw = gaussian(Linear())
    with torch.no_grad():
        own_network(denoiser).push.fill_(1.0)
    weights = []
    for seed in (0, 1):
        lesson = lesson_of(denoiser, lambda n, seed: draw(n, 0), None, 64)
        out = method.losses(Held(**{**vars(lesson), "x0": draw(64, seed)}))
        weights.append((out["loss"] / out["flow"]).detach())
    assert torch.allclose(*weights, rtol=1e-12)
    assert float(weights[0].min()) < 0.9
    assert float(weights[0].max()) == 1.0  # where s = t it is a denoiser's error


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_moments_match_in_scale_too(schedule: Any) -> None:
    """A flow map of data twice as wide, and of data half as wide, is led to that of the data."""
    denoiser, _, draw = gaussian(schedule)
    own, means = own_network(denoiser).spread, []
    for spread in (-0.7, 0.0, 0.7):
        found = []
        for seed in range(8):
            with torch.no_grad():
                own.fill_(spread)
            own.grad = None
            MomentMatching(gap=0.4).losses(lesson_of(denoiser, draw, None, 4096, seed))["loss"].mean().backward()
            assert own.grad is not None
            found.append(float(own.grad))
        means.append(torch.tensor(found, dtype=torch.float64))
    narrow, exact, wide = (float(found.mean()) for found in means)
    noise = float(means[1].std()) / len(means[1]) ** 0.5
    assert narrow < -4 * noise and wide > 4 * noise, means
    assert abs(exact) < 4 * noise + 0.03 * min(-narrow, wide), means


@pytest.mark.parametrize("improved", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_flow_map_of_other_data_is_led_to_the_data(schedule: Any, improved: bool) -> None:
    """By its jumps alone: one that agrees with itself, and not with the examples, is not at rest."""
    denoiser, _, draw = gaussian(schedule)
    own, found = own_network(denoiser).shift, []
    with torch.no_grad():
        own.fill_(0.5)
    for seed in range(4):
        own.grad = None
        method = MeanFlow(same=0.0, improved=improved)
        method.losses(lesson_of(denoiser, draw, None, 2048, seed))["loss"].mean().backward()
        assert own.grad is not None
        found.append(float(own.grad))
    assert min(found) > 0, found


@pytest.mark.parametrize("schedule", [Linear(), EDM()], ids=repr)
@pytest.mark.parametrize("taught", [False, True])
def test_consistency_leads_to_the_end_of_the_flow(taught: bool, schedule: Any) -> None:
    """In small steps the fixed point is the flow map to 0; in the first stage, from data, the denoiser."""
    denoiser, exact, draw = gaussian(schedule, zero=True)
    own, means = own_network(denoiser).push, []
    for push in (0.0, 0.2):
        with torch.no_grad():
            own.fill_(push)
        own.grad = None
        lesson = lesson_of(denoiser, draw, exact if taught else None, 8192, progress=1.0)
        ConsistencyTraining(stages=7).losses(lesson)["loss"].mean().backward()
        assert own.grad is not None
        means.append(float(own.grad))
    assert abs(means[0]) < 0.1 * means[1]
    assert (
        ConsistencyTraining(stages=3)
        .earlier(dataclasses.replace(lesson, progress=0.0), torch.tensor([0.5]).double())[0]
        .item()
        < 0.5
    )


@pytest.mark.parametrize("space", [Torus(), SO3(), Sphere()], ids=lambda space: type(space).__name__)
def test_neighbours_are_compared_where_they_are(space: Any) -> None:
    """Their distance is a geodesic's, and not that of their logarithms elsewhere, which are torn at the cut locus."""
    process = Geodesic(space)
    like = torch.empty(256, 3, 3).double() if isinstance(space, SO3) else torch.empty(256, 3).double()
    a = space.random(like, Noise.of(0, 256))
    v = space.tangent(a, 0.02 * torch.randn(space.log(a, a).shape, generator=torch.Generator().manual_seed(1)).double())
    b, gap = space.exp(a, v), torch.full((256,), 0.1).double()
    found = distance(process, (b, a), gap, None)
    assert torch.allclose(found, space.norm2(a, v) / space.dim(a) / 0.01, rtol=1e-6)
    assert torch.allclose(found, distance(process, (a, b), gap, None), rtol=1e-6)


def test_progressive_distillation_wants_two_steps_of_the_teacher_in_one() -> None:
    process = Gaussian(Linear())
    exact = Mixture(process, torch.tensor([[-1.0, 0.0], [1.0, 0.5]]).double(), 0.05)
    method = Progressive(2)
    grid = torch.tensor(method.grid(process, 4)).double()

    class TwoSteps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.push = nn.Parameter(torch.zeros(()).double())

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            i = (t[:, None] - grid).abs().argmin(1)
            u, s = grid[i + 1], grid[i + 2]
            there = process.step(x, exact(x, t), t, u)
            return aim(process, x, process.step(there, exact(there, u), u, s), t, s) + self.push

    student = Denoiser(TwoSteps(), X0(), process)
    loss = method.losses(lesson_of(student, exact.draw, exact, 64))["loss"].detach()
    assert float(loss.max()) < 1e-20
    like, noise = torch.empty(16, 2).double(), Noise.of(0, 16)
    student.requires_grad_(False)
    a = sample(student, like, solver=method.sampler(2), noise=noise)
    b = sample(exact, like, solver=Euler(4), noise=noise)
    assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_samples_move_as_the_scores_differ(schedule: Any) -> None:
    """Of samples that are shifted, and a critic that knows them, the gradient leads back; at the data it vanishes."""
    process = Gaussian(schedule)
    deviation, shift = torch.tensor([0.5, 1.2]).double(), torch.tensor([0.4, 0.4]).double()
    covariance = torch.diag(deviation**2)
    teacher = Normal(process, torch.zeros(2).double(), covariance)

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(shift.clone())

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            a, b = (part[:, None] for part in process.schedule(t))
            return deviation / (a * a * deviation**2 + b * b).sqrt() * x + self.shift

    student = Denoiser(Shifted(), X0(), process)
    for mean, sign in ((shift, 1.0), (torch.zeros(2).double(), 0.0), (-shift, -1.0)):
        critic: Any = Normal(process, mean, covariance)
        own_network(student).shift.grad = None
        lesson = lesson_of(student, teacher.draw, teacher, 256, critic=critic)
        DistributionMatching().losses(lesson)["loss"].mean().backward()
        grad = own_network(student).shift.grad
        assert bool((grad * sign > 0).all() if sign else (grad.abs() < 1e-12).all())
    learned = Denoiser(Shifted(), X0(), process)
    lesson = dataclasses.replace(lesson, critic=learned)
    own = DistributionMatching().critic_losses(lesson)
    own.mean().backward()
    assert own_network(student).shift.grad is grad  # the student stands still meanwhile
    assert own_network(learned).shift.grad is not None


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_flow_map_is_matched_on_the_way(schedule: Any) -> None:
    """Before `begin` it is the flow's loss; then of some examples that, of the others the matching of whole jumps."""
    denoiser, exact, draw = gaussian(schedule)
    flow = MeanFlow(adaptive=AdaptiveWeight(0.0))
    method = ScoreRegularized(flow=flow, begin=0.5, share=0.4, factor=3.0)
    early = lesson_of(denoiser, draw, exact, 64, progress=0.4, critic=exact)
    late = dataclasses.replace(early, progress=0.6)
    warm = dataclasses.replace(early, progress=0.47)
    assert [method.critics(lesson) for lesson in (early, warm, late)] == [0, 3, 3]
    assert torch.equal(method.losses(early)["loss"], flow.losses(early)["loss"])
    with torch.no_grad():
        own_network(denoiser).push.fill_(0.3)
    chosen, out = late.host("matched") < 0.4, method.losses(late)
    matched = late.select(chosen.nonzero()[:, 0])
    seen: list[Tensor] = []

    class Spy(DistributionMatching):
        jumps = True

        def toward(self, s: Tensor) -> dict[str, Tensor]:
            seen.append(s)
            return super().toward(s)

    other = Spy().losses(matched)["loss"]
    assert torch.allclose(out["loss"][chosen], 3 * other)
    assert torch.allclose(out["loss"][~chosen], flow.losses(late.select((~chosen).nonzero()[:, 0]))["loss"])
    assert [float(s.abs().max()) for s in seen] == [0.0]  # whole jumps
    assert 0 < int(chosen.sum()) < 64
    x, sample, t = method.drawn(matched)
    assert bool((t == t[0]).all())  # from pure noise
    assert torch.allclose(sample, jump(denoiser, denoiser.process, x, t, 0 * t, {"to": 0 * t}))


def test_reflow_learns_the_pairs_of_the_teacher() -> None:
    denoiser, exact, draw = gaussian(Linear())
    method = Reflow(solver=Adams(60, times=PowerGrid()))
    seen: dict[str, Tensor] = {}
    network = own_network(denoiser)

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.update(x=x.detach(), t=t)
            return self.inner(x, t, torch.zeros_like(t))

    lesson = lesson_of(Denoiser(Spy(), X0(), denoiser.process), draw, exact, 64)
    z = denoiser.process.endpoint(lesson.x0, lesson.noise.fork("reflow").fork("prior"))
    end = network.end(z, torch.ones(64).double(), torch.zeros(64).double())
    method.losses(lesson)
    t = seen["t"][:, None]
    assert torch.allclose(seen["x"], (1 - t) * end + t * z, atol=1e-3)


def test_a_scale_that_is_told_is_that_of_two_evaluations() -> None:
    """The goal of a guided teacher is w full + (1 - w) free, by sample; from data, the model's own free prediction."""
    process = Gaussian(Linear())

    class Two(nn.Module):
        takes_to = takes_guidance = True

        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.zeros(()).double())

        def forward(self, x: Tensor, t: Tensor, label: Tensor, to: Any = None, guidance: Any = None) -> Tensor:
            w = torch.ones_like(t) if guidance is None else guidance.to(t)
            full, free = x.sin() + label[:, None], x.cos()
            asked = (label >= 0)[:, None]
            return torch.where(asked, w[:, None] * full + (1 - w[:, None]) * free, free) + self.own

    class Plain(Two):
        takes_guidance = False

    class Bent(Two):
        def forward(self, x: Tensor, t: Tensor, label: Tensor, to: Any = None, guidance: Any = None) -> Tensor:
            own = super().forward(x, t, label, to, guidance)
            return own if guidance is None else own + (guidance.to(t)[:, None] - 1) ** 2

    def without(cond: dict[str, Any]) -> dict[str, Any]:
        return {**cond, "label": torch.full_like(cond["label"], -1)}

    student, label = Denoiser(Two(), X0(), process), torch.arange(64) % 3
    method = GuidanceDistillation(guidance=(0.5, 4.0))
    lesson = lesson_of(
        student, lambda n, seed: torch.randn(n, 2).double(), Denoiser(Plain(), X0(), process), 64,
        cond={"label": label}, without=without,
    )  # fmt: skip
    assert float(method.losses(lesson)["loss"].detach().max()) < 1e-10
    scales = method.scales(lesson)
    assert scales is not None
    assert 0.5 <= float(scales.min()) < 1 < 3 < float(scales.max()) <= 4
    x, t = lesson.noised(torch.full((64,), 0.5).double()), torch.full((64,), 0.5).double()
    w = torch.linspace(1, 3, 64)
    two = Guided(student, w, without)(x, t, label=label)
    one = ScaleInput(student, w)(x, t, label=label)
    assert torch.allclose(two, one, atol=1e-6)
    half = ScaleInput(student, w).select(torch.arange(32))(x[:32], t[:32], label=label[:32])
    assert torch.allclose(half, one[:32])
    bent = Denoiser(Bent(), X0(), process)  # a teacher that is told scales itself is told them, and not guided again
    goal = teach(dataclasses.replace(lesson, teacher=bent), x, t, scales)
    assert torch.allclose(goal, ScaleInput(bent, scales)(x, t, label=label))
    assert not torch.allclose(goal, Guided(bent, scales, without)(x, t, label=label), atol=0.1)
    from_data = dataclasses.replace(lesson, teacher=None)
    led = MeanFlow(guidance=2.0).led(from_data, x, t, torch.full((64,), 2.0).double())
    assert torch.allclose(led, 2 * lesson.x0 - x.cos())


def test_what_cannot_work_is_refused() -> None:
    plain = UNet(1, in_channels=2, out_channels=2, channels=(16,), attention=(False,))
    jumps = UNet(1, in_channels=2, out_channels=2, channels=(16,), attention=(False,), jumps=True)
    before = UNet(1, in_channels=2, out_channels=2, channels=(16,), attention=(False,), jumps=True, previous=True)
    flat = Gaussian(Linear())
    for process in (Absorbing(4), BrownianSO3(), Joint(pos=flat, kind=Absorbing(4))):
        with pytest.raises(RecipeError, match="Gaussian and Geodesic"):
            MeanFlow().expect(jumps, process, False)
    with pytest.raises(RecipeError, match=r"network\.jumps=true"):
        MeanFlow().expect(plain, flat, False)
    with pytest.raises(RecipeError, match=r"network\.guided=true"):
        MeanFlow(guidance=(1.0, 4.0)).expect(jumps, flat, True)
    with pytest.raises(RecipeError, match="without a teacher"):
        Progressive().expect(plain, flat, False)
    with pytest.raises(RecipeError, match="self-conditioned"):
        Shortcut().expect(before, flat, False)
    with pytest.raises(RecipeError, match="starts at t"):
        Reflow(solver=Euler(4, times=LinearGrid(start=0.9))).expect(plain, flat, True)
    for fields in ({"guidance": 0.0}, {"guidance": (4.0, 1.0)}, {"same": 1.5}, {"zero": -0.1}):
        with pytest.raises(RecipeError):
            MeanFlow(**fields)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="learns from data alone"):
        MomentMatching(guidance=2.0)
    denoiser = Denoiser(plain, Velocity(), flat)
    like, noise = torch.empty(2, 2, 8), Noise.of(0, 2)
    with pytest.raises(SamplerError, match="not told the time to jump to"):
        sample(denoiser, like, solver=FlowMap(2), noise=noise)
    guided = Guided(Denoiser(jumps, Velocity(), flat), 2.0, lambda cond: cond)
    with pytest.raises(SamplerError, match="whole jumps"):
        sample(guided, like, solver=FlowMap(2), noise=noise)
    sample(guided, like, solver=Euler(2), noise=noise)
    with pytest.raises(SamplerError, match="a number, or one for each sample"):
        ScaleInput(denoiser, CFGRescale(2.0))
    masked = lesson_of(Denoiser(jumps, Velocity(), flat), lambda n, seed: torch.randn(n, 2, 8), None, 4)
    with pytest.raises(RecipeError, match="several sizes"):
        MomentMatching().losses(dataclasses.replace(masked, cond={"mask": torch.ones(4, 8, dtype=torch.bool)}))
    clocks = Joint(a=Gaussian(Linear()), b=Gaussian(VP()))
    with pytest.raises(SamplerError, match="clocks differ"):
        FlowMap(2, 0.5).rows(clocks)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_methods_go_to_a_file_and_come_back(method: FewStep) -> None:
    assert from_config(json.loads(json.dumps(to_config(method)))) == method
    solver = method.sampler(3)
    assert from_config(json.loads(json.dumps(to_config(solver)))) == solver


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_sample_is_learned_from_by_itself(method: FewStep) -> None:
    """Losses of a batch are those of its parts, but where a method compares samples."""
    if isinstance(method, MomentMatching):
        pytest.skip("it compares the samples of a group")
    denoiser, exact, draw = gaussian(Linear(), zero=not method.jumps)
    critic = Denoiser(
        ExactMap(denoiser.process, own_network(denoiser).mean, own_network(denoiser).deviation), X0(), denoiser.process
    )
    with torch.no_grad():
        own_network(denoiser).push.fill_(0.3)
    method = dataclasses.replace(method, guidance=1.0)
    lesson = lesson_of(denoiser, draw, exact if method.taught is not False else None, 16, progress=0.8, critic=critic)
    whole = method.losses(lesson)["loss"]
    rows = torch.tensor([5, 6, 7])
    part = method.losses(lesson.select(rows))["loss"]
    assert torch.allclose(whole[rows], part, rtol=1e-9, atol=1e-12)


class FramesTold(nn.Module):
    """Positions and rotations, told the jump."""

    takes_to = True

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(0.1 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())

    def forward(self, x: State, t: Tensor, to: Tensor | None = None, mask: Tensor | None = None) -> State:
        to = t if to is None else to
        gap = (t - to)[:, None, None]
        return {"pos": (x["pos"] @ self.w).sin() + gap, "rot": (x["rot"] @ self.w)[..., 0].sin() * (1 + gap)}


JOINT = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(5.0)))


@pytest.mark.parametrize("method", [m for m in METHODS if not isinstance(m, MomentMatching)], ids=str)
def test_bundles_with_masks_and_padding(method: FewStep) -> None:
    """On a bundle of two spaces and clocks: finite, with gradients, and padding changes nothing."""
    heads = Heads(pos=Velocity(), rot=Tangent())
    net = FramesTold()
    student, teacher = Denoiser(net, heads, JOINT), Denoiser(FramesTold(), heads, JOINT)
    with torch.no_grad():
        own_network(teacher).w.mul_(1.5)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1, 3:] = False
    space = JOINT.masked(mask).space
    like = {"pos": torch.empty(4, 5, 3).double(), "rot": torch.empty(4, 5, 3, 3).double()}
    x0 = space.project(space.random(like, Noise.of(1, 4)))
    method = dataclasses.replace(method, guidance=1.0)
    lesson = Lesson(
        student, x0, stratified(4, Noise.of(0, 1)), Noise.of(0, 4), {"mask": mask}, progress=0.9,
        teacher=teacher if method.taught is not False else None, critic=teacher,
    )  # fmt: skip
    out = method.losses(lesson)
    out["loss"].mean().backward()
    assert net.w.grad is not None
    assert bool(net.w.grad.isfinite().all())
    assert float(net.w.grad.abs().max()) > 0
    longer = {k: torch.cat([v, v[:, :2]], 1) for k, v in x0.items()}
    wide = torch.cat([mask, torch.zeros(4, 2, dtype=torch.bool)], 1)
    longer = JOINT.masked(wide).space.project(longer)
    again = method.losses(dataclasses.replace(lesson, x0=longer, cond={"mask": wide}))
    assert torch.allclose(out["loss"], again["loss"], rtol=1e-6, atol=1e-9)
