"""Molecule files damaged at random: each is read, with atoms and bonds that add up, or refused by a MoleculeError.

    python benchmarks/fuzz_molecules.py [-n 2000]

n files a format (SDF, MOL2, XYZ, ligands of PDB; one in eight gzipped) are made from the ligand series of
complexes/pl_ligands.tar.gz, the molecules of molecules/qm9.npz and the PDB files of proteins/parser_zoo.tar.gz by the
damages of fuzz_structures.py. Counted: files of which molecules were kept, all dropped, or refused; molecules kept,
dropped and why; and what must not occur:

    another exception, more than 10 seconds of processor time, a word of RDKit on stderr
    a line of the file that is of no kind, or of two
    atoms or bonds for which rows = kept + dropped + skipped, or atoms of the molecules = kept + added, is not so
    fewer rows than lines that look like atoms, counted here from the text alone (MOL2, PDB: another number of them)
    a molecule that was kept and that RDKit does not sanitise

Numbers go to benchmarks/results/fuzz_molecules.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import resource
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from gendiff.domain import data_file
from gendiff_molecules import Molecule, MoleculeError, Report, load, read
from gendiff_molecules.writing import to_mol, to_pdb, to_sdf, to_xyz

try:
    from benchmarks.fuzz_structures import mutated
except ImportError:  # run as a script
    from fuzz_structures import mutated  # type: ignore[import-not-found,no-redef]

SECONDS = 10
SHAPES = {
    "SDF": re.compile(r"^ {0,6}-?\d+\.\d{4} {1,6}-?\d+\.\d{4} {1,6}-?\d+\.\d{4} [A-Z]", re.M),
    "XYZ": re.compile(r"^[A-Z][a-z]? +-?\d+\.\d{6} +-?\d+\.\d{6} +-?\d+\.\d{6}$", re.M),
}


def specimens(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Sound files of each format, a few molecules each."""
    with tarfile.open(data_file("complexes/pl_ligands.tar.gz")) as tar:
        tar.extractall(folder, filter="data")
    series = sorted(folder.rglob("*.sdf"))[::4]
    ligands = [read(path)[:3] for path in series]
    small = qm9(60)
    groups = [*ligands, *(small[k : k + 6] for k in range(0, 60, 6))]
    sdf = [(f"{k}.sdf", "".join(map(to_sdf, own))) for k, own in enumerate(groups)]
    sdf += [(f"v{k}.sdf", "".join(v3000(one) for one in own)) for k, own in enumerate(groups[::4])]
    sdf += [(f"ar{k}.sdf", "".join(aromatic(one) for one in own)) for k, own in enumerate(ligands[::3])]
    mol2 = [(f"{k}.mol2", "".join(to_mol2(one, k % 2 == 0) for one in own)) for k, own in enumerate(groups)]
    xyz = [(f"{k}.xyz", "".join(to_xyz(one) for one in small[k : k + 6])) for k in range(0, 60, 3)]
    pdb = [(f"{k}.pdb", to_pdb(own[0])) for k, own in enumerate(groups)]
    pdb += [(f"p{k}.pdb", "TER\n".join([protein(k), to_pdb(own[0])])) for k, own in enumerate(ligands)]
    with tarfile.open(data_file("proteins/parser_zoo.tar.gz")) as tar:
        files = [(m.name, tar.extractfile(m)) for m in tar.getmembers() if m.isfile() and m.name.endswith(".pdb")]
        zoo = [(Path(name).name, file.read()) for name, file in files if file is not None]
    found = {"SDF": sdf, "MOL2": mol2, "XYZ": xyz, "PDB": pdb}
    made = {kind: [(name, text.encode()) for name, text in own] for kind, own in found.items()}
    made["PDB"] += [(name, raw) for name, raw in zoo if b"HETATM" in raw and len(raw) < 200_000]
    return made


