"""The commands `train`, `evaluate`, `bench` and `demo`, registered as gendiff.commands.

Heavy imports stay inside `run`, so that listing commands is quick.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gendiff.cli import keywords
from gendiff.progress import progress_bar


def data_option(parser: argparse.ArgumentParser) -> None:
    """Adds --data."""
    parser.add_argument("--data", type=Path, help="the data folder (else the variable GENDIFF_DATA, else ./data)")


class Train:
    """Trains a recipe."""

    help = "train a recipe: gendiff train images.fashion optimizer.lr=2e-4 --out runs/fashion"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("recipe", help="a name like images.fashion (see `gendiff recipes`), or a recipe.json")
        parser.add_argument(
            "changes", nargs="*", help="path=value: trainer.minutes=5 trainer.devices=4 network.width=192"
        )
        parser.add_argument("--out", type=Path, help="the run's folder (runs/NAME)")
        parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
        data_option(parser)

    def run(self, args: argparse.Namespace) -> None:
        import os

        from gendiff.discovery import recipe_function

        from .recipe import Recipe
        from .training import train

        if args.data is not None:
            os.environ["GENDIFF_DATA"] = str(args.data)
        named = args.recipe.endswith(".json")
        recipe = (Recipe.load(args.recipe) if named else recipe_function(args.recipe)()).override(*args.changes)
        out = args.out or Path("runs") / recipe.name
        train(recipe, out, data=args.data, resume=args.resume, quiet=args.quiet)
        print(f"The model is {out / 'model.safetensors'}; sample it: gendiff sample {out} --out {out / 'final'}")


class Evaluate:
    """Compares samples of a model with real data."""

    help = "compare a model's samples with real data, beside the data-versus-data floor"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", type=Path)
        parser.add_argument("what", nargs="*", help="keywords for the request: length=80")
        parser.add_argument("-n", type=int, default=256)
        parser.add_argument("--guidance", type=float, default=1.0)
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--json", type=Path, help="also write the numbers here")
        data_option(parser)

    def run(self, args: argparse.Namespace) -> None:
        import gendiff

        from .evaluation import evaluate

        model = gendiff.load(args.model)
        with progress_bar("sampling") as progress:
            result = evaluate(
                model, args.n, guidance=args.guidance, seed=args.seed, data=args.data, progress=progress,
                **keywords(args.what),
            )  # fmt: skip
        print(f"{'metric':40} {'samples':>12} {'real data':>12}")
        for name, value in result.generated.items():
            print(f"{name:40} {value:12.4g} {result.floor[name]:12.4g}")
        if args.json:
            numbers = {"n": args.n, "seconds": result.seconds, "generated": result.generated, "floor": result.floor}
            args.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf8")


class Bench:
    """Measures how a model's samplers converge and what they cost."""

    help = "how far each sampler is from a model's own exact trajectories, by evaluations"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", type=Path)
        parser.add_argument("-n", type=int, default=16, help="trajectories (16)")
        parser.add_argument("--steps", type=int, nargs="*", default=[4, 8, 16, 32])
        parser.add_argument("--reference", type=int, default=256, help="steps of the reference (Heun)")
        parser.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance; 1 is off (1)")

    def run(self, args: argparse.Namespace) -> None:
        import gendiff

        from .evaluation import default_request
        from .trajectories import convergence

        model = gendiff.load(args.model)
        rows = convergence(
            model, args.n, steps=args.steps, reference=args.reference, guidance=args.guidance,
            what=default_request(model.domain, args.n),
        )  # fmt: skip
        print(f"{'sampler':10} {'evaluations':>12} {'RMS to reference':>18} {'ms a sample':>12}  grid")
        for row in sorted(rows, key=lambda row: (row.evaluations, row.error)):
            print(f"{row.sampler:10} {row.evaluations:12d} {row.error:18.4g} {row.milliseconds:12.2f}  {row.grid}")


class Demo:
    """Trains and samples every embedded domain, and writes a report."""

    help = "train and sample images, sound and proteins on this machine, and write report.html"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--out", type=Path, default=Path("demo"), help="the folder to write (demo)")
        parser.add_argument("--minutes", type=float, default=6.5, help="training time over all domains (6.5)")

    def run(self, args: argparse.Namespace) -> None:
        from .demo import demo

        report = demo(args.out, minutes=args.minutes)
        print(f"The report is {report}")
