"""Hydrogen bonds of the backbone, and the helices and sheets they make (Kabsch and Sander 1983).

The H of an N lies 1 A from it, opposite to the C=O of the residue before. The energy of the bond from the N-H of
residue d to the C=O of residue a is that of four partial charges, in kcal/mol with distances in angstrom,

    E(d, a) = 27.888 (1/|O N| + 1/|C H| - 1/|O H| - 1/|C N|),    a bond if E < -0.5,

and each N-H keeps its two best. With the bonds written d -> a:

    helix H    i+4 -> i and i+3 -> i-1: residues i to i+3; G and I the same with 3 and 5
    bridge     parallel      i+1 -> j and j -> i-1,      or  j+1 -> i and i -> j-1
               antiparallel  i -> j and j -> i,          or  i+1 -> j-1 and j+1 -> i-1
    strand E   residues of two or more bridges in a row (a ladder), also across a bulge of at most 1 and 4 residues;
               B those of a lone bridge

None of it sees a mirror image. A proline gives no bond; where the sequence is unknown (X), every N-H does. Around a
closed chain bonds, bridges and letters go on: they are those of three numberings, each where it is not cut. Beside
other chains only its hydrogen bonds do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from .frames import BREAK
from .structure import FAR_CA, Structure

CUTOFF = -0.5  # kcal/mol
_CHARGES = 27.888  # 332 x 0.42 x 0.20
_NEAR = 9.0  # angstrom between CA; farther pairs have no bond
_FLOOR = -9.9  # kcal/mol, the energy of atoms on top of each other


def joined(structure: Structure) -> np.ndarray:
    """`[N - 1]` bool: residue i and i + 1 are one chain without a break."""
    whole = np.ones(max(len(structure) - 1, 0), dtype=bool)
    whole[list(structure.breaks)] = False
    return whole


def closures(structure: Structure) -> np.ndarray:
    """The closures of chains that are bonds, as `Structure.breaks` has them: [M, 2], last and first residue."""
    pairs = np.array(structure.closures, dtype=np.int64).reshape(-1, 2)
    last, first = pairs.T
    bond = np.linalg.norm(structure.backbone[first, 0] - structure.backbone[last, 2], axis=-1)
    step = np.linalg.norm(structure.ca[first] - structure.ca[last], axis=-1)
    return pairs[(bond <= BREAK) & (step <= FAR_CA)]


def links(structure: Structure) -> np.ndarray:
    """The pairs of residues that a peptide bond joins, [M, 2], in the order of the chain; closures come last."""
    first = np.flatnonzero(joined(structure))
    return np.concatenate([np.stack([first, first + 1], 1), closures(structure)])


def places_between(structure: Structure, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """How many places residues i and j are from each other, in a closed chain the shorter way round."""
    apart = np.abs(i - j)
    for last, first in structure.closures:
        ours = (np.minimum(i, j) >= first) & (np.maximum(i, j) <= last)
        apart = np.where(ours, np.minimum(apart, last - first + 1 - apart), apart)
    return apart


def one_ring(structure: Structure) -> bool:
    """Is this one unbroken chain whose last residue is bonded to its first?"""
    return len(closures(structure)) == len(set(structure.chains)) == 1 and not structure.breaks


def energies(structure: Structure) -> np.ndarray:
    """E(d, a) in kcal/mol, `[N, N]`: donors by row, acceptors by column; 0 where there can be no bond."""
    n, ca, c, o = structure.backbone.swapaxes(0, 1)
    size = len(structure)
    found = np.zeros((size, size))
    if size < 2:
        return found
    gives = np.concatenate([[False], joined(structure)])
    before, after = np.arange(size) - 1, np.arange(size) + 1
    for last, first in closures(structure):
        gives[first], before[first], after[last] = True, last, first
    gives &= np.array([letter != "P" for letter in structure.sequence])
    back = (c - o)[before[gives]]
    hydrogen = n.copy()
    hydrogen[gives] += back / np.maximum(np.linalg.norm(back, axis=-1, keepdims=True), 1e-6)
    donor, acceptor = np.nonzero(_apart(ca, ca) < _NEAR)
    kept = gives[donor] & (donor != acceptor) & (donor != after[acceptor])
    donor, acceptor = donor[kept], acceptor[kept]

    def far(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[acceptor] - b[donor], axis=-1)

    distances = [far(o, n), far(c, hydrogen), far(o, hydrogen), far(c, n)]
    nearest = np.minimum.reduce(distances)
    on, ch, oh, cn = (1 / np.maximum(d, 1e-6) for d in distances)
    found[donor, acceptor] = np.where(nearest < 0.5, _FLOOR, np.round(_CHARGES * (on + ch - oh - cn), 3))
    return found


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    square = ((a[:, None] - b[None]) ** 2).sum(-1)
    return np.sqrt(square)


def hydrogen_bonds(structure: Structure) -> np.ndarray:
    """`[N, N]` bool: the N-H of the row bonds to the C=O of the column, at most two of a row."""
    energy = energies(structure)
    bonds = energy < CUTOFF
    if len(structure) > 2:
        best = np.argpartition(energy, 1, axis=1)[:, :2]
        two = np.zeros_like(bonds)
        np.put_along_axis(two, best, True, axis=1)
        bonds &= two
    return bonds


def cuts(structure: Structure, bonds: np.ndarray) -> dict[int, tuple[Structure, np.ndarray]]:
    """A ring opened at three places, by where: its residues from there on, and their bonds."""
    size = len(structure)
    return {
        cut: (replace(structure.turned(cut), cyclic=()), np.roll(bonds, (-cut, -cut), (0, 1)))
        for cut in (0, size // 3, 2 * size // 3)
    }


@dataclass
class Ladder:
    """Bridges in a row: the residues of its two strands, in the order of the chain."""

    parallel: bool
    first: list[int]
    second: list[int]


def bridges(structure: Structure, bonds: np.ndarray | None = None) -> np.ndarray:
    """The bridges of a structure, int8 `[N, N]`, symmetric: 0 none, 1 antiparallel, 2 parallel."""
    b = hydrogen_bonds(structure) if bonds is None else bonds
    size = len(structure)
    if one_ring(structure):
        found = np.zeros((size, size), np.int8)
        for cut, (turned, own) in cuts(structure, b).items():
            found = np.maximum(found, np.roll(bridges(turned, own), (cut, cut), (0, 1)))
        i, j = np.indices(found.shape)
        return found * (places_between(structure, i, j) > 2)
    found = np.zeros((size, size), np.int8)
    if size < 6:
        return found
    whole = np.concatenate([[0], np.cumsum(~joined(structure))])  # residues with one number are without a break
    middle = np.flatnonzero(whole[2:] == whole[:-2]) + 1
    mid, low, high = slice(1, -1), slice(0, -2), slice(2, None)
    same = (b[high, mid] & b[mid, low].T) | (b[high, mid].T & b[mid, low])
    opposite = (b[mid, mid] & b[mid, mid].T) | (b[high, low] & b[high, low].T)
    allowed = np.zeros(size - 2, dtype=bool)
    allowed[middle - 1] = True
    far = np.triu(np.ones_like(same), 3) & allowed[:, None] & allowed[None]
    found[1:-1, 1:-1] = np.where(same, 2, np.where(opposite, 1, 0)) * far
    return found + found.T


def ladders(structure: Structure, bonds: np.ndarray | None = None) -> list[Ladder]:
    """The ladders of a structure, lone bridges among them; ladders across a bulge are one."""
    kinds = np.triu(bridges(structure, bonds))
    whole = np.concatenate([[0], np.cumsum(~joined(structure))])  # residues with one number are without a break
    found: list[Ladder] = []
    for i, j in np.argwhere(kinds).tolist():
        parallel = bool(kinds[i, j] == 2)
        for ladder in found:
            if ladder.parallel != parallel or i != ladder.first[-1] + 1:
                continue
            if parallel and j == ladder.second[-1] + 1:
                ladder.second.append(j)
            elif not parallel and j == ladder.second[0] - 1:
                ladder.second.insert(0, j)
            else:
                continue
            ladder.first.append(i)
            break
        else:
            found.append(Ladder(parallel, [i], [j]))
    return _across_bulges(sorted(found, key=lambda ladder: ladder.first[0]), whole)


def _across_bulges(found: list[Ladder], whole: np.ndarray) -> list[Ladder]:
    place = 0
    while place < len(found):
        a, other = found[place], place + 1
        while other < len(found):
            b = found[other]
            ends = (a.first[0], a.first[-1], a.second[0], a.second[-1])
            begins = (b.first[0], b.first[-1], b.second[0], b.second[-1])
            gap = b.first[0] - a.first[-1]
            unbroken = (
                whole[min(ends[0], begins[0])] == whole[max(ends[1], begins[1])]
                and whole[min(ends[2], begins[2])] == whole[max(ends[3], begins[3])]
            )
            overlap = a.first[-1] >= b.first[0] and a.first[0] <= b.first[-1]
            jump = b.second[0] - a.second[-1] if a.parallel else a.second[0] - b.second[-1]
            bulge = (0 <= jump < 6 and gap < 3) or 0 <= jump < 3
            if a.parallel == b.parallel and unbroken and 0 <= gap < 6 and not overlap and bulge:
                a.first += b.first
                a.second = a.second + b.second if a.parallel else b.second + a.second
                del found[other]
            else:
                other += 1
        place += 1
    return found


@lru_cache(maxsize=1024)
def secondary_structure(structure: Structure) -> str:
    """One letter a residue: H, G, I helices, E strand, B lone bridge, C else. Turns and bends are C.

    Where patterns overlap, H goes before E, and I before H, as mkdssp 4 has it.
    """
    bonds, size = hydrogen_bonds(structure), len(structure)
    if not one_ring(structure):
        return opened(structure, bonds)
    place, rows = np.arange(size), []
    for cut, (turned, own) in cuts(structure, bonds).items():
        away = (place - cut) % size
        rows.append((np.minimum(away, size - 1 - away), np.roll(list(opened(turned, own)), cut)))
    best = np.argmax([far for far, _ in rows], axis=0)  # where the chain is cut farthest away
    return "".join(rows[k][1][i] for i, k in enumerate(best))


def opened(structure: Structure, bonds: np.ndarray) -> str:
    """`secondary_structure` of chains by their bonds, as if none were closed."""
    size = len(structure)
    letters = np.full(size, "C")
    for ladder in ladders(structure, bonds):
        letter = "E" if len(ladder.first) > 1 else "B"
        for strand in (ladder.first, ladder.second):
            part = letters[strand[0] : strand[-1] + 1]
            part[part != "E"] = letter
    whole = np.concatenate([[0], np.cumsum(~joined(structure))])
    for turn, letter, over in ((4, "H", "CHEBGI"), (3, "G", "CG"), (5, "I", "CIH")):
        if size <= turn:
            continue
        start = np.diagonal(bonds, -turn) & (whole[turn:] == whole[:-turn])  # i + turn -> i
        for i in np.flatnonzero(start[1:] & start[:-1]) + 1:
            part = letters[i : i + turn]
            if all(old in over for old in part):
                part[:] = letter
    return "".join(letters.tolist())


def three_states(structure: Structure) -> str:
    """`secondary_structure` in three letters: H for any helix's H, E for strands, L for all else."""
    return "".join(letter if letter in "HE" else "L" for letter in secondary_structure(structure))
