r"""A molecule as a chemist knows it: atoms in angstrom, formal charges, and bonds of whole orders.

    valence(i) = sum of the orders of the bonds of i,        sound  <=>  connected, valence(i) in VALENCES[z_i, q_i]

Bonds are Kekule bonds, of order 1, 2 or 3; an aromatic bond is one of them, never 1.5. Hydrogens are atoms. Where a
file leaves them out, `implied` says so, and a valence may fall short by what they fill. Which way a centre or a double
bond is turned (R or S, E or Z) is read from the positions; nothing else is stored of it, so that it cannot disagree.

An atom that lacks a bond is a radical to RDKit, whose sanitising accepts it; it is not sound. Atoms are counted from 0
in arrays, and from 1 in sentences, as files count them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np

from gendiff.errors import GendiffError

from .toolkit import chem, named, problems, quiet, some

_PERIODS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc
Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi
Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = ("", *_PERIODS.split())
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if symbol}
FAR = 1e5  # angstrom; no coordinate is farther out

_TABLE = {  # the valences of an element by its charge
    "H": {0: (1,), 1: (0,), -1: (0,)},
    "B": {0: (3,), -1: (4,)},
    "C": {0: (4,), 1: (3,), -1: (3,)},
    "N": {0: (3,), 1: (4,), -1: (2,)},
    "O": {0: (2,), 1: (3,), -1: (1,), -2: (0,)},
    "F": {0: (1,), -1: (0,)},
    "Si": {0: (4,), -1: (5,), -2: (6,)},
    "P": {0: (3, 5), 1: (4,), -1: (2, 4, 6)},
    "S": {0: (2, 4, 6), 1: (3, 5), -1: (1, 3, 5), -2: (0,)},
    "Cl": {0: (1,), -1: (0,), 1: (2,), 2: (3,), 3: (4,)},
    "Ge": {0: (4,)},
    "As": {0: (3, 5), 1: (4,), -1: (2, 4, 6)},
    "Se": {0: (2, 4, 6), 1: (3, 5), -1: (1, 3, 5)},
    "Br": {0: (1,), -1: (0,), 1: (2,), 2: (3,), 3: (4,)},
    "Te": {0: (2, 4, 6), 1: (3, 5), -1: (1, 3, 5)},
    "I": {0: (1, 3, 5), -1: (0,), 1: (2, 4), 3: (4,)},
    **{metal: {1: (0,)} for metal in ("Li", "Na", "K")},
    **{metal: {2: (0,)} for metal in ("Mg", "Ca", "Zn")},
}
VALENCES: Mapping[tuple[int, int], tuple[int, ...]] = MappingProxyType(
    {(NUMBERS[symbol], charge): allowed for symbol, own in _TABLE.items() for charge, allowed in own.items()}
)
"""The valences of an atom by (atomic number, formal charge); what is not listed is right for no valence."""


class MoleculeError(GendiffError):
    """A molecule that cannot be read, made, named or written."""


@dataclass(frozen=True)
class Labels:
    """The labels of Cahn, Ingold and Prelog that positions give.

    Attributes:
        centres: "R" or "S" by atom; "r" or "s" where only other labels tell its neighbours apart, which mirror images
            share.
        bonds: "E" or "Z" by the two atoms of a double bond, the lower one first.
    """

    centres: Mapping[int, str] = field(default_factory=dict)
    bonds: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @property
    def hands(self) -> tuple[str, ...]:
        """The labels R and S, in the order of atoms."""
        return tuple(label for _, label in sorted(self.centres.items()) if label in "RS")


@dataclass(frozen=True, eq=False)
class Molecule:
    """Atoms, bonds and positions.

    Args:
        elements: atomic numbers, `[N]`.
        positions: `[N, 3]`, angstrom.
        bonds: `[M, 3]`, two atoms and the order 1, 2 or 3; kept with the lower atom first, in order.
        charges: formal charges, `[N]`. Empty means none.
        name: where it came from.
        properties: numbers and texts by name, the data fields of an SDF file.
        implied: whether hydrogens that are no atoms are meant all the same, as in files that leave them out.

    Raises:
        MoleculeError: for shapes that do not fit, elements there are not, positions that are not finite, bonds of other
            orders, of an atom with itself, of atoms there are not, or given twice.
    """

    elements: np.ndarray
    positions: np.ndarray
    bonds: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    charges: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    name: str = ""
    properties: Mapping[str, float | int | str] = field(default_factory=dict)
    implied: bool = False

    def __post_init__(self) -> None:
        elements, positions = _whole("elements", self.elements, (-1,)), np.asarray(self.positions, dtype=np.float64)
        size = len(elements)
        charges = _whole("charges", self.charges, (-1,)) if len(self.charges) else np.zeros(size, np.int64)
        bonds = _whole("bonds", self.bonds, (-1, 3))
        if not size or positions.shape != (size, 3) or len(charges) != size:
            raise MoleculeError(
                f"{size} elements, positions {list(positions.shape)}, {len(charges)} charges",
                "at least one atom, [N] elements, [N, 3] positions in angstrom, [N] charges or none",
            )
        if elements.min() < 1 or elements.max() >= len(SYMBOLS):
            odd = int(np.flatnonzero((elements < 1) | (elements >= len(SYMBOLS)))[0])
            raise MoleculeError(f"atom {odd + 1} has atomic number {elements[odd]}", "a number from 1 (H) to 118 (Og)")
        if not np.isfinite(positions).all() or np.abs(positions).max() >= FAR:
            odd = int(np.flatnonzero(~(np.abs(positions) < FAR).all(-1))[0])
            raise MoleculeError(f"atom {odd + 1} is at {positions[odd].tolist()}", "finite positions in angstrom")
        values = dict(self.properties)
        for word, value in values.items():
            if not isinstance(word, str) or not isinstance(value, str | Real):
                raise MoleculeError(f"the property {word!r} is {value!r}", "a number or a text under a text")
        for what, own in (("elements", elements), ("positions", positions), ("charges", charges)):
            object.__setattr__(self, what, own)
        object.__setattr__(self, "bonds", self._checked(bonds, size))
        object.__setattr__(self, "properties", MappingProxyType(values))

    @staticmethod
    def _checked(bonds: np.ndarray, size: int) -> np.ndarray:
        """The bonds in order, if they fit."""
        if not len(bonds):
            return bonds.reshape(0, 3)
        ends = np.sort(bonds[:, :2], 1)
        if ends.min() < 0 or ends.max() >= size:
            raise MoleculeError(
                f"a bond between atoms {(ends[ends.max(1).argmax()] + 1).tolist()}", f"atoms 1 to {size}"
            )
        if (ends[:, 0] == ends[:, 1]).any():
            odd = int(ends[ends[:, 0] == ends[:, 1]][0, 0])
            raise MoleculeError(f"a bond of atom {odd + 1} with itself", "bonds between two atoms")
        if not np.isin(bonds[:, 2], (1, 2, 3)).all():
            i, j, order = bonds[~np.isin(bonds[:, 2], (1, 2, 3))][0]
            raise MoleculeError(f"the bond {i + 1}-{j + 1} has order {order}", "the order 1, 2 or 3")
        order = np.lexsort((ends[:, 1], ends[:, 0]))
        ends = ends[order]
        twice = (ends[1:] == ends[:-1]).all(1)
        if twice.any():
            i, j = ends[1:][twice][0]
            raise MoleculeError(f"the bond {i + 1}-{j + 1} is given twice", "every bond once")
        return np.column_stack([ends, bonds[order, 2]])

    def __len__(self) -> int:
        return len(self.elements)

    def __repr__(self) -> str:
        return f"<Molecule {self.name or 'unnamed'}: {self.formula}, {len(self)} atoms, {len(self.bonds)} bonds>"

    def __reduce__(self) -> tuple[Any, ...]:
        told = (self.elements, self.positions, self.bonds, self.charges, self.name, dict(self.properties), self.implied)
        return Molecule, told

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of the elements."""
        return tuple(SYMBOLS[z] for z in self.elements.tolist())

    @property
    def formula(self) -> str:
        """Hill's formula of the atoms that are there, with the charge: "C2H6O", "NH4+"."""
        count = Counter(self.symbols)
        first = [symbol for symbol in ("C", "H") if symbol in count and "C" in count]
        words = [*first, *sorted(symbol for symbol in count if symbol not in first)]
        total, sign = abs(self.charge), "+" if self.charge > 0 else "-"
        own = "".join(f"{symbol}{count[symbol] if count[symbol] > 1 else ''}" for symbol in words)
        return own + ("" if not total else sign if total == 1 else f"{sign}{total}")

    @property
    def charge(self) -> int:
        """The sum of formal charges."""
        return int(self.charges.sum())

    @property
    def orders(self) -> np.ndarray:
        """Bond orders of all pairs, `[N, N]` int64, 0 for none."""
        square = np.zeros((len(self), len(self)), np.int64)
        i, j, order = self.bonds.T
        square[i, j] = square[j, i] = order
        return square

    @property
    def valences(self) -> np.ndarray:
        """The sum of the orders of each atom's bonds, `[N]` int64."""
        total = np.zeros(len(self), np.int64)
        np.add.at(total, self.bonds[:, :2].ravel(), np.repeat(self.bonds[:, 2], 2))
        return total

    def faults(self) -> tuple[str, ...]:
        """The atoms whose valence cannot be, a sentence each: which atom, which valence, what is allowed."""
        found = []
        for k, valence in enumerate(self.valences.tolist()):
            allowed = self._allowed(k)
            if valence not in allowed and not (self.implied and valence < max(allowed, default=0)):
                charge = int(self.charges[k])
                known = f"{' or '.join(map(str, allowed))} is allowed" if allowed else "no valence is known for it"
                found.append(f"{self._called(k)}, charge {charge:+d}, has valence {valence}; {known}")
        return tuple(found)

    def radicals(self) -> tuple[int, ...]:
        """The atoms that lack a bond, radicals to RDKit's sanitising. None if hydrogens are implied."""
        if self.implied:
            return ()
        own = enumerate(self.valences.tolist())
        return tuple(k for k, v in own if v not in self._allowed(k) and v < max(self._allowed(k), default=0))

    @property
    def sound(self) -> bool:
        """Whether it is one piece and every valence is right; RDKit's sanitising is `measures.valid`."""
        return len(self.fragments()) == 1 and not self.faults()

    def _allowed(self, k: int) -> tuple[int, ...]:
        return VALENCES.get((int(self.elements[k]), int(self.charges[k])), ())

    def _called(self, k: int) -> str:
        return f"atom {k + 1} ({SYMBOLS[int(self.elements[k])]})"

    def fragments(self) -> tuple[np.ndarray, ...]:
        """The atoms of each connected piece, in order, the largest piece first."""
        group = np.arange(len(self))
        for i, j, _ in self.bonds.tolist():
            if group[i] != group[j]:
                group[group == group[j]] = group[i]
        pieces = [np.flatnonzero(group == own) for own in dict.fromkeys(group.tolist())]
        return tuple(sorted(pieces, key=lambda piece: (-len(piece), piece[0])))

    def take(self, index: np.ndarray | Sequence[int] | slice) -> Molecule:
        """These atoms, in this order, with the bonds among them."""
        places = np.arange(len(self))[index]
        new = np.full(len(self), -1)
        new[places] = np.arange(len(places))
        bonds = self.bonds[(new[self.bonds[:, :2]] >= 0).all(1)]
        bonds = np.column_stack([new[bonds[:, :2]], bonds[:, 2]])
        return replace(
            self,
            elements=self.elements[places],
            positions=self.positions[places],
            bonds=bonds,
            charges=self.charges[places],
        )

    def moved(self, positions: np.ndarray) -> Molecule:
        """The same atoms and bonds elsewhere, `[N, 3]` angstrom."""
        return replace(self, positions=positions)

    def mirrored(self) -> Molecule:
        """The mirror image (x to -x): R and S exchanged, all distances the same."""
        return replace(self, positions=self.positions * np.array([-1.0, 1.0, 1.0]))

    def told(self, **properties: float | str) -> Molecule:
        """The same with more properties."""
        return replace(self, properties={**self.properties, **properties})

    def to_rdkit(self, *, sanitize: bool = True) -> Any:
        """An RDKit molecule of the same atoms, bonds, charges and positions, with the stereochemistry of the positions.

        Nothing is changed: RDKit's cleaning of five-valent nitrogen is not run. Atoms that lack a bond are radicals.

        Args:
            sanitize: whether RDKit looks at it (valences, rings, aromaticity); without, its bonds are as they stand.

        Raises:
            MoleculeError: what RDKit will not have, with the reason.
        """
        mol = self._built()
        if not sanitize:
            return mol.GetMol()
        found = problems(mol)
        if found:
            raise MoleculeError(f"{self.name or self.formula}: {'; '.join(found)}", "a molecule that RDKit sanitises")
        kinds = chem().SanitizeFlags
        with quiet():
            unclean = kinds.SANITIZE_CLEANUP | kinds.SANITIZE_CLEANUP_ORGANOMETALLICS
            chem().SanitizeMol(mol, sanitizeOps=kinds.SANITIZE_ALL ^ unclean)
            chem().AssignStereochemistryFrom3D(mol)
        return mol.GetMol()

    def _built(self) -> Any:
        Chem = chem()
        from rdkit.Geometry import Point3D

        mol, place = Chem.RWMol(), Chem.Conformer(len(self))
        rows = zip(self.elements.tolist(), self.charges.tolist(), self.positions.tolist(), strict=True)
        for k, (number, charge, at) in enumerate(rows):
            atom = Chem.Atom(number)
            atom.SetFormalCharge(charge)
            atom.SetNoImplicit(not self.implied)
            mol.AddAtom(atom)
            place.SetAtomPosition(k, Point3D(*at))
        kinds = (None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
        for i, j, order in self.bonds.tolist():
            mol.AddBond(i, j, kinds[order])
        place.Set3D(True)
        mol.AddConformer(place)
        mol.SetProp("_Name", self.name)
        return mol

    @classmethod
    def from_rdkit(
        cls,
        mol: Any,
        *,
        name: str | None = None,
        properties: Mapping[str, float | str] | None = None,
        conformer: int = -1,
        implied: bool = False,
    ) -> Molecule:
        """The atoms, bonds, charges and positions of an RDKit molecule.

        Args:
            mol: with a conformer; it is not changed.
            name: by default its own.
            properties: by default its own.
            conformer: the id of the conformer.
            implied: whether hydrogens that are no atoms are accepted, and implied.

        Raises:
            MoleculeError: no positions, hydrogens that are no atoms, isotopes, atoms or bonds that are none (queries,
                dative bonds), or aromatic bonds that cannot be kekulised.
        """
        Chem = chem()
        called = name if name is not None else (mol.GetProp("_Name") if mol.HasProp("_Name") else "")
        if not mol.GetNumConformers():
            raise MoleculeError(
                f"{called or 'a molecule'} of RDKit without positions", "a conformer", "rdDistGeom.EmbedMolecule(mol)"
            )
        mol = Chem.Mol(mol)
        with quiet():
            mol.UpdatePropertyCache(False)
            try:
                Chem.Kekulize(mol, clearAromaticFlags=True)
            except Chem.KekulizeException:
                raise MoleculeError(f"{called or 'a molecule'}: {'; '.join(problems(mol))}", "Kekule bonds") from None
        for atom in mol.GetAtoms():
            who = named(mol, atom.GetIdx())
            if not atom.GetAtomicNum():
                raise MoleculeError(f"{who} is no element", "atoms, no queries or dummies")
            if atom.GetIsotope():
                raise MoleculeError(
                    f"{who} is labelled with the isotope {atom.GetIsotope()}, which a Molecule has no place for",
                    "atoms without labels",
                    "atom.SetIsotope(0)",
                )
            if not implied and atom.GetTotalNumHs():
                raise MoleculeError(
                    f"{who} has {atom.GetTotalNumHs()} hydrogens that are no atoms",
                    "hydrogens as atoms",
                    "Chem.AddHs(mol, addCoords=True), or from_rdkit(mol, implied=True)",
                )
        kinds = {Chem.BondType.SINGLE: 1, Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3}
        bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), kinds.get(b.GetBondType(), 0)) for b in mol.GetBonds()]
        odd = [f"{i + 1}-{j + 1}" for i, j, order in bonds if not order]
        if odd:
            raise MoleculeError(f"the bonds {some(odd)} are not single, double or triple", "Kekule bonds")
        own = (
            dict(mol.GetPropsAsDict(includePrivate=False, includeComputed=False)) if properties is None else properties
        )
        return cls(
            np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.int64),
            mol.GetConformer(conformer).GetPositions(),
            np.array(bonds, np.int64).reshape(-1, 3),
            np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], np.int64),
            called,
            {word: value for word, value in own.items() if isinstance(value, str | int | float)},
            implied and any(atom.GetTotalNumHs() for atom in mol.GetAtoms()),
        )

    def smiles(self, *, stereo: bool = True) -> str:
        """Canonical SMILES, hydrogens left out; raises MoleculeError for what RDKit will not have."""
        with quiet():
            return chem().MolToSmiles(chem().RemoveHs(self.to_rdkit()), isomericSmiles=stereo)

    def inchikey(self) -> str:
        """The InChIKey, a hash of the structure with its stereochemistry.

        Raises:
            MoleculeError: for what RDKit or InChI will not have, and where RDKit was built without InChI.
        """
        from rdkit.Chem import inchi

        if not inchi.INCHI_AVAILABLE:
            raise MoleculeError("this RDKit was built without InChI", "an RDKit with it", "molecule.smiles()")
        with quiet():
            key = inchi.MolToInchiKey(self.to_rdkit())
        if not key:
            raise MoleculeError(f"InChI has no key for {self.name or self.formula}", "a molecule that it covers")
        return key

    def labels(self) -> Labels:
        """The labels of Cahn, Ingold and Prelog, from the positions.

        Raises:
            MoleculeError: for what RDKit will not have.
        """
        from rdkit.Chem import rdCIPLabeler

        mol = self.to_rdkit()
        with quiet():
            rdCIPLabeler.AssignCIPLabels(mol)
        centres = {a.GetIdx(): a.GetProp("_CIPCode") for a in mol.GetAtoms() if a.HasProp("_CIPCode")}
        bonds = {
            (min(ends), max(ends)): b.GetProp("_CIPCode")
            for b in mol.GetBonds()
            if b.HasProp("_CIPCode")
            for ends in [(b.GetBeginAtomIdx(), b.GetEndAtomIdx())]
        }
        return Labels({k: v for k, v in centres.items() if v in "RSrs"}, {k: v for k, v in bonds.items() if v in "EZ"})

    def with_hydrogens(self) -> Molecule:
        """The same with the hydrogens that are implied, behind the other atoms, where RDKit puts them.

        Raises:
            MoleculeError: for what RDKit will not have.
        """
        if not self.implied:
            return self
        with quiet():
            whole = chem().AddHs(self.to_rdkit(), addCoords=True)
        return replace(Molecule.from_rdkit(whole), name=self.name, properties=self.properties)

    def without_hydrogens(self) -> Molecule:
        """The heavy atoms, their hydrogens implied; molecular hydrogen stays as it is."""
        heavy = np.flatnonzero(self.elements != 1)
        return replace(self.take(heavy), implied=True) if len(heavy) else self


def _whole(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of whole numbers of this shape."""
    found = np.asarray(values)
    if not found.size:
        return np.zeros([max(size, 0) for size in shape], np.int64)
    fits = found.ndim == len(shape) and all(want in (-1, got) for want, got in zip(shape, found.shape, strict=True))
    if not fits or not (found.dtype.kind in "iu" or (found.dtype.kind == "f" and (found == np.round(found)).all())):
        wanted = "[N]" if len(shape) == 1 else "[M, 3]"
        raise MoleculeError(f"{name} of shape {list(found.shape)}, {found.dtype}", f"{wanted} whole numbers")
    return found.astype(np.int64)


def symbol_number(symbol: str) -> int | None:
    """The atomic number of a symbol in any case; None for what is none."""
    return NUMBERS.get(symbol) or NUMBERS.get(symbol.capitalize())
