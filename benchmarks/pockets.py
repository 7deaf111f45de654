"""Molecules made in pockets of proteins that training never saw, judged where they lie.

    python benchmarks/pockets.py MODEL [--each 8] [--seed 0] [--evaluations 50]      # twenty minutes of one thread

Of every held series of `PocketLigands` (16, of 6 clusters of sequence), `--each` of its ligands and pieces of ligands
with 5 to 16 heavy atoms, drawn by a seed, say where the middle of a molecule shall lie and how many atoms it has; one
is made for each. Rows, all of as many molecules:

    given              the ligands and pieces themselves: the floor
    drawn              what is made, as it was drawn
    settled            the same, after `Settling`: a rigid motion that ends clashes, relaxation among the pocket's walls
    sound              what `sound(..., tries=4)` gives: settled, and drawn anew where it is not sound; PoseBusters is
                       not asked. `tries` says how many draws one took
    blind, settled     made with no pocket told, same seeds, put at the centre, settled
    moved, settled     `drawn` in the pocket of another protein, at its centre, turned at random, settled
    given, moved       `given` in the pocket of another protein, turned at random; as it stands and settled

Of each row, with Wilson's intervals, of all that were asked for: PB-valid, every test `dock` of PoseBusters passed
(valences, connected, lengths, angles, rings, and no clash with and no overlap of volumes with the pocket; the internal
energy too of `given`, `settled` and `sound`), and how often each test fails; good (valid, connected, every valence
right); clash-free, also before settling. Then how many atoms of the pocket are within 4.5 A of a heavy atom (contacts,
the mean over a molecule, median over molecules), the share of heavy atoms with eight or more (buried), and of good
molecules Vina's score between molecule and pocket (kcal/mol, median). Rows are compared on the same requests. `same`
is the share of molecules whose graph is that of the ligand or piece that they were asked for in the place of, `novel`
that of graphs in no training example. Needs rdkit and posebusters; GENDIFF_DATA names the data folder. Numbers go to
benchmarks/results/pockets.json, one entry a model.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gendiff
from gendiff.domain import Example
from gendiff_molecules import Molecule, Pocket, PocketLigands, Settling, sound
from gendiff_molecules.choosing import faults
from gendiff_molecules.complexes import series
from gendiff_molecules.docking import Scoring
from gendiff_molecules.judges import posed
from gendiff_molecules.measures import describe, graphs, share_of
from gendiff_molecules.torsions import Kinematics


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is asked for: in a pocket, of the size of a real molecule; the pocket of another protein beside it."""

    reference: Molecule
    pocket: Pocket
    other: Pocket
    series: str


def wanted(each: int, seed: int) -> list[Wanted]:
    """Requests, `each` of every held series; frames have the pocket's centre at the origin."""
    test = list(PocketLigands().load("test"))
    held = [one for one in series() if one.held]
    rng, out = np.random.default_rng(seed), []
    for one in held:
        own: list[Example] = [x for x in test if x.cond["pocket"].name == one.name]
        cluster = one.known["cluster"]
        others = [x for x in test if _cluster(x.cond["pocket"].name, held) != cluster]
        for k in rng.permutation(len(own))[:each].tolist():
            other = others[int(rng.integers(len(others)))].cond["pocket"]
            out.append(Wanted(own[k].artifact, own[k].cond["pocket"], other, one.name))
    return out


def _cluster(name: str, held: Sequence[Any]) -> str:
    return next(one.known["cluster"] for one in held if one.name == name)


def turned(molecule: Molecule, rng: np.random.Generator) -> Molecule:
    """Turned at random about the middle of its atoms, which is put at the origin."""
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    return molecule.moved((molecule.positions - molecule.positions.mean(0)) @ rotation.T)


def told(flags: Sequence[bool]) -> dict[str, float]:
    """A share with its interval."""
    own = share_of(flags)
    return {"share": round(own.value, 4), "low": round(own.low, 4), "high": round(own.high, 4), "n": len(flags)}