def qm9(count: int) -> list[Molecule]:
    """Molecules of QM9 spread over the file."""
    data = np.load(data_file("molecules/qm9.npz"))
    arrays = {key: data[key] for key in ("offset", "bond_offset", "z", "pos_mA", "bonds", "formal_charge")}
    rows = np.linspace(0, len(arrays["offset"]) - 2, count).astype(int)
    made = []
    for row in rows.tolist():
        at, of = slice(*arrays["offset"][row : row + 2]), slice(*arrays["bond_offset"][row : row + 2])
        pos, charges = arrays["pos_mA"][at] / 1000, arrays["formal_charge"][at]
        made.append(Molecule(arrays["z"][at], pos, arrays["bonds"][of], charges, f"QM9 {row}"))
    return made


def v3000(molecule: Molecule) -> str:
    """A V3000 record, as RDKit writes it."""
    from rdkit import Chem

    return Chem.MolToV3KMolBlock(molecule.to_rdkit()) + "$$$$\n"


def aromatic(molecule: Molecule) -> str:
    """A record whose aromatic bonds are of type 4, as PyMOL writes them."""
    own = molecule.to_rdkit()
    lines = to_mol(molecule).split("\n")
    for k, (i, j, _) in enumerate(molecule.bonds.tolist()):
        if own.GetBondBetweenAtoms(i, j).GetIsAromatic():
            place = 4 + len(molecule) + k
            lines[place] = lines[place][:6] + "  4" + lines[place][9:]
    return "\n".join([*lines[:-1], "$$$$", ""])


def protein(seed: int) -> str:
    """A few residues, a water and an ion, far from the ligand."""
    at = 500 + np.random.default_rng(seed).normal(0, 5, (12, 3))
    names = [*((name, "GLY") for _ in range(3) for name in (" N  ", " CA ", " C  ")), (" O  ", "HOH"), ("ZN  ", " ZN")]
    lines = []
    for k, ((name, residue), (x, y, z)) in enumerate(zip(names, at.tolist(), strict=False)):
        record = "ATOM  " if residue == "GLY" else "HETATM"
        place = f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00"
        lines.append(
            f"{record}{9000 + k:5d} {name} {residue:>3} B{k // 3 + 1:4d}    {place}{'':10}{name.strip()[0]:>2}"
        )
    return "\n".join([*lines, ""])


def to_mol2(molecule: Molecule, aromatic: bool) -> str:
    """A MOL2 record with Sybyl's types, with aromatic bonds or Kekule ones."""
    from rdkit.Chem import HybridizationType

    own = molecule.to_rdkit()
    tails = {HybridizationType.SP: "1", HybridizationType.SP2: "2", HybridizationType.SP3: "3"}
    lines = ["@<TRIPOS>MOLECULE", molecule.name or "x", f"{len(molecule)} {len(molecule.bonds)} 1", "SMALL"]
    lines += ["NO_CHARGES", "", "@<TRIPOS>ATOM"]
    for k, (symbol, (x, y, z)) in enumerate(zip(molecule.symbols, molecule.positions.tolist(), strict=True)):
        atom = own.GetAtomWithIdx(k)
        tail = f".{tails.get(atom.GetHybridization(), '3')}" if symbol in ("C", "N", "O", "S") else ""
        tail = ".ar" if atom.GetIsAromatic() and symbol in ("C", "N") and aromatic else tail
        tail = ".3" if symbol == "P" else tail
        lines.append(f"{k + 1:7d} {symbol}{k + 1:<5d} {x:9.4f} {y:9.4f} {z:9.4f} {symbol}{tail:<5} 1 UNL 0.0000")
    lines.append("@<TRIPOS>BOND")
    for k, (i, j, order) in enumerate(molecule.bonds.tolist()):
        kind = "ar" if aromatic and own.GetBondBetweenAtoms(i, j).GetIsAromatic() else str(order)
        lines.append(f"{k + 1:6d} {i + 1:5d} {j + 1:5d} {kind:>4}")
    return "\n".join([*lines, ""])


