"""Reading and writing structures, with one policy for everything that files get wrong.

Kept: amino acids of the first model with N, CA and C (a missing O is placed), modified ones under their parent's
letter (MSE is M, anything unknown X), insertion codes, chain ids and numbers as in the file. Of alternative locations
the one with the highest occupancy, a tie to the first letter, for the whole residue. Dropped, and listed in the report:
residues with missing backbone atoms, with coordinates that are not numbers, or with bonds no residue has (glued
columns, atoms at the origin). Ligands, water and nucleotides are counted. A calcium ion is no CA. A file that gives no
residue is an error.

Biopython parses; nothing it says gets lost: its warnings are notes of the report, its exceptions a `StructureError`.
"""

from __future__ import annotations

import gzip
import io
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gendiff.errors import MissingExtra

from .frames import BREAK, place_oxygen
from .structure import Structure, StructureError

LIMIT = 1e5  # angstrom; no coordinate is farther out
_BONDS = {("N", "CA"): (1.2, 1.8), ("CA", "C"): (1.2, 1.9), ("N", "C"): (1.9, 3.1), ("C", "O"): (0.9, 1.6)}
_BINARY = (".bcif", ".mmtf", ".bin")
_RECORDS = ("ATOM", "HETATM", "MODEL", "ENDMDL", "TER")  # headers are not read: their errors are not ours


@dataclass(frozen=True)
class Report:
    """What was done to a file.

    `dropped` names residues by reason, `skipped` counts what is no amino acid, `altlocs`, `parents` and `placed` name
    the residues of which one location was chosen, that stand under their parent's letter, and whose O was placed.
    """

    path: str
    kept: int
    models: int
    chains: dict[str, int]
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    altlocs: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    placed: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        chains = ", ".join(f"{name} {count}" for name, count in self.chains.items())
        lines = [f"{self.path}: {self.kept} residues kept (chains {chains}), model 1 of {self.models}"]
        lines += [f"  dropped, {why}: {_some(names)}" for why, names in self.dropped.items()]
        if self.skipped:
            lines.append("  no amino acids: " + ", ".join(f"{count} {name}" for name, count in self.skipped.items()))
        parts = (
            ("alternative locations", self.altlocs),
            ("under the parent's letter", self.parents),
            ("O placed", self.placed),
            ("chain breaks", self.breaks),
            ("parser", self.notes),
        )
        lines += [f"  {what}: {_some(names)}" for what, names in parts if names]
        return "\n".join(lines)


def _some(names: tuple[str, ...], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} ({', '.join(names[:most])}{more})"


def read(path: str | Path, *, block: str | None = None) -> Structure:
    """The backbone in a PDB or mmCIF file, plain or gzipped; see `load` for what was dropped."""
    return load(path, block=block)[0]


