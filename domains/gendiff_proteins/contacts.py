r"""Which heavy atoms touch: contact order, and overlaps.

    contact order   1/(L C) sum |i - j| over the C pairs of atoms within 6 A      Plaxco, Simons & Baker (1998)
    clash           r_a + r_b - |a - b| >= .9 A, with Bondi's radii (1964)

Clashes are between residues that no peptide bond joins. Of two carbons they are distances below 2.5 A; a hydrogen bond
overlaps by .3 A and is none, and a disulfide bridge is a bond. Backbones alone have clashes and contacts too.
"""

from __future__ import annotations

import math

import numpy as np

from .atoms import SIDE
from .bonding import closures, joined
from .structure import ATOMS, Structure

RADII = {"C": 1.70, "N": 1.55, "O": 1.52, "S": 1.80}
OVERLAP = 0.9
CONTACT = 6.0  # angstrom
_NAMES = (*ATOMS, *SIDE)


def contact_order(structure: Structure, *, side_chains: bool = False) -> float:
    """Relative contact order; NaN without any contact.

    A contact is a pair of atoms of two residues i and j of one chain of L residues, within 6 A: of N, CA, C and O, or,
    as in the paper, of all heavy atoms (`side_chains=True`). Several chains count by their lengths.
    """
    from scipy.spatial import KDTree

    atoms = np.concatenate([structure.backbone, structure.sides], 1) if side_chains else structure.backbone
    total, size, chains = 0.0, 0, np.array(structure.chains)
    for chain in dict.fromkeys(structure.chains):
        own = atoms[chains == chain]
        there = np.isfinite(own).all(-1)
        pairs = KDTree(own[there]).query_pairs(CONTACT, output_type="ndarray")
        apart = np.abs(np.diff(np.nonzero(there)[0][pairs], axis=1))
        if apart.any():
            total += apart[apart > 0].mean()  # over L, times L
            size += len(own)
    return float(total / size) if size else math.nan


def clashes(structure: Structure) -> list[tuple[str, str, float]]:
    """Pairs of heavy atoms that overlap by .9 A or more, each atom as "A12 CB", with the overlap in angstrom."""
    i, j, overlap = overlaps(structure)
    return [(_label(structure, a), _label(structure, b), float(x)) for a, b, x in zip(i, j, overlap, strict=True)]


def side_clashes(structure: Structure) -> int:
    """How many of the `clashes` a side chain takes part in."""
    i, j, _ = overlaps(structure)
    return int(((i % len(_NAMES) >= len(ATOMS)) | (j % len(_NAMES) >= len(ATOMS))).sum())


def overlaps(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of atoms that clash, by their places in `[N, 37]` (N, CA, C, O, then `SIDE`), and by how much."""
    from scipy.spatial import KDTree

    atoms = np.concatenate([structure.backbone, structure.sides], 1).reshape(-1, 3)
    there = np.flatnonzero(np.isfinite(atoms).all(-1))
    kinds = np.array([name[0] for name in _NAMES])
    radii = np.array([RADII[kind] for kind in kinds])
    pairs = there[KDTree(atoms[there]).query_pairs(2 * max(RADII.values()) - OVERLAP, output_type="ndarray")]
    i, j = pairs.T
    (one, a), (other, b) = (np.divmod(k, len(_NAMES)) for k in (i, j))
    overlap = radii[a] + radii[b] - np.linalg.norm(atoms[i] - atoms[j], axis=-1)
    first, last = np.minimum(one, other), np.maximum(one, other)
    bound = (last == first) | ((last == first + 1) & np.append(joined(structure), False)[first])
    for end, start in closures(structure):
        bound |= (first == start) & (last == end)
    bridge = (kinds[a] == "S") & (kinds[b] == "S")
    kept = (overlap >= OVERLAP) & ~bound & ~bridge
    return i[kept], j[kept], overlap[kept]


def _label(structure: Structure, place: int) -> str:
    residue, atom = divmod(int(place), len(_NAMES))
    return f"{structure.chains[residue]}{structure.numbers[residue]} {_NAMES[atom]}"
