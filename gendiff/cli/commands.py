"""The commands of the core: sample, info, calibrate, domains, recipes, cite. Heavy imports stay inside `run`."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiff.cli.words import asked, count, seed, share
from gendiff.discovery import all_recipes, domain_class, registered
from gendiff.errors import RequestError, printable
from gendiff.progress import progress_bar

if TYPE_CHECKING:
    from gendiff.cli import Command
    from gendiff.model import Model
    from gendiff.samples import SampleFolder

MODEL = "a model.safetensors, or the folder that holds it"


def model_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the model, what to ask it for, the guidance and the device."""
    parser.add_argument("model", type=Path, help=MODEL)
    parser.add_argument("what", nargs="*", help=what)
    parser.add_argument("--guidance", help="a number, 1 is off, or a rule such as APG(3) (the model's own)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (a GPU where there is one)")


def worker_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --workers and --cluster."""
    parser.add_argument("--workers", type=seed, default=0, help=f"processes that {what} (0: this one alone)")
    parser.add_argument(
        "--cluster", metavar="ADDRESS",
        help=f"workers of a Dask cluster {what}: its scheduler's address, tcp://HOST:8786, or its scheduler file",
    )  # fmt: skip


def loaded(path: Path, device: str) -> Model:
    """The model of a file on a device; "auto" is a GPU where there is one."""
    import torch

    import gendiff

    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return gendiff.load(path, device=name)


def guidance_of(text: str | None) -> Any:
    """A guidance as a number or a rule, or these by condition; None for the model's own.

    Raises:
        RequestError: For a text that is neither.
    """
    if text is None:
        return None
    from gendiff.cli.expressions import known_kinds, parse_object
    from gendiff.guidance.rules import Rule

    value = parse_object(text, known_kinds(), "--guidance")
    for each in value.values() if isinstance(value, dict) and value else [value]:
        if isinstance(each, bool) or not isinstance(each, int | float | Rule):
            expected = "a number, 1 is off, or a rule with its numbers, or these by condition"
            raise RequestError(f"--guidance {text!r}", expected, "--guidance 'APG(3)'")
    return value


def sampler_of(text: str | None, model: Model) -> Any:
    """A sampler as written, `Heun(18)`; a bare name has the steps and the grid of the model's own.

    Raises:
        UnknownName, RecipeError: With the nearest, or the fields that it takes.
    """
    if text is None:
        return None
    from gendiff.cli.expressions import known_kinds, parse_kind
    from gendiff.sampling import Loop
    from gendiff.sampling.solvers import Solver

    return parse_kind(text, known_kinds(), (Solver, Loop), "sampler", like=model.sampler)


def free_folder(name: str) -> Path:
    """The first of samples, samples-2, samples-3, ... that is not there yet."""
    path, i = Path(name), 1
    while path.exists():
        i += 1
        path = Path(f"{name}-{i}")
    return path


class Sample:
    """Draws samples from a model file into a folder, written as they are drawn."""

    help = "draw samples from a model into a folder"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        model_arguments(parser, "what to ask for: label=frog length=80 seconds=0.5; by default of everything in turn")
        parser.add_argument("-n", type=count, default=16, help="how many (16)")
        parser.add_argument("--out", type=Path, help="a new folder (samples, or the next of its kind that is free)")
        parser.add_argument(
            "--overwrite", action="store_true", help="replace the samples of an earlier request in --out"
        )
        parser.add_argument("--format", help="the files' ending, such as jpg, flac, cif (the domain's usual one)")
        parser.add_argument("--seed", type=seed, default=0, help="sample i of a seed is always the same (0)")
        parser.add_argument("--sampler", help='such as "Heun(18)" or DDIM (the model\'s own)')
        parser.add_argument("--steps", type=count, help="steps of the sampler")
        parser.add_argument("--start", type=Path, help="a file to start from instead of noise")
        parser.add_argument("--strength", type=share, help="how much of --start is made anew, up to 1 (0.5)")
        parser.add_argument("--batch", type=count, default=64, help="samples at a time (64)")
        worker_options(parser, "draw")
        parser.add_argument("--threads", type=count, help="of each worker (this machine's, shared; 1 in a cluster)")
        parser.add_argument(
            "--precision", choices=("float32", "bfloat16"), default="float32",
            help="of the network: bfloat16 is faster for batches on processors that have it (float32)",
        )  # fmt: skip

    def explain(self, words: Sequence[str]) -> str:
        paths = [word for word in words if not word.startswith("-") and "=" not in word]
        return "\n".join(questions(loaded(Path(paths[0]), "cpu"))) if paths else ""

    def run(self, args: argparse.Namespace) -> None:
        model = loaded(args.model, args.device)
        options = sample_options(model, args)
        out = args.out or free_folder("samples")
        folder = draw_into(model, args, options, out, progress_bar("sampling"))
        print(f"{args.n} samples in {out}" + (f", together in {out / 'all.png'}" if folder.drawn else ""))


def sample_options(model: Model, args: argparse.Namespace) -> dict[str, Any]:
    """What `gendiff sample` was asked, as keywords of `model.sample`; nothing is drawn and no folder is made.

    Raises:
        GendiffError: For whatever cannot be answered.
    """
    import torch

    what = asked(args.what, model.domain.conditions)
    sampler, guidance = sampler_of(args.sampler, model), guidance_of(args.guidance)
    if args.strength is not None and args.start is None:
        raise RequestError("--strength without --start", "a file to start from", "--start FILE --strength 0.5")
    start = {} if args.start is None else {"start": model.domain.read(args.start), "strength": args.strength or 0.5}
    if start:
        what = {**model.domain.size_of(start["start"]), **what}
    domain, given = model.domain, {}
    said = {name: what.pop(name) for name in list(what) if name in domain.givens}
    if said:
        if start:
            raise RequestError(f"--start with {', '.join(said)}", "one of them", "")
        given = {"given": domain.given(args.n, args.seed, **said)}
    plan = model.plan(args.n, **(domain.known(given["given"], what)[1] if given else what))
    domain.request(args.n, **domain.sized(args.n, plan))
    return {
        "sampler": sampler,
        "steps": args.steps,
        "guidance": guidance,
        "seed": args.seed,
        "batch": args.batch,
        "precision": None if args.precision == "float32" else torch.bfloat16,
        **({**what, **given} if given else {"plan": plan}),
        "asked": {**what, **said} if given else plan,
        **start,
    }


def draw_into(
    model: Model, args: argparse.Namespace, options: Mapping[str, Any], out: Path, progress: AbstractContextManager[Any]
) -> SampleFolder:
    """Draws the samples that `gendiff sample` was asked for into a folder, with their manifest.

    Args:
        model: Which draws them.
        args: Of the command; `args.command` is the line that repeats it.
        options: What `sample_options` made of them.
        out: The folder.
        progress: Gives a function that is called with the share done; what it raises ends the drawing.
    """
    import torch

    from gendiff.drawing import draw, so_many_threads
    from gendiff.executors import workers_of
    from gendiff.samples import SampleFolder

    shared = max(torch.get_num_threads() // max(args.workers, 1), 1)
    threads = args.threads or (1 if args.cluster else shared)
    manifest = {
        "seed": args.seed,
        "request": options["asked"],
        "guidance": repr(model.guidance if options["guidance"] is None else options["guidance"]),
        "sampler": repr(options["sampler"] or model.sampler),
        "steps": args.steps,
        "batch": args.batch,
        "precision": args.precision,
        "threads": threads,
        "weights": str(args.model),
        "command": args.command,
        **({"start": str(args.start), "strength": options["strength"]} if "start" in options else {}),
    }
    folder = SampleFolder(model, out, args.n, manifest, overwrite=args.overwrite, suffix=args.format)
    try:
        with workers_of(args.workers, args.cluster) as pool, folder, progress as tick:
            told = {name: value for name, value in options.items() if name != "asked"}
            common = {**told, "progress": tick, "arrived": folder.add, "raw": folder.keep}
            if pool is None:
                with so_many_threads(threads):
                    model.sample(args.n, **common)
            else:
                draw(model, args.n, executor=pool, threads=threads, **common)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{len(folder.artifacts)} of {args.n} samples are in {out}") from None
    return folder


def questions(model: Model) -> Iterator[str]:
    """What may be asked of a model, a line each: classes, ranges. Names of classes are a stranger's text."""
    return map(printable, asking(model))


