"""`gendiff distill MODEL --method meanflow --steps 1,2,4`: from a trained model to one that samples in few steps.

The student has the teacher's domain, process, head, sizes and weights, and by default its training time; what it is
told beside the time (where to jump, a guidance scale) begins at zero, so that it begins as its teacher. Guidance is
learned along: a number is in its weights, a range is told to it when it samples. See `fewstep`.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from gendiff.cli.commands import MODEL
from gendiff.cli.words import seed
from gendiff.errors import RequestError

NAMES = ("meanflow", "shortcut", "consistency", "scm", "progressive", "reflow", "dmd", "rcm", "guidance")
"""Of methods (`fewstep.METHODS`), which are not loaded to list them."""


class Distill:
    """Distills a model into one that samples in few steps."""

    help = "train a student that samples in 1 to 4 steps: gendiff distill MODEL --method meanflow --steps 1,2,4"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        from .commands import data_option, minutes

        parser.add_argument("model", type=Path, help=MODEL)
        parser.add_argument("changes", nargs="*", metavar="path=value", help="changes of the recipe, as in train")
        parser.add_argument("--method", default="meanflow", help=f"one of {', '.join(NAMES)} (meanflow)")
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
        import gendiff

        from .commands import use_data
        from .fewstep import distill

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
