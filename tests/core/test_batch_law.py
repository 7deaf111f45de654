"""No sample sees another: batches of 1, of 3 and of all give the same, and what belongs to a sample goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

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
    TMPD,
    Absorbing,
    Autoguidance,
    Average,
    Centered,
    CFGPlusPlus,
    CFGRescale,
    CFGZeroStar,
    Chain,
    ClassifierGuidance,
    Differences,
    DiffPIR,
    Domain,
    DPMpp2M,
    Euler,
    Examples,
    FeynmanKac,
    Gaussian,
    Geodesic,
    Given,
    GuidanceInterval,
    Guided,
    Joint,
    Likelihood,
    Linear,
    Mask,
    Matrix,
    Measurement,
    Model,
    Parallel,
    PiGDM,
    PosteriorMean,
    Request,
    Reward,
    Sphere,
    Torus,
    sample,
)
from gendiff.conditions import Label
from gendiff.denoisers import for_samples, rows_of
from gendiff.errors import SamplerError
from gendiff.guidance import Method, Rule
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.spaces import State, map_state, per_sample, tensors
from gendiff.testing import distance, randomised

F64, F32 = torch.float64, torch.float32
N = 5
KIND = torch.tensor([0, 1, 0, 1, 1])
MASK = torch.arange(6)[None] < torch.tensor([6, 5, 3, 4, 6])[:, None]
SCALES = torch.tensor([0.5, 1.0, 3.0, 2.0, 1.5], dtype=F64)
CUTS = ([slice(i, i + 1) for i in range(N)], [slice(0, 3), slice(3, N)])
"""Batches of one, and of three."""


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
            logits = torch.sin(torch.arange(3.0)[None, None] + x[..., None] + kind[:, None, None] * 1.7)
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
RULES: dict[str, Callable[[Any], Rule]] = {
    "CFG": CFG,
    "APG": lambda w: APG(w, 0.5, 0.2),
    "zero star": CFGZeroStar,
    "zero star at rest": lambda w: CFGZeroStar(w, still_above=8.0),
    "rescale": lambda w: CFGRescale(CFG(w), 0.5),
    "interval": lambda w: GuidanceInterval(CFG(w), 0.3, 3.0),
    "plus plus": lambda w: CFGPlusPlus(CFG(w)),
}


def like(name: str, dtype: torch.dtype, n: int = N) -> State:
    _, shape = SPACES[name]
    if name == "classes":
        return torch.zeros(n, *shape, dtype=torch.int64)
    shapes = shape if isinstance(shape, dict) else {"x": shape}
    made = {k: torch.empty(n, *s, dtype=dtype) for k, s in shapes.items()}
    return made if isinstance(shape, dict) else made["x"]


def without(cond: dict[str, Any]) -> dict[str, Any]:
    return {**cond, "kind": torch.full_like(cond["kind"], 2)}


def agree(name: str, dtype: torch.dtype, draw: Callable[[Any], State], whole: State) -> None:
    """Cut into batches of one and of three, samples are those of the whole batch; padding is not compared."""
    for cut in CUTS:
        parts = [draw(rows) for rows in cut]
        found = map_state(lambda *p: torch.cat(p), parts[0], *parts[1:])
        for a, b in zip(tensors(found), tensors(whole), strict=True):
            assert bool(torch.isfinite(b.double()).all())
            real = MASK if a.shape[1] == 6 else torch.ones(N, a.shape[1], dtype=torch.bool)
            assert a.dtype == b.dtype and distance(a[real], b[real]) < (1e-10 if dtype == F64 else 1e-4), name


@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SPACES)
def test_every_rule_on_every_space_with_known_parts_and_particles(name: str, rule: str, dtype: torch.dtype) -> None:
    """A scale, a label, a length, known sites of each sample; alone, with known parts, and steered by particles."""
    process, template = SPACES[name][0], like(name, dtype)
    if name == "classes" and rule == "zero star at rest":
        with pytest.raises(SamplerError, match="a process without classes"):
            Guided(Toy(process), RULES[rule](SCALES), without)(template, 0.5, kind=KIND)
        return
    guided = Guided(Toy(process), RULES[rule](SCALES / 3 if rule == "plus plus" else SCALES), without)
    x0 = (
        process.space.random(template, Noise.of(9, N))
        if name != "classes"
        else torch.arange(N)[:, None].expand(N, 6) % 3
    )
    keep = torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    given = Given(x0, keep)

    def reward(x: State) -> Tensor:
        return sum((part.double().flatten(1).sin().sum(1) for part in tensors(x)), start=torch.zeros((), dtype=F64)).to(
            dtype
        )

    ways: list[tuple[Any, bool]] = [(DPMpp2M(4), False), (DDPM(3), True)]
    if rule in ("CFG", "plus plus"):
        ways += [
            (FeynmanKac(DDPM(3), Reward(reward), 3, threshold=0.9), False),
            (Parallel(Euler(3), tolerance=0), False),
        ]
    if name == "classes":
        ways = [(solver, known) for solver, known in ways if not isinstance(solver, DPMpp2M)]
    for solver, known in ways:

        def draw(rows: Any, solver: Any = solver, known: bool = known) -> State:
            index = torch.arange(N)[rows]
            return sample(
                for_samples(guided, rows), rows_of(template, rows), solver=solver, noise=Noise(1, index),
                cond={"kind": KIND[rows], "mask": MASK[rows]}, given=given.select(rows) if known else None,
            )  # fmt: skip

        agree(name, dtype, draw, draw(slice(None)))


KEEP = torch.rand(N, 6, 4, generator=torch.Generator().manual_seed(5)) < 0.5
VALUES = torch.randn(N, 6, 4, generator=torch.Generator().manual_seed(6), dtype=F64)
METHODS: list[Method] = [MMPS(2), TMPD(), PiGDM(), DiffPIR(), DPS(0.3)]
OPERATORS: dict[str, Any] = {
    "mask": Mask(torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.5),
    "matrix": Matrix(torch.randn(N, 4, 18, generator=torch.Generator().manual_seed(1), dtype=F64)),
    "differences": Differences(torch.rand(N, 6, generator=torch.Generator().manual_seed(2)) < 0.6),
    "chain": Chain(Average(3, (2,)), Mask(torch.rand(N, 6, generator=torch.Generator().manual_seed(3)) < 0.5)),
    "pairs": Chain(Average(2, (2,)), Mask(KEEP[..., :2])),
}


@pytest.mark.parametrize("operator", ["mask", "matrix", "differences", "chain"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_each_sample_is_measured_by_its_own_operator(method: Method, operator: str) -> None:
    """Also inside guidance, which doubles the batch, with particles, which multiply it, and in parallel."""
    space = "bundle" if operator == "differences" else "euclidean"
    process, template = SPACES[space][0], like(space, F64)
    a = OPERATORS[operator]
    part = "pos" if space == "bundle" else None
    truth = process.space.random(template, Noise.of(3, N))
    measured = Measurement(a, a(truth if part is None else truth[part]), 0.2, method, part)
    outside = PosteriorMean(Guided(Toy(process), CFG(SCALES), without), measured)
    inside = Guided(PosteriorMean(Toy(process), measured), CFG(SCALES), without)
    both = Autoguidance(inside, ClassifierGuidance(outside, lambda x, t, **c: classify(x), SCALES), 1.3)
    ways: list[tuple[Any, Any]] = [(outside, Euler(3)), (inside, DPMpp2M(3)), (both, Euler(2))]
    if isinstance(method, MMPS | DPS):
        ways += [(inside, FeynmanKac(DDPM(2), Likelihood(measured), 3)), (inside, Parallel(Euler(3), tolerance=0))]
    for denoiser, solver in ways:

        def draw(rows: Any, denoiser: Any = denoiser, solver: Any = solver) -> State:
            index, cond = torch.arange(N)[rows], {"kind": KIND[rows]}
            own = solver.select(rows) if isinstance(solver, FeynmanKac) else solver
            return sample(
                for_samples(denoiser, rows), rows_of(template, rows), solver=own, noise=Noise(1, index), cond=cond
            )

        agree(operator, F64, draw, draw(slice(None)))


def classify(x: State) -> Tensor:
    return -torch.stack([part.flatten(1).square().sum(1) for part in tensors(x)]).sum(0) / 50


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.kind = nn.Linear(4, 4), nn.Embedding(3, 4)

    def forward(self, x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
        return torch.tanh(self.mix(x) + self.kind(kind)[:, None] + t[:, None, None])


@dataclass(frozen=True)
class Strips(Domain):
    """Strips of 6 x 4 numbers, of two kinds; a state is twice what a user sees of it, less one."""

    name: ClassVar[str] = "strips of units"
    double: bool = False

    @property
    def process(self) -> Gaussian:
        return Gaussian(Linear())

    @property
    def conditions(self) -> dict[str, Label]:
        return {"kind": Label(("flat", "steep"))}

    def units(self) -> tuple[float, float]:
        return 2.0, -1.0

    def encode(self, artifact: Tensor) -> Tensor:
        return 2 * artifact - 1

    def decode(self, x: Tensor) -> Tensor:
        return (x + 1) / 2

    def request(self, n: int, *args: Any, **what: Any) -> Request:
        return Request(torch.empty(n, 6, 4, dtype=F64 if self.double else F32), self.encode_conditions(n, **what))

    def network(self, **size: Any) -> nn.Module:
        return Net()

    def dataset(self, split: str, root: Any = None) -> Examples:
        return Examples([])


def strips(double: bool = True) -> Model:
    model = Model.new(Strips(double))
    randomised(model.denoiser.network)
    if double:
        model.denoiser.double()
    return model


@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
@pytest.mark.parametrize(
    "asked",
    [
        {"guidance": [0.5, 1.0, 3.0, 2.0, 1.5]},
        {"guidance": GuidanceInterval(CFGRescale(APG(SCALES)), 0.2, 5.0)},
        {"guidance": SCALES, "given": Measurement(Mask(KEEP), VALUES, method=MMPS(2))},
        {
            "guidance": 2.0,
            "given": Measurement(Chain(Average(2, (2,)), Mask(KEEP[..., :2])), VALUES[..., :2], method=DPS()),
        },
        {"given": Given(VALUES, KEEP), "guidance": SCALES},
        {"given": Given(VALUES[:1], KEEP)},
        {"sampler": FeynmanKac(DDPM(3), Likelihood(Measurement(Mask(KEEP), VALUES, 0.3)), 4)},
        {"sampler": FeynmanKac(DDPM(3), Reward(lambda x: x.flatten(1).sum(1)), 4), "guidance": SCALES},
        {"sampler": Parallel(Euler(3), tolerance=0), "guidance": SCALES, "given": Measurement(Mask(KEEP), VALUES)},
        {"start": torch.full((6, 4), 0.4), "guidance": SCALES},
    ],
    ids=lambda asked: ", ".join(f"{k}={type(v).__name__}" for k, v in asked.items()),
)
def test_a_model_cuts_what_belongs_to_a_sample(asked: dict[str, Any], double: bool) -> None:
    """`model.sample` in batches of one, two, three and all; measurements and scales in float64 whatever the model."""
    model = strips(double)
    asked = {"sampler": Euler(3), "kind": ["flat", "steep", "flat", "flat", "steep"], **asked}
    whole = torch.stack(model.sample(N, **asked))
    assert whole.dtype == (F64 if double else F32) and bool(whole.isfinite().all())
    for batch in (1, 2, 3):
        assert distance(torch.stack(model.sample(N, **asked, batch=batch)), whole) < (1e-10 if double else 1e-4), batch


def test_numbers_of_another_count_are_refused() -> None:
    model = strips()
    for asked in (
        {"guidance": [1.0, 2.0]},
        {"guidance": CFGRescale(CFG(SCALES[:3]))},
        {"given": Measurement(Mask(KEEP[:3]), VALUES[:3])},
        {"given": Given(VALUES[:3], KEEP[:3])},
    ):
        with pytest.raises(SamplerError, match=r"for 4 samples|4 were asked"):
            model.sample(4, **asked)  # type: ignore[arg-type]
    for operator in (Mask(KEEP[:, :5]), Mask(KEEP[:2, :3]), Matrix(torch.ones(2, 23)), Differences(KEEP[:, :3, 0])):
        with pytest.raises(SamplerError, match="shape"):
            model.sample(1, given=Measurement(operator, VALUES[:1]))
    with pytest.raises(SamplerError, match="y of shape"):
        model.sample(1, given=Measurement(Average(2, (1,)), VALUES[:1]))
    with pytest.raises(SamplerError, match="known values of shape"):
        model.sample(1, given=Given(VALUES[:1, :5], KEEP[:1, :1]))
    with pytest.raises(SamplerError, match="keep of shape"):
        model.sample(1, given=Given(VALUES[:1], KEEP[:1, :4]))
    with pytest.raises(SamplerError, match="float64"):
        Mask(VALUES)


@pytest.mark.parametrize("way", ["average", "mask", "mask by sample", "whole picture"])
def test_measurements_are_in_the_units_of_artifacts(way: str) -> None:
    """y = A artifact, as a user sees it: what comes back obeys it, in those units."""
    model, n = strips(), 3
    seen = torch.rand(n, 6, 4, generator=torch.Generator().manual_seed(2), dtype=F64)
    operator: Any = {"average": Average(2, (1,)), "mask": Mask(KEEP[:1])}.get(way, Mask(KEEP[:n]))
    y = operator(seen)
    if way == "whole picture":
        y = seen.masked_fill(~KEEP[:n], float("nan"))  # what is not known may be anything
    if way == "average":
        y = y[0]  # one for all
    made = model.measurement(operator, y, 0.01, method=MMPS(6))
    assert made.noise == pytest.approx(0.02)
    x = torch.stack(model.sample(n, given=made, sampler=Euler(60)))
    assert distance(operator(x), operator(seen if way != "average" else seen[:1].expand(n, 6, 4))) < 0.05
    with pytest.raises(SamplerError, match="linear"):
        model.measurement(lambda x: x, y)  # type: ignore[arg-type]
