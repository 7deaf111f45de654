r"""How good packed side chains are, what chance would give, and which of several packings to take.

    right        chi_k within 20 degrees of the crystal's, by its symmetry; chi_1+2: both
    rmsd         heavy atoms of side chains on the same backbone, sqrt(mean |x - x'|^2); of D, E, F and Y under the
                 better of the two names of alike atoms
    core         residues with 16 CB or more within 10 A of theirs (of G a virtual one); near half of a globular chain
    agreement    sum over torsions of the mean of cos(chi - chi') over the other packings of the same chain

Controls are the rotamers of training structures (`Rotamers`): a rotamer is a cell of the circle, thirds where a torsion
is about two tetrahedral carbons, sixths elsewhere (of a half turn where it repeats). The commonest of a letter, the
commonest of a letter in a helix, a strand or elsewhere by phi and psi, or one drawn as often as it occurs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gendiff.errors import DataError

from .atoms import PLACE, STAGGERED, SYMMETRIC
from .building import CB, CHIS, TABLES, angles, lettered, packed, periods, whole, wrapped
from .contacts import RADII
from .frames import dihedral, frames_from_backbone
from .structure import Structure

NEAR = 20.0  # degrees
CORE, REACH = 16, 10.0
ALIKE = {"D": (("OD1", "OD2"),), "E": (("OE1", "OE2"),), "F": (("CD1", "CD2"), ("CE1", "CE2")),
         "Y": (("CD1", "CD2"), ("CE1", "CE2"))}  # fmt: skip


def deviations(one: Structure, other: Structure) -> np.ndarray:
    """How far torsions are apart, degrees `[N, 4]`, by the symmetry of each; NaN where either has none.

    Raises:
        DataError: For structures of other letters.
    """
    if one.sequence != other.sequence:
        raise DataError(f"{one!r} beside {other!r}", "structures of the same letters")
    return np.degrees(np.abs(wrapped(angles(one) - angles(other), periods(one.sequence))))


def right(one: Structure, other: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Of residues with a chi_1, and of those with a chi_2 too: float [N], 1 where it is, or both are, within 20 degrees
    of the other structure's, and NaN where there is none.
    """
    apart = deviations(one, other)
    first = np.where(np.isnan(apart[:, 0]), np.nan, apart[:, 0] <= NEAR)
    both = (apart[:, :2] <= NEAR).all(1)
    return first, np.where(np.isnan(apart[:, :2]).any(1), np.nan, both)


def squares(one: Structure, other: Structure) -> np.ndarray:
    """The squared distance of each atom of side chains behind CB, `[N, 33]`, under the better names of alike atoms."""
    found = np.square(one.sides - other.sides).sum(-1)
    for letter, pairs in ALIKE.items():
        own = [i for i, other_letter in enumerate(one.sequence) if other_letter == letter]
        swapped = other.sides[own].copy()
        for a, b in pairs:
            swapped[:, [PLACE[a], PLACE[b]]] = swapped[:, [PLACE[b], PLACE[a]]]
        again = np.square(one.sides[own] - swapped).sum(-1)
        better = np.nansum(again, 1) < np.nansum(found[own], 1)
        found[own] = np.where(better[:, None], again, found[own])
    found[:, [PLACE["CB"], PLACE["OXT"]]] = np.nan
    return found


def rmsd(one: Structure, other: Structure) -> float:
    """Of all atoms of side chains behind CB, angstrom; NaN where there are none."""
    found = squares(one, other)
    found = found[np.isfinite(found)]
    return float(np.sqrt(found.mean())) if len(found) else math.nan


def core(structure: Structure) -> np.ndarray:
    """bool [N]: residues with 16 others or more whose CB is within 10 A of theirs."""
    pos, rot = frames_from_backbone(torch.from_numpy(structure.backbone))
    beta = (pos + rot @ pos.new_tensor(CB["A"])).numpy()
    near = np.linalg.norm(beta[:, None] - beta[None], axis=-1) < REACH
    return near.sum(1) - 1 >= CORE


