"""From a recipe to that of a student, which samples in few steps; and from a model to its student.

Methods that learn a jump between any two times (meanflow, shortcut) serve every number of steps with one student.
Progressive distillation halves the steps in rounds, and reflow straightens in rounds: each round is a run of its own,
in a folder of its own, whose teacher is the round before; rounds that are done are kept.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gendiff
from gendiff.errors import RecipeError, RequestError, nearest
from gendiff.model import Model
from gendiff.training import (
    ConsistencyTraining,
    ContinuousConsistency,
    DistributionMatching,
    FewStep,
    GuidanceDistillation,
    MeanFlow,
    Mixed,
    Progressive,
    Reflow,
    ScoreRegularized,
    Shortcut,
    TimeDistribution,
    Uniform,
)

from .recipe import Recipe

METHODS: dict[str, Callable[..., FewStep]] = {
    "meanflow": MeanFlow,
    "shortcut": Shortcut,
    "consistency": ConsistencyTraining,
    "scm": ContinuousConsistency,
    "progressive": Progressive,
    "reflow": Reflow,
    "dmd": DistributionMatching,
    "rcm": ScoreRegularized,
    "guidance": GuidanceDistillation,
}
"""Methods that a teacher can be distilled by; `MomentMatching` learns from data alone (`method=MomentMatching()`)."""
GENTLER = 0.25
"""A student's learning rate over its teacher's: it begins at what the teacher knows. Of spoken digits at the teacher's
own rate the error of the flow grew from 8 to 155 in 230 steps, at a fifth of it it stayed."""


def jump_times(times: TimeDistribution) -> TimeDistribution:
    """Times to learn jumps at: half of them even, since every sample begins at the noise end, which few are near."""
    return times if isinstance(times, Uniform) else Mixed(times, Uniform(1e-3), 0.5)


def student(recipe: Recipe, method: FewStep, steps: int, **changes: Any) -> Recipe:
    """The recipe of a student: that of a model, told what the method needs.

    Args:
        recipe: Of the teacher, or of what would be trained without one.
        method: How it learns.
        steps: Of its sampler.
        changes: Other fields.
    """
    network = {
        **recipe.network,
        **({"jumps": True} if method.jumps else {}),
        **({"guided": True} if method.told else {}),
    }
    own = recipe.guidance
    if method.told:
        assert isinstance(method.guidance, tuple)
        low, high = method.guidance
        own = min(max(own, low), high) if isinstance(own, int | float) else 1.0
    told = {"times": jump_times(recipe.times), "guidance": own if method.told else 1.0, **changes}
    return dataclasses.replace(recipe, network=network, method=method, sampler=method.sampler(steps), **told)


def method_of(name: str, **fields: Any) -> FewStep:
    """A method by its name on the command line.

    Raises:
        RequestError: For another name, with the nearest.
    """
    if name not in METHODS:
        raise RequestError(f"--method {name}", f"one of {', '.join(METHODS)}.{nearest(name, METHODS)}")
    make = METHODS[name]
    known = inspect.signature(make).parameters
    return make(**{key: value for key, value in fields.items() if key in known})


def taught(model: Model) -> Recipe:
    """The recipe that a model was trained by, with its own sizes, process and head.

    Raises:
        RecipeError: For a model that was trained by none.
    """
    if not model.recipe:
        raise RecipeError(
            "a model without a recipe", "one that gendiff trained; or a recipe of your own with method= and start=model"
        )
    recipe = Recipe.of(model.recipe)
    return dataclasses.replace(
        recipe, network=model.size, process=model.denoiser.process, head=model.denoiser.head, adapter=None, method=None
    )


def scale_of(text: str | None, model: Model) -> float | tuple[float, float]:
    """The guidance to distill: what is said, "2.5" or the ends of a range "1,4", or the model's own.

    Raises:
        RequestError: For something else, or nothing where the model's own is no number.
    """
    own = model.guidance if text is None else text
    try:
        ends = [float(part) for part in str(own).split(",")]
    except ValueError:
        ends = []
    if len(ends) == 1:
        return ends[0]
    if len(ends) == 2:
        return ends[0], ends[1]
    raise RequestError(f"--guidance {own}", "a number, or the two ends of a range", "--guidance 1,4")


def rounds(method: FewStep, name: str, steps: Sequence[int], first: int, count: int) -> Iterator[tuple[str, FewStep]]:
    """The runs of a distillation: the name of each one's folder, "" for the only one, and its method."""
    if isinstance(method, Progressive):
        halves = [first // 2**k for k in range(first.bit_length()) if first % 2**k == 0]
        odd = [n for n in steps if n not in halves]
        if odd:
            raise RequestError(
                f"progressive distillation from {first} to {odd[0]} steps", f"some of {halves}", "--first"
            )
        for n in halves:
            if n >= min(steps):
                yield f"steps{n}", dataclasses.replace(method, steps=n)
    elif isinstance(method, Reflow):
        for k in range(count):
            yield f"round{k + 1}", method
    else:
        yield "", method


def distill(
    model: Model,
    out: Path,
    *,
    method: str = "meanflow",
    steps: Sequence[int] = (1, 2, 4),
    guidance: str | None = None,
    minutes: float | None = None,
    first: int = 32,
    count: int = 2,
    changes: Sequence[str] = (),
    data: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[tuple[Path, Model]]:
    """Trains a student, or one a round.

    Args:
        model: The teacher.
        out: The run's folder, or that of its rounds.
        method: One of `METHODS`.
        steps: How few it shall take; its sampler takes the most of them.
        guidance: As in `scale_of`.
        minutes: Training time, over all rounds; the teacher's by default. Learning rates are `GENTLER` than its.
        first: Of progressive distillation: the steps of the first round's student.
        count: Of reflow: rounds.
        changes: Of the recipe, "path=value".
        data: The data folder.
        resume: Go on where it was interrupted.
        overwrite: Begin anew.
        quiet: No progress bar.

    Returns:
        Folders and models, the last the fewest steps.
    """
    from .training import train

    if not steps or any(n < 1 for n in steps):
        raise RequestError(f"--steps {list(steps)}", "whole numbers, 1 or more", "--steps 1,2,4")
    scale = scale_of(guidance, model)
    chosen = method_of(method, guidance=scale, steps=max(steps) if method == "dmd" else min(steps))
    base = taught(model)
    runs = list(rounds(chosen, method, steps, first, count))
    budget = minutes if minutes is not None else base.trainer.minutes
    made: list[tuple[Path, Model]] = []
    teacher = model
    for k, (name, one) in enumerate(runs):
        if k:  # the guidance is in the weights of the round before
            one = dataclasses.replace(one, guidance=scale if one.told else 1.0)
        trainer = dataclasses.replace(base.trainer, minutes=None if budget is None else budget / len(runs))
        n = one.steps if isinstance(one, Progressive) else max(steps)
        optimizer = dataclasses.replace(base.optimizer, lr=GENTLER * base.optimizer.lr)
        told = {"name": f"{base.name}_{method}", "trainer": trainer, "optimizer": optimizer}
        recipe = student(base, one, n, **told).override(*changes)
        folder = out / name if name else out
        there = (folder / recipe.file).is_file()
        if there and resume and len(runs) > 1:
            teacher = gendiff.load(folder)
        else:
            again = resume and (folder / "recipe.json").is_file()
            teacher = train(
                recipe, folder, data=data, resume=again, overwrite=overwrite, quiet=quiet,
                start=None if again and teacher is model else teacher,
            )  # fmt: skip
        made.append((folder, teacher))
    return made
