r"""Relaxation: backbones whose peptide bonds, angles and contacts are those of real chains, near where they were.

All atoms N, CA, C, O move, by the gradient of an energy in angstrom (harmonic, no charges, no torsions):

    bonds      (d - d0)^2/s^2     N-CA, CA-C, C-O, C-N                                   Engh & Huber (1991)
    angles     the same of the distances between second neighbours, and of CA-CA and O-CA across a trans peptide
    contacts   (r - d)^2/s^2 where d < r, atoms of residues that are no neighbours       r by the kinds of atoms
    hydrogen   (d - d1)^2/s^2 of O and N where they are bonded and d > d1
    place      |x - x_raw|^2/s^2, so that what is right stays where it is

The pull to the raw place is what leaves angles a spread: without it that of CA-C-N is .36 degrees, with it 1.4, in real
chains 1.6 (24 samples, 24 test chains). Torsions are left to the sample: phi and psi move by a few degrees, and no
mirror image becomes another. The descent is Adam's with one rate an atom, so that it turns with the chain. Chains of
all lengths relax in one batch, each as if it were alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import NOT_NEGATIVE, POSITIVE, at_least, check

from .bonding import hydrogen_bonds, joined
from .frames import C_N, C_N_CA, C_O, CA_C, CA_C_N, CA_C_O, CA_CA, N_CA, N_CA_C
from .structure import Structure

N, CA, C, OXYGEN = range(4)


def opposite(a: float, b: float, degrees: float) -> float:
    """The third side of a triangle."""
    return math.sqrt(a * a + b * b - 2 * a * b * math.cos(math.radians(degrees)))


# first atom, second atom, of the same residue or of the one that follows, distance, width (angstrom)
WITHIN = (
    (N, CA, N_CA, 0.02),
    (CA, C, CA_C, 0.02),
    (C, OXYGEN, C_O, 0.02),
    (N, C, opposite(N_CA, CA_C, N_CA_C), 0.05),
    (CA, OXYGEN, opposite(CA_C, C_O, CA_C_O), 0.03),
)
BETWEEN = (
    (C, N, C_N, 0.02),
    (CA, N, opposite(CA_C, C_N, CA_C_N), 0.03),
    (C, CA, opposite(C_N, N_CA, C_N_CA), 0.03),
    (OXYGEN, N, opposite(C_O, C_N, 360 - CA_C_O - CA_C_N), 0.03),
    (CA, CA, CA_CA, 0.04),
    (OXYGEN, CA, 2.78, 0.08),
)
NEAREST = torch.full((4, 4), 3.1, dtype=torch.float64)
"""How near two atoms of residues that are no neighbours come, by their kinds."""
NEAREST[N, OXYGEN] = NEAREST[OXYGEN, N] = 2.7
NEAREST[OXYGEN, OXYGEN] = NEAREST[N, N] = 2.9
for _atom in (C, CA):
    NEAREST[_atom, OXYGEN] = NEAREST[OXYGEN, _atom] = 3.0
BOND = 2.95  # O to N of a hydrogen bond
REACH = 6.0  # atoms farther apart than this at the start are not watched until the next look


@dataclass(frozen=True)
class Relaxation:
    """How chains are relaxed.

    Attributes:
        steps: Of Adam, with a step that falls to nothing.
        rate: The first step, angstrom.
        place: The width of the pull to where an atom was, angstrom; 0 is none.
        contact: The width of contacts.
        bond: The width of hydrogen bonds.
        looks: How often it is looked anew which atoms are near one another.
    """

    steps: int = 100
    rate: float = 0.05
    place: float = 0.06
    contact: float = 0.02
    bond: float = 0.2
    looks: int = 4

    def __post_init__(self) -> None:
        check(self, steps=at_least(1), rate=POSITIVE, place=NOT_NEGATIVE, contact=POSITIVE, bond=POSITIVE,
              looks=at_least(1))  # fmt: skip

    def __call__(self, structures: Sequence[Structure]) -> list[Structure]:
        """Relaxed structures; names, sequences and numbers stay, side chains go with the frames of their residues.

        Residues of one chain are joined where a bond is, and where their numbers follow each other, and the ends of a
        closed chain however far apart they are. What is `known` of a structure is held where it is.
        """
        if not any(len(s) for s in structures):
            return list(structures)
        backbones = self.relaxed(structures)
        return [s.moved(backbone) for s, backbone in zip(structures, backbones, strict=True)]

    def relaxed(self, structures: Sequence[Structure]) -> list[np.ndarray]:
        """Backbones [N, 4, 3]; all residues of all chains lie in one row."""
        raw = torch.from_numpy(np.concatenate([s.backbone for s in structures])).double()
        sizes, springs = [len(s) for s in structures], Springs.of(structures)
        free = torch.tensor([not origin for s in structures for origin in s.known or ("",) * len(s)])
        bound = [meant(s) for s in structures if len(s)]
        x = raw.clone()
        moment, square = torch.zeros_like(x), torch.zeros_like(x[..., :1])
        every = math.ceil(self.steps / self.looks)
        rings = [s.closures for s in structures if len(s)]
        near = self.near(x, bound, rings)
        for k in range(self.steps):
            if k and k % every == 0:
                near = self.near(x, bound, rings)
            slope = self.slope(x, raw, springs, near)
            moment.lerp_(slope, 0.1)
            square.lerp_(slope.square().sum(-1, keepdim=True), 0.05)
            rate = self.rate * (1 - k / self.steps)
            step = moment / (1 - 0.9 ** (k + 1)) / ((square / (1 - 0.95 ** (k + 1))).sqrt() + 1e-3)
            x = x - rate * step * free[:, None, None]
        return [part.numpy() for part in x.split(sizes)]

    def near(
        self, x: Tensor, bound: Sequence[np.ndarray], rings: Sequence[Sequence[tuple[int, int]]] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs of atoms that may touch, of residues that are not bound to each other, and how near they may come.

        `bound` and `rings` are of each chain which residues are joined to the next, and its closures.
        """
        from scipy.spatial import KDTree

        found, first = [], 0
        parts = x.split([len(joins) + 1 for joins in bound])
        for part, joins, closures in zip(parts, bound, rings or [()] * len(bound), strict=True):
            pairs = KDTree(part.reshape(-1, 3).numpy()).query_pairs(REACH, output_type="ndarray").astype(np.int64)
            low, high = np.sort(pairs // 4, axis=1).T
            apart = (high - low > 1) | ((high - low == 1) & ~np.append(joins, True)[low])
            for last, start in closures:
                apart &= (low != start) | (high != last)
            found.append(pairs[apart] + first)
            first += 4 * len(part)
        a, b = torch.from_numpy(np.concatenate(found)).unbind(1)
        return a, b, NEAREST[a % 4, b % 4]

    def slope(self, x: Tensor, raw: Tensor, springs: Springs, near: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The energy's gradient [R, 4, 3]."""
        atoms = x.reshape(-1, 3)
        total = torch.zeros_like(atoms) if not self.place else ((x - raw) / self.place**2).reshape(-1, 3).clone()

        def pull(a: Tensor, b: Tensor, off: Tensor, apart: Tensor, far: Tensor) -> None:
            force = (off / far)[:, None] * apart
            total.index_add_(0, a, force)
            total.index_add_(0, b, -force)

        for a, b, length, width, one_sided in (
            (springs.a, springs.b, springs.length, springs.width, 0),
            (springs.oxygen, springs.nitrogen, BOND, self.bond, 1),
            (*near, self.contact, -1),
        ):
            apart = atoms[a] - atoms[b]
            far = apart.norm(dim=1).clamp_min(1e-6)
            off = far - length
            off = off.clamp_min(0) if one_sided > 0 else off.clamp_max(0) if one_sided < 0 else off
            pull(a, b, off / width**2, apart, far)
        return total.view_as(x)


@dataclass(frozen=True)
class Springs:
    """Bonds and angles by their atoms, and hydrogen bonds, of chains whose residues lie in one row."""

    a: Tensor
    b: Tensor
    length: Tensor
    width: Tensor
    oxygen: Tensor
    nitrogen: Tensor

    @classmethod
    def of(cls, structures: Sequence[Structure]) -> Springs:
        first = np.cumsum([0, *(len(s) for s in structures)])
        residues = np.arange(first[-1])
        whole = np.concatenate([first[k] + np.flatnonzero(meant(s)) for k, s in enumerate(structures)])
        ends = [first[k] + np.array(s.closures, dtype=np.int64).reshape(-1, 2) for k, s in enumerate(structures)]
        last, start = np.concatenate(ends).T
        joins = np.append(whole, last), np.append(whole + 1, start)
        rows = []
        for kinds, (at, there) in ((WITHIN, (residues, residues)), (BETWEEN, joins)):
            for one, other, length, width in kinds:
                rows.append((4 * at + one, 4 * there + other, np.full(len(at), length), np.full(len(at), width)))
        a, b, length, width = (torch.from_numpy(np.concatenate(column)) for column in zip(*rows, strict=True))
        bonds = [np.argwhere(hydrogen_bonds(s)) + first[k] for k, s in enumerate(structures)]
        donor, acceptor = torch.from_numpy(np.concatenate(bonds)).unbind(1)
        return cls(a.long(), b.long(), length, width, 4 * acceptor + OXYGEN, 4 * donor + N)


def meant(structure: Structure) -> np.ndarray:
    """`[N - 1]` bool: residues i and i + 1 are joined, or should be: of one chain, with numbers that follow."""
    numbers, chains = structure.numbers, structure.chains
    follow = [
        a == b and one.lstrip("-").isdecimal() and other.lstrip("-").isdecimal() and int(other) == int(one) + 1
        for (a, b), (one, other) in zip(pairwise(chains), pairwise(numbers), strict=True)
    ]
    return joined(structure) | np.array(follow, dtype=bool)
