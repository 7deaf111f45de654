"""`gendiff distill MODEL --method meanflow --steps 1,2,4`: from a trained model to one that samples in few steps.

The student has the teacher's domain, process, head, sizes and weights, and by default its training time; what it is
told beside the time (where to jump, a guidance scale) begins at zero, so that it begins as its teacher. Guidance is
learned along: a number is in its weights, a range is told to it when it samples.

Methods that learn a jump between any two times (meanflow, shortcut) serve every number of steps with one student.
Progressive distillation halves the steps in rounds, and reflow straightens in rounds: each round is a run of its own,
in a folder of its own, whose teacher is the round before; rounds that are done are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gendiff
from gendiff.cli.commands import MODEL
from gendiff.cli.words import seed
from gendiff.errors import RecipeError, RequestError, nearest
from gendiff.model import Model
from gendiff.training import (
    ConsistencyTraining,
    ContinuousConsistency,
    DistributionMatching,
    FewStep,
    GuidanceDistillation,
    MeanFlow,
    Progressive,
    Reflow,
    Shortcut,
)

from .fewstep import student
from .recipe import Recipe

METHODS: dict[str, Callable[..., FewStep]] = {
    "meanflow": MeanFlow,
    "shortcut": Shortcut,
    "consistency": ConsistencyTraining,
    "scm": ContinuousConsistency,
    "progressive": Progressive,
    "reflow": Reflow,
    "dmd": DistributionMatching,
    "guidance": GuidanceDistillation,
}
"""Methods that a teacher can be distilled by; `MomentMatching` learns from data alone (`method=MomentMatching()`)."""


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
        n, last = first, min(steps)
        while n >= last:
            yield f"steps{n}", dataclasses.replace(method, steps=n)
            n //= 2
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
        minutes: Training time, over all rounds; the teacher's by default.
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
        recipe = student(base, one, n, name=f"{base.name}_{method}", trainer=trainer).override(*changes)
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


class Distill:
    """Distills a model into one that samples in few steps."""

    help = "train a student that samples in 1 to 4 steps: gendiff distill MODEL --method meanflow --steps 1,2,4"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        from .commands import data_option, minutes

        parser.add_argument("model", type=Path, help=MODEL)
        parser.add_argument("changes", nargs="*", metavar="path=value", help="changes of the recipe, as in train")
        parser.add_argument("--method", default="meanflow", help=f"one of {', '.join(METHODS)} (meanflow)")
        parser.add_argument("--steps", default="1,2,4", help="how few (1,2,4)")
        parser.add_argument(
            "--guidance", help="what to have in the weights: a number, or a range 1,4 to be told of (the model's own)"
        )
        parser.add_argument("--minutes", type=minutes, help="training time, over all rounds (the teacher's)")
        parser.add_argument("--first", type=seed, default=32, help="steps of the first round, of progressive (32)")
        parser.add_argument("--rounds", type=seed, default=2, help="of reflow (2)")
        parser.add_argument("--out", type=Path, help="the run's folder (runs/NAME_METHOD)")
        parser.add_argument("--resume", action="store_true", help="go on where it was interrupted")
        parser.add_argument("--overwrite", action="store_true", help="delete what --out holds, and begin anew")
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
        data_option(parser)

    def run(self, args: argparse.Namespace) -> None:
        from .commands import use_data

        use_data(args.data)
        try:
            steps = [int(part) for part in args.steps.split(",")]
        except ValueError as error:
            raise RequestError(f"--steps {args.steps}", "whole numbers", "--steps 1,2,4") from error
        model = gendiff.load(args.model)
        name = str(model.recipe.get("name", "model"))
        out = args.out or Path("runs") / f"{name}_{args.method}"
        made = distill(
            model, out, method=args.method, steps=steps, guidance=args.guidance, minutes=args.minutes, first=args.first,
            count=args.rounds, changes=args.changes, data=args.data, resume=args.resume, overwrite=args.overwrite,
            quiet=args.quiet,
        )  # fmt: skip
        for folder, one in made:
            print(f"{folder / 'model.safetensors'} is sampled by {one.sampler!r}")
        last = made[-1][0]
        for n in sorted(set(steps), reverse=True) if len(made) == 1 else ():
            print(shlex.join(["gendiff", "sample", str(last), "--steps", str(n), "--out", str(last / f"drawn{n}")]))
