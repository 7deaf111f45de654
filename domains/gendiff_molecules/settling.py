r"""Molecules settled in pockets: a rigid motion that ends clashes, then a relaxation among walls.

    rigid      R, c that end  sum_ij relu(.75 (radius_i + radius_j) + margin - |R r_i + c - q_j|), held by weak springs
    relaxed    argmin  MMFF94s(r) + 50 sum_ij relu(w_ij - |r_i - q_j|)^2 + 5 sum_i relu(|r_i - r_i^0| - .3 A)^2

over heavy atoms i and the pocket's atoms q_j, which stay; w_ij = .82 (radius_i + radius_j), where neither volumes nor
contacts of PoseBusters' tests are violated. Hydrogens on carbon have walls too, those that may be given to a hydrogen
bond have none. MMFF94s is RDKit's (Halgren 1999; Tosco et al. 2014), without the pocket's charges: it repairs lengths,
angles and planes of what was drawn, a few tenths of an angstrom, and chooses no place. What RDKit refuses, or has no
parameters for, is moved as a rigid body alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gendiff.errors import NOT_NEGATIVE, at_least, check

from .molecule import Molecule, MoleculeError
from .pocket import Pocket, radii
from .toolkit import quiet

HYDROGEN, WALL = 1.1, 0.82
FREE = 0.3  # angstrom that heavy atoms move without a spring


@dataclass(frozen=True)
class Settling:
    """Moves a molecule until it does not clash with a pocket, as little as it takes, then relaxes it there.

    Args:
        steps: Of the rigid motion, at most.
        margin: Beyond PoseBusters' bound, angstrom.
        hold: Of springs that hold every atom where it was during the rigid motion, against the force of an overlap.
        relax: Iterations of the relaxation, at most; 0 leaves the molecule's shape as it was drawn.
    """

    steps: int = 200
    margin: float = 0.1
    hold: float = 0.002
    relax: int = 200

    def __post_init__(self) -> None:
        check(self, steps=at_least(1), margin=NOT_NEGATIVE, hold=NOT_NEGATIVE, relax=at_least(0))

    def __call__(self, molecule: Molecule, pocket: Pocket) -> Molecule:
        """The molecule in its new place, and shape."""
        moved = self.rigid(molecule, pocket)
        return relaxed_among(moved, pocket, self.relax) if self.relax else moved

    def rigid(self, molecule: Molecule, pocket: Pocket) -> Molecule:
        """The molecule in its new place."""
        heavy = molecule.elements > 1
        bound = 0.75 * (radii(molecule.elements[heavy])[:, None] + pocket.radii) + self.margin
        start = molecule.positions
        if not heavy.any():
            return molecule
        middle = start[heavy].mean(0)
        body, rotation, shift = start[heavy] - middle, np.eye(3), np.zeros(3)
        spread = max(float((body**2).sum(-1).mean()), 0.5)
        for _ in range(self.steps):
            now = body @ rotation.T
            away = now[:, None] + middle + shift - pocket.positions
            far = np.maximum(np.linalg.norm(away, axis=-1), 1e-6)
            over = np.maximum(bound - far, 0)
            if not over.any():
                break
            force = ((over / far)[..., None] * away).sum(1) - self.hold * (now + shift - body)
            share = 0.3 / (over > 0).sum()
            shift = shift + share * force.sum(0)
            rotation = _turn(share * np.cross(now, force).sum(0) / spread) @ rotation
        return molecule.moved((start - middle) @ rotation.T + middle + shift)


def relaxed_among(molecule: Molecule, pocket: Pocket, iterations: int) -> Molecule:
    """The molecule relaxed among the walls of a pocket, see the top of the file; itself where that cannot be done."""
    try:
        mol = molecule.to_rdkit()
    except MoleculeError:
        return molecule
    with quiet():
        field = _field(mol)
        if field is None:
            return molecule
        z, start, bearing = molecule.elements, molecule.positions, molecule.orders > 0
        polar = np.isin(z, (7, 8, 16))
        walls = np.where(z > 1, radii(z), HYDROGEN)
        for i, place in enumerate(start.tolist()):
            if z[i] > 1:
                spot = field.AddExtraPoint(*place, fixed=True) - 1
                field.AddDistanceConstraint(i, spot, 0.0, FREE, 10.0)
        far = np.linalg.norm(start[:, None] - pocket.positions, axis=-1)
        walled = [i for i in range(len(z)) if z[i] > 1 or not polar[bearing[i]].any()]
        for j in np.flatnonzero((far < 6.0).any(0)).tolist():
            spot = field.AddExtraPoint(*pocket.positions[j].tolist(), fixed=True) - 1
            for i in walled:
                if far[i, j] < 6.0:
                    field.AddDistanceConstraint(i, spot, WALL * float(walls[i] + pocket.radii[j]), 1e3, 100.0)
        field.Initialize()
        field.Minimize(maxIts=iterations)
        positions = mol.GetConformer().GetPositions()
    return molecule.moved(positions) if np.isfinite(positions).all() else molecule


def _field(mol: Any) -> Any:
    """MMFF94s of an RDKit molecule, UFF where it has no parameters, None where neither has."""
    from rdkit.Chem import rdForceFieldHelpers as fields

    told = fields.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
    if told is not None:
        return fields.MMFFGetMoleculeForceField(mol, told)
    return fields.UFFGetMoleculeForceField(mol) if fields.UFFHasAllMoleculeParams(mol) else None


def _turn(vector: np.ndarray) -> np.ndarray:
    """The rotation by a vector (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
