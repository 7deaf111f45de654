"""The commands `train`, `prepare`, `evaluate`, `bench`, `report`, `ui` and `demo`, registered as gendiff.commands.

Heavy imports stay inside `run`, so that listing commands is quick.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shlex
import sys
import typing
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gendiff.cli.commands import MODEL, free_folder, guidance_of, loaded, model_arguments, worker_options
from gendiff.cli.words import asked, count, minutes, result_file, seed
from gendiff.errors import MissingExtra, RecipeError
from gendiff.progress import progress_bar

if TYPE_CHECKING:
    from .recipe import Recipe


def data_option(parser: argparse.ArgumentParser) -> None:
    """Adds --data."""
    parser.add_argument("--data", type=Path, help="the data folder (else the variable GENDIFF_DATA, else ./data)")


def use_data(path: Path | None) -> None:
    """Makes a folder the data folder of this process."""
    if path is not None:
        os.environ["GENDIFF_DATA"] = str(path)


class Train:
    """Trains a recipe."""

    help = "train a recipe, or a folder of your own: gendiff train images.folder PATH --minutes 10 --out runs/mine"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        parser.add_argument("--out", type=Path, help="the run's folder (runs/NAME)")
        parser.add_argument(
            "--prepared", metavar="STORE", help="read what `gendiff prepare` encoded: a folder or a URL"
        )
        parser.add_argument("--minutes", type=minutes, help="training time: trainer.minutes")
        parser.add_argument("--seed", type=seed, help="of all that is random: trainer.seed")
        parser.add_argument("--from", dest="start", type=Path, metavar="MODEL", help="begin from a model's weights")
        parser.add_argument(
            "--lora", type=count, metavar="RANK", help="adapt it by LoRA of this rank: adapter=LoRA(RANK)"
        )
        parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
        parser.add_argument("--overwrite", action="store_true", help="delete the run that --out holds, and begin anew")
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
        data_option(parser)
        recipe_options(parser, words)

    def explain(self, words: Sequence[str]) -> str:
        from gendiff.discovery import all_recipes

        from .overrides import listing

        plain = [word for word in words if not word.startswith("-")]
        try:
            recipe = recipe_of(plain[0], plain[1:], {}) if plain else None
        except RecipeError:
            recipe = None
        if recipe is None:
            recipe = next(f for f in all_recipes().values() if not inspect.signature(f).parameters)()
            own = {f"{name}." for name in ("domain", "network", "process", "head", "sampler", "times")}
            rows = [row for row in listing(recipe) if not any(row[0].startswith(start) for start in own)]
            names = "\n".join(f"  {name:24} {summary(function)}" for name, function in sorted(all_recipes().items()))
            head = f"Recipes:\n{names}\n\nWhat can be said of every recipe, as path=value (here {recipe.name}'s own; "
            return (
                f"{head}`gendiff train {recipe.name} --help` lists its domain, network and sampler too):\n{table(rows)}"
            )
        return f"What can be said of {recipe.name}, as path=value:\n{table(list(listing(recipe)))}"

    def run(self, args: argparse.Namespace) -> None:
        use_data(args.data)
        from .folder import Folder, rank
        from .remote import local_path

        if args.out is not None and not (args.resume or args.overwrite) and rank() == 0:
            Folder(args.out).begin(resume=False, overwrite=False)  # a used folder is refused before data are read
        recipe = recipe_asked(args)
        folder = None if args.prepared is None else local_path(args.prepared)
        store = args.prepared if folder is None else str(folder.resolve())
        more = {
            "trainer.minutes": args.minutes,
            "trainer.seed": args.seed,
            "trainer.prepared": store and json.dumps(store),
            "adapter": None if args.lora is None else f"LoRA({args.lora})",
        }
        recipe = recipe.override(*(f"{path}={value}" for path, value in more.items() if value is not None))
        run = Path(args.recipe)
        if args.out is not None:
            out = args.out
        elif run.is_dir():
            out = run if args.resume or args.overwrite else free_folder(str(run))
        else:
            out = Path("runs") / recipe.name
        if args.out is None and recipe.trainer.world > 1:
            sys.argv += ["--out", str(out)]  # the processes that are launched beside this one use the same folder
        from .training import train

        options: dict[str, Any] = {"overwrite": args.overwrite, "start": args.start}
        options = {name: value for name, value in options.items() if value}
        train(recipe, out, data=args.data, resume=args.resume, quiet=args.quiet, **options)
        if recipe.trainer.world > 1 and rank() != 0:
            return
        line = shlex.join(["gendiff", "sample", str(out), "--out", str(out / "drawn")])
        kind = "codec" if recipe.unused else "model"
        then = (
            f"use it: gendiff.Latent(domain, gendiff.Codec.load({str(out)!r}))"
            if recipe.unused
            else f"sample it: {line}"
        )
        print(f"The {kind} is {out / recipe.file}; {then}")


class Prepare:
    """Encodes a training set into a store on disk."""

    help = "encode a training set once, into a store on disk, for sets larger than memory: train --prepared STORE"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        parser.add_argument("--out", required=True, help="the store's folder; what is done there is kept")
        worker_options(parser, "encode")
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
        data_option(parser)
        recipe_options(parser, words)

    def run(self, args: argparse.Namespace) -> None:
        use_data(args.data)
        from gendiff.executors import workers_of

        from .prepared import prepare

        recipe, bar = recipe_asked(args), nullcontext() if args.quiet else progress_bar("preparing")
        with workers_of(args.workers if args.cluster else 0, args.cluster) as pool, bar as progress:
            report = prepare(recipe, args.out, workers=args.workers, executor=pool, progress=progress)
        print(report)


def recipe_options(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Adds the recipe, its changes, and what its function is asked by name."""
    parser.add_argument("recipe", help="a name like images.fashion (see `gendiff recipes`), a recipe.json, a run")
    parser.add_argument(
        "changes", nargs="*", metavar="PATH|path=value",
        help="the folder for a recipe of folders; changes such as trainer.steps=500 network.channels=32,64 head=V",
    )  # fmt: skip
    for name, (about, default) in own_arguments(words).items():
        shown = "" if default in (None, "") else f" ({default})"
        parser.add_argument(f"--{name.replace('_', '-')}", dest=f"own_{name}", metavar="VALUE", help=about + shown)


