"""`gendiff refine FILE`: repairs a structure, or varies it by so many angstrom; see `gendiff_proteins.refinement`.

What needs torch is loaded when it runs: `gendiff --help` asks every command for its line.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gendiff.cli.commands import free_folder, loaded
from gendiff.cli.words import count, number, seed
from gendiff.errors import RequestError


def angstrom(text: str) -> float:
    """A length above 0: the type of an argument."""
    value = number(text.removesuffix("A").strip())
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no length in angstrom, such as 0.6")
    return float(value)


class Refine:
    """Repairs the chains of a file, rebuilds missing residues, or draws an ensemble around them."""

    help = "repair a protein's chains: bonds, contacts, missing residues; or vary them by so many angstrom"

    def arguments(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        parser.add_argument("file", type=Path, help="PDB, mmCIF or BinaryCIF")
        parser.add_argument("--noise", type=angstrom, default=0.6, help="how far atoms are off, angstrom (0.6)")
        parser.add_argument("--model", type=Path, help="a model of backbones: makes missing residues, or an ensemble")
        parser.add_argument("--vary", type=angstrom, metavar="ANGSTROM", help="an ensemble so far from the file")
        parser.add_argument("-n", type=count, default=1, help="how many, with --model (1)")
        parser.add_argument("--seed", type=seed, default=0, help="of what is made (0)")
        parser.add_argument("--steps", type=count, help="steps of the sampler")
        parser.add_argument("--device", default="auto", help="of the model (a GPU where there is one)")
        parser.add_argument("--format", choices=("pdb", "cif"), default="pdb", help="of what is written (pdb)")
        parser.add_argument("--out", type=Path, help="a new folder (refined, or the next that is free)")

    def run(self, args: argparse.Namespace) -> None:
        from gendiff_proteins import read, refinement, write, write_ranking

        structure = read(args.file)
        if args.model is None and (args.vary is not None or args.n > 1):
            raise RequestError(f"{'--vary' if args.vary else '-n'} without a model", "one", "--model model.safetensors")
        missing = refinement.gaps(structure)
        if args.out is not None and args.out.exists():
            raise RequestError(
                f"--out {args.out}, which is there", "a new folder", f"--out {free_folder(args.out.name)}"
            )
        how: dict[str, Any] = {"seed": args.seed, **({} if args.steps is None else {"steps": args.steps})}
        if args.model is None:
            made, what = refinement.refined([structure], args.noise), f"refined, atoms {args.noise} A off"
        elif args.vary is not None:
            made = refinement.varied(loaded(args.model, args.device), structure, args.vary, args.n, **how)
            what = f"varied by {args.vary} A with {args.model}"
        elif missing:
            model = loaded(args.model, args.device)
            made = refinement.rebuilt(model, structure, args.n, **how)
            what = f"missing residues made with {args.model}: {refinement.contig_of(structure)}"
        else:
            raise RequestError(f"{args.file} has no residues missing in its numbers", "nothing to make", "--vary 2")
        out = args.out or free_folder("refined")
        out.mkdir(parents=True)
        for k, one in enumerate(made):
            remarks = [f"{args.file.name}: {what}, seed {args.seed}, number {k}", str(args.command)]
            write(one, out / f"{k:04d}.{args.format}", remarks=remarks)
        write_ranking(made, out / "ranking.csv")
        print(f"{len(made)} structures in {out}: {what}.")
        if args.model is None and missing:
            sizes = ", ".join(f"{size} after {structure.chains[k]}{structure.numbers[k]}" for k, size in missing)
            print(f"Residues are missing, and stay so without --model: {sizes}.")
