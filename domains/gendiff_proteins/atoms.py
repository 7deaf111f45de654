"""The heavy atoms of the twenty residues by name, and their torsions chi.

AlphaFold's atom37 is every heavy atom name of the twenty in a fixed order (Jumper et al. 2021, supplement 1.2). N, CA,
C and O stand in `Structure.backbone`; `SIDE` is the other 33 in the same order, OXT among them, which is of no side
chain but of the end of a chain. `ATOMS_OF` has those of each residue as a PDB file lists them.

A torsion chi_k goes about the k-th bond from CA outwards (IUPAC-IUB 1970). Where the two atoms at its end are alike
(CD1 and CD2 of F and Y, OD1 and OD2 of D, OE1 and OE2 of E), it repeats every half turn: which of the two a file calls
the first is a convention.
"""

from __future__ import annotations

import numpy as np

BACKBONE = ("N", "CA", "C", "O")
ATOM37 = (
    *("N", "CA", "C", "CB", "O", "CG", "CG1", "CG2", "OG", "OG1", "SG", "CD", "CD1", "CD2", "ND1", "ND2", "OD1", "OD2"),
    *("SD", "CE", "CE1", "CE2", "CE3", "NE", "NE1", "NE2", "OE1", "OE2", "CH2", "NH1", "NH2", "OH", "CZ", "CZ2", "CZ3"),
    *("NZ", "OXT"),
)
SIDE = tuple(name for name in ATOM37 if name not in BACKBONE)
PLACE = {name: k for k, name in enumerate(SIDE)}
OXT = PLACE["OXT"]

ATOMS_OF = {
    "A": ("CB",),
    "C": ("CB", "SG"),
    "D": ("CB", "CG", "OD1", "OD2"),
    "E": ("CB", "CG", "CD", "OE1", "OE2"),
    "F": ("CB", "CG", "CD1", "CD2", "CE1", "CE2", "CZ"),
    "G": (),
    "H": ("CB", "CG", "ND1", "CD2", "CE1", "NE2"),
    "I": ("CB", "CG1", "CG2", "CD1"),
    "K": ("CB", "CG", "CD", "CE", "NZ"),
    "L": ("CB", "CG", "CD1", "CD2"),
    "M": ("CB", "CG", "SD", "CE"),
    "N": ("CB", "CG", "OD1", "ND2"),
    "P": ("CB", "CG", "CD"),
    "Q": ("CB", "CG", "CD", "OE1", "NE2"),
    "R": ("CB", "CG", "CD", "NE", "CZ", "NH1", "NH2"),
    "S": ("CB", "OG"),
    "T": ("CB", "OG1", "CG2"),
    "V": ("CB", "CG1", "CG2"),
    "W": ("CB", "CG", "CD1", "CD2", "NE1", "CE2", "CE3", "CZ2", "CZ3", "CH2"),
    "Y": ("CB", "CG", "CD1", "CD2", "CE1", "CE2", "CZ", "OH"),
}
OTHER_NAMES = {"I": {"CD": "CD1"}, "M": {"SE": "SD"}}
"""Names of the same atom in files: CD of isoleucine (CHARMM, GROMACS), the selenium of MSE, which is read as M."""

CHI = {
    "C": ("SG",), "D": ("CG", "OD1"), "E": ("CG", "CD", "OE1"), "F": ("CG", "CD1"), "H": ("CG", "ND1"),
    "I": ("CG1", "CD1"), "K": ("CG", "CD", "CE", "NZ"), "L": ("CG", "CD1"), "M": ("CG", "SD", "CE"),
    "N": ("CG", "OD1"), "P": ("CG", "CD"), "Q": ("CG", "CD", "OE1"), "R": ("CG", "CD", "NE", "CZ"), "S": ("OG",),
    "T": ("OG1",), "V": ("CG1",), "W": ("CG", "CD1"), "Y": ("CG", "CD1"),
}  # fmt: skip
"""The atoms behind N, CA, CB along which chi1, chi2, ... are taken, by residue: chi_k ends at the k-th."""
SYMMETRIC = {"D": 2, "E": 3, "F": 2, "Y": 2}
"""The torsion that repeats every half turn."""
STAGGERED = {"K": 2, "R": 2, "E": 2, "Q": 2, "M": 2, "I": 2, "L": 2, "C": 1, "D": 1, "F": 1, "H": 1, "N": 1, "S": 1,
             "T": 1, "V": 1, "W": 1, "Y": 1}  # fmt: skip
"""How many of chi1 and chi2 go about a bond of two tetrahedral carbons; none of a proline, whose ring holds them."""


def allowed(sequence: str) -> np.ndarray:
    """`[N, 33]` bool: which of the atoms `SIDE` a residue of each letter may have."""
    return np.array([_ALLOWED.get(letter, _END) for letter in sequence], dtype=bool).reshape(-1, len(SIDE))


_END = np.isin(SIDE, "OXT")
_ALLOWED = {letter: np.isin(SIDE, (*names, "OXT")) for letter, names in ATOMS_OF.items()}
