"""Secondary structure by hydrogen bonds against mkdssp, residue by residue, on real chains written as PDB.

    python benchmarks/secondary_structure.py [-n 400]

Needs mkdssp (Debian's package dssp). Chains are taken evenly from proteins/backbones.npz; numbers go to
benchmarks/results/secondary_structure.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from gendiff.domain import data_file
from gendiff_proteins import Structure
from gendiff_proteins.bonding import secondary_structure
from gendiff_proteins.metrics import secondary_structure as by_alpha_carbons
from gendiff_proteins.writing import to_pdb

HEAD = "HEADER    PROTEIN                                 01-JAN-00   1ABC\nCRYST1" + (
    "    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
)


def by_mkdssp(structure: Structure, folder: Path) -> str:
    """mkdssp's letters; blank, turn and bend are C."""
    given, made = folder / "a.pdb", folder / "a.dssp"
    lines = [line for line in to_pdb([structure]).splitlines() if not line.startswith("REMARK")]
    given.write_text(HEAD + "\n".join(lines) + "\n")
    subprocess.run(["mkdssp", "--output-format=dssp", str(given), str(made)], check=True, capture_output=True)
    found = made.read_text().splitlines()
    start = next(i for i, line in enumerate(found) if line.startswith("  #  RESIDUE"))
    letters = [line[16] for line in found[start + 1 :] if line[13] != "!"]
    return "".join(letter if letter in "HEBGI" else "C" for letter in letters)


def share_equal(a: list[str], b: list[str], kept: str) -> float:
    """Share of residues with equal letters, where letters that are not in `kept` count as one."""
    pairs = [(x, y) for s, t in zip(a, b, strict=True) for x, y in zip(s, t, strict=True)]
    return float(np.mean([(x if x in kept else "C") == (y if y in kept else "C") for x, y in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=400, help="chains")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if shutil.which("mkdssp") is None:
        raise SystemExit("mkdssp is not installed: apt-get install dssp")
    with np.load(data_file("proteins/backbones.npz"), allow_pickle=False) as data:
        offset, atoms, letters = data["offset"], data["bb"], data["aa"]
        ids = [f"{i}_{c}" for i, c in zip(data["id"], data["chain"], strict=True)]
    places = np.unique(np.linspace(0, len(ids) - 1, args.n).astype(int))
    spans = [slice(offset[i], offset[i + 1]) for i in places]
    chains = [Structure(atoms[s], letters[s].tobytes().decode()) for s in spans]
    with tempfile.TemporaryDirectory() as folder:
        theirs = [by_mkdssp(s, Path(folder)) for s in chains]
    since = time.process_time()
    ours = [secondary_structure(s) for s in chains]
    seconds = time.process_time() - since
    alpha = [by_alpha_carbons(s) for s in chains]
    differing = [
        {"chain": ids[i], "ours": a, "mkdssp": b} for i, a, b in zip(places, ours, theirs, strict=True) if a != b
    ]
    version = subprocess.run(["mkdssp", "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    everything = "".join(theirs)
    result = {
        "tool": version,
        "chains": len(chains),
        "residues": len(everything),
        "equal_H_E_other": share_equal(ours, theirs, "HE"),
        "equal_H_E_B_G_I_other": share_equal(ours, theirs, "HEBGI"),
        "equal_H_E_other_from_alpha_carbons": share_equal(alpha, theirs, "HE"),
        "share_H_E": [everything.count("H") / len(everything), everything.count("E") / len(everything)],
        "milliseconds_a_chain": 1000 * seconds / len(chains),
        "differing": differing[:10],
    }
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "secondary_structure.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "differing"}, indent=2))


if __name__ == "__main__":
    main()
