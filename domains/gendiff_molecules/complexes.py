r"""Complexes: ligands posed in pockets, and pieces of them.

    found = load_complexes("test")                       1,110 ligands in 80 pockets, those held out
    own = Complex(read_pocket("1iep.pdb", ligand="STI"), read("sti.sdf")[0])
    own.write("out/1iep")                                out/1iep_pocket.pdb, out/1iep_ligand.sdf, in the file's frame

`PocketLigands` are examples of them and of pieces of them: what is left of a ligand when one or two of its acyclic
single bonds between heavy atoms are cut, each capped by a hydrogen in the bond's direction, in its place. Proteins are
held out by clusters of sequence, one in eight of their numbers: 16 series of 6 clusters, of 41. Examples lie around the
origin, which is the centre of their pocket; complexes lie in the frame of the files that they came from.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gendiff.conditions import Condition
from gendiff.domain import Example, Examples, Rejected, data_file, unsealed
from gendiff.errors import NOT_NEGATIVE, DataError, at_least, check
from gendiff.files import Stamp, stamp

from .measures import good
from .molecule import Molecule, MoleculeError
from .pocket import Pocket
from .pocket_files import read_pocket
from .sources import MoleculeSource, checked_split
from .surroundings import Surroundings
from .toolkit import chem, quiet
from .writing import to_pdb, write

CAPS = {6: 1.09, 7: 1.01, 8: 0.96, 16: 1.34}  # lengths of bonds to hydrogen, angstrom
HELD = 8  # one cluster in so many is for tests


@dataclass(frozen=True, eq=False)
class Complex:
    """A ligand in a pocket, both in one frame.

    Args:
        pocket: Its centre is moved to the middle of the ligand's atoms.
        molecule: The ligand in its place.
        name: Of the complex.
        properties: Numbers and texts by name.
    """

    pocket: Pocket
    molecule: Molecule
    name: str = ""
    properties: Mapping[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.pocket, Pocket) or not isinstance(self.molecule, Molecule):
            got = f"{type(self.pocket).__name__} and {type(self.molecule).__name__}"
            raise DataError(f"a complex of {got}", "a Pocket and a Molecule", "Complex(read_pocket(...), molecule)")
        object.__setattr__(self, "pocket", self.pocket.at(self.molecule))
        object.__setattr__(self, "name", self.name or f"{self.pocket.name} {self.molecule.name}".strip())
        object.__setattr__(self, "properties", MappingProxyType(dict(self.properties)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.pocket, self.molecule, self.name, dict(self.properties))

    def __repr__(self) -> str:
        return f"<Complex {self.name}: {len(self.molecule)} atoms among {len(self.pocket)}>"

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> Complex:
        """Both turned about the origin by R `[3, 3]`, then shifted by `[3]` angstrom."""
        posed = self.molecule.moved(self.molecule.positions @ rotation.T + shift)
        return replace(self, pocket=self.pocket.moved(rotation, shift), molecule=posed)

    def centred(self) -> Complex:
        """Both with the pocket's centre at the origin."""
        return self.moved(np.eye(3), -self.pocket.centre)

    def pdb(self) -> str:
        """Both as one PDB file: the pocket, then the ligand as residue UNL of a chain that the pocket has not."""
        atoms = self.pocket.pdb().removesuffix("END\n").splitlines()
        used, count = {line[21] for line in atoms}, len(atoms)
        chain = next(letter for letter in "LXYZABCDEFGHIJKMNOPQRSTUVW" if letter not in used)
        for line in to_pdb(replace(self.molecule, properties={})).splitlines():
            if line.startswith("HETATM"):
                atoms.append(f"HETATM{int(line[6:11]) + count:5d}{line[11:21]}{chain}{line[22:]}")
            elif line.startswith("CONECT"):
                ends = [int(line[k : k + 5]) + count for k in range(6, len(line), 5)]
                atoms.append("CONECT" + "".join(f"{end:5d}" for end in ends))
        return "\n".join([*atoms, "END", ""])

    def write(self, path: str | Path) -> tuple[Path, Path]:
        """PATH_pocket.pdb and PATH_ligand.sdf, with the properties as data fields of the ligand, in the same frame."""
        path = Path(path)
        files = path.with_name(f"{path.name}_pocket.pdb"), path.with_name(f"{path.name}_ligand.sdf")
        files[0].write_text(self.pocket.pdb(), encoding="utf8")
        write(self.molecule, files[1], properties=self.properties)
        return files


