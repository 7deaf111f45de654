"""Every public constructor says what it does not take: kinds, numbers out of range, NaN, words for numbers."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pytest
import torch

import gendiff
from gendiff import (
    DDIM,
    DDPM,
    CosineInterpolated,
    Gaussian,
    Hutchinson,
    Linear,
    LogitNormal,
    LogNormal,
    Mode,
    Noise,
    Objective,
    Uniform,
    elbo,
    vlb,
)
from gendiff.config import core_kinds
from gendiff.denoisers import Denoise, Mixture, Normal
from gendiff.errors import GendiffError, SamplerError, check, fits
from gendiff.guidance import (
    APG,
    CFG,
    Average,
    Blur,
    CFGPlusPlus,
    CFGRescale,
    CFGZeroStar,
    ClassifierGuidance,
    GuidanceInterval,
    Measurement,
    Reward,
)
from gendiff.sampling import EvenSteps
from gendiff.sampling.grids import Grid
from gendiff.training import EMA, Independent, LossHistogram, MinSNR, Output, Profiles, TimeDistribution
from gendiff_images import Images

HARD = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300, "2", 2.5)
UNBOUNDED = {"high", "sigma_max", "still_above", "radius"}  # may be infinite
# What solvers, samplers and bounds hand over, made by the library itself.
LEFT = {
    "Row", "Move", "Jump", "Turn", "Progress", "Snapshot", "Arrival", "Stage", "Increment", "Range", "Along", "Fitted",
    "Calibrated", "Pilot", "IGSO3", "Plan", "Said", "Lesson",
}  # fmt: skip


def required(kind: str) -> dict[str, Any]:
    """Arguments without which a constructor cannot be called."""
    denoiser = Normal(Gaussian(Linear()), torch.zeros(2), torch.eye(2))
    measured = Measurement(Average(2, (-1,)), torch.zeros(1, 1), 0.1)
    given: dict[str, dict[str, Any]] = {
        "Absorbing": {"classes": 3},
        "UniformCategories": {"classes": 3},
        "MarginalCategories": {"classes": 3, "marginal": (0.5, 0.3, 0.2)},
        "Discrete": {"betas": (0.1, 0.2)},
        "Fixed": {"times": (1.0, 0.0)},
        "Geodesic": {"on": gendiff.Torus()},
        "Given": {"x0": torch.zeros(1, 2), "keep": torch.ones(1, 2, dtype=torch.bool)},
        "Interval": {"low": 0.1, "high": 0.3},
        "Levels": {"sigmas": (2.0, 1.0)},
        "Noise": {"seed": 0, "index": torch.arange(3)},
        "Parallel": {"solver": gendiff.Euler(3)},
        "Shifted": {"schedule": Linear()},
        "ZeroTerminal": {"schedule": Linear()},
        "KnownParts": {"parts": ("pos",)},
        "KnownSites": {"parts": ("pos",)},
        "Mixed": {"first": LogitNormal(), "second": Uniform()},
        "Binned": {"low": -8.0, "high": 8.0, "mass": (0.5, 0.5)},
        "Reward": {"f": lambda x: x},
        "GuidanceInterval": {"rule": gendiff.CFG(2.0)},
        "CFGRescale": {"rule": gendiff.CFG(2.0)},
        "CFGPlusPlus": {"rule": gendiff.CFG(2.0)},
        "Autoguidance": {"denoiser": denoiser, "weaker": denoiser, "scale": 2.0},
        "Guided": {"denoiser": denoiser, "scale": 2.0, "without": lambda cond: cond},
        "ScaleInput": {"denoiser": denoiser, "scale": 2.0},
        "ClassifierGuidance": {"denoiser": denoiser, "log_p": lambda x, t: x.sum(-1)},
        "Constrained": {"denoiser": denoiser, "constrain": lambda x: x},
        "Blur": {"kernel": (0.25, 0.5, 0.25)},
        "Measurement": {"operator": measured.operator, "y": measured.y},
        "Likelihood": {"measured": measured},
        "PretrainedText": {"path": "clip"},
        "Codec": {"domain": Images(size=8, channels=1)},
        "Latent": {"domain": Images(size=8, channels=1), "codec": gendiff.Codec(Images(size=8, channels=1))},
        "PretrainedCodec": {
            "domain": Images(size=8, channels=1),
            "path": "vae",
            "digest": "0",
            "channels": 3,
            "latent": 2,
            "stride": 4,
        },
        "Reference": {"domain": Images(size=8, channels=1)},
        "Auxiliary": {"loss": lambda x, x0, t, side: x.sum(-1)},
        "FeynmanKac": {"solver": DDPM(2), "potential": Reward(lambda x: x.sum(-1))},
    }
    return given.get(kind, {})


def numbers() -> list[Any]:
    """(class, field): the dataclasses that a file may name, and their fields that hold numbers."""
    out = []
    for name, kind in sorted(core_kinds().items()):
        if not dataclasses.is_dataclass(kind) or inspect.isabstract(kind) or name in LEFT:
            continue
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            declared = [hints[field.name], *get_args(hints[field.name])]
            if field.init and (int in declared or float in declared):
                out.append(pytest.param(kind, field.name, float not in declared, id=f"{name}.{field.name}"))
    return out


@pytest.mark.parametrize(("kind", "name", "whole"), numbers())
def test_numbers_out_of_range_are_refused_by_name(kind: Any, name: str, whole: bool) -> None:
    """NaN and words never pass; what passes is a value the class itself can name as a range, or infinity by default."""
    arguments = required(kind.__name__)
    default = getattr(kind(**arguments), name)
    refused = []
    for value in HARD:
        try:
            kind(**{**arguments, name: value})
        except GendiffError as error:
            assert name in str(error) and kind.__name__ in str(error), error
            refused.append(value)
    assert "2" in refused and any(isinstance(v, float) and math.isnan(v) for v in refused), refused
    assert -math.inf in refused, f"{kind.__name__} took {name}=-inf"
    if default != math.inf and name not in UNBOUNDED:
        assert math.inf in refused, f"{kind.__name__} took {name}=inf"
    if whole:
        assert 2.5 in refused, f"{kind.__name__} took {name}=2.5"


def settings() -> list[Any]:
    """(class, field): what may be a number, one for each sample, or by part; and rules that hold a rule."""
    rules = {
        APG: ("scale", "radius", "parallel"), CFG: ("scale",), CFGZeroStar: ("scale",), CFGRescale: ("share", "rule"),
        GuidanceInterval: ("rule",), CFGPlusPlus: ("rule",), ClassifierGuidance: ("scale",),
    }  # fmt: skip
    return [pytest.param(kind, name, id=f"{kind.__name__}.{name}") for kind, names in rules.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), settings())
def test_settings_that_may_be_tensors_are_checked_too(kind: Any, name: str) -> None:
    arguments = required(kind.__name__)
    for value in ("2", None, True, math.nan, -math.inf, {"pos": math.nan}, {"pos": "2"}):
        with pytest.raises(GendiffError, match="scale=" if name == "rule" else f"{name}="):
            kind(**{**arguments, name: value})
    kind(**{**arguments, name: torch.full((3,), 0.5)})
    kind(**{**arguments, name: {"pos": 0.5}})


@dataclasses.dataclass(frozen=True)
class Toy:
    a: float = 1.0
    b: int | None = None
    c: tuple[float, ...] = ()
    d: Mapping[str, float] = dataclasses.field(default_factory=dict)
    e: Linear = dataclasses.field(default_factory=Linear)

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", True), ("a", "1"), ("a", None), ("a", math.inf), ("b", 1.5), ("b", True), ("c", [1.0]), ("c", (1.0, "x")),
        ("c", (math.nan,)), ("d", 1.0), ("d", {"x": math.nan}), ("d", {1: 1.0}), ("e", Linear), ("e", Gaussian()),
    ],
)  # fmt: skip
def test_the_check_knows_kinds(name: str, value: Any) -> None:
    with pytest.raises(GendiffError, match=f"Toy got {name}="):
        Toy(**{name: value})


def test_the_check_takes_what_fits() -> None:
    import numpy as np

    Toy(np.float32(1.0), np.int64(3), (1, 2.0), {"x": 1}, Linear())  # type: ignore[arg-type]


WRONG: list[Any] = [
    lambda: Blur.gaussian(0.0),
    lambda: Blur.gaussian(math.nan),
    lambda: Blur((0.5, math.nan, 0.5)),
    lambda: Average(2, (0.5,)),  # type: ignore[arg-type]
    lambda: Reward(3.0),  # type: ignore[arg-type]
    lambda: GuidanceInterval(2.0, part=3),  # type: ignore[arg-type]
    lambda: CFGZeroStar(2.0, part=3),  # type: ignore[arg-type]
    lambda: Measurement(Average(2), [0.0]),  # type: ignore[arg-type]
    lambda: Hutchinson(0),
    lambda: LogitNormal(std=0.0),
    lambda: LogNormal(std=-1.0),
    lambda: Mode(2.0),
    lambda: Mode(-1.1),
    lambda: Uniform(0.5, 0.5),
    lambda: CosineInterpolated(low=64.0, high=32.0),
    lambda: LossHistogram(bins=0),
    lambda: LossHistogram(2.0, -2.0),
    lambda: Profiles(torch.nn.Linear(1, 1), (0.5,)),
    lambda: EMA(torch.nn.Linear(1, 1), 1.5),
    lambda: EMA(torch.nn.Linear(1, 1), math.nan),
    lambda: Objective(weighting=Output),  # type: ignore[arg-type]
    lambda: Objective(weighting="MinSNR"),  # type: ignore[arg-type]
    lambda: Objective(weighting={"pos": 1.0}),  # type: ignore[dict-item]
    lambda: Objective(parts={"pos": -1.0}),
    lambda: Objective(auxiliary=-1.0),
    lambda: Objective(coupling=Independent),  # type: ignore[arg-type]
    lambda: Output(0.0),
    lambda: MinSNR(-5.0),
    lambda: EvenSteps(0),
    lambda: DDIM(eta={"pos": -1.0}),
    lambda: DDPM(noise_scale="cold"),  # type: ignore[arg-type]
    lambda: Noise.of(0, -1),
    lambda: Noise.of(1.5, 1),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("wrong", WRONG, ids=map(str, range(len(WRONG))))
def test_what_came_from_outside_as_accepted_is_refused(wrong: Any) -> None:
    with pytest.raises(GendiffError):
        wrong()


@pytest.mark.parametrize(
    "grid", [[0.0, 1.0], [0.1, 0.5, 1.0], [1.0, 1.0, 0.0], [0.9, 0.5, 0.0], [], [1.0, math.nan]], ids=repr
)
def test_bounds_want_a_grid_that_falls_from_pure_noise(grid: list[float]) -> None:
    denoiser = Normal(Gaussian(Linear()), torch.zeros(2), torch.eye(2))
    with pytest.raises(GendiffError, match="fall from 1"):
        vlb(denoiser, torch.zeros(3, 2), Noise.of(0, 3), grid=grid)
    with pytest.raises(GendiffError, match="draws=0"):
        elbo(denoiser, torch.zeros(3, 2), Noise.of(0, 3), draws=0)


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (1, float, True), (True, int, False), (1.0, int, False), ("1", float, False), (None, float | None, True),
        ((1, 2.0), tuple[float, ...], True), ([1.0], tuple[float, ...], False), ((1.0,), tuple[float, float], False),
        ([1.0], Sequence[float], True), ("ab", Sequence[str], False), (("a", 1), Sequence[str], False),
        ({"a": 1.0}, Mapping[str, float], True), ({"a": "x"}, Mapping[str, float], False),
        ({1: 1.0}, Mapping[str, float], False), (max, Callable[..., int], True), (3, Callable[..., int], False),
        ("b", Literal["a", "b"], True), ("c", Literal["a", "b"], False), ("c", Annotated[str, "doc"], True),
        (Normal(Gaussian(Linear()), torch.zeros(1), torch.eye(1)), Denoise, True), (torch.nn.Tanh(), Denoise, False),
        (Linear(), Linear, True), (Linear, Linear, False),
    ],
)  # fmt: skip
def test_one_function_says_what_fits(value: Any, hint: Any, fit: bool) -> None:
    """The same for constructors and for files."""
    assert fits(value, hint) is fit


def parted() -> list[Any]:
    """The classes with a `part` that belong to no measurement, which says of itself what parts there are."""
    return [
        pytest.param(kind, id=name)
        for name, kind in sorted(core_kinds().items())
        if dataclasses.is_dataclass(kind) and not inspect.isabstract(kind) and name not in LEFT
        if "part" in {field.name for field in dataclasses.fields(kind)} and name != "Measurement"
    ]


@pytest.mark.parametrize("kind", parted())
@pytest.mark.parametrize("process", [Gaussian(Linear()), gendiff.Joint(pos=Gaussian(Linear()))], ids=["leaf", "joint"])
def test_a_part_that_is_not_there_is_refused(kind: Any, process: Any) -> None:
    """On a process without parts too."""
    one = kind(**required(kind.__name__), part="poss")
    said = 'Did you mean "pos"' if isinstance(process, gendiff.Joint) else "it has no parts"
    if isinstance(one, Grid):
        ask = lambda: one(process, 8)  # noqa: E731
    elif isinstance(one, TimeDistribution):
        ask = lambda: one.quantile(torch.tensor([0.5], dtype=torch.float64), process)  # noqa: E731
    else:
        ask = lambda: (one.still(process, 0.5), one.on(process, 0.5))  # noqa: E731
    with pytest.raises(SamplerError, match=f"no part 'poss'.*{said}"):
        ask()


MADE = LEFT | {"Dual", "Prediction", "Pilots", "Look", "Particles"}


def kinds_declared() -> list[Any]:
    """(class, field) of all dataclasses of the core that are made by hand."""
    out = []
    for kind in core_kinds().values():
        if dataclasses.is_dataclass(kind) and not inspect.isabstract(kind) and kind.__name__ not in MADE:
            fields = [f.name for f in dataclasses.fields(kind) if f.init and f.name != "mask"]
            out += [pytest.param(kind, name, id=f"{kind.__name__}.{name}") for name in fields]
    return out


@pytest.mark.parametrize(("kind", "name"), kinds_declared())
def test_fields_of_another_kind_are_refused(kind: Any, name: str) -> None:
    """`Gaussian(Linear)`, a class for an object, was taken, and failed somewhere else."""
    more = {
        "PosteriorMean": {"denoiser": required("Guided")["denoiser"], "measured": required("Likelihood")["measured"]},
        "FittedTimes": {"tables": (), "otherwise": gendiff.LinearGrid()},
    }
    arguments = more.get(kind.__name__) or required(kind.__name__)
    with pytest.raises(GendiffError):
        kind(**{**arguments, name: object()})


MEANS = torch.zeros(1, 2)


UNCHECKED: list[Callable[[], Any]] = [
    lambda: Gaussian(Linear),  # type: ignore[arg-type]
    lambda: gendiff.Joint(pos=Linear()),  # type: ignore[arg-type]
    lambda: gendiff.Joint([Gaussian()]),  # type: ignore[arg-type]
    lambda: gendiff.Product(pos=Gaussian()),  # type: ignore[arg-type]
    lambda: gendiff.Heads(pos=gendiff.Velocity),  # type: ignore[arg-type]
    gendiff.Heads,
    lambda: gendiff.Denoiser(torch.nn.Identity(), gendiff.Velocity(), Linear()),  # type: ignore[arg-type]
    lambda: gendiff.Denoiser(torch.nn.Linear, gendiff.Velocity(), Gaussian()),  # type: ignore[arg-type]
    lambda: gendiff.Denoiser(torch.nn.Identity(), gendiff.Velocity(), Gaussian(), precision="bf16"),  # type: ignore[arg-type]
    lambda: Gaussian(Linear(), gendiff.SO3()),
    lambda: gendiff.Chain(Average(2), 3),  # type: ignore[arg-type]
    lambda: gendiff.Given([1.0], torch.ones(1, dtype=torch.bool)),
    lambda: gendiff.Discrete.linear(10, -1e-4),
    lambda: gendiff.Discrete.scaled_linear(10, -1.0),
    lambda: gendiff.Discrete.cosine(10, -1.0),
    lambda: gendiff.Discrete.cosine(10, largest=math.nan),
    lambda: gendiff.Shifted.resolution(Linear(), 0.0, 64.0),
    lambda: gendiff.Shifted.dynamic(Linear(), -1),
    lambda: Noise.of(0, 3, 1.5),  # type: ignore[arg-type]
    lambda: Mixture(Gaussian(), MEANS, -1.0),
    lambda: Mixture(Gaussian(), MEANS, math.nan),
    lambda: Mixture(Gaussian(), torch.zeros(2, 2), 1.0, torch.tensor([2.0, -1.0])),
    lambda: Profiles(torch.nn.Linear(1, 1), ("0.1",)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("wrong", UNCHECKED, ids=range(len(UNCHECKED)))
def test_what_is_no_dataclass_is_checked_too(wrong: Callable[[], Any]) -> None:
    with pytest.raises(GendiffError):
        wrong()
