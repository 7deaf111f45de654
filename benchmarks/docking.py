"""Ligands docked into pockets of proteins, beside AutoDock Vina on the same ones.

    python benchmarks/docking.py [--each 2] [--exhaustiveness 8]      # half an hour of one thread

Of every held series of `PocketLigands`, ligands of at most eight bonds that turn, drawn by a seed, from a conformer by
ETKDGv3 (hydrogens and stereochemistry as given), into the pocket around the middle of the series' ligands.
Rows: `gendiff`, the
best pose by score of `gendiff_molecules.docking`; `vina`, the first pose of AutoDock Vina 1.2 on PDBQT files of Open
Babel in a box of the same centre; `random`, a random pose in the box; `given`, the pose of the data. Of each, with
Wilson's interval: PoseBusters' `dock_fast` tests, all passed (PB-valid); heavy-atom RMSD to the given pose, the least
over the molecule's symmetries, below 2 A. The given poses are models of the benchmarks' authors, of ligands aligned to
a crystal structure, so RMSD has their error. Needs rdkit, posebusters, and the programs vina and obabel.
GENDIFF_DATA names the data folder. Numbers go to benchmarks/results/docking.json.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportUnhashable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendiff_molecules import Molecule, Pocket, write
from gendiff_molecules.complexes import series
from gendiff_molecules.docking import Docking
from gendiff_molecules.judges import posed
from gendiff_molecules.measures import share_of
from gendiff_molecules.torsions import rotatable


def conformer(molecule: Molecule, seed: int) -> Molecule | None:
    """The molecule in another conformation, by ETKDGv3."""
    from rdkit.Chem import AllChem

    mol = molecule.to_rdkit()
    told = AllChem.ETKDGv3()
    told.randomSeed = seed + 1
    mol.RemoveAllConformers()
    if AllChem.EmbedMolecule(mol, told) < 0:
        return None
    AllChem.MMFFOptimizeMolecule(mol)
    return molecule.moved(mol.GetConformer().GetPositions())


def rmsd(one: Molecule, other: Molecule) -> float:
    """Heavy atoms, the least over symmetries, without superposition."""
    from rdkit import Chem
    from rdkit.Chem import rdMolAlign

    return float(rdMolAlign.CalcRMS(*(Chem.RemoveHs(own.to_rdkit()) for own in (one, other))))


def vina(ligand: Molecule, pocket: Pocket, exhaustiveness: int, box: float, seed: int) -> Molecule | None:
    """Vina's first pose; hydrogens as they were in the conformer, moved with their heavy atoms."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "pocket.pdb").write_text(pocket.pdb())
        write(ligand, home / "ligand.sdf")
        quietly = {
            "cwd": home,
            "capture_output": True,
        }
        subprocess.run(["obabel", "pocket.pdb", "-xr", "-p", "7.4", "-O", "pocket.pdbqt"], check=False, **quietly)
        subprocess.run(["obabel", "ligand.sdf", "-O", "ligand.pdbqt"], check=False, **quietly)
        command = ["vina", "--receptor", "pocket.pdbqt", "--ligand", "ligand.pdbqt", "--out", "out.pdbqt", "--cpu", "1",
                   "--exhaustiveness", str(exhaustiveness), "--seed", str(seed + 1), "--num_modes", "1"]  # fmt: skip
        for axis, value in zip("xyz", pocket.centre, strict=True):
            command += [f"--center_{axis}", f"{value:.3f}", f"--size_{axis}", f"{box:g}"]
        subprocess.run(command, check=False, **quietly)
        if not (home / "out.pdbqt").exists():
            return None
        before, after = (placed((home / name).read_text()) for name in ("ligand.pdbqt", "out.pdbqt"))
        return carried(ligand, before, after[: len(before)])


