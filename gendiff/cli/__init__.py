"""The command line: `gendiff sample | calibrate | domains | recipes | cite`, and what packages register.

A package registers commands as entry points of gendiff.commands.

    gendiff train images.fashion optimizer.lr=2e-4 --out runs/fashion
    gendiff sample runs/fashion/model.safetensors -n 16 label=bag --guidance 1.8 --out samples

A command is an object with `help`, `arguments(parser)` and `run(args)`; it is loaded when used. The same program runs
as `python -m gendiff` (another package also installs a command named gendiff on some systems).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gendiff.discovery import all_recipes, domain_class, load_point, registered
from gendiff.errors import GendiffError, RequestError, UnknownName
from gendiff.progress import progress_bar


class Command(Protocol):
    """What an entry point of gendiff.commands gives."""

    help: str

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> None: ...


class Sample:
    """Draws samples from a model file into a folder."""

    help = "draw samples from a model into a folder"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", type=Path, help="a model.safetensors, or the folder that holds it")
        parser.add_argument("what", nargs="*", help="what to ask the domain for: label=frog length=80 seconds=0.5")
        parser.add_argument("-n", type=int, default=16, help="how many (16)")
        parser.add_argument("--out", type=Path, default=Path("samples"), help="the folder to write to (samples)")
        parser.add_argument("--seed", type=int, default=0, help="sample i of a seed is always the same (0)")
        parser.add_argument("--steps", type=int, help="steps of the model's sampler")
        parser.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance; 1 is off (1)")
        parser.add_argument("--batch", type=int, default=64, help="samples at a time (64)")
        parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (cpu)")

    def run(self, args: argparse.Namespace) -> None:
        import gendiff

        model = gendiff.load(args.model, device=args.device)
        with progress_bar("sampling") as progress:
            artifacts = model.sample(
                args.n, steps=args.steps, guidance=args.guidance, seed=args.seed, batch=args.batch,
                progress=progress, **keywords(args.what),
            )  # fmt: skip
        args.out.mkdir(parents=True, exist_ok=True)
        for i, artifact in enumerate(artifacts):
            model.domain.write(artifact, args.out / f"{i:04d}{model.domain.suffix}")
        model.domain.plot(artifacts, args.out / "all.png")
        print(f"{len(artifacts)} samples in {args.out}, together in {args.out / 'all.png'}")


class Calibrate:
    """Fits a model's sampler to the model, and saves it with the weights."""

    help = "fit a sampler's weights and times to a model, for few evaluations, and save them with it"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", type=Path, help="a model.safetensors, or the folder that holds it")
        parser.add_argument("what", nargs="*", help="what the pilots are of, as in sample; by default of everything")
        parser.add_argument("--steps", type=int, nargs="+", default=[5, 8, 10], help="fit a table for each (5 8 10)")
        parser.add_argument("--guidance", type=float, default=1.0, help="the guidance that is meant (1)")
        parser.add_argument("--pilots", type=int, default=256, help="trajectories to follow (256)")
        parser.add_argument("--rounds", type=int, default=4, help="refinements at most; each some dozens of runs (4)")
        parser.add_argument("--seed", type=int, default=1, help="of the pilots (1)")
        parser.add_argument("--out", type=Path, help="where to save the model (its own place)")
        parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (cpu)")

    def run(self, args: argparse.Namespace) -> None:
        import gendiff

        model = gendiff.load(args.model, device=args.device)
        found = model.calibrate(
            args.steps, pilots=args.pilots, guidance=args.guidance, seed=args.seed, rounds=args.rounds,
            **keywords(args.what),
        )  # fmt: skip
        path = args.out or args.model
        path = model.save(path / "model.safetensors" if path.is_dir() else path)
        print(f"{path} has tables of {', '.join(str(len(table.weights)) for table in found.tables)} steps")


class Domains:
    """Lists the installed domains."""

    help = "list the domains that are installed"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        pass

    def run(self, args: argparse.Namespace) -> None:
        for name, point in sorted(registered("domains").items()):
            summary = (domain_class(name).__doc__ or "").strip().splitlines()
            print(f"{name:12} {point.value:32} {summary[0] if summary else ''}")


class Recipes:
    """Lists the installed recipes."""

    help = "list the recipes that are installed"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        pass

    def run(self, args: argparse.Namespace) -> None:
        for name, function in sorted(all_recipes().items()):
            print(f"{name:24} {(function.__doc__ or '').strip().splitlines()[0]}")


class Cite:
    """Prints the BibTeX behind a model file."""

    help = "print BibTeX of the papers behind a model"

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("model", type=Path, help="a model.safetensors, or the folder that holds it")

    def run(self, args: argparse.Namespace) -> None:
        import gendiff

        print(gendiff.cite(gendiff.load(args.model)))


BUILT_IN: dict[str, Command] = {
    "sample": Sample(),
    "calibrate": Calibrate(),
    "domains": Domains(),
    "recipes": Recipes(),
    "cite": Cite(),
}


def keywords(pairs: Sequence[str]) -> dict[str, Any]:
    """ "label=frog" "length=80" to keywords; numbers are read as numbers, a,b,c as a list."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RequestError(f"The argument {pair!r} is not of the form name=value", "e.g. label=frog or length=80")
        values = [value(item) for item in text.split(",")]
        out[name] = values if len(values) > 1 else values[0]
    return out


def value(text: str) -> Any:
    """An int, a float, None, or the text itself."""
    if text.lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def command(name: str) -> Command:
    """A command by name, built in or registered.

    Raises:
        UnknownName: With the nearest name.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    names = [*BUILT_IN, *registered("commands")]
    if name not in names:
        raise UnknownName("command", name, names)
    return load_point("commands", "command", name)()


def usage() -> str:
    """All commands, a line each."""
    names = [*sorted(registered("commands")), *BUILT_IN]
    lines = [f"  {name:10} {command(name).help}" for name in names]
    return "\n".join(["usage: gendiff COMMAND ...   (gendiff COMMAND --help says more)", "", *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, or 2 after an error of the user's, told in one line."""
    from gendiff import __version__

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"gendiff {__version__}")
        return 0
    try:
        chosen = command(arguments[0])
        parser = argparse.ArgumentParser(prog=f"gendiff {arguments[0]}", description=chosen.help)
        chosen.arguments(parser)
        chosen.run(parser.parse_intermixed_args(arguments[1:]))
    except GendiffError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0
