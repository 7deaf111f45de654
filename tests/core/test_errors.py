"""Nonsense is refused where it is written: what came, what was expected, and a line that works."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import gendiff
from gendiff import errors
from gendiff.guidance import Mask, Measurement
from gendiff.processes import Absorbing, UniformCategories
from gendiff.processes.schedules import Linear
from gendiff.random import Noise
from gendiff.sampling.grids import Fixed, Levels

NONSENSE: list[tuple[str, tuple[Any, ...], str]] = [
    ("VP", (-1.0, 20.0), "beta_min=-1"),
    ("VP", (20.0, 0.1), "at most beta_max"),
    ("VE", (10.0, 1.0), "less than sigma_max"),
    ("EDM", (80.0, 0.0), "rho=0"),
    ("EDM", (math.nan,), "sigma_max=nan"),
    ("TrigFlow", (0.0,), "sigma_data=0"),
    ("Sigmoid", (3.0, -3.0), "less than end"),
    ("Sigmoid", (0.0, 3.0, -1.0), "tau=-1"),
    ("Laplace", (0.0, -1.0), "scale=-1"),
    ("Exponential", (0.0,), "rate=0"),
    ("Polynomial", (-1.0,), "power=-1"),
    ("Shifted", (Linear(), 0.0), "shift=0"),
    ("Shifted", (Linear(), -2.0), "shift=-2"),
    ("LinearGrid", (2.0,), "start=2"),
    ("LinearGrid", (math.nan,), "start=nan"),
    ("PowerGrid", (-1.0,), "power=-1"),
    ("PowerGrid", (1.5, math.nan), "sigma_max=nan"),
    ("Karras", (10.0, 1.0), "less than sigma_max"),
    ("Karras", (0.002, 80.0, 0.0), "rho=0"),
    ("LogSNRGrid", (0.0, 80.0), "sigma_min=0"),
    ("PolyExponential", (10.0, 1.0), "sigma_min=10"),
    ("BetaGrid", (0.0,), "a=0"),
    ("ShiftedGrid", (gendiff.LinearGrid(), 0.0), "shift=0"),
    ("AlignYourSteps", ((1.0, 2.0),), "largest first"),
    ("AlignYourSteps", ((1.0, 0.0),), "above zero"),
    ("UpAndDown", (gendiff.LinearGrid(), 0), "length=0"),
    ("Sinkhorn", (0.0,), "epsilon=0"),
    ("Immiscible", (0,), "candidates=0"),
    ("Adaptive", (-1.0,), "rtol=-1"),
    ("Adaptive", (0.0, 0.0), "tolerance"),
    ("Absorbing", (0,), "classes=0"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), NONSENSE, ids=[f"{n}{a}" for n, a, _ in NONSENSE])
def test_numbers_out_of_range_are_refused_at_once(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(errors.RecipeError, match=message) as caught:
        getattr(gendiff, name)(*arguments)
    if caught.value.fix:
        fix = caught.value.fix.replace("...", "Linear()")
        assert eval(fix, {k: getattr(gendiff, k) for k in (name, "AYS", "Linear")})


@pytest.mark.parametrize("levels", [(0.1, 1.0, 5.0), (5.0, 1.0, -1.0), (1.0,), (), (5.0, math.nan, 0.0)], ids=repr)
def test_given_levels_and_times_fall(levels: tuple[float, ...]) -> None:
    for kind in (Levels, Fixed):
        with pytest.raises(errors.RecipeError, match=r"the largest first|finite"):
            kind(levels)
    with pytest.raises(errors.RecipeError, match="within"):
        Fixed((2.0, 1.0, 0.0))
    assert Levels((5.0, 1.0, 1.0, 0.0)).sigmas and Fixed((1.0, 0.5, 0.0)).times


def test_noise_of_a_measurement_is_not_negative() -> None:
    keep = Mask(torch.tensor([[True, False]]))
    with pytest.raises(errors.RecipeError, match="noise=-1"):
        Measurement(keep, torch.zeros(1, 2), noise=-1.0)
    assert Measurement(keep, torch.zeros(1, 2)).noise == 0


def test_classes_of_real_sites_are_in_range() -> None:
    noise, far = Noise.of(0, 2), torch.tensor([[0, 1, 7], [2, 1, -1]])
    for process in (Absorbing(3), UniformCategories(3)):
        with pytest.raises(errors.DataError, match="from -1 to 7"):
            process.noise(far, 0.5, noise)
        bound = process.masked(torch.tensor([[True, True, False]] * 2))
        assert bound.noise(far, 0.5, noise).shape == (2, 3)


WHOLE = [gendiff.Linear(), gendiff.Cosine(), gendiff.EDM(), gendiff.VE(0.01, 500.0)]


@pytest.mark.parametrize("schedule", WHOLE, ids=repr)
def test_a_grid_without_a_largest_level_is_all_of_the_schedule(schedule: Any) -> None:
    times = gendiff.PowerGrid(sigma_max=math.inf)(gendiff.Gaussian(schedule), 5)
    assert times[0] == 1 and times[-1] == 0 and len(times) == 6 and times == sorted(times, reverse=True)
