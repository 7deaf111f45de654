"""Molecules of a trained model, judged: made unasked, with a logP asked, and around the rings of real ones.

    python benchmarks/molecules.py made MODEL -n 1000 --evaluations 50 20 --relaxed 200
    python benchmarks/molecules.py asked MODEL -n 200
    python benchmarks/molecules.py scaffolds MODEL -n 100 --each 4

`made` draws sizes as training has them; of every number of evaluations: valid, connected and good (see measures.py),
unique, novel, PoseBusters' `mol_fast` of all asked, the median energy that GFN2-xTB releases of `--relaxed` good ones,
distances of lengths, angles and torsions from test molecules, and the same of as many test molecules beside them, the
floor. All are judged in the order of a seeded shuffle. `asked` asks for the logP of test molecules, in their sizes, and
ranks asked and obtained (Spearman), of good ones; the control is the same list shifted by one. `scaffolds` gives the
largest ring system of test molecules, heavy atoms alone, in molecules of their size, and counts what is identical
(elements, charges, bonds, positions to 1e-3 A), connected and good. Intervals are Wilson's. Needs rdkit, posebusters,
tblite; GENDIFF_DATA names the data folder. Numbers go to benchmarks/results/molecules_*.json, one entry a model.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportUnhashable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gendiff
from gendiff_molecules import QM9, Molecule, fragment
from gendiff_molecules.judges import posebusters, released, shuffled
from gendiff_molecules.measures import describe, graphs, share_of, summary

NOISE = (("pos", 1.0), ("atom", 0.5), ("bond", 0.25))  # as `Molecules.sampler` has them


def scale(text: str) -> tuple[str, float]:
    """A part and its noise scale, of "part=value"."""
    part, _, value = text.partition("=")
    return part, float(value)


def told(flags: Sequence[bool]) -> dict[str, float]:
    """A share with its interval."""
    own = share_of(flags)
    return {"share": round(own.value, 4), "low": round(own.low, 4), "high": round(own.high, 4), "n": len(flags)}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and a bootstrapped interval of the median, of what is finite."""
    kept = np.array([value for value in values if math.isfinite(value)])
    if not len(kept):
        return {"n": 0}
    draws = np.median(np.random.default_rng(0).choice(kept, (2000, len(kept))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    own = {"median": np.median(kept), "low": low, "high": high}
    own |= dict(zip(("quarter", "three_quarters"), np.quantile(kept, [0.25, 0.75]), strict=True))
    return {**{name: round(float(value), 3) for name, value in own.items()}, "n": len(kept)}


def judged(molecules: list[Molecule], reference: list[Molecule], known: set[str], relax: int) -> dict[str, Any]:
    """Everything that is said of a set of molecules."""
    molecules = shuffled(molecules)
    rows = [describe(one) for one in molecules]
    table = summary(molecules, reference, known)
    sound = [one for one, row in zip(molecules, rows, strict=True) if row.good][:relax]
    every = ("valid", "connected", "good")
    return {
        **{name: told([getattr(row, name) for row in rows]) for name in every},
        "unique": round(table.unique, 4),
        "novel": round(table.novel, 4),
        "posebusters": told([one.passed for one in posebusters(molecules)]),
        "released": spread(released(sound)),
        "distances": {name: round(value, 4) for name, value in table.distances.items()},
        "rings": {str(size): round(count, 3) for size, count in table.rings.items()},
        "right": told([hand == "R" for row in rows for hand in row.hands]),
    }


def held(n: int, skip: int = 0) -> list[Molecule]:
    """Test molecules of QM9 in a seeded order."""
    test = QM9().load("test")
    order = np.random.default_rng(0).permutation(len(test))[skip : skip + n]
    return [test[int(k)].artifact for k in order]


def made(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Nothing asked."""
    reference = held(1000)
    train = QM9().load("train")
    known = set(graphs([one.artifact for one in train]))
    result: dict[str, Any] = {}
    if not args.no_floor:
        result["test molecules"] = judged(held(args.n, 1000), reference, known, args.relaxed)
        print("test molecules", json.dumps(result["test molecules"]), flush=True)
    for evaluations in args.evaluations:
        solver = model.domain.sampler().__class__(evaluations, noise_scale=dict(args.noise))
        since = time.process_time()
        own = model.sample(args.n, sampler=solver, seed=args.seed)
        spent = time.process_time() - since
        row = {"seconds_each": round(spent / args.n, 4), **judged(list(own), reference, known, args.relaxed)}
        result[f"{evaluations} evaluations"] = row
        print(evaluations, json.dumps(row), flush=True)
    return result


def asked(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """A logP asked."""
    from scipy.stats import spearmanr

    real = held(args.n)
    wanted = [describe(one).logp for one in real]
    own = model.sample(args.n, atoms=[len(one) for one in real], logp=wanted, seed=args.seed, guidance=args.guidance)
    rows = [describe(one) for one in own]
    kept = [(want, row.logp) for want, row in zip(wanted, rows, strict=True) if row.good and math.isfinite(want)]
    a, b = np.array(kept).T
    rng = np.random.default_rng(0)
    draws = [spearmanr(a[k], b[k]).statistic for k in rng.integers(len(a), size=(1000, len(a)))]
    return {
        "good": told([row.good for row in rows]),
        "spearman": round(float(spearmanr(a, b).statistic), 4),
        "interval": [round(float(value), 4) for value in np.quantile(draws, [0.025, 0.975])],
        "shifted": round(float(spearmanr(np.roll(a, 1), b).statistic), 4),
        "median_off": round(float(np.median(np.abs(a - b))), 4),
        "guidance": args.guidance,
        "n": len(kept),
    }


def rings_of(molecule: Molecule) -> list[int]:
    """The atoms of the largest ring system: rings that share an atom."""
    systems: list[set[int]] = []
    mol = molecule.to_rdkit()  # a ring info does not keep its molecule alive
    for ring in mol.GetRingInfo().AtomRings():
        own = set(ring)
        for other in [system for system in systems if system & own]:
            systems.remove(other)
            own |= other
        systems.append(own)
    return sorted(max(systems, key=len)) if systems else []


def scaffolds(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Around the ring systems of test molecules."""
    same, whole, sound, passed, off = [], [], [], [], []
    chosen = [(one, rings) for one in held(10 * args.n) if (rings := rings_of(one))][: args.n]
    for number, (real, rings) in enumerate(chosen):
        core = fragment(real, rings, atoms=len(real))
        size, own = len(rings), core.molecule
        for one in (samples := list(model.sample(args.each, given=core, seed=args.seed + number))):
            head = one.take(range(size))
            equal = np.array_equal(head.elements, own.elements) and np.array_equal(head.charges, own.charges)
            equal &= np.array_equal(head.orders, own.orders)
            same.append(bool(equal) and float(np.abs(head.positions - own.positions).max()) < 1e-3)
            row = describe(one)
            whole.append(row.connected)
            sound.append(row.good)
            off.append(core.rmsd(one))
        passed += [one.passed for one in posebusters(samples)]
    return {
        "scaffolds": len(chosen), "each": args.each, "identical": told(same), "connected": told(whole),
        "good": told(sound), "posebusters": told(passed), "off_max": round(max(off), 6),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("made", "asked", "scaffolds"))
    parser.add_argument("model")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[50, 20])
    parser.add_argument("--relaxed", type=int, default=200, help="good molecules to relax")
    parser.add_argument("--each", type=int, default=4, help="molecules a scaffold")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-floor", action="store_true", help="leave the test molecules out")
    parser.add_argument("--noise", type=scale, nargs="+", default=NOISE, help="noise scales, part=value")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = gendiff.load(args.model)
    row = {
        "what": vars(args) | {"results": "", "model": Path(args.model).name},
        **{"made": made, "asked": asked, "scaffolds": scaffolds}[args.what](args, model),
    }
    path = args.results / f"molecules_{args.what}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[Path(args.model).stem] = row
    path.write_text(json.dumps(known, indent=2, default=str) + "\n")
    print(json.dumps(row, default=str))


if __name__ == "__main__":
    main()