def overlap(structure: Structure, soft: float = 0.4) -> float:
    """How much atoms of side chains overlap those of other residues beyond .4 A, the sum of squares, angstrom^2."""
    from scipy.spatial import KDTree

    atoms = np.concatenate([structure.backbone, structure.sides], 1)
    there = np.isfinite(atoms).all(-1)
    residue, kind = np.nonzero(there)
    points = atoms[there]
    names = np.array([RADII[name[0]] for name in _NAMES])
    sulfur = np.array([name[0] == "S" for name in _NAMES])
    i, j = KDTree(points).query_pairs(2 * max(RADII.values()) - soft, output_type="ndarray").T
    apart = np.abs(residue[i] - residue[j])
    side = (kind[i] >= 4) | (kind[j] >= 4)
    bound = (apart == 0) | ((apart == 1) & (kind[i] < 5) & (kind[j] < 5)) | (sulfur[kind[i]] & sulfur[kind[j]])
    own = side & ~bound
    depth = names[kind[i]] + names[kind[j]] - np.linalg.norm(points[i] - points[j], axis=-1) - soft
    return float(np.square(depth[own].clip(0)).sum())


_NAMES = ("N", "CA", "C", "O", *PLACE)


def agreement(many: Sequence[Structure]) -> np.ndarray:
    """How far each packing of a chain agrees with the others, in torsions, `[K]`."""
    every = waves(many)
    return np.real(every * (every.sum(0) - every).conj()).sum((1, 2)) / max(len(many) - 1, 1)


def waves(many: Sequence[Structure]) -> np.ndarray:
    """Torsions of packings of one chain as points of their circles, complex `[K, N, 4]`; 0 where there is none."""
    turns = 2 * math.pi / periods(many[0].sequence)
    return np.nan_to_num(np.exp(1j * np.stack([angles(one) for one in many]) * turns))


def best(many: Sequence[Structure], weight: float = 1.0) -> Structure:
    """Of packings of one chain that which agrees most with the others, less `weight` times its overlaps (A^2).

    Raises:
        DataError: For none.
    """
    if not many:
        raise DataError("no packing to choose from", "one or more")
    score = agreement(many) - weight * np.array([overlap(one) for one in many])
    return many[int(score.argmax())]


def consensus(many: Sequence[Structure], rounds: int = 2, weight: float = 1.0) -> Structure:
    """A packing put together from several of one chain: of every residue the side chain that most others agree with,
    less `weight` times its overlaps with the rest as it stands, decided in turn, `rounds` times.

    Raises:
        DataError: For none.
    """
    if not many:
        raise DataError("no packing to choose from", "one or more")
    every = waves(many)
    votes = np.real(every[:, None] * every[None].conj()).sum(-1).mean(1) / np.maximum((every[0] != 0).sum(-1), 1)
    pick = votes.argmax(0)
    sides = np.stack([one.sides for one in many])
    places = np.arange(len(pick))
    radii = np.array([RADII[name[0]] for name in _NAMES])
    sulfur = np.array([name[0] == "S" for name in _NAMES])
    ca = many[0].ca
    near = [np.flatnonzero((np.linalg.norm(ca - at, axis=-1) < 18.0) & (places != k)) for k, at in enumerate(ca)]
    atoms = np.concatenate([many[0].backbone, sides[pick, places]], 1)
    movable = (TABLES.chis[lettered(many[0].sequence)] > 0).numpy()
    for _ in range(rounds):
        for k in np.flatnonzero(movable):
            others = atoms[near[k]]
            there = np.isfinite(others).all(-1)
            kind = np.nonzero(there)[1]
            own = sides[:, k]  # [K, 33, 3]
            use = np.flatnonzero(np.isfinite(own[0]).all(-1))[1:]  # CB stays
            gap = radii[4 + use][:, None] + radii[kind] - 0.4
            deep = gap - np.linalg.norm(own[:, use, None] - others[there], axis=-1)
            deep = np.where(sulfur[4 + use][:, None] & sulfur[kind], 0, deep).clip(0)
            pick[k] = (votes[:, k] - weight * np.square(deep).sum((1, 2))).argmax()
            atoms[k, 4:] = sides[pick[k], k]
    return replace(many[0], side=sides[pick, places])


