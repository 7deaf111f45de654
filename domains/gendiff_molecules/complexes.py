r"""Ligands posed in pockets, and pieces of them.

`PocketLigands` are 1,110 ligands posed in 80 pockets (two public benchmarks of binding free energies), and pieces of
them: what is left of a ligand when one or two of its acyclic single bonds are cut, each capped by hydrogen, in its
place. Proteins are held out by clusters of sequence.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.conditions import Condition
from gendiff.domain import Example, Examples, data_file, unsealed
from gendiff.errors import DataError, at_least, check
from gendiff.files import Stamp, stamp

from .measures import describe
from .molecule import Molecule, MoleculeError
from .pocket import Pocket
from .sources import MoleculeSource, checked_split
from .surroundings import Surroundings

CAPS = {6: 1.09, 7: 1.01, 8: 0.96, 16: 1.34}  # lengths of bonds to hydrogen, angstrom
HELD = 8  # one cluster in so many is for tests


def pieces(molecule: Molecule, least: int, most: int, limit: int, seed: int = 0) -> list[Molecule]:
    """What is left when one or two acyclic single bonds between heavy atoms are cut, capped by hydrogen, in its place.

    Args:
        molecule: Whole.
        least, most: Heavy atoms of a piece.
        limit: At most so many, drawn by `seed`.
    """
    heavy = molecule.elements > 1
    bridges = []
    for k, (i, j, order) in enumerate(molecule.bonds.tolist()):
        if order == 1 and heavy[i] and heavy[j]:
            rest = replace(molecule, bonds=np.delete(molecule.bonds, k, 0))
            if len(rest.fragments()) > len(molecule.fragments()):
                bridges.append(k)
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for cut in [(k,) for k in bridges] + list(combinations(bridges, 2)):
        rest = replace(molecule, bonds=np.delete(molecule.bonds, list(cut), 0))
        for part in rest.fragments():
            inside = set(part.tolist())
            touched = [k for k in cut if len(inside & set(molecule.bonds[k, :2].tolist())) == 1]
            if len(touched) == len(cut) and least <= int(heavy[part].sum()) <= most:
                found.setdefault(tuple(sorted(inside)), cut)
    chosen = list(found.items())
    order = np.random.default_rng(seed).permutation(len(chosen))[:limit]
    return [_capped(molecule, chosen[k][0], chosen[k][1]) for k in order]


def _capped(molecule: Molecule, inside: tuple[int, ...], cut: tuple[int, ...]) -> Molecule:
    own = molecule.take(list(inside))
    index = {old: new for new, old in enumerate(inside)}
    places, bonds = [], []
    for k in cut:
        i, j = molecule.bonds[k, :2].tolist()
        a, b = (i, j) if i in index else (j, i)
        way = molecule.positions[b] - molecule.positions[a]
        length = CAPS.get(int(molecule.elements[a]), 1.09)
        places.append(molecule.positions[a] + way * length / np.linalg.norm(way))
        bonds.append((index[a], len(inside) + len(places) - 1, 1))
    return replace(
        own,
        elements=np.append(own.elements, [1] * len(places)),
        positions=np.concatenate([own.positions, places]),
        bonds=np.concatenate([own.bonds.reshape(-1, 3), bonds]),
        charges=np.append(own.charges, [0] * len(places)),
    )


@dataclass(frozen=True)
class PocketLigands(MoleculeSource):
    """Ligands posed in pockets, of complexes/pl_pockets.npz; every example says its "pocket", centred on it.

    Args:
        pieces: At most so many pieces of each ligand beside it; 0 for none.
        whole: Whether ligands themselves are examples, those that are not too large.
        least: Heavy atoms of a piece, at least.
        most: Heavy atoms of a piece or a ligand, at most.
    """

    pieces: int = 8
    whole: bool = True
    least: int = 5
    most: int = 16

    def __post_init__(self) -> None:
        check(self, pieces=at_least(0), least=at_least(2), most=at_least(self.least))

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {**super().conditions, "pocket": Surroundings()}

    def load(self, split: str, root: Path | None = None) -> Examples:
        test = checked_split(split) == "test"
        folder = data_file("complexes/pl_pockets.npz", root, "ligands posed in pockets").parent
        series = _series(folder, stamp(folder / "pl_pockets.npz"))
        out = []
        for one in series:
            if one.held != test:
                continue
            for number, ligand in enumerate(one.ligands):
                own = [ligand] if self.whole and int((ligand.elements > 1).sum()) <= self.most else []
                own += pieces(ligand, self.least, self.most, self.pieces, number) if self.pieces else []
                for k, molecule in enumerate(own):
                    if len(molecule.fragments()) > 1 or molecule.faults():
                        continue
                    row = describe(molecule)
                    if not row.good:
                        continue
                    name = f"{one.name} {ligand.name}" + (f" piece {k}" if molecule is not ligand else "")
                    told: dict[str, Any] = {"logp": row.logp, "n_rings": len(row.rings)}
                    out.append(Example(replace(molecule, name=name), {**told, "pocket": one.pocket.at(molecule)}, name))
        return Examples(out)

    def describe(self) -> str:
        return "1,110 ligands posed in 80 pockets, and pieces of them, of public benchmarks of binding free energies."


@dataclass(frozen=True, eq=False)
class Series:
    """The ligands of one pocket, in one frame."""

    name: str
    pocket: Pocket
    ligands: tuple[Molecule, ...]
    held: bool


def series(root: Path | None = None) -> tuple[Series, ...]:
    """All series of complexes/pl_pockets.npz, in their own frames, centred on their ligands."""
    folder = data_file("complexes/pl_pockets.npz", root, "ligands posed in pockets").parent
    return _series(folder, stamp(folder / "pl_pockets.npz"))


@lru_cache(maxsize=1)
def _series(folder: Path, known: Stamp) -> tuple[Series, ...]:
    with unsealed(folder / "pl_targets.csv").open(encoding="utf8") as stream:
        targets = list(csv.DictReader(stream))
    with (folder / "pl_ligands.csv").open(encoding="utf8") as stream:
        names = [row["ligand"] for row in csv.DictReader(stream)]
    with np.load(folder / "pl_pockets.npz", allow_pickle=False) as data:
        z = {name: data[name] for name in data.files}
    out = []
    for t, row in enumerate(targets):
        a, b = z["pocket_offset"][t : t + 2]
        words = [tuple(one.decode() for one in z[f"pocket_{name}"][a:b]) for name in ("atom", "res", "chain", "resnum")]
        heavy = z["pocket_z"][a:b] > 1
        pocket = Pocket(
            z["pocket_z"][a:b][heavy], z["pocket_mA"][a:b][heavy] / 1000,
            *(tuple(np.array(own)[heavy].tolist()) for own in words), centre=np.zeros(3), name=row["series"],
        )  # fmt: skip
        ligands = []
        for k in np.flatnonzero(z["lig_target"] == t):
            c, d = z["lig_offset"][k : k + 2]
            e, f = z["lig_bond_offset"][k : k + 2]
            told = z["lig_z"][c:d], z["lig_mA"][c:d] / 1000, z["lig_bonds"][e:f], z["lig_charge"][c:d]
            try:
                ligands.append(Molecule(*told, names[k]))
            except MoleculeError as error:
                raise DataError(f"{folder}: ligand {names[k]}: {error.got}", error.expected) from error
        held = int(row["cluster"]) % HELD == 0
        out.append(Series(row["series"], pocket, tuple(ligands), held))
    return tuple(out)
