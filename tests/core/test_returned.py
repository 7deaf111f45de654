"""What a user's function returns: its shape, its kind and its precision; nothing broadcasts without a word."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    APG,
    CFG,
    DDPM,
    DPS,
    MMPS,
    SO3,
    VP,
    Absorbing,
    Adams,
    Adaptive,
    Autoguidance,
    Auxiliary,
    Centered,
    CFGRescale,
    CFGZeroStar,
    ClassifierGuidance,
    Constrained,
    Denoiser,
    DiffPIR,
    Euler,
    FeynmanKac,
    Gaussian,
    Geodesic,
    Guided,
    Heads,
    Heun,
    Joint,
    Linear,
    Logits,
    Measurement,
    Objective,
    Parallel,
    PosteriorMean,
    Rescheduled,
    Reward,
    Sphere,
    Tangent,
    Torus,
    Velocity,
    calibrate,
    denoising_loss,
    log_likelihood,
    sample,
)
from gendiff.denoisers import Mixture
from gendiff.errors import SamplerError
from gendiff.guidance import LinearOperator
from gendiff.random import Noise
from gendiff.spaces import map_state, tensors
from gendiff.training import Coupling, Weighting

F64 = torch.float64
FLAT = Gaussian(Linear())
MIXTURE = Mixture(FLAT, torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=F64), 0.1)
LOOPS: list[Any] = [
    Euler(4),
    Heun(3),
    Adams(5),
    Adaptive(1e-2),
    Parallel(Euler(3)),
    FeynmanKac(DDPM(3), Reward(lambda x: tensors(x)[0].double().flatten(1).sum(1)), 3),
]
WRONG: dict[str, Callable[[Tensor], Any]] = {
    "one for all": lambda v: v[:1],
    "another axis": lambda v: v[..., None],
    "a number": lambda v: v.sum(),
    "whole numbers": lambda v: v.long(),
    "none": lambda v: None,
    "an array": lambda v: v.detach().numpy(),
    "a float": lambda v: 1.0,
    "a tuple": lambda v: (v, v),
}


SPACES: dict[str, tuple[Any, dict[str, tuple[int, ...]]]] = {
    "euclidean": (FLAT, {"x": (6, 3)}),
    "centred": (Gaussian(Linear(), Centered()), {"x": (6, 3)}),
    "rotations": (Geodesic(SO3()), {"x": (6, 3, 3)}),
    "torus": (Geodesic(Torus()), {"x": (6, 2)}),
    "sphere": (Geodesic(Sphere()), {"x": (6, 3)}),
    "bundle": (Joint(pos=FLAT, rot=Geodesic(SO3())), {"pos": (6, 3), "rot": (6, 3, 3)}),
}


class Given:
    """A denoiser that is a function of x."""

    def __init__(self, f: Callable[[Any], Any], process: Any = FLAT) -> None:
        self.process, self.f = process, f

    def __call__(self, x: Any, t: Any, **cond: Any) -> Any:
        return self.f(x)


def draw(denoiser: Any, solver: Any = None, **cond: Any) -> Any:
    like = torch.empty(3, 2, dtype=F64)
    return sample(denoiser, like, solver=solver or Euler(3), noise=Noise.of(0, 3), cond=cond)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("solver", LOOPS, ids=lambda s: type(s).__name__)
def test_predictions_have_the_shape_of_the_state(solver: Any, wrong: str) -> None:
    """One prediction for all samples, which broadcasts, made all of them the first's."""
    with pytest.raises(SamplerError, match="The denoiser predicted"):
        draw(Given(WRONG[wrong]), solver)


@pytest.mark.parametrize("solver", LOOPS, ids=lambda s: type(s).__name__)
def test_predictions_of_another_precision_take_the_state_s(solver: Any) -> None:
    for other in (torch.float64, torch.float16, torch.bfloat16):
        x = sample(
            Given(lambda x: torch.tanh(x).to(other)),  # noqa: B023
            torch.empty(3, 2),
            solver=solver,
            noise=Noise.of(0, 3),
        )
        assert x.dtype == torch.float32


def test_predictions_of_bundles_and_classes() -> None:
    process = Joint(a=Gaussian(Linear()), b=Absorbing(3))
    like = {"a": torch.empty(2, 4, 3), "b": torch.zeros(2, 4, dtype=torch.int64)}
    right = {"a": torch.zeros(2, 4, 3), "b": torch.zeros(2, 4, 3)}
    wrong: list[Any] = [
        {"a": right["a"]}, {**right, "b": right["b"][..., :2]}, {**right, "b": right["b"][:1]}, right["a"],
        {**right, "a": right["a"][:, :1]},
    ]  # fmt: skip
    for out in (right, {**right, "b": like["b"]}):  # certain classes are a prediction too
        sample(Given(lambda x, out=out: out, process), like, solver=Euler(3), noise=Noise.of(0, 2))
    for out in wrong:
        with pytest.raises(SamplerError, match="The denoiser predicted"):
            sample(Given(lambda x, out=out: out, process), like, solver=Euler(3), noise=Noise.of(0, 2))
    with pytest.raises(SamplerError, match="sample got as start"):
        sample(Given(lambda x: right, process), like, solver=Euler(3), noise=Noise.of(0, 2), start={"a": like["a"]})


