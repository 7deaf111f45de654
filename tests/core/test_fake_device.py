"""The device law without a device: under torch's fake tensors on `cuda`, whatever is left on the CPU is an error.

Nothing is computed: an operation that joins tensors of two devices raises, and so does one that looks at values.
Autograd's engine asks for a real device, so gradients are stood in for by zeros like what they are taken for.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gendiff import (
    APG,
    CFG,
    DDPM,
    DPS,
    MMPS,
    SO3,
    TMPD,
    VP,
    Absorbing,
    Adams,
    Aligned,
    Autoguidance,
    Average,
    Blur,
    Centered,
    CFGPerCondition,
    CFGPlusPlus,
    CFGRescale,
    CFGZeroStar,
    Chain,
    ClassifierGuidance,
    Constrained,
    Denoiser,
    Differences,
    DiffPIR,
    Euler,
    FeynmanKac,
    Field,
    Gaussian,
    Geodesic,
    Given,
    GuidanceInterval,
    Guided,
    Hutchinson,
    Joint,
    Label,
    Likelihood,
    Linear,
    Magnitudes,
    Mask,
    Matrix,
    Measurement,
    Number,
    PiGDM,
    PosteriorMean,
    Rescheduled,
    Reward,
    Sphere,
    Text,
    Torus,
    Velocity,
    denoising_loss,
    log_likelihood,
    sample,
)
from gendiff.conditions import without as unasked
from gendiff.guidance import Method, ScaleInput, steer
from gendiff.nn import DiT, UNet
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.sampling.ode import EvenSteps
from gendiff.sampling.solvers import FlowMap
from gendiff.spaces import State, map_state, per_sample, tensors
from gendiff.training import (
    ConsistencyTraining,
    ContinuousConsistency,
    DistributionMatching,
    FewStep,
    Finite,
    GuidanceDistillation,
    Lesson,
    MeanFlow,
    Progressive,
    Shortcut,
)

N = 5
CUDA = torch.device("cuda")


class Toy:
    """A prediction near x on any space, from x, t and a label, each sample for itself."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def __call__(self, x: State, t: Any, *, kind: Tensor, mask: Tensor | None = None, **cond: Any) -> State:
        return self.part(self.process.masked(mask), x, t, kind)

    def part(self, process: Any, x: Any, t: Any, kind: Tensor) -> Any:
        if isinstance(process, Joint):
            return {name: self.part(part, x[name], t, kind) for name, part in process.parts.items()}
        if isinstance(process, Absorbing):
            logits = torch.sin(
                torch.arange(3.0, device=x.device)[None, None] + x[..., None] + kind[:, None, None] * 1.7
            )
            return torch.log_softmax(3 * logits, -1)
        arrows = x[..., 0] if x.ndim == 4 else x  # rotations have tangents of three numbers
        shift = (kind - 0.5)[(..., *(None,) * (arrows.ndim - 1))] + per_sample(t, arrows)
        v = process.space.tangent(x, torch.tanh(2 * arrows + shift))
        return process.space.project(process.space.exp(x, v))


SPACES: dict[str, tuple[Process, Any]] = {
    "euclidean": (Gaussian(Linear()), (6, 3)),
    "centred": (Gaussian(Linear(), Centered()), (6, 3)),
    "rotations": (Geodesic(SO3()), (6, 3, 3)),
    "torus": (Geodesic(Torus()), (6, 2)),
    "sphere": (Geodesic(Sphere()), (6, 3)),
    "classes": (Absorbing(3), (6,)),
    "bundle": (Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3())), {"pos": (6, 3), "rot": (6, 3, 3)}),
}


def without(cond: dict[str, Any]) -> dict[str, Any]:
    return {**cond, "kind": torch.full_like(cond["kind"], 2)}