def asking(model: Model) -> Iterator[str]:
    """`questions`, with whatever names hold."""
    domain = model.domain
    yield "What may be asked:"
    for name, own in domain.conditions.items():
        first = next(iter(own.turn()), None)
        example = "..." if first is None else shlex.quote(f"{first:.4g}" if isinstance(first, float) else str(first))
        turn = "; in turn if not said" if own.turn() else ""
        yield f"  {name}={example}   {own.describe()}; none for any{turn}"
    for name, (low, high) in domain.ranges().items():
        yield f"  {name}={high:.4g}   {low:.4g} to {high:.4g} in training; spread over them if not said"
    for name, meaning in domain.givens.items():
        yield f"  {name}=...   {meaning}"
    if not domain.conditions and not domain.ranges():
        yield "  nothing: this model draws whatever it was trained on"


def trained(run: Path) -> str | None:
    """How long the run of a folder has trained and on how much, from its training.json; None without one."""
    from gendiff.config import read_json

    path = run / "training.json"
    if not path.is_file():
        return None
    facts = read_json(path)
    said = {"steps": "{} steps", "seconds": "{:.0f} s", "examples": "{} examples", "precision": "{}"}
    return ", ".join(text.format(facts[name]) for name, text in said.items() if name in facts)


class Info:
    """Says what a model is, what may be asked of it, and how it was judged."""

    help = "say what a model is, what may be asked of it, and how it was judged"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        parser.add_argument("model", type=Path, help=MODEL)
        parser.add_argument("--json", action="store_true", help="print the file's whole config instead, as JSON")

    def run(self, args: argparse.Namespace) -> None:
        import gendiff

        model = gendiff.load(args.model)
        if args.json:
            print(json.dumps(model.config(), indent=2))
            return
        recipe, denoiser = model.recipe, model.denoiser
        print(f"{args.model}: {model.domain.name}, {sum(p.numel() for p in denoiser.parameters()):,} parameters")
        rows = {
            "network": f"{type(denoiser.network).__name__}({', '.join(f'{k}={v!r}' for k, v in model.size.items())})",
            "process": denoiser.process,
            "head": denoiser.head,
            "sampler": model.sampler,
            "evaluations": getattr(model.sampler, "evaluations", lambda process: None)(denoiser.process),
            "guidance": model.guidance,
            "adapted": None if model.adaptation is None else f"{model.adaptation.adapter!r} of {model.adaptation.path}",
            "recipe": recipe.get("name"),
            "trained": trained(args.model if args.model.is_dir() else args.model.parent),
            "source": (recipe.get("domain") or {}).get("source"),
        }
        for name, value in rows.items():
            if value is not None:
                print(f"  {name:12} {value}")
        print("\n".join(questions(model)))
        if model.metrics:
            print("Measured:")
        for name, value in model.metrics.items():
            print(f"  {name:32} {value:.4g}")