def load(path: str | Path, *, block: str | None = None) -> tuple[Structure, Report]:
    """A structure and the report of how it was read.

    Args:
        path: a .pdb, .ent, .cif or .mmcif file, or one of them with .gz.
        block: the name of the data block, for an mmCIF file that holds several structures.

    Raises:
        StructureError: a file that is missing, damaged, of another format, or without any residue.
    """
    path = Path(path)
    text = _text(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parsed = _parse(path, text, block)
        models = len(parsed)
        if not models or not any(True for _ in parsed.get_atoms()):
            raise _refuse(path, "it holds no atoms", "a model with coordinates (ATOM records or an _atom_site table)")
        collected = _collect(next(iter(parsed)))
    notes = Counter(
        re.sub(r"\s+", " ", re.sub(r" at line \d+|\d{3,}", "", str(w.message)))[:100].strip() for w in caught
    )
    return _assemble(path, collected, models, tuple(f"{note} (x{count})" for note, count in notes.items()))


def _refuse(path: Path, reason: str, hint: str, fix: str = "") -> StructureError:
    return StructureError(f"{path}: {reason}", hint, fix)


def _text(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(_BINARY):
        raise _refuse(
            path, "a binary format", "PDB or mmCIF text", "convert it, e.g. with gemmi convert in.bcif out.cif"
        )
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except FileNotFoundError:
        raise _refuse(path, "there is no such file", "a PDB or mmCIF file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise _refuse(path, f"it cannot be read ({error})", "a plain or gzipped file") from error
    if not raw.strip():
        raise _refuse(path, "the file is empty", "a PDB or mmCIF file")
    if b"\x00" in raw[:4096]:
        raise _refuse(path, "binary data", "PDB or mmCIF text")
    return raw.decode("utf-8", errors="replace")


def _parse(path: Path, text: str, block: str | None) -> Any:
    try:
        from Bio.PDB.MMCIFParser import MMCIFParser
        from Bio.PDB.PDBParser import PDBParser
    except ImportError:
        raise MissingExtra("Reading structures", "biopython", "proteins") from None
    name = path.name.lower().removesuffix(".gz")
    crystal = name.endswith((".cif", ".mmcif")) or (
        not name.endswith((".pdb", ".ent")) and re.search(r"^data_", text, re.M) is not None
    )
    try:
        if crystal:
            return MMCIFParser(QUIET=False).get_structure(path.stem, io.StringIO(_block(path, text, block)))
        lines = [line for line in text.splitlines(keepends=True) if line.startswith(_RECORDS)]
        if not any(line.startswith(("ATOM", "HETATM")) for line in lines):
            raise _refuse(path, "it holds no atoms", "ATOM records")
        return PDBParser(PERMISSIVE=True, QUIET=False).get_structure(path.stem, io.StringIO("".join(lines)))
    except StructureError:
        raise
    except Exception as error:  # Biopython raises anything from IndexError to its own on damaged files
        kind, hint = (
            ("mmCIF", "a complete _atom_site table") if crystal else ("PDB", "whole ATOM records in fixed columns")
        )
        raise _refuse(path, f"damaged {kind} ({type(error).__name__}: {error})", hint) from error


def _block(path: Path, text: str, block: str | None) -> str:
    starts = [m.start() for m in re.finditer(r"^data_", text, re.M)]
    if not starts:
        raise _refuse(path, "no data block", "mmCIF, which begins with data_NAME")
    blocks = {}
    for a, b in zip(starts, [*starts[1:], len(text)], strict=True):
        blocks[text[a + 5 : b].split(None, 1)[0] if text[a + 5 : b].strip() else ""] = text[a:b]
    if block is not None:
        if block not in blocks:
            raise _refuse(path, f"there is no data block {block!r}", f"one of {', '.join(blocks)}")
        return blocks[block]
    with_atoms = {name: part for name, part in blocks.items() if "_atom_site." in part}
    if len(with_atoms) > 1:
        names = ", ".join(with_atoms)
        raise _refuse(path, f"several structures ({names})", "one", f'read(path, block="{next(iter(with_atoms))}")')
    if not with_atoms:
        raise _refuse(path, "it holds no atoms", "an _atom_site table")
    return next(iter(with_atoms.values()))


@dataclass
class _Residue:
    """A residue as found: the atoms of the chosen location."""

    chain: str
    number: str
    name: str
    hetero: bool
    atoms: dict[str, np.ndarray]
    choices: int

    @property
    def label(self) -> str:
        return f"{self.chain}{self.number} {self.name}"


def _collect(model: Any) -> Iterator[_Residue]:
    found = []
    for chain in model:
        for residue in chain:
            members = residue.disordered_get_list() if residue.is_disordered() == 2 else [residue]
            locations: dict[tuple[str, str], list[Any]] = {}
            for member in members:
                for atom in member.get_unpacked_list():
                    locations.setdefault((atom.get_altloc(), member.get_resname().strip()), []).append(atom)
            lettered = {key: atoms for key, atoms in locations.items() if key[0] != " "}
            best = min(lettered, key=lambda key: (-_occupancy(lettered[key]), key)) if lettered else None
            name = best[1] if best else members[0].get_resname().strip()
            chosen = locations.get((" ", name), []) + (lettered[best] if best else [])
            hetero, number, code = residue.get_id()
            atoms = {
                "O" if atom.get_id() in ("OT1", "OXT") else atom.get_id(): atom.coord.astype(np.float64)
                for atom in sorted(chosen, key=lambda a: a.get_id() == "O")  # O itself wins over OXT
                if (atom.get_id(), (atom.element or "").upper()) in _WANTED
            }
            found.append(
                _Residue(chain.id.strip(), f"{number}{code.strip()}", name, hetero != " ", atoms, len(lettered))
            )
    return iter(found)


_WANTED = {("N", "N"), ("CA", "C"), ("C", "C"), ("O", "O"), ("OXT", "O"), ("OT1", "O")}


def _occupancy(atoms: list[Any]) -> float:
    values = [atom.get_occupancy() for atom in atoms]
    return round(float(np.mean([1.0 if value is None else value for value in values])), 4)


def _fault(residue: _Residue) -> str:
    """Why this amino acid cannot be kept; empty if it can."""
    missing = [name for name in ("N", "CA", "C") if name not in residue.atoms]
    if missing:
        return "backbone atoms missing"
    if not all(np.isfinite(x).all() for x in residue.atoms.values()):
        return "coordinates not finite"
    if any(np.abs(x).max() >= LIMIT for x in residue.atoms.values()):
        return "coordinates out of range"
    lengths = {
        bond: float(np.linalg.norm(residue.atoms[bond[0]] - residue.atoms[bond[1]]))
        for bond in _BONDS
        if bond[0] in residue.atoms and bond[1] in residue.atoms
    }
    sound = all(_BONDS[bond][0] < length < _BONDS[bond][1] for bond, length in lengths.items())
    return "" if sound else "impossible bond lengths"


def _assemble(
    path: Path, residues: Iterator[_Residue], models: int, notes: tuple[str, ...]
) -> tuple[Structure, Report]:
    from Bio.Data.PDBData import protein_letters_3to1, protein_letters_3to1_extended

    standard = {name.strip().upper(): letter for name, letter in protein_letters_3to1.items()}
    known = {name.strip().upper(): letter for name, letter in protein_letters_3to1_extended.items()}
    dropped: dict[str, list[str]] = {}
    skipped: Counter[str] = Counter()
    kept: list[_Residue] = []
    every = list(residues)
    for place, residue in enumerate(every):
        acid = residue.name in known or {"N", "CA", "C"} <= set(residue.atoms) or residue.name == "UNK"
        if not acid or (residue.hetero and not _bonded(every, place)):  # an amino acid may be a ligand
            skipped[residue.name or "unnamed"] += 1
            continue
        fault = _fault(residue)
        if fault:
            dropped.setdefault(fault, []).append(residue.label)
        else:
            kept.append(residue)
    if not kept:
        reasons = [f"{len(names)} {why}" for why, names in dropped.items()] + [
            f"{n} {name}" for name, n in skipped.items()
        ]
        raise _refuse(path, f"no residue to keep ({', '.join(reasons)})", "amino acids with N, CA and C")
    core = np.stack([[r.atoms[name] for name in ("N", "CA", "C")] for r in kept])
    oxygen = place_oxygen(*torch.from_numpy(core).unbind(1)).numpy()
    for place, residue in enumerate(kept):
        oxygen[place] = residue.atoms.get("O", oxygen[place])
    structure = Structure(
        np.concatenate([core, oxygen[:, None]], 1),
        "".join(_letter(known.get(r.name, "X")) for r in kept),
        tuple(r.number for r in kept),
        tuple(r.chain for r in kept),
        name=re.sub(r"\.(pdb|ent|cif|mmcif)$", "", path.name.removesuffix(".gz"), flags=re.I),
    )
    breaks = [b for b in structure.breaks if kept[b].chain == kept[b + 1].chain]
    return structure, Report(
        path=str(path),
        kept=len(kept),
        models=models,
        chains=dict(Counter(structure.chains)),
        dropped={why: tuple(names) for why, names in dropped.items()},
        skipped=dict(skipped),
        altlocs=tuple(r.label for r in kept if r.choices > 1),
        parents=tuple(r.label for r in kept if r.name not in standard),
        placed=tuple(r.label for r in kept if "O" not in r.atoms),
        breaks=tuple(f"{kept[b].label} to {kept[b + 1].label}" for b in breaks),
        notes=notes,
    )


def _letter(letter: str) -> str:
    return letter if letter in "ACDEFGHIKLMNPQRSTVWY" else "X"


def _bonded(residues: list[_Residue], place: int) -> bool:
    """Does a peptide bond join this residue to the one before or after it in the file?"""
    for a, b in ((place - 1, place), (place, place + 1)):
        if a >= 0 and b < len(residues) and residues[a].chain == residues[b].chain:
            carbon, nitrogen = residues[a].atoms.get("C"), residues[b].atoms.get("N")
            if carbon is not None and nitrogen is not None and np.linalg.norm(carbon - nitrogen) < BREAK:
                return True
    return False