def recipe_asked(args: argparse.Namespace) -> Recipe:
    """The recipe that a command line asks for."""
    given = {k.removeprefix("own_"): v for k, v in vars(args).items() if k.startswith("own_") and v is not None}
    return recipe_of(args.recipe, args.changes, given)


def summary(function: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return (function.__doc__ or "").strip().partition("\n")[0]


def table(rows: Sequence[tuple[str, str, str, str]]) -> str:
    """What `overrides.listing` found, for a terminal: what is said now, then what fits and what it means."""
    lines = []
    for path, value, fits, about in rows:
        lines.append(f"  {path}={value}")
        more = "; ".join(
            text for text in (f"one of {fits}" if " " in fits and fits[:1].isupper() else fits, about) if text
        )
        lines += [f"        {more}"] if more else []
    return "\n".join(lines)


def named_recipe(word: str) -> Callable[..., Recipe] | None:
    """The recipe function of a name; None for a file, a run's folder or no word."""
    from gendiff.discovery import recipe_function

    path = Path(word)
    if (
        not word
        or word.startswith("-")
        or word.endswith(".json")
        or (path.is_dir() and (path / "recipe.json").exists())
    ):
        return None
    return recipe_function(word)


def own_arguments(words: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """The keywords of the recipe function that is named first, with what its docstring says and the default."""
    function = named_recipe(words[0]) if words else None
    if function is None:
        return {}
    from .overrides import described

    about = described(function)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: (about.get(p.name, ""), p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def recipe_of(word: str, rest: Sequence[str], given: Mapping[str, str]) -> Recipe:
    """The recipe of a name, a recipe.json or a run's folder, with its arguments and changes.

    Args:
        word: What names it.
        rest: Arguments of the recipe's function without a name, and changes "path=value".
        given: Arguments with a name, as text.

    Raises:
        RecipeError: For an argument too many or too few.
        UnknownName: For an unknown recipe, with the nearest.
    """
    from .overrides import Slot, read
    from .recipe import Recipe

    function = named_recipe(word)
    if function is None:
        path = Path(word)
        recipe, changes = Recipe.load(path / "recipe.json" if path.is_dir() else path), list(rest)
    else:
        parameters = inspect.signature(function).parameters
        hints = typing.get_type_hints(function)
        needed = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        plain, changes = list(rest[: len(needed)]), list(rest[len(needed) :])
        if len(plain) < len(needed):
            name = needed[len(plain)].upper()
            raise RecipeError(f"The recipe {word} needs {name}", summary(function), f"gendiff train {word} {name}")
        values = {k: read(v, Slot(parameters[k].default, hints[k]), {}, f"--{k}") for k, v in given.items()}
        recipe = function(*plain, **values)
    loose = [text for text in changes if "=" not in text]
    if loose:
        fix = f"A folder of your own: gendiff train {recipe.name.partition('.')[0]}.folder {loose[0]}"
        raise RecipeError(f"{word} got {loose[0]!r}", "changes of the form path=value", fix)
    return recipe.override(*changes)


class Evaluate:
    """Compares samples of a model with real data."""

    help = "compare a model's samples with real data, beside the data-versus-data floor"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        model_arguments(parser, "what to ask for, label=boot; it is compared with real examples of the same classes")
        parser.add_argument("-n", type=count, default=256, help="how many samples (256)")
        parser.add_argument("--seed", type=seed, default=0, help="of the samples (0)")
        parser.add_argument("--halves", type=seed, default=100, help="half-samples for intervals; 0 for none (100)")
        worker_options(parser, "draw samples and describe them")
        parser.add_argument(
            "--judge", action="append", default=[], metavar="NAME", help="a judge of the domain; may be given again"
        )
        parser.add_argument("--json", type=result_file, help="also write the numbers here")
        for form in ("csv", "markdown", "latex"):
            parser.add_argument(f"--{form}", type=result_file, help="also write the table here")
        data_option(parser)

    def run(self, args: argparse.Namespace) -> None:
        from gendiff.executors import workers_of

        from .evaluation import evaluate

        use_data(args.data)
        model = loaded(args.model, args.device)
        with workers_of(args.workers, args.cluster) as pool, progress_bar("sampling") as progress:
            result = evaluate(
                model, args.n, guidance=guidance_of(args.guidance), seed=args.seed, data=args.data, progress=progress,
                halves=args.halves, judges=args.judge, executor=pool, **asked(args.what, model.domain.conditions),
            )  # fmt: skip
        table = result.scores
        print(result.compared)
        print(table)
        for name, facts in table.facts["judges"].items():
            print(f"{name}: {'; '.join(f'{what} {value}' for what, value in facts.items()) or 'a published judge'}.")
        if args.halves:
            print(f"Intervals (95 %, over samples) are of {args.halves} random halves, Wilson's of shares of samples.")
        others = [name for name in model.domain.judges() if name not in args.judge]
        if others:
            print(f"More is measured by --judge {', --judge '.join(others)}.")
        forms = {"json": table.json, "csv": table.csv, "markdown": table.markdown, "latex": table.latex}
        for name, form in forms.items():
            path = getattr(args, name)
            if path is not None:
                path.write_text(form(), encoding="utf8")


class Bench:
    """Compares methods across domains, as a suite declares; of one model, measures how its samplers converge."""

    help = "compare methods across domains: bench SUITE.toml; or how a model's samplers converge: bench MODEL"

    def __init__(self) -> None:
        self.suite: Any = None

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        if any(word.endswith((".toml", ".json")) for word in words):
            self.suite = import_module("gendiff_recipes.bench.command").BenchSuite()  # which imports this module
            self.suite.arguments(parser, words)
            return
        parser.add_argument("model", type=Path, help=MODEL)
        parser.add_argument("-n", type=count, default=16, help="trajectories (16)")
        parser.add_argument("--steps", type=count, nargs="*", default=[4, 8, 16, 32], help="of each (4 8 16 32)")
        parser.add_argument("--reference", type=count, default=256, help="steps of the reference (Heun)")
        parser.add_argument("--guidance", help="a number, 1 is off (the model's own)")

    def explain(self, words: Sequence[str]) -> str:
        return import_module("gendiff_recipes.bench.command").BenchSuite().explain(words)

    def run(self, args: argparse.Namespace) -> None:
        if self.suite is not None:
            self.suite.run(args)
            return
        import gendiff

        from .evaluation import default_request
        from .trajectories import convergence

        model = gendiff.load(args.model)
        rows = convergence(
            model, args.n, steps=args.steps, reference=args.reference,
            guidance=guidance_of(args.guidance), what=default_request(model.domain, args.n),
        )  # fmt: skip
        print(
            "Nearness to the model's own exact trajectories, which is not quality: "
            "`gendiff evaluate` compares with real data."
        )
        print(f"{'sampler':10} {'evaluations':>12} {'RMS to reference':>18} {'ms a sample':>12}  grid")
        for row in sorted(rows, key=lambda row: (row.evaluations, row.error)):
            print(f"{row.sampler:10} {row.evaluations:12d} {row.error:18.4g} {row.milliseconds:12.2f}  {row.grid}")


class Report:
    """Writes a run's report: samples, curves, recipe, citations, in one HTML file."""

    help = "write a run's samples, curves and recipe to one HTML file"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        parser.add_argument("run", type=Path, help="the run's folder")
        parser.add_argument("-n", type=count, default=12, help="samples to draw (12)")
        parser.add_argument("--seed", type=seed, default=0, help="of the samples (0)")
        parser.add_argument("--out", type=result_file, help="the file to write (report.html in the run's folder)")
        data_option(parser)

    def run(self, args: argparse.Namespace) -> None:
        from .runreport import report

        use_data(args.data)
        print(f"The report is {report(args.run, args.out, n=args.n, seed=args.seed)}")


class Ui:
    """Serves a page on which a model can be asked and its samples looked at."""

    help = "a page in the browser on which to ask a model and see its samples, for this machine alone"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        parser.add_argument("model", type=Path, help=MODEL)
        parser.add_argument("--port", type=seed, help="where it answers, on 127.0.0.1 (7860, or one that is free)")
        parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (a GPU where there is one)")
        parser.add_argument("--open", action="store_true", help="open it in the browser")

    def run(self, args: argparse.Namespace) -> None:
        for package, name in {"jinja2": "jinja2", "matplotlib": "matplotlib", "PIL": "pillow"}.items():
            if find_spec(package) is None:
                raise MissingExtra("gendiff ui", name, "ui")
        from .page.server import serve
        from .page.studio import Studio

        def announce(url: str) -> None:
            print(f"{args.model} can be asked at {url} on this machine. Ctrl-C ends it.", flush=True)
            if args.open:  # by a file that no other account reads: all see the words that a program begins with
                page = Path(home) / "open.html"
                page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">', encoding="utf8")
                webbrowser.open(page.as_uri())

        model = loaded(args.model, args.device)
        with TemporaryDirectory(prefix="gendiff-ui-") as home:
            serve(Studio(model, args.model, args.device, Path(home)), args.port, announce)


class Demo:
    """Trains and samples every embedded domain, and writes a report."""

    help = "train and sample images, sound and proteins on this machine, and write report.html"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        parser.add_argument("--out", type=Path, default=Path("demo"), help="the folder to write (demo)")
        parser.add_argument("--minutes", type=minutes, default=6.5, help="training time over all domains (6.5)")

    def run(self, args: argparse.Namespace) -> None:
        from .demo import demo

        report = demo(args.out, minutes=args.minutes)
        print(f"The report is {report}")
