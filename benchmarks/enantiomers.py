"""Does a model keep the hand of its training set? Two networks of equal size, one of which sees mirror images.

    python benchmarks/enantiomers.py train runs/hands --minutes 10        # both, one after the other; --resume goes on
    python benchmarks/enantiomers.py judge runs/hands -n 600              # results/enantiomers.json

The set: molecules of QM9 with one stereocentre, a carbon with hydrogen, nitrogen or oxygen, a carbon that bears a
hetero atom, and one that bears none. By the rules of Cahn, Ingold and Prelog its label follows from these four alone,
in a fixed order; every molecule is mirrored where it must be, so that all are R. The two runs differ in `parity` alone:
with it the network has a cross product and sees mirror images, without it it is equivariant under them too, and what it
makes cannot prefer a hand. Judged: of the good samples with one labelled centre, how many are R, with Wilson's
interval; of those whose centre is of that kind, the same. One thread each. GENDIFF_DATA names the data folder.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportUnhashable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendiff_molecules import QM9, Molecule, write
from gendiff_molecules.measures import describe, share_of

SIZE = {"width": 96, "pair": 48, "depth": 5, "vectors": 24}


def of_the_kind(molecule: Molecule, centre: int) -> bool:
    """Whether a centre is a carbon with H, N or O, a carbon with a hetero atom, and one without."""
    near = molecule.orders > 0
    own = np.flatnonzero(near[centre])
    z = molecule.elements
    if z[centre] != 6 or len(own) != 4 or sorted(np.where(z[own] > 6, 7, z[own]).tolist()) != [1, 6, 6, 7]:
        return False
    hetero = [bool((z[np.flatnonzero(near[k])] > 6).any()) for k in own if z[k] == 6]
    return sorted(hetero) == [False, True]


def one_hand(split: str, most: int) -> list[Molecule]:
    """Molecules with one centre of the kind, all R."""
    examples, found = QM9().load(split), []
    for k in np.random.default_rng(0).permutation(len(examples)).tolist():
        one = examples[k].artifact
        centres = one.labels().centres
        if len(centres) == 1 and set(centres.values()) <= {"R", "S"} and of_the_kind(one, next(iter(centres))):
            found.append(one if "R" in centres.values() else one.mirrored())
        if len(found) == most:
            break
    return found


def train(args: argparse.Namespace) -> None:
    """Both networks, one after the other."""
    from gendiff_recipes import molecules
    from gendiff_recipes.training import train as run

    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "one_hand.sdf"
    if not path.exists():
        write(one_hand("train", 10**6), path)
    for name, parity in (("parity", True), ("blind", False)):
        plain = molecules.folder(str(path))
        trainer = replace(plain.trainer, minutes=args.minutes, show=0, threads=1, accelerator="cpu")
        recipe = replace(plain, network={**SIZE, "parity": parity}, ema=0.995, drop={"all": 1.0}, trainer=trainer)
        home = args.out / name
        run(recipe, home, resume=(home / "recipe.json").exists(), quiet=True)


def judge(args: argparse.Namespace) -> None:
    """Of both: good ones, and the hand of those with one centre."""
    import gendiff

    def told(flags: list[bool]) -> dict[str, float]:
        own = share_of(flags)
        return {"share": round(own.value, 4), "low": round(own.low, 4), "high": round(own.high, 4), "n": len(flags)}

    result: dict[str, Any] = {"command": sys.argv[1:], "size": SIZE}
    for name in ("parity", "blind"):
        model = gendiff.load(args.out / name)
        result["trained on"] = int(sum(model.domain.counts))
        rows = [(one, describe(one)) for one in model.sample(args.n, seed=0)]
        single = [(one, one.labels().centres) for one, row in rows if row.good and len(row.hands) == 1]
        kind = [(one, centres) for one, centres in single if of_the_kind(one, next(iter(centres)))]
        result[name] = {
            "parameters": sum(p.numel() for p in model.denoiser.network.parameters()),
            "good": told([row.good for _, row in rows]),
            "right": told(["R" in centres.values() for _, centres in single]),
            "right, centres of the kind": told(["R" in centres.values() for _, centres in kind]),
        }
        print(name, json.dumps(result[name]), flush=True)
    (args.results / "enantiomers.json").write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "judge"))
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    (train if args.what == "train" else judge)(args)


if __name__ == "__main__":
    main()