def placed(text: str) -> np.ndarray:
    """The positions of the atoms of a PDBQT file, `[N, 3]`."""
    lines = [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM"))]
    return np.array([[float(line[k : k + 8]) for k in (30, 38, 46)] for line in lines])


def carried(ligand: Molecule, before: np.ndarray, after: np.ndarray) -> Molecule:
    """The ligand with the torsions and the place of atoms that a program has moved, known by where they were."""
    from gendiff_molecules.torsions import Kinematics

    own = np.linalg.norm(ligand.positions[:, None] - before, axis=-1).argmin(1)
    near = np.linalg.norm(ligand.positions - before[own], axis=-1) < 0.02
    known = ligand.positions.copy()
    known[near] = after[own[near]]
    moving = Kinematics(ligand)
    for k in np.flatnonzero(~near):  # a hydrogen that the format leaves out goes with the atom that bears it
        bearer = int(np.flatnonzero(ligand.orders[k])[0])
        known[k] = known[bearer] + (ligand.positions[k] - ligand.positions[bearer])
    at, turn, torsions = moving.pose(known)
    x = moving.positions(torch.zeros_like(at), torch.eye(3, dtype=torch.float64)[None], torsions)[0].numpy()
    return ligand.moved(x @ turn[0].numpy().T + at[0].numpy())


def told(flags: list[bool]) -> dict[str, float]:
    own = share_of(flags)
    return {"share": round(own.value, 4), "low": round(own.low, 4), "high": round(own.high, 4), "n": len(flags)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=2, help="ligands a series")
    parser.add_argument("--exhaustiveness", type=int, default=8)
    parser.add_argument("--torsions", type=int, default=8, help="ligands with more bonds that turn are left out")
    parser.add_argument("--starts", type=int, default=48)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    search = Docking(starts=args.starts)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("gendiff", "vina", "random", "given")}
    for one in series():
        if not one.held:
            continue
        rng = np.random.default_rng(0)
        fit = [k for k, ligand in enumerate(one.ligands) if len(rotatable(ligand)) <= args.torsions]
        for k in rng.permutation(fit)[: args.each]:
            given = one.ligands[k]
            start = conformer(given, int(k))
            if start is None:
                print("no conformer:", one.name, given.name, flush=True)
                continue
            found: dict[str, Molecule | None] = {"given": given}
            since = time.process_time()
            poses = search(start, one.pocket, 9, seed=int(k))
            spent = time.process_time() - since
            found["gendiff"] = poses[0].molecule
            found["random"] = Docking(starts=4, rounds=1, steps=1)(start, one.pocket, 1, seed=int(k))[0].molecule
            wall = time.perf_counter()
            found["vina"] = vina(start, one.pocket, args.exhaustiveness, 2 * search.box + 12.5, int(k))
            wall = time.perf_counter() - wall
            for name, pose in found.items():
                if pose is None:
                    rows[name].append({"valid": False, "rmsd": float("inf"), "why": ["no pose"]})
                    continue
                (busted,) = posed([pose], one.pocket)
                rows[name].append({"valid": busted.passed, "rmsd": rmsd(pose, given), "why": list(busted.failed)})
            rows["gendiff"][-1]["best of 9"] = min(rmsd(own.molecule, given) for own in poses)
            rows["gendiff"][-1]["seconds"], rows["vina"][-1]["seconds"] = spent, wall
            last = {name: (own[-1]["valid"], round(own[-1]["rmsd"], 2), own[-1]["why"]) for name, own in rows.items()}
            print(one.name, given.name, last, round(spent, 1), round(wall, 1), flush=True)
    result: dict[str, Any] = {"command": sys.argv[1:]}
    for name, own in rows.items():
        result[name] = {
            "valid": told([row["valid"] for row in own]),
            "below 2 A": told([row["rmsd"] < 2 for row in own]),
            "below 2 A and valid": told([row["rmsd"] < 2 and row["valid"] for row in own]),
            "rmsd median": round(float(np.median([row["rmsd"] for row in own])), 3),
        }
        if own and "seconds" in own[0]:
            result[name]["seconds median"] = round(float(np.median([row["seconds"] for row in own])), 2)
    result["gendiff"]["best of 9 below 2 A"] = told([row["best of 9"] < 2 for row in rows["gendiff"]])
    print(json.dumps(result, indent=2))
    (args.results / "docking.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