def wrong(text: str, kind: str, molecules: list[Molecule], report: Report) -> str:
    """What does not add up; empty if all does."""
    size = len(text.split("\n")) - text.endswith("\n")
    if sum(report.lines.values()) != size or min(report.lines.values(), default=0) < 0:
        return "a line is of no kind, or of two"
    for name, own, sizes in (
        ("atoms", report.atoms, [len(m) for m in molecules]),
        ("bonds", report.bonds, [len(m.bonds) for m in molecules]),
    ):
        told = own.kept + own.dropped + own.skipped == own.rows and own.kept + own.added == sum(sizes)
        if not told or min(own.kept, own.dropped, own.skipped, own.added) < 0:
            return f"{name} do not add up"
    if report.kept != len(molecules):
        return "molecules do not add up"
    there = lines_of_atoms(text, kind)
    exact = kind in ("MOL2", "PDB")
    elsewhere = sum(report.lines.get(one, 0) for one in ("header", "data", "that cannot be placed", "property"))
    if (exact and there != report.atoms.rows) or there > report.atoms.rows + elsewhere:
        return f"{there} lines of atoms, {report.atoms.rows} of them told of"
    for molecule in molecules:
        try:
            molecule.to_rdkit()
        except MoleculeError as error:
            return f"kept, and RDKit says: {error}"
    return ""


def lines_of_atoms(text: str, kind: str) -> int:
    """How many lines look like atoms, from the text alone."""
    if kind == "PDB":
        return sum(line.startswith(("ATOM", "HETATM")) for line in text.split("\n"))
    if kind == "MOL2":
        sections = re.split(r"^@<TRIPOS>", text, flags=re.M)
        own = [one.split("\n")[1:] for one in sections if one.split("\n")[0].strip().upper() == "ATOM"]
        return sum(bool(line.strip()) and not line.startswith("#") for lines in own for line in lines)
    return len(SHAPES[kind].findall(text))


def judge(raw: bytes, kind: str, path: Path, tally: Counter[str], heard: Path) -> str:
    """ "kept", "dropped" or "refused", or what went wrong."""
    path.write_bytes(raw)
    since = time.process_time()
    try:
        molecules, report = load(path)
    except MoleculeError as error:
        outcome = "refused" if path.name in str(error) else "refused without the path"
    except Exception as error:  # noqa: BLE001 (what is looked for)
        outcome = f"{type(error).__name__}: {error}"
    else:
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        outcome = wrong(plain(text), kind, molecules, report) or ("kept" if molecules else "dropped")
        tally.update({"molecules kept": report.kept, "molecules dropped": report.records - report.kept})
        tally.update({"atom rows": report.atoms.rows, "bond rows": report.bonds.rows})
        tally.update({"notes": len(report.notes), "reasons": len(report.dropped)})
    if heard.stat().st_size:
        said, _ = heard.read_text(errors="replace"), heard.write_text("")
        outcome = f"on stderr: {said[:200]}"
    return outcome if time.process_time() - since < SECONDS else "too slow"


def plain(raw: bytes) -> str:
    """The text with line feeds alone."""
    raw = raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    return (raw if b"\n" in raw else raw.replace(b"\r", b"\n")).decode("utf-8", errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=2000, help="files a format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="+", default=["SDF", "MOL2", "XYZ", "PDB"])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    result: dict[str, dict[str, int | float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        heard = Path(folder) / "stderr"
        heard.write_text("")
        made = specimens(Path(folder) / "series")
        with heard.open("a") as sink:
            os.dup2(sink.fileno(), sys.stderr.fileno())
        for kind in args.formats:
            chosen = made[kind]
            rng, outcomes, tally, since = (
                np.random.default_rng(args.seed),
                Counter[str](),
                Counter[str](),
                time.process_time(),
            )
            for i in range(args.n):
                name, raw = chosen[i % len(chosen)]
                packed = i % 8 == 7
                raw, name = (gzip.compress(raw, 1, mtime=0), f"{name}.gz") if packed else (raw, name)
                outcome = judge(mutated(raw, name, rng), kind, Path(folder) / name, tally, heard)
                outcomes[outcome] += 1
                if outcome not in ("kept", "dropped", "refused"):
                    print(kind, name, i, outcome, flush=True)
            spent = {"seconds": round(time.process_time() - since, 1), "specimens": len(chosen)}
            result[kind] = {**outcomes, **tally, **spent}
            print(kind, result[kind], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    args.results.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"files_a_format": args.n, "peak_MiB": round(peak), "result": result}, indent=2)
    (args.results / "fuzz_molecules.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