@dataclass(frozen=True)
class Rotamers:
    """The rotamers of training structures, as controls.

    Attributes:
        counts: By letter and basin ("H", "E", "-", or "" for any), how often each cell occurs.
        centres: By letter and cell, the middle of what lies in it, radians.
    """

    counts: Mapping[tuple[str, str], Counter[tuple[int, ...]]]
    centres: Mapping[tuple[str, tuple[int, ...]], np.ndarray]

    @classmethod
    def of(cls, structures: Sequence[Structure]) -> Rotamers:
        """Those of structures with side chains."""
        counts: dict[tuple[str, str], Counter[tuple[int, ...]]] = defaultdict(Counter)
        sums: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
        for one in structures:
            chi, full, basin, turns = angles(one), whole(one), basins(one), periods(one.sequence)
            for i, letter in enumerate(one.sequence):
                own = chi[i][np.isfinite(chi[i])]
                if not full[i] or not len(own):
                    continue
                cell = cell_of(letter, own)
                for name in ("", basin[i]):
                    counts[letter, name][cell] += 1
                wave = np.exp(2j * math.pi * own / turns[i, : len(own)])
                sums[letter, cell] = sums.get((letter, cell), 0) + wave
        centres = {key: np.angle(wave) * periods(key[0])[0, : len(wave)] / (2 * math.pi) for key, wave in sums.items()}
        return cls(dict(counts), centres)

    def pack(self, structure: Structure, how: str = "letter", seed: int = 0) -> Structure:
        """A structure with rotamers for side chains.

        Args:
            structure: Whose backbone and letters.
            how: "letter" for the commonest of each letter, "basin" of a letter by phi and psi, or "random".
            seed: Of the random ones.
        """
        rng, basin = np.random.default_rng(seed), basins(structure)
        chi = np.zeros((len(structure), CHIS))
        for i, letter in enumerate(structure.sequence):
            name = basin[i] if how == "basin" else ""
            own = self.counts.get((letter, name), Counter()) or self.counts.get((letter, ""), Counter())
            if not own:
                continue
            cells = sorted(own, key=lambda cell: (-own[cell], cell))
            share = np.array([own[cell] for cell in cells]) / own.total()
            cell = cells[int(rng.choice(len(cells), p=share))] if how == "random" else cells[0]
            chi[i, : len(cell)] = self.centres[letter, cell]
        return packed(structure, chi)


def cell_of(letter: str, chi: np.ndarray) -> tuple[int, ...]:
    """The rotamer that torsions (radians) lie in, a number for each."""
    out = []
    for k, angle in enumerate(chi):
        if SYMMETRIC.get(letter) == k + 1:
            out.append(int((wrapped(angle + math.pi / 6, math.pi) + math.pi / 2) // (math.pi / 3)))
        else:
            cells = 3 if STAGGERED.get(letter, 0) > k or (k >= 2 and letter in "KR") else 2 if letter == "P" else 6
            start = 0.0 if cells != 6 else -math.pi / 6
            out.append(int(((angle - start) % (2 * math.pi)) // (2 * math.pi / cells)))
    return tuple(out)


def basins(structure: Structure) -> str:
    """H, E or - of every residue: by phi and psi as in a helix, as in a strand, or neither."""
    atoms = torch.from_numpy(structure.backbone)
    n, ca, c = atoms[:, 0], atoms[:, 1], atoms[:, 2]
    phi = np.degrees(dihedral(c[:-1], n[1:], ca[1:], c[1:]).numpy())
    psi = np.degrees(dihedral(n[:-1], ca[:-1], c[:-1], n[1:]).numpy())
    phi, psi = np.append(np.nan, phi), np.append(psi, np.nan)
    broken = np.array(structure.breaks, dtype=int)
    psi[broken], phi[broken + 1] = np.nan, np.nan
    helix = (phi > -100) & (phi < -30) & (psi > -80) & (psi < 0)
    strand = (phi > -180) & (phi < -45) & ((psi > 90) | (psi < -150))
    return "".join("H" if a else "E" if b else "-" for a, b in zip(helix, strand, strict=True))