class Calibrate:
    """Fits a model's sampler to the model, and saves it with the weights."""

    help = "fit a sampler's weights and times to a model, for few evaluations, and save them with it"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        model_arguments(parser, "what the pilots are of, as in sample; by default of everything")
        parser.add_argument("--steps", type=count, nargs="+", default=[5, 8, 10], help="fit a table for each (5 8 10)")
        parser.add_argument("--pilots", type=count, default=256, help="trajectories to follow (256)")
        parser.add_argument("--rounds", type=seed, default=4, help="refinements at most; each some dozens of runs (4)")
        parser.add_argument("--seed", type=seed, default=1, help="of the pilots (1)")
        parser.add_argument("--out", type=Path, help="where to save the model (its own place)")

    def run(self, args: argparse.Namespace) -> None:
        from gendiff.modelfile import model_path

        model = loaded(args.model, args.device)
        found = model.calibrate(
            args.steps, pilots=args.pilots, guidance=guidance_of(args.guidance), seed=args.seed, rounds=args.rounds,
            **asked(args.what, model.domain.conditions),
        )  # fmt: skip
        path = model.save(model_path(args.out or args.model))
        print(f"{path} has tables of {', '.join(str(len(table.weights)) for table in found.tables)} steps")


class Domains:
    """Lists the installed domains."""

    help = "list the domains that are installed"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        pass

    def run(self, args: argparse.Namespace) -> None:
        for name, point in sorted(registered("domains").items()):
            summary = (domain_class(name).__doc__ or "").strip().splitlines()
            print(f"{name:12} {point.value:32} {summary[0] if summary else ''}")


class Recipes:
    """Lists the installed recipes."""

    help = "list the recipes that are installed"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        pass

    def run(self, args: argparse.Namespace) -> None:
        for name, function in sorted(all_recipes().items()):
            print(f"{name:24} {(function.__doc__ or '').strip().splitlines()[0]}")


class Cite:
    """Prints the BibTeX behind a model file."""

    help = "print BibTeX of the papers behind a model"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        parser.add_argument("model", type=Path, help=MODEL)

    def run(self, args: argparse.Namespace) -> None:
        import gendiff

        print(gendiff.cite(gendiff.load(args.model)))


BUILT_IN: dict[str, Command] = {
    "sample": Sample(),
    "info": Info(),
    "calibrate": Calibrate(),
    "domains": Domains(),
    "recipes": Recipes(),
    "cite": Cite(),
}
