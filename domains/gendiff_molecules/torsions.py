r"""A ligand as a rigid body with torsions: poses on R^3 x SO(3) x T^M, and what atoms are where.

    x(c, R, tau) = R (T_M(tau_M) ... T_1(tau_1) y - m) + c

y is a conformer, m the middle of its root, the largest rigid piece, and T_k turns what lies beyond bond k, away from
the root, about the bond's axis as it has become. Lengths of bonds, angles, rings, hydrogens and stereochemistry of y
are kept by construction. Bonds that turn are single, in no ring, between atoms that both have another heavy neighbour,
and not the C-N of an amide. Angstrom and radians; everything is differentiable.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import RequestError
from gendiff.spaces import exp_so3

from .fragments import superposed
from .molecule import Molecule


def rotatable(molecule: Molecule) -> list[tuple[int, int]]:
    """The bonds that turn, see the top of the file."""
    order, z = molecule.orders, molecule.elements
    heavy = [[int(k) for k in np.flatnonzero(row) if z[k] > 1] for row in order]
    found = []
    for k, (i, j, kind) in enumerate(molecule.bonds.tolist()):
        if kind != 1 or min(z[i], z[j]) == 1 or min(len(heavy[i]), len(heavy[j])) < 2 or _amide(order, z, i, j):
            continue
        if len(_side(molecule, k)) < len(molecule):
            found.append((i, j))
    return found


def _amide(order: np.ndarray, z: np.ndarray, i: int, j: int) -> bool:
    """Whether a bond is the C-N of an amide."""
    for c, n in ((i, j), (j, i)):
        if z[c] == 6 and z[n] == 7 and any(order[c, o] == 2 and z[o] in (8, 16) for o in np.flatnonzero(order[c])):
            return True
    return False


def _side(molecule: Molecule, bond: int) -> set[int]:
    """The atoms that are joined to the second end of a bond without it."""
    near: dict[int, list[int]] = {}
    for k, (i, j, _) in enumerate(molecule.bonds.tolist()):
        if k != bond:
            near.setdefault(i, []).append(j)
            near.setdefault(j, []).append(i)
    start = int(molecule.bonds[bond, 1])
    seen, queue = {start}, deque([start])
    while queue:
        for other in near.get(queue.popleft(), ()):
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return seen


@dataclass(frozen=True, eq=False)
class Kinematics:
    """Where the atoms of a conformer are, as a function of its pose.

    Args:
        molecule: The conformer, one piece.

    Raises:
        RequestError: Several pieces.
    """

    molecule: Molecule

    def __post_init__(self) -> None:
        if len(self.molecule.fragments()) > 1:
            raise RequestError(
                f"{self.molecule!r} is {len(self.molecule.fragments())} pieces", "one", "molecule.take(...)"
            )

    @cached_property
    def root(self) -> np.ndarray:
        """The atoms of the largest rigid piece."""
        cut = {tuple(sorted(bond)) for bond in rotatable(self.molecule)}
        keep = [tuple(own) not in cut for own in self.molecule.bonds[:, :2].tolist()]
        return replace(self.molecule, bonds=self.molecule.bonds[keep]).fragments()[0]

    @cached_property
    def axes(self) -> list[tuple[int, int, np.ndarray]]:
        """The bonds that turn, root first: the near end, the far end, and the atoms that turn, `[N]` bool."""
        home, out = set(self.root.tolist()), []
        index = {tuple(own): k for k, own in enumerate(self.molecule.bonds[:, :2].tolist())}
        for i, j in rotatable(self.molecule):
            far = _side(self.molecule, index[i, j])
            ends = (i, j) if not (home & far) else (j, i)
            mask = np.zeros(len(self.molecule), dtype=bool)
            mask[list(far)] = True
            out.append((*ends, mask if ends == (i, j) else ~mask))
        return sorted(out, key=lambda own: -int(own[2].sum()))

    def __len__(self) -> int:
        return len(self.axes)

    def positions(self, at: Tensor, turn: Tensor, torsions: Tensor) -> Tensor:
        """Atoms `[B, N, 3]` of poses: `at` [B, 3], `turn` [B, 3, 3], `torsions` [B, M], from those of the conformer."""
        x = torch.from_numpy(self.molecule.positions).to(at).expand(len(at), -1, 3)
        middle = x[:, self.root].mean(1, keepdim=True)
        for k, (near, far, mask) in enumerate(self.axes):
            axis = x[:, far] - x[:, near]
            axis = axis / axis.norm(dim=-1, keepdim=True)
            spin = exp_so3(axis * torsions[:, k, None])
            moved = (x - x[:, far, None]) @ spin.mT + x[:, far, None]
            x = torch.where(torch.from_numpy(mask)[None, :, None].to(x.device), moved, x)
        return (x - middle) @ turn.mT + at[:, None]

    def pose(self, positions: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """The pose nearest to atoms `[N, 3]`, exact where they differ from the conformer by a pose: c, R, tau."""
        own, near = self.molecule.positions, self.molecule.orders > 0
        told = []
        for a, b, _ in self.axes:
            c = next(int(k) for k in np.flatnonzero(near[a]) if k != b)
            d = next(int(k) for k in np.flatnonzero(near[b]) if k != a)
            told.append(dihedral(positions[[c, a, b, d]]) - dihedral(own[[c, a, b, d]]))
        torsions = torch.tensor(told, dtype=torch.float64).reshape(1, -1)
        bent = self.positions(torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[None], torsions)
        rotation, shift = superposed(bent[0].numpy(), positions)
        return torch.from_numpy(shift)[None], torch.from_numpy(rotation)[None], torsions


def dihedral(points: np.ndarray) -> float:
    """The torsion of four points `[4, 3]`, -pi to pi."""
    b1, b2, b3 = np.diff(points, axis=0)
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    return float(np.arctan2(np.cross(n1, n2) @ b2 / np.linalg.norm(b2), n1 @ n2))
