"""`gendiff bench SUITE.toml`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from gendiff.cli.commands import worker_options
from gendiff.progress import progress_bar
from gendiff_recipes.commands import data_option, use_data


class BenchSuite:
    """Compares methods across domains, as a suite declares."""

    help = "compare methods across domains: gendiff bench SUITE.toml --out bench"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        parser.add_argument("suite", type=Path, help="a .toml or .json file: methods, domains, evaluations, seeds")
        parser.add_argument("--out", type=Path, help="the benchmark's folder (bench-NAME); what is done there is kept")
        parser.add_argument(
            "--parts", action="append", default=[], metavar="FILE.py[:NAME]",
            help="a file with classes of your own, which is run; may be given again",
        )  # fmt: skip
        worker_options(parser, "draw and measure")
        parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
        parser.add_argument("--quiet", action="store_true", help="no progress bar")
        data_option(parser)

    def explain(self, words: Sequence[str]) -> str:
        from . import suite

        about = (suite.__doc__ or "").partition("\n")[2].strip("\n")
        return f"`gendiff bench SUITE.toml --help` lists the options of a suite, which is a file:\n\n{about}"

    def run(self, args: argparse.Namespace) -> None:
        use_data(args.data)
        from gendiff.executors import workers_of

        from .page import where, write_page
        from .running import run_suite
        from .suite import read_suite, slug
        from .tables import Tables, write_tables

        suite = read_suite(args.suite, args.parts)
        out = args.out or Path(f"bench-{slug(suite.name)}")
        with (
            workers_of(args.workers, args.cluster) as pool,
            nullcontext() if args.quiet else progress_bar("benchmark") as progress,
        ):
            outcome = run_suite(suite, out, executor=pool, device=args.device, progress=progress)
        tables = Tables.of(outcome)
        write_tables(tables, out)
        page = write_page(outcome, tables, out / "page.html")
        print(tables.text())
        print(f"{outcome.done} units done now, {outcome.kept} before. The page is {page}; tables are beside it.")
        for one in outcome.errors:
            print(f"failed: {where(one)}: {one['error']}", file=sys.stderr)
        if outcome.errors:
            raise SystemExit(1)