def stand_in(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """Zeros for gradients; a gradient flows back to where its value was made."""
    values = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    weights = args[0] if args and args[0] is not None else []
    for value, weight in zip(values, [weights] if isinstance(weights, Tensor) else weights, strict=False):
        assert value.device == weight.device and value.shape == weight.shape
    assert all(value.requires_grad for value in values)
    return tuple(torch.zeros_like(part, requires_grad=True) for part in inputs)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.autograd, "grad", stand_in)
    with FakeTensorMode(allow_non_fake_inputs=False):
        yield


def on_cuda(x: Any) -> bool:
    return all(part.device.type == "cuda" for part in tensors(x))


def like(name: str) -> Any:
    shape = SPACES[name][1]
    if name == "classes":
        return torch.zeros(N, *shape, dtype=torch.int64, device=CUDA)
    if isinstance(shape, dict):
        return {k: torch.empty(N, *part, device=CUDA) for k, part in shape.items()}
    return torch.empty(N, *shape, device=CUDA)


def conditions() -> dict[str, Tensor]:
    return {
        "kind": torch.zeros(N, dtype=torch.int64, device=CUDA),
        "mask": torch.ones(N, 6, dtype=torch.bool, device=CUDA),
    }


def noise() -> Noise:
    return Noise.of(0, N, device=CUDA)


def scales(device: str) -> Tensor:
    return torch.ones(N, dtype=torch.float64, device=device)


@pytest.mark.parametrize("solver", [Adams(3), DDPM(2)], ids=repr)
@pytest.mark.parametrize("name", SPACES)
def test_the_sampling_loop_with_known_parts(name: str, solver: Any) -> None:
    process, x = SPACES[name][0], like(name)
    known = map_state(lambda part: torch.zeros(part.shape, dtype=part.dtype), x)  # left on the CPU, as a user has it
    given = Given(known, torch.ones(N, 6, dtype=torch.bool))
    if name == "classes" and not isinstance(solver, DDPM):
        pytest.skip("classes move by DDPM alone")
    assert on_cuda(sample(Toy(process), x, solver=solver, noise=noise(), cond=conditions(), given=given))


