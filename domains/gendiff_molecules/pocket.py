r"""Pockets of proteins: heavy atoms around the place where a ligand lies or shall lie.

    clash-free(m)  <=>  |r_i - q_j| >= .75 (radius_i + radius_j)  for heavy atoms i of m and j of the pocket

is PoseBusters' bound (Buttenschoen et al. 2024). See `settling` for what moves a molecule until it is kept, and
`pocket_files` for reading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from string import ascii_lowercase, ascii_uppercase, digits

import numpy as np

from gendiff.errors import DataError

from .molecule import SYMBOLS, Molecule

RADII = {6: 1.7, 7: 1.6, 8: 1.55, 9: 1.5, 15: 1.95, 16: 1.8, 17: 1.8, 35: 1.9, 53: 2.1}
"""Van der Waals radii in angstrom, those of RDKit, which PoseBusters takes; 1.8 for others."""

NUMBER = re.compile(r"(-?\d{1,4})([A-Za-z]?)")
WORDS = ("atoms", "residues", "chains", "numbers")
RESIDUES = (
    "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE",
    "LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pocket:
    """Heavy atoms of a protein around a place.

    Args:
        elements: `[M]` atomic numbers, no hydrogen.
        positions: `[M, 3]` angstrom.
        atoms: Names of atoms, "CA", "OD1".
        residues: Names of their residues, "ASP".
        chains: Of each.
        numbers: Of residues, with insertion codes, "365", "52A".
        centre: `[3]` angstrom, where the middle of a ligand is or shall be.
        name: Of the pocket.

    Raises:
        DataError: Columns of different lengths, no atoms, hydrogens, positions that are not finite.
    """

    elements: np.ndarray
    positions: np.ndarray
    atoms: tuple[str, ...]
    residues: tuple[str, ...]
    chains: tuple[str, ...]
    numbers: tuple[str, ...]
    centre: np.ndarray
    name: str = "pocket"

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", np.asarray(self.elements, np.int64).reshape(-1))
        object.__setattr__(self, "positions", np.asarray(self.positions, np.float64).reshape(-1, 3))
        object.__setattr__(self, "centre", np.asarray(self.centre, np.float64).reshape(3))
        for name in WORDS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = {len(getattr(self, name)) for name in ("elements", "positions", *WORDS)}
        if len(sizes) > 1 or not len(self.elements):
            raise DataError(f"a pocket with columns of {sorted(sizes)} atoms", "one entry an atom, one atom at least")
        if not np.isfinite(self.positions).all() or not np.isfinite(self.centre).all():
            raise DataError("a pocket with positions that are not finite", "angstrom")
        if self.elements.min() < 2:
            raise DataError("a pocket with hydrogens", "heavy atoms", "Leave hydrogens out: read_pocket does")

    def __len__(self) -> int:
        return len(self.elements)

    def __repr__(self) -> str:
        residues = len(set(zip(self.chains, self.numbers, strict=True)))
        return f"<Pocket {self.name}: {len(self)} atoms of {residues} residues>"

    def at(self, centre: Molecule | Sequence[float] | np.ndarray) -> Pocket:
        """The same with another centre: a place, or the middle of a molecule's atoms."""
        place = centre.positions.mean(0) if isinstance(centre, Molecule) else np.asarray(centre, np.float64)
        return replace(self, centre=place)

    def within(self, radius: float) -> Pocket:
        """The atoms nearer to the centre, in angstrom; the nearest one at least."""
        far = np.linalg.norm(self.positions - self.centre, axis=-1)
        return self.take(np.flatnonzero(far <= max(radius, float(far.min()))))

    def take(self, rows: np.ndarray) -> Pocket:
        """These atoms."""
        words = {name: tuple(getattr(self, name)[k] for k in rows) for name in WORDS}
        return replace(self, elements=self.elements[rows], positions=self.positions[rows], **words)

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> Pocket:
        """Turned about the origin, then shifted."""
        return replace(self, positions=self.positions @ rotation.T + shift, centre=rotation @ self.centre + shift)

    @cached_property
    def radii(self) -> np.ndarray:
        """Van der Waals radii, `[M]` angstrom."""
        return radii(self.elements)

    def overlap(self, molecule: Molecule) -> float:
        """By how much the worst pair of heavy atoms is too near, angstrom; 0 or less is clash-free."""
        heavy = molecule.elements > 1
        far = np.linalg.norm(molecule.positions[heavy][:, None] - self.positions, axis=-1)
        return float((0.75 * (radii(molecule.elements[heavy])[:, None] + self.radii) - far).max())

    def contacts(self, molecule: Molecule, reach: float = 4.5) -> float:
        """Pocket atoms within reach of a heavy atom, the mean over the molecule's heavy atoms."""
        heavy = molecule.positions[molecule.elements > 1]
        return float((np.linalg.norm(heavy[:, None] - self.positions, axis=-1) < reach).sum(1).mean())

    def pdb(self) -> str:
        """The pocket as PDB, in its own frame. Chains of longer names are called A, B, ... in their order.

        Raises:
            DataError: What the columns of PDB cannot hold: more than 62 chains, numbers of five digits, far positions.
        """
        names = tuple(dict.fromkeys(self.chains))
        letters = dict(zip(names, ascii_uppercase + ascii_lowercase + digits, strict=False))
        if max(map(len, names)) <= 1:
            letters = {name: name or " " for name in names}
        fits = len(letters) == len(names) and max(map(len, self.residues)) <= 3 and max(map(len, self.atoms)) <= 4
        numbers = [NUMBER.fullmatch(one) for one in self.numbers]
        if not fits or None in numbers or not ((self.positions > -999) & (self.positions < 9999)).all():
            raise DataError(
                f"{self!r} does not fit the columns of PDB", "62 chains, numbers up to 9999, from -999 to 9999 A"
            )
        lines = []
        for k, number in enumerate(numbers):
            symbol, name = SYMBOLS[int(self.elements[k])].upper(), self.atoms[k]
            padded = name.ljust(4) if len(symbol) == 2 or len(name) == 4 else f" {name:<3}"
            x, y, z = self.positions[k]
            kind = "ATOM  " if self.residues[k] in RESIDUES else "HETATM"
            lines.append(
                f"{kind}{(k + 1) % 100000:5d} {padded} {self.residues[k]:>3} {letters[self.chains[k]]}"
                f"{number[1]:>4}{number[2] or ' '}   {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {symbol:>2}"  # type: ignore[index]
            )
        return "\n".join([*lines, "END", ""])


def radii(elements: np.ndarray) -> np.ndarray:
    """Van der Waals radii of elements, angstrom."""
    return np.array([RADII.get(int(z), 1.8) for z in elements])