def read_complex(
    protein: str | Path, ligand: Molecule, *, radius: float = 10.0, without: Sequence[str] = ()
) -> Complex:
    """A ligand in its pocket; the arguments are those of `read_pocket`.

    Raises:
        DataError: A file that cannot be read, or a ligand that no atom of the protein is near.
    """
    return Complex(read_pocket(protein, ligand=ligand, radius=radius, without=without), ligand)


def pieces(molecule: Molecule, least: int, most: int, limit: int, seed: int = 0) -> list[Molecule]:
    """What is left when one or two acyclic single bonds between heavy atoms are cut, capped by hydrogen, in its place.

    Args:
        molecule: Whole.
        least: Heavy atoms of a piece, at least.
        most: At most.
        limit: At most so many, drawn by `seed`.
    """
    heavy, bonds = molecule.elements > 1, molecule.bonds.tolist()
    near: list[list[tuple[int, int]]] = [[] for _ in range(len(molecule))]
    for k, (i, j, _) in enumerate(bonds):
        near[i].append((j, k))
        near[j].append((i, k))

    def reached(first: int, cut: tuple[int, ...]) -> frozenset[int]:
        """The atoms that bonds lead to from one, without those that are cut."""
        seen, todo = {first}, [first]
        while todo:
            for other, k in near[todo.pop()]:
                if k not in cut and other not in seen:
                    seen.add(other)
                    todo.append(other)
        return frozenset(seen)

    single = [k for k, (i, j, order) in enumerate(bonds) if order == 1 and heavy[i] and heavy[j]]
    bridges = [k for k in single if bonds[k][1] not in reached(bonds[k][0], (k,))]
    found: dict[frozenset[int], tuple[int, ...]] = {}
    for cut in [*((k,) for k in bridges), *combinations(bridges, 2)]:
        ends = dict.fromkeys(end for k in cut for end in bonds[k][:2])
        for part in sorted({reached(end, cut) for end in ends}, key=lambda own: (-len(own), min(own))):
            touched = all(len(part.intersection(bonds[k][:2])) == 1 for k in cut)
            if touched and least <= sum(heavy[a] for a in part) <= most:
                found.setdefault(part, cut)
    chosen = [(tuple(sorted(part)), cut) for part, cut in found.items()]
    order = np.random.default_rng(seed).permutation(len(chosen))[:limit]
    return [_capped(molecule, *chosen[k]) for k in order]


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
    """Ligands posed in pockets, of complexes/pl_pockets.npz, and pieces of them; every example says its "pocket".

    Args:
        pieces: At most so many pieces of each ligand beside it; 0 for none.
        whole: Whether ligands themselves are examples, those that are not too large.
        least: Heavy atoms of a piece, at least.
        most: Heavy atoms of a piece or a ligand, at most.
        scatter: How far the centre of a pocket is from the middle of its ligand, a standard deviation along each axis,
            angstrom: users know the place of a ligand that is not made yet no better.
    """

    pieces: int = 8
    whole: bool = True
    least: int = 5
    most: int = 16
    scatter: float = 0.0

    def __post_init__(self) -> None:
        check(self, pieces=at_least(0), least=at_least(2), most=at_least(self.least), scatter=NOT_NEGATIVE)

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {**super().conditions, "pocket": Surroundings()}

    def load(self, split: str, root: Path | None = None) -> Examples:
        checked_split(split)
        folder = data_file("complexes/pl_pockets.npz", root, "ligands posed in pockets").parent
        return _examples(self, split == "test", folder, stamp(folder / "pl_pockets.npz"))

    def describe(self) -> str:
        return "1,110 ligands posed in 80 pockets, and pieces of them, of public benchmarks of binding free energies."


@lru_cache(maxsize=4)
def _examples(source: PocketLigands, test: bool, folder: Path, known: Stamp) -> Examples:
    """Ligands and pieces in the pockets of a split, those that RDKit sanitises and whose valences are right."""
    out: list[Example] = []
    gone: list[Rejected] = []
    for one in _series(folder, known):
        for number, ligand in enumerate(one.ligands if one.held == test else ()):
            own = [ligand] if source.whole and int((ligand.elements > 1).sum()) <= source.most else []
            own += pieces(ligand, source.least, source.most, source.pieces, number) if source.pieces else []
            for k, molecule in enumerate(own):
                name = f"{one.name} {ligand.name}" + (f" piece {k}" if molecule is not ligand else "")
                if len(molecule.fragments()) > 1 or not good(molecule):
                    gone.append(
                        Rejected(name, "; ".join(molecule.faults()) or "RDKit refuses it, or it is no one piece")
                    )
                    continue
                aside = np.random.default_rng(len(out)).normal(scale=source.scatter or 0.0, size=3)
                pocket = one.pocket.at(molecule.positions.mean(0) + aside)
                told = {**_numbers(molecule), "pocket": pocket.moved(np.eye(3), -pocket.centre)}
                placed = replace(molecule, positions=molecule.positions - pocket.centre, name=name)
                out.append(Example(placed, told, name))
    return Examples(out, gone)