class Emitting(nn.Module):
    def __init__(self, out: Any) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Any, t: Tensor, **cond: Any) -> Any:
        return self.out


def test_a_network_emits_what_its_head_reads() -> None:
    """A network of one channel for pictures of three broadcast, in training too."""
    x, turns = torch.randn(4, 3, 8, 8), torch.eye(3).expand(4, 5, 3, 3)
    classes, t = torch.zeros(4, 5, dtype=torch.int64), torch.full((4,), 0.5, dtype=F64)
    cases = [
        (FLAT, Velocity(), x, x[:, :1]),
        (Geodesic(SO3()), Tangent(), turns, torch.zeros(4, 1, 3)),
        (Absorbing(3), Logits(), classes, torch.zeros(4, 5, 1)),
        (Joint(a=FLAT), Heads(a=Velocity()), {"a": x}, {"b": x}),
    ]
    for process, head, x0, out in cases:
        with pytest.raises(SamplerError, match="The network emitted"):
            denoising_loss(Denoiser(Emitting(out), head, process), x0, t, Noise.of(0, 4))


@pytest.mark.parametrize("wrong", WRONG)
def test_what_guidance_is_given(wrong: str) -> None:
    f, label = WRONG[wrong], torch.ones(3, dtype=F64)
    with pytest.raises(SamplerError, match="constrain returned"):
        draw(Constrained(MIXTURE, lambda x0, t, **cond: f(x0)))
    if wrong != "whole numbers":
        with pytest.raises(SamplerError, match="log_p returned"):
            draw(ClassifierGuidance(MIXTURE, lambda x, t, **cond: f(-(x**2).sum(1))))
        with pytest.raises(SamplerError, match="Guidance without conditions got 'kind'"):
            draw(Guided(MIXTURE, 2.0, lambda cond: {"kind": f(cond["kind"])}), kind=label)


def test_a_condition_that_differs_has_one_entry_for_each_sample() -> None:
    """A number, or a tensor without a batch axis, was the same in both branches: guidance did nothing, silently."""
    for asked, nothing in ((3, 0), (torch.tensor(3), torch.tensor(0))):
        with pytest.raises(SamplerError, match="Guidance got the condition kind="):
            draw(Guided(MIXTURE, 2.0, lambda cond, nothing=nothing: {"kind": nothing}), kind=asked)
    with pytest.raises(SamplerError, match="'kind'"):
        draw(Guided(MIXTURE, 2.0, lambda cond: {}), kind=torch.ones(3))
    same = draw(Guided(MIXTURE, 2.0, dict), size=3)
    assert torch.equal(same, draw(Guided(MIXTURE, 2.0, lambda cond: cond), size=3))


def test_autoguidance_compares_models_at_the_same_noise() -> None:
    """At equal times VP and the straight path are at different noise levels: their difference is no guidance."""
    weaker = Mixture(Gaussian(VP()), MIXTURE.means, 0.3)
    with pytest.raises(SamplerError, match="Autoguidance got a model on"):
        Autoguidance(MIXTURE, weaker, 2.0)
    same = Mixture(FLAT, MIXTURE.means, 0.3)
    a, b = (draw(Autoguidance(MIXTURE, w, 2.0)) for w in (same, Rescheduled(weaker, Linear())))
    assert float((a - b).abs().max()) < 1e-3  # VP ends at a log-SNR of -10


class Mine(LinearOperator):
    def __init__(self, f: Callable[[Tensor], Any], back: Callable[[Tensor], Any]) -> None:
        self.f, self.back = f, back

    def __call__(self, x: Tensor) -> Any:
        return self.f(x)

    def adjoint(self, y: Tensor, like: Tensor) -> Any:
        return self.back(y)


@pytest.mark.parametrize("method", [MMPS(1), DiffPIR(), DPS(0.1)], ids=repr)
def test_what_operators_give(method: Any) -> None:
    def measured(f: Any, back: Any = lambda y: y) -> Tensor:
        return draw(PosteriorMean(MIXTURE, Measurement(Mine(f, back), torch.zeros(3, 2), 0.1, method)))

    for name in set(WRONG) - {"another axis"}:
        with pytest.raises(SamplerError, match="gave"):
            measured(WRONG[name])
    for bad in (math.nan, math.inf):
        with pytest.raises(SamplerError, match="gave"):
            measured(lambda x, bad=bad: x + bad)
    with pytest.raises(SamplerError, match="y of shape"):
        measured(WRONG["another axis"])
    if isinstance(method, DiffPIR):
        for name in set(WRONG) - {"whole numbers"}:
            with pytest.raises(SamplerError, match="The adjoint of"):
                measured(lambda x: x, WRONG[name])
    half = measured(lambda x: x.half())
    assert half.dtype == F64 and bool(half.isfinite().all())


