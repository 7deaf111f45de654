"""Published settings by name: what a paper trains with and samples by, as a change of a recipe.

    gendiff train images.digits preset=edm trainer.steps=500
    recipe = images.digits().override("preset=ddpm")

A preset sets the process, the head, the times, the weighting of the loss, and the sampler, and leaves the network, the
data and the optimiser as they are; what is said after it changes it further. To add one: a function of a recipe with
`@preset`, whose docstring names the equations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from gendiff.denoisers import Eps, Velocity
from gendiff.denoisers.heads import EDMHead
from gendiff.errors import RecipeError, UnknownName
from gendiff.processes import Gaussian
from gendiff.processes.schedules import EDM, VP, Discrete, Linear, Schedule
from gendiff.sampling.grids import Karras, LinearGrid, Trailing
from gendiff.sampling.solvers import DDPM, Euler, EulerMaruyama, Heun
from gendiff.training import AdaptiveWeight, ConsistencyTraining, LogitNormal, LogNormal, MeanFlow, Output, Uniform

from .fewstep import student
from .recipe import Recipe

Preset = Callable[[Recipe], Recipe]
PRESETS: dict[str, Preset] = {}
"""By name."""


def preset(function: Preset) -> Preset:
    """Makes a preset known by the name of its function; a decorator."""
    PRESETS[function.__name__] = function
    return function


def apply_preset(recipe: Recipe, name: str) -> Any:
    """A recipe with a preset.

    Raises:
        UnknownName: With the nearest.
        RecipeError: For a domain whose process is not Gaussian, of which these papers say nothing.
    """
    if name not in PRESETS:
        raise UnknownName("preset", name, PRESETS)
    return PRESETS[name](recipe)


def on(recipe: Recipe, schedule: Schedule) -> Gaussian:
    """The process of a recipe by another schedule.

    Raises:
        RecipeError: For one that is not Gaussian.
    """
    process = recipe.process or recipe.domain.process
    if not isinstance(process, Gaussian):
        raise RecipeError(
            f"{recipe.name} has the process {type(process).__name__}",
            "a Gaussian process, which presets are of",
            f"Say the schedule of one of its parts: process.PART.schedule={type(schedule).__name__}",
        )
    return dataclasses.replace(process, schedule=schedule, data_std=None)


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    """The recipe with fields and an unweighted squared error of the network's output."""
    objective = dataclasses.replace(recipe.objective, weighting=Output())
    return dataclasses.replace(recipe, objective=objective, **fields)


@preset
def ddpm(recipe: Recipe) -> Recipe:
    """Ho et al. 2020: 1000 betas from 1e-4 to 0.02 (Sec. 4), noise prediction with the unweighted loss (Eq. 14), t
    uniform (Algorithm 1), ancestral steps with sigma_t^2 = beta_t (Algorithm 2, Sec. 3.2)."""
    return changed(
        recipe, process=on(recipe, Discrete.linear(1000)), head=Eps(), times=Uniform(1e-3, 1.0),
        sampler=DDPM(1000, times=Trailing(), large=True),
    )  # fmt: skip


@preset
def edm(recipe: Recipe) -> Recipe:
    """Karras et al. 2022, Table 1, last column: sigma(t) = t, preconditioning with sigma_data = 0.5, ln sigma ~ N(-1.2,
    1.2^2), weights 1/c_out^2 (Eq. 8); Heun's method on 18 steps with rho = 7 from 80 to 0.002 (Algorithm 1, Eq. 5)."""
    return changed(
        recipe, process=on(recipe, EDM(80.0)), head=EDMHead(0.5), times=LogNormal(-1.2, 1.2),
        sampler=Heun(18, times=Karras(0.002, 80.0, 7.0)),
    )  # fmt: skip


@preset
def rectified_flow(recipe: Recipe) -> Recipe:
    """Liu et al. 2023, Eq. 1, and Lipman et al. 2023, Eq. 23 with sigma_min = 0: straight paths, the velocity's squared
    error, t uniform; Euler's method (Liu et al., Algorithm 1)."""
    return changed(
        recipe, process=on(recipe, Linear()), head=Velocity(), times=Uniform(), sampler=Euler(100, times=LinearGrid())
    )


@preset
def rectified_flow_logit_normal(recipe: Recipe) -> Recipe:
    """Esser et al. 2024 (Stable Diffusion 3): `rectified_flow` with t logit-normal, "rf/lognorm(0.00, 1.00)" (Sec. 3.1,
    Eq. 19, Table 1); without their shift for high resolutions (Eq. 23)."""
    return dataclasses.replace(rectified_flow(recipe), times=LogitNormal(0.0, 1.0))


@preset
def vp_sde(recipe: Recipe) -> Recipe:
    """Song et al. 2021: the VP SDE with beta from 0.1 to 20 (Eq. 11, Appendix B), noise prediction, weights sigma^2 on
    the score (Eq. 7), t uniform from 1e-5 (Appendix C); Euler-Maruyama on 1000 steps of the reverse SDE (Eq. 6)."""
    return changed(
        recipe, process=on(recipe, VP(0.1, 20.0)), head=Eps(), times=Uniform(1e-5, 1.0),
        sampler=EulerMaruyama(1000, times=LinearGrid()),
    )  # fmt: skip


@preset
def ict(recipe: Recipe) -> Recipe:
    """Song & Dhariwal 2024 (iCT), as Geng et al. 2024 (ECT) make it continuous: `edm`'s process and head, log sigma ~
    N(-1.1, 2^2) (iCT, Table 1), neighbours that approach in eight stages (ECT, Sec. 4), pseudo-Huber distance with
    c = 0.00054 a dimension, no guidance; two steps all the way and back (Song et al. 2023, Algorithm 1)."""
    own = dataclasses.replace(edm(recipe), times=LogNormal(-1.1, 2.0), drop=0.0)
    return student(own, ConsistencyTraining(huber=5.4e-4), 2, times=own.times)


@preset
def meanflow(recipe: Recipe) -> Recipe:
    """Geng et al. 2025 (MeanFlow), Table 4: `rectified_flow` with t and s logit-normal(-0.4, 1), s = t in three of four
    examples, the error to the power of 1 (Eq. 22), derivatives along the example's own direction; one step."""
    own = dataclasses.replace(rectified_flow(recipe), times=LogitNormal(-0.4, 1.0))
    method = MeanFlow(same=0.75, zero=0.0, improved=False, adaptive=AdaptiveWeight(1.0))
    return student(own, method, 1, times=own.times)