RULES: dict[str, Any] = {
    "CFG": CFG,
    "APG": lambda w: APG(w, w, 0.1),
    "zero star": CFGZeroStar,
    "zero star at rest": lambda w: CFGZeroStar(w, 4.0),
    "rescale": lambda w: CFGRescale(CFG(w)),
    "interval": lambda w: GuidanceInterval(CFG(w), 0.3, 3.0),
    "plus plus": lambda w: CFGPlusPlus(CFG(w)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["centred", "bundle", "sphere"])
def test_every_rule_at_float_and_at_tensor_times(name: str, rule: str) -> None:
    """Scales by sample may be on the CPU, as they are written; times are on the host or on the device."""
    process, x = SPACES[name][0], like(name)
    guided = Guided(Toy(process), RULES[rule](scales("cpu")), without)
    assert on_cuda(sample(guided, x, solver=Euler(2), noise=noise(), cond=conditions()))
    weaker = Autoguidance(Toy(process), Toy(process), RULES[rule](scales("cuda")))
    for device in ("cpu", "cuda"):
        out = weaker(x, torch.full((N,), 0.4, dtype=torch.float64, device=device), **conditions())
        assert on_cuda(getattr(out, "x0", out))


KEEP = (N, 6)
METHODS: list[Method] = [MMPS(2), TMPD(), PiGDM(), DiffPIR(), DPS()]


def operators() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Made inside the mode, on the CPU."""
    keep = torch.ones(KEEP, dtype=torch.bool)
    return {
        "mask": (Mask(keep), (N, 6, 3)),
        "differences": (Differences(keep), (N, 6, 3)),
        "matrix": (Matrix(torch.ones(4, 18)), (1, 4)),
        "matrices": (Matrix(torch.ones(N, 4, 18)), (N, 4)),
        "chain": (Chain(Blur.gaussian(1.0, (1,)), Average(2, (1,)), Mask(keep[:1, :3])), (1, 3, 3)),
    }


@pytest.mark.parametrize("operator", ["mask", "differences", "matrix", "matrices", "chain"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_and_operator(method: Method, operator: str) -> None:
    made, shape = operators()[operator]
    measured = Measurement(made, torch.zeros(shape), 0.1, method)
    denoiser, x = Toy(Gaussian(Linear())), like("euclidean")
    for wrapped in (PosteriorMean(denoiser, measured), Guided(PosteriorMean(denoiser, measured), 2.0, without)):
        assert on_cuda(sample(wrapped, x, solver=Euler(2), noise=noise(), cond=conditions()))


def test_operators_that_are_not_linear() -> None:
    x = torch.empty(N, 64, device=CUDA)

    class Still:
        process = Gaussian(Linear())

        def __call__(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return torch.tanh(x)

    measured = Measurement(Magnitudes(16, 4), torch.zeros(1, 9, 17), method=DPS())
    assert on_cuda(sample(PosteriorMean(Still(), measured), x, solver=Euler(2), noise=noise()))


def test_classifiers_constraints_and_other_schedules() -> None:
    denoiser = Toy(Gaussian(Linear()))
    made = ClassifierGuidance(denoiser, lambda x, t, **cond: -x.flatten(1).square().sum(1), scales("cpu"))
    for wrapped in (made, Constrained(made, lambda x0, t, **cond: x0.clamp(-1, 1)), Rescheduled(made, VP())):
        assert on_cuda(sample(wrapped, like("euclidean"), solver=Euler(2), noise=noise(), cond=conditions()))


@pytest.mark.parametrize("inner", ["plain", "guided", "measured"])
def test_particles(inner: str) -> None:
    denoiser, x = Toy(Gaussian(Linear())), like("euclidean")
    measured = Measurement(Mask(torch.ones(KEEP, dtype=torch.bool)), torch.zeros(N, 6, 3), 0.2)
    wrapped: Any = {
        "plain": denoiser,
        "guided": Guided(denoiser, CFGPlusPlus(CFG(scales("cpu"))), without),
        "measured": PosteriorMean(denoiser, measured),
    }[inner]
    for potential in (Reward(lambda x0: x0.flatten(1).sum(1), power=1.0), Likelihood(measured)):
        steered = FeynmanKac(DDPM(3), potential, 4)
        assert on_cuda(sample(wrapped, x, solver=steered, noise=noise(), cond=conditions()))
        found = steer(wrapped, x, potential, solver=DDPM(3), noise=noise(), particles=4, cond=conditions())
        assert on_cuda(found.log_weights) and on_cuda(found.mean())


@pytest.mark.parametrize("name", ["euclidean", "centred", "rotations", "torus", "bundle"])
def test_log_likelihood(name: str) -> None:
    process, x = SPACES[name][0], like(name)
    solver = EvenSteps(2)
    found = log_likelihood(Toy(process), x, solver=solver, cond=conditions(), divergence=Hutchinson(2), noise=noise())
    assert on_cuda(found.log_p) and on_cuda(found.error)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("network", [DiT, UNet])
@torch.no_grad()
def test_conditions_of_every_kind_embedded_or_not(network: Any, dims: int) -> None:
    sites = (6, 4)[:dims]
    text, said = Text().fit(["a red heart"]), Aligned(("h", "e"))
    edge = torch.empty(N, *sites, 2, device=CUDA)
    words = {"words": (N, 3), "mask": (N, 3)}
    spread = {"symbols": (N, 2), "mask": (N, 2), "index": (N, 6), "place": (N, 6, 3)}
    kinds = {"mask": torch.bool, "place": torch.float32}
    told: dict[str, Any] = {
        "kind": conditions()["kind"], "level": torch.empty(N, 2, device=CUDA), "edge": edge,
        **{name: {k: torch.zeros(shape, dtype=kinds.get(k, torch.int64), device=CUDA) for k, shape in parts.items()}
           for name, parts in (("caption", words), ("said", spread))},
    }  # fmt: skip
    own = {"kind": Label(("a", "b")), "level": Number(), "edge": Field(1), "caption": text, "said": said}
    size: Any = {"patch": 2, "width": 32, "depth": 1, "heads": 2}
    if network is UNet:
        size = {"channels": (8, 8), "blocks": 1, "attention": (False, True)}
    with CUDA:
        net = network(dims, in_channels=3, out_channels=3, conditions=own, **size)
    denoiser = Denoiser(net, Velocity(), Gaussian(Linear())).eval()
    rule = CFGPerCondition({"caption": 2.0, "edge": 1.5})
    guided = Guided(denoiser, rule, lambda c, *names: unasked(own, c, *names))
    for cond in (told, denoiser.embed(told)):
        for solver in (Euler(2), FeynmanKac(DDPM(2), Reward(lambda x0: x0.flatten(1).sum(1)), 2)):
            x = torch.empty(N, 3, *sites, device=CUDA)
            assert on_cuda(sample(guided, x, solver=solver, noise=noise(), cond=cond))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.label = nn.Linear(3, 3), nn.Embedding(3, 3)

    def forward(self, x: Tensor, t: Tensor, kind: Tensor, mask: Tensor) -> Tensor:
        return torch.tanh(self.inner(x) + self.label(kind)[:, None] + t[:, None, None])


class JumpNet(Net):
    takes_to = takes_guidance = True

    def forward(self, x: Tensor, t: Tensor, kind: Tensor, mask: Tensor, **jump: Tensor) -> Tensor:  # type: ignore[override]
        assert all(value.device == x.device and value.shape == t.shape for value in jump.values())
        return super().forward(x, t + sum(jump.values()), kind, mask)


FEW: tuple[FewStep, ...] = (
    MeanFlow(same=0.0), MeanFlow(same=0.0, derivative=Finite()), MeanFlow(same=0.0, guidance=(1.0, 3.0)),
    ContinuousConsistency(), ConsistencyTraining(), Shortcut(same=0.0), Progressive(2), GuidanceDistillation(),
    DistributionMatching(),
)  # fmt: skip


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("method", FEW, ids=str)
def test_few_step_losses(method: FewStep, taught: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times, scales and choices are on the host; everything that belongs to a sample goes where the sample is."""
    if taught < bool(method.taught):
        pytest.skip("it needs a teacher")
    monkeypatch.setattr(Lesson, "host", lambda lesson, _: torch.rand(lesson.n, dtype=torch.float64))  # numpy's, else
    with CUDA:
        student, teacher, critic = (Denoiser(JumpNet(), Velocity(), Gaussian(Linear())) for _ in range(3))
    lesson = Lesson(
        student, like("euclidean"), torch.rand(N, dtype=torch.float64), noise(), conditions(), progress=0.9,
        teacher=teacher if taught else None, critic=critic, without=without,
    )  # fmt: skip
    losses = method.losses(lesson)
    assert on_cuda(losses["loss"]) and losses["loss"].requires_grad and losses["loss"].shape == (N,)
    if isinstance(method, DistributionMatching):
        assert on_cuda(method.critic_losses(lesson))


def test_jumps_of_a_network() -> None:
    with CUDA:
        denoiser = Denoiser(JumpNet(), Velocity(), Gaussian(Linear()))
    told = ScaleInput(denoiser, torch.rand(N))
    for solver in (FlowMap(2), FlowMap(2, 0.5)):
        assert on_cuda(sample(told, like("euclidean"), solver=solver, noise=noise(), cond=conditions()))


def test_the_training_loss_and_a_network() -> None:
    """Times are on the host, as training draws them."""
    with CUDA:
        denoiser = Denoiser(Net(), Velocity(), Gaussian(Linear()))
    x, t = like("euclidean"), torch.rand(N, dtype=torch.float64)
    losses = denoising_loss(denoiser, x, t, noise(), kind=conditions()["kind"], mask=conditions()["mask"])
    assert on_cuda(losses["loss"]) and losses["loss"].requires_grad
    assert on_cuda(sample(denoiser, x, solver=Euler(2), noise=noise(), cond=conditions()))