@pytest.mark.parametrize("wrong", WRONG)
def test_what_the_loss_is_given(wrong: str) -> None:
    """An extra loss [B, 1] made the loss [B, B], in which every sample counts for every other."""

    class Weighs(Weighting):
        def __call__(self, process: Any, head: Any, t: Tensor) -> Any:
            return f(torch.ones_like(t))

    class Joins(Coupling):
        def __call__(self, process: Any, x0: Any, z: Any, noise: Noise, cond: Any) -> Any:
            return f(z)

    f, denoiser = WRONG[wrong], Denoiser(Emitting(torch.zeros(3, 2)), Velocity(), FLAT)
    arguments = denoiser, torch.randn(3, 2), torch.rand(3, dtype=F64), Noise.of(0, 3)
    with pytest.raises(SamplerError, match="Joins gave"):
        denoising_loss(*arguments, coupling=Joins())
    if wrong not in ("whole numbers", "a number"):
        with pytest.raises(SamplerError, match="Weighs gave"):
            denoising_loss(*arguments, objective=Objective(weighting=Weighs()))
    if wrong not in ("whole numbers", "none"):
        with pytest.raises(SamplerError, match="The auxiliary loss own gave"):
            denoising_loss(*arguments, auxiliary={"own": Auxiliary(lambda guess, x0, t, side: f(guess.sum(1)))})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in SPACES if name != "classes"])
def test_samples_of_half_precision_are_drawn_in_single(name: str, dtype: torch.dtype) -> None:
    """Rotations were a raw error, tori and spheres came back in float32."""
    process, shapes = SPACES[name]
    made = {k: torch.empty(5, *shape) for k, shape in shapes.items()}
    single = made if isinstance(process, Joint) else made["x"]
    home = process.space.random(single, Noise.of(7, 5))
    denoiser = Given(lambda x: process.space.lerp(home if len(tensors(x)[0]) == 5 else x, x, 0.3), process)
    for solver in LOOPS:
        whole, half = (
            sample(denoiser, x, solver=solver, noise=Noise.of(1, 5))
            for x in (single, map_state(lambda p: p.to(dtype), single))
        )
        for a, b in zip(tensors(whole), tensors(half), strict=True):
            assert b.dtype == dtype and torch.equal(a.to(dtype), b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_half_precision(dtype: torch.dtype) -> None:
    """In float16 a sample of more than 65,504 numbers has no sum: APG, CFG-Zero* and the rescaling gave NaN."""
    full = torch.randn(2, 4, 160, 160, generator=torch.Generator().manual_seed(0)).to(dtype)
    free, x = full + 0.1 * full.roll(1, 2), full.roll(1, 3)
    for rule in (CFG(3.0), APG(3.0), APG(3.0, 5.0), CFGZeroStar(3.0), CFGRescale(3.0, 0.7)):
        for other in (free, full.clone()):
            half = rule.join(FLAT, x, other, full, 0.5)
            single = rule.join(FLAT, x.float(), other.float(), full.float(), 0.5)
            assert float((half.float() - single).abs().max()) < 0.03, rule
    losses = denoising_loss(
        Denoiser(Emitting(100 * full.float()), Velocity(), FLAT), full, torch.full((2,), 0.5, dtype=F64), Noise.of(0, 2)
    )
    assert losses["loss"].dtype == torch.float32 and bool(losses["loss"].isfinite().all())
    found = log_likelihood(MIXTURE, MIXTURE.draw(2).to(dtype), solver=Adaptive(1e-4, 1e-4))
    assert found.log_p.dtype == torch.float32


def test_no_samples_are_no_fault() -> None:
    for solver in LOOPS:
        assert sample(MIXTURE, torch.empty(0, 2), solver=solver, noise=Noise.of(0, 0)).shape == (0, 2)


def test_calibration_slices_what_belongs_to_a_pilot() -> None:
    """A scale for each pilot; the halves that fit and judge saw the first ones' scales, or crashed."""
    scales = torch.linspace(1.0, 3.0, 16, dtype=F64)

    class Labelled:
        process = FLAT

        def __call__(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return MIXTURE(x + 0.2 * cond["kind"][:, None], t)

    def fitted(scale: Any) -> Any:
        guided = Guided(Labelled(), scale, lambda cond: {"kind": torch.zeros_like(cond["kind"])})
        cond = {"kind": torch.ones(16, dtype=F64)}
        return calibrate(
            guided, torch.empty(16, 2, dtype=F64), evaluations=4, cond=cond, fine=16, rounds=0, noise=Noise.of(0, 16)
        )

    assert fitted(torch.full_like(scales, 2.0)).tables == fitted(2.0).tables
    fitted(scales)