def vina(molecule: Molecule, pocket: Pocket) -> float:
    """Vina's score between molecule and pocket, kcal/mol."""
    scoring = Scoring(Kinematics(molecule), pocket)
    place = torch.from_numpy(molecule.positions - pocket.centre).float()[scoring.heavy]
    return float(scoring.between(place[None])[0])


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median with a bootstrapped interval."""
    own = np.array(values)
    draws = np.median(np.random.default_rng(0).choice(own, (2000, len(own))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    named = {"median": np.median(own), "low": low, "high": high}
    return {**{name: round(float(value), 3) for name, value in named.items()}, "n": len(own)}


def judged(molecules: Sequence[Molecule], pockets: Sequence[Pocket], energy: bool) -> dict[str, Any]:
    """Everything that is said of molecules, each in its pocket."""
    busted = [posed([one], pocket, energy=energy)[0] for one, pocket in zip(molecules, pockets, strict=True)]
    rows = [describe(one) for one in molecules]
    pairs = list(zip(molecules, pockets, rows, strict=True))
    failed = Counter(name for one in busted for name in (one.failed or (("refused by RDKit",) if one.reason else ())))
    near = [contacts(one, pocket) for one, pocket, _ in pairs]
    return {
        "pb_valid": told([one.passed for one in busted]),
        "good": told([row.good for row in rows]),
        "clash_free": told([pocket.overlap(one) <= 0 for one, pocket, _ in pairs]),
        "failed": dict(failed.most_common()),
        "contacts": spread([float(one.mean()) for one in near]),
        "buried": round(float(np.mean([(one >= 8).mean() for one in near])), 4),
        "vina": spread([vina(one, pocket) for one, pocket, row in pairs if row.good]),
        "passed": [bool(one.passed) for one in busted],
    }


def contacts(molecule: Molecule, pocket: Pocket, reach: float = 4.5) -> np.ndarray:
    """Pocket atoms within reach of each heavy atom."""
    heavy = molecule.positions[molecule.elements > 1]
    return (np.linalg.norm(heavy[:, None] - pocket.positions, axis=-1) < reach).sum(1)


def replace_domain(model: gendiff.Model, settling: Settling | None) -> gendiff.Model:
    """The same model whose domain settles what it made otherwise."""
    domain = replace(model.domain, settling=settling)  # type: ignore[type-var]
    return gendiff.Model(domain, model.denoiser, size=model.size, sampler=model.sampler, recipe=model.recipe)


def again(
    model: gendiff.Model, first: list[Molecule], pockets: list[Pocket], sizes: list[int], solver: Any, args: Any
) -> tuple[list[Molecule], list[int]]:
    """What `sound(model, n, given=pockets, atoms=sizes, tries=4)` gives, of whose first round the draws are there."""
    out, count = list(first), [1] * len(first)
    open_ = [k for k, (one, pocket) in enumerate(zip(first, pockets, strict=True)) if faults(one, pocket) > 0]
    if open_:
        told = sound(model, len(open_), given=[pockets[k] for k in open_], atoms=[sizes[k] for k in open_], tries=3,
                     seed=args.seed + 1, sampler=solver, batch=args.batch)  # fmt: skip
        for k, molecule, tries, left in zip(open_, told.molecules, told.tries, told.faults, strict=True):
            count[k] += tries
            out[k] = molecule if left < faults(first[k], pockets[k]) else first[k]
    return out, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--each", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=50)
    parser.add_argument("--rows", nargs="*", help="of those above; all by default")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    asked, settle, rng = wanted(args.each, args.seed), Settling(), np.random.default_rng(args.seed)
    model: Any = replace_domain(gendiff.load(args.model), None)
    here, there = [one.pocket for one in asked], [one.other for one in asked]
    given, sizes = [one.reference for one in asked], [len(one.reference) for one in asked]
    solver = replace(model.sampler, steps=args.evaluations)
    since = time.process_time()
    drawn = model.sample(len(asked), given=here, atoms=sizes, sampler=solver, seed=args.seed, batch=args.batch)
    spent = (time.process_time() - since) / len(asked)
    blind = model.sample(len(asked), atoms=sizes, sampler=solver, seed=args.seed, batch=args.batch)
    blind = [one.moved(one.positions - one.positions.mean(0) + p.centre) for one, p in zip(blind, here, strict=True)]
    moved, strange = ([turned(one, rng) for one in some] for some in (drawn, given))
    after = [settle(molecule, pocket) for molecule, pocket in zip(drawn, here, strict=True)]
    chosen, tries = again(replace_domain(model, settle), after, here, sizes, solver, args)
    sets = {
        "given": (given, here, None),
        "drawn": (drawn, here, None),
        "settled": (drawn, here, settle),
        "sound": (chosen, here, None),
        "blind, settled": (blind, here, settle),
        "moved, settled": (moved, there, settle),
        "given, moved": (strange, there, None),
        "given, moved, settled": (strange, there, settle),
    }
    result: dict[str, Any] = {
        "requests": {"n": len(asked), "series": len({one.series for one in asked}), "seed": args.seed,
                     "atoms": [min(sizes), float(np.median(sizes)), max(sizes)]},
        "sampler": repr(solver),
        "seconds_each": round(spent, 3),
    }  # fmt: skip
    heavy = [int((one.elements > 1).sum()) for one in drawn]
    result["heavy_atoms"] = [min(heavy), float(np.median(heavy)), max(heavy)]
    for name, (molecules, pockets, how) in sets.items():
        if args.rows and name not in args.rows:
            continue
        final = [m if how is None else how(m, p) for m, p in zip(molecules, pockets, strict=True)]
        row = judged(final, pockets, energy=name in ("given", "settled", "sound"))
        passed = row.pop("passed")
        if how is not None:
            row["clash_free_before"] = told([p.overlap(m) <= 0 for m, p in zip(molecules, pockets, strict=True)])
        if name == "sound":
            row["tries"] = round(float(np.mean(tries)), 3)
        if name in ("settled", "sound"):
            heavy = [int((one.elements > 1).sum()) for one in molecules]
            by = {own: [p for p, one in zip(passed, asked, strict=True) if one.series == own] for own in
                  dict.fromkeys(one.series for one in asked)}  # fmt: skip
            row["by_series"] = {own: f"{sum(flags)} of {len(flags)}" for own, flags in by.items()}
            sized = [(k, p) for k, p in zip(heavy, passed, strict=True)]
            row["by_heavy_atoms"] = {
                f"{a}-{b}": told([p for k, p in sized if a <= k <= b])
                for a, b in ((1, 8), (9, 12), (13, 99)) if any(a <= k <= b for k, _ in sized)
            }  # fmt: skip
        if name == "settled":
            pairs = zip(molecules, final, strict=True)
            row["moved_by"] = spread(
                [float(np.linalg.norm(a.positions - b.positions, axis=-1).mean()) for a, b in pairs]
            )
        result[name] = row
        print(name, json.dumps(row), flush=True)
    known = {one.smiles(stereo=False) for one in PocketLigands().load("train").artifacts}
    own, real = graphs(drawn), graphs(given)
    result["unique"] = round(len(set(filter(None, own))) / max(1, len(list(filter(None, own)))), 4)
    result["novel"] = told([smiles not in known for smiles in own if smiles])
    result["same"] = told([a == b for a, b in zip(own, real, strict=True) if a])
    path = args.results / "pockets.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    table[args.model.stem] = result
    path.write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("requests", "seconds_each", "unique", "novel", "same")}))


if __name__ == "__main__":
    main()