def _numbers(molecule: Molecule) -> dict[str, float | int]:
    """The numbers that every source says: logP (Crippen) and rings."""
    from rdkit.Chem.rdMolDescriptors import CalcCrippenDescriptors

    mol = molecule.to_rdkit()
    with quiet():
        bare = chem().RemoveHs(mol)
        return {"logp": float(CalcCrippenDescriptors(bare)[0]), "n_rings": len(bare.GetRingInfo().AtomRings())}


@dataclass(frozen=True, eq=False)
class Series:
    """The ligands of one pocket, in one frame.

    Attributes:
        name: Of the series.
        pocket: Whole residues near any of the ligands, centred on their heavy atoms.
        ligands: With hydrogens, in their places.
        held: Whether they are for tests.
        known: What the table of targets says: "protein", "reference_pdb", "cluster", ...
    """

    name: str
    pocket: Pocket
    ligands: tuple[Molecule, ...]
    held: bool
    known: Mapping[str, str] = field(default_factory=dict)


def series(root: Path | None = None) -> tuple[Series, ...]:
    """All series of complexes/pl_pockets.npz, in the frames of their files.

    Raises:
        DataError: Data that are not there.
    """
    folder = data_file("complexes/pl_pockets.npz", root, "ligands posed in pockets").parent
    return _series(folder, stamp(folder / "pl_pockets.npz"))


def load_complexes(split: str, root: Path | None = None) -> list[Complex]:
    """The whole ligands of "train" or "test" in their pockets, each with "exp_dG_kcal" where it is known.

    Raises:
        DataError: Another split, or data that are not there.
    """
    test = checked_split(split) == "test"
    kept = ("series", "protein", "reference_pdb", "cluster")
    return [
        Complex(
            one.pocket, ligand, f"{one.name} {ligand.name}",
            {**{word: one.known[word] for word in kept if one.known.get(word)}, **ligand.properties},
        )
        for one in series(root) if one.held == test for ligand in one.ligands
    ]  # fmt: skip


@lru_cache(maxsize=1)
def _series(folder: Path, known: Stamp) -> tuple[Series, ...]:
    with unsealed(folder / "pl_targets.csv").open(encoding="utf8") as stream:
        targets = list(csv.DictReader(stream))
    with unsealed(folder / "pl_ligands.csv").open(encoding="utf8") as stream:
        rows = list(csv.DictReader(stream))
    with np.load(folder / "pl_pockets.npz", allow_pickle=False) as data:
        z = {name: data[name] for name in data.files}
    out = []
    for t, row in enumerate(targets):
        a, b = z["pocket_offset"][t : t + 2]
        words = [tuple(one.decode() for one in z[f"pocket_{name}"][a:b]) for name in ("atom", "res", "chain", "resnum")]
        heavy, middle = z["pocket_z"][a:b] > 1, z["centre"][t]
        pocket = Pocket(
            z["pocket_z"][a:b][heavy], z["pocket_mA"][a:b][heavy] / 1000 + middle,
            *(tuple(np.array(own)[heavy].tolist()) for own in words), centre=middle, name=row["series"],
        )  # fmt: skip
        ligands = []
        for k in np.flatnonzero(z["lig_target"] == t):
            c, d = z["lig_offset"][k : k + 2]
            e, f = z["lig_bond_offset"][k : k + 2]
            told = z["lig_z"][c:d], z["lig_mA"][c:d] / 1000 + middle, z["lig_bonds"][e:f], z["lig_charge"][c:d]
            energy = rows[k]["exp_dG_kcal"]
            properties = {"exp_dG_kcal": float(energy)} if energy else {}
            try:
                ligands.append(Molecule(*told, rows[k]["ligand"], properties))
            except MoleculeError as error:
                raise DataError(f"{folder}: ligand {rows[k]['ligand']}: {error.got}", error.expected) from error
        out.append(Series(row["series"], pocket, tuple(ligands), int(row["cluster"]) % HELD == 0, row))
    return tuple(out)
