"""What the judges and measures of molecules say of real ones: the floors that samples stand beside.

    python benchmarks/molecule_floors.py [-n 50] [--chiral 1000]        # two minutes of one thread

Held molecules of QM9 in a seeded random order, as they are and with noise of .02 and .05 A on every coordinate:
PoseBusters' `mol_fast`, the energy that a GFN2-xTB relaxation releases, the distances of lengths, angles and torsions
from as many others. Of chiral ones: whether the CIP labels of an SDF, written and read again, are those that went in,
whether RDKit reads it without a word, and whether the mirror image has every R and S exchanged. Needs posebusters and
tblite. Numbers go to benchmarks/results/molecule_floors.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from gendiff_molecules import QM9, Molecule, read, write
from gendiff_molecules.judges import posebusters, relaxed
from gendiff_molecules.measures import share_of, summary
from gendiff_molecules.toolkit import overheard

NOISE = (0.0, 0.02, 0.05)  # angstrom
SWAP = {"R": "S", "S": "R", "r": "r", "s": "s"}


def floors(real: list[Molecule], n: int, noise: float) -> dict[str, Any]:
    """What the judges say of n molecules with noise, beside those that follow."""
    rng = np.random.default_rng(1)
    own = [one.moved(one.positions + noise * rng.normal(size=one.positions.shape)) for one in real]
    since = time.process_time()
    passed = share_of([one.passed for one in posebusters(own)])
    between = time.process_time()
    energies = np.array([relaxed(one).released for one in own[:n]])
    spent = time.process_time()
    middle = len(real) // 2
    return {
        "posebusters": {"share": passed.value, "low": passed.low, "high": passed.high, "n": passed.n},
        "released_median": round(float(np.nanmedian(energies)), 3),
        "released_10_90": [round(float(value), 2) for value in np.nanpercentile(energies, [10, 90])],
        "released_n": int(np.isfinite(energies).sum()),
        "distances": {k: round(v, 4) for k, v in summary(own[:middle], real[middle:]).distances.items()},
        "posebusters_seconds": round((between - since) / len(own), 4),
        "gfn2_seconds": round((spent - between) / n, 3),
    }


def labels(count: int) -> dict[str, int]:
    """CIP labels through an SDF, and of mirror images."""
    test, chiral = QM9().load("test"), []
    for k in np.random.default_rng(0).permutation(len(test)).tolist():
        one = test[k].artifact
        if one.labels().hands:
            chiral.append(one)
        if len(chiral) == count:
            break
    with tempfile.TemporaryDirectory() as folder:
        from rdkit import Chem

        path = Path(folder) / "all.sdf"
        write(chiral, path)
        with overheard() as said:
            found = [mol for mol in Chem.SDMolSupplier(str(path), removeHs=False) if mol is not None]
        back = read(path)
    before = [one.labels() for one in chiral]
    mirrored = [one.mirrored().labels() for one in chiral]
    return {
        "molecules": len(chiral),
        "centres": sum(len(own.centres) for own in before),
        "labels_in_are_out": sum(a == b.labels() for a, b in zip(before, back, strict=True)),
        "mirror_images_exchanged": sum(
            {k: SWAP[v] for k, v in a.centres.items()} == dict(b.centres) and a.bonds == b.bonds
            for a, b in zip(before, mirrored, strict=True)
        ),
        "read_by_rdkit": len(found),
        "words_of_rdkit": len(said),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=50, help="molecules to relax")
    parser.add_argument("--tested", type=int, default=300, help="molecules for PoseBusters and the distances")
    parser.add_argument("--chiral", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    test = QM9().load("test")
    order = np.random.default_rng(0).permutation(len(test))[: args.tested].tolist()
    real = [test[k].artifact for k in order]
    result: dict[str, Any] = {"command": sys.argv[1:], "labels": labels(args.chiral)}
    print(result["labels"], flush=True)
    for noise in NOISE:
        result[f"noise {noise:g} A"] = floors(real, args.n, noise)
        print(noise, result[f"noise {noise:g} A"], flush=True)
    (args.results / "molecule_floors.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
