"""Where molecules come from: packed sets (`QM9`, `QM7`), and files of one's own (`MoleculeFiles`).

Every example is a `Molecule` with numbers that may be asked for: "logp" (Crippen), "n_rings", and what else its source
knows of it. Examples are rows of arrays, made into molecules when they are asked for; what cannot be used is listed
with the reason. Of the packed sets every twentieth row is "test"; of files about a tenth of the graphs, by a hash of
canonical SMILES without stereochemistry, so that conformers and mirror images of one molecule stay together.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gendiff.conditions import Condition, Number
from gendiff.domain import Examples, Made, Rejected, Source, data_file, unsealed
from gendiff.errors import DataError, GendiffError, at_least, check, printable
from gendiff.files import Stamp, stamp
from gendiff.lazy import Lazy

from .measures import describe
from .molecule import NUMBERS, SYMBOLS, VALENCES, Molecule
from .reading import SUFFIXES, load

HELD = 20  # one row in so many of a packed set is for tests


@dataclass(frozen=True, eq=False)
class Packed:
    """Molecules as arrays, end to end; `packed(row)` is one of them.

    Attributes:
        elements: `[A]` atomic numbers.
        positions: `[A, 3]`, in angstrom over `scale`.
        charges: `[A]`.
        offset: `[N + 1]`, where the atoms of each begin.
        bonds: `[B, 3]`, two atoms counted inside the molecule, and the order.
        bond_offset: `[N + 1]`.
        numbers: `[N]` each, by name; NaN where one is not known.
        names: of each; `prefix` and the row's id where there are none.
        scale: angstrom to the unit of positions.
    """

    elements: np.ndarray
    positions: np.ndarray
    charges: np.ndarray
    offset: np.ndarray
    bonds: np.ndarray
    bond_offset: np.ndarray
    numbers: Mapping[str, np.ndarray]
    names: Sequence[str] = ()
    ids: np.ndarray | None = None
    prefix: str = ""
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.offset) - 1

    def __call__(self, row: int) -> Molecule:
        """The molecule of a row."""
        at, of = slice(*self.offset[row : row + 2]), slice(*self.bond_offset[row : row + 2])
        positions = self.positions[at].astype(np.float64) * self.scale
        told = self.elements[at], positions, self.bonds[of], self.charges[at]
        return Molecule(*told, self.label(row), self.cond(row))

    def label(self, row: int) -> str:
        """The name of a row."""
        return self.names[row] if len(self.names) else f"{self.prefix} {row if self.ids is None else self.ids[row]}"

    def cond(self, row: int) -> dict[str, float | int]:
        """What is known of a row."""
        own = {name: values[row].item() for name, values in self.numbers.items()}
        return {name: value for name, value in own.items() if math.isfinite(value)}

    def faults(self) -> dict[int, str]:
        """The rows of which an atom has a valence that cannot be, with the first such atom."""
        size = np.diff(self.bond_offset)
        first = np.repeat(self.offset[:-1], size)
        valence = np.zeros(len(self.elements), np.int64)
        for end in (0, 1):
            np.add.at(valence, self.bonds[:, end].astype(np.int64) + first, self.bonds[:, 2].astype(np.int64))
        kinds = np.stack([self.elements, self.charges, valence], 1).astype(np.int64)
        codes = (kinds[:, 0] << 16) + ((kinds[:, 1] + 128) << 8) + np.minimum(valence, 255)
        every, which = np.unique(codes, return_inverse=True)
        told = [(code >> 16, (code >> 8) % 256 - 128, code % 256) for code in every.tolist()]
        wrong = np.array([v not in VALENCES.get((z, q), ()) for z, q, v in told], dtype=bool)
        atoms = np.flatnonzero(wrong[which])
        rows = np.searchsorted(self.offset, atoms, side="right") - 1
        found: dict[int, str] = {}
        for row, atom in zip(rows.tolist(), atoms.tolist(), strict=True):
            z, q, v = kinds[atom].tolist()
            found.setdefault(row, f"valence {v} of {SYMBOLS[z]} with charge {q:+d}")
        return found

    def examples(self, rows: np.ndarray, rejected: Sequence[Rejected] = (), **told: Any) -> Examples:
        """These rows as examples, made when asked for."""
        keys: Any = rows
        made = Made(Lazy(keys, self), Lazy(keys, self.cond), Lazy(keys, self.label))
        return Examples(made, rejected, **told)


def pack(molecules: Iterable[Molecule], names: Iterable[str] = ()) -> Packed:
    """Molecules, end to end; `names` are those of their properties that are kept, where they are numbers."""
    every, names = list(molecules), tuple(names)
    lengths, ties = [len(m) for m in every], [len(m.bonds) for m in every]
    return Packed(
        np.concatenate([m.elements for m in every] or [np.zeros(0)]).astype(np.uint8),
        np.concatenate([m.positions for m in every] or [np.zeros((0, 3))]),
        np.concatenate([m.charges for m in every] or [np.zeros(0)]).astype(np.int8),
        np.cumsum([0, *lengths]),
        np.concatenate([m.bonds for m in every] or [np.zeros((0, 3))]).astype(np.int32),
        np.cumsum([0, *ties]),
        {name: np.array([_number(m.properties.get(name)) for m in every]) for name in names},
        tuple(m.name for m in every),
    )


def census(molecules: Sequence[Molecule]) -> tuple[set[tuple[int, int]], np.ndarray]:
    """The pairs of element and charge that molecules have, and how many of them have 0, 1, 2, ... atoms.

    Packed ones are counted where they lie, without being made.
    """
    if isinstance(molecules, Lazy) and isinstance(molecules.make, Packed):
        packed, rows = molecules.make, np.asarray(molecules.keys)
        sizes = np.diff(packed.offset)
        wanted = np.repeat(np.isin(np.arange(len(packed)), rows), sizes)
        codes = np.unique(packed.elements.astype(np.int64)[wanted] * 512 + packed.charges[wanted] + 256)
        pairs = np.stack([codes // 512, codes % 512 - 256], 1)
        counts = np.bincount(sizes[rows])
    else:
        pairs = np.array([pair for one in molecules for pair in zip(one.elements, one.charges, strict=True)])
        counts = np.bincount([len(one) for one in molecules])
    return {(int(z), int(q)) for z, q in np.unique(pairs, axis=0)}, counts


def _number(value: object) -> float:
    """A property as a number; NaN for what is none."""
    return float(value) if isinstance(value, int | float | np.number) else math.nan


def checked_split(split: str) -> str:
    """The split.

    Raises:
        DataError: If it is neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise DataError(f"the split {split!r}", '"train" or "test"')
    return split


class MoleculeSource(Source):
    """A source of molecules, with numbers that may be asked for."""

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What it says of its molecules, by name; not yet fitted."""
        return {"logp": Number(), "n_rings": Number("rings")}


_UNITS = {"binding_energy": "hartree", "ionization_energy": "hartree", "dipole": "e bohr", "hof": "kcal/mol"}


class _PackedSource(MoleculeSource):
    """A packed file; every twentieth row is for tests."""

    file: str
    called: str
    known: tuple[str, ...]
    charged: bool

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {**super().conditions, **{name: Number(_UNITS[name]) for name in self.known}}

    def load(self, split: str, root: Path | None = None) -> Examples:
        test = checked_split(split) == "test"
        path = data_file(self.file, root, f"the packed molecules of {self.called}")
        packed = _open(path, stamp(path), self.called, ("logp", "n_rings", *self.known))
        rows = np.flatnonzero((np.arange(len(packed)) % HELD == 0) == test)
        why = packed.faults()
        if not self.charged:
            charged = np.add.reduceat(packed.charges != 0, packed.offset[:-1]) > 0
            why.update({int(row): "charged" for row in np.flatnonzero(charged)})
        gone = [Rejected(packed.label(int(row)), why[int(row)]) for row in rows if int(row) in why]
        return packed.examples(rows[[int(row) not in why for row in rows]], gone)


@dataclass(frozen=True)
class QM9(_PackedSource):
    """Molecules of H, C, N and O with up to nine heavy atoms, of molecules/qm9.npz (Ramakrishnan et al. 2014).

    Args:
        charged: whether those with formal charges are kept, nearly all of them zwitterions.
    """

    charged: bool = True
    file = "molecules/qm9.npz"
    called = "QM9"
    known = ("binding_energy", "ionization_energy", "dipole")

    def describe(self) -> str:
        return "QM9: 115,870 molecules of H, C, N and O with up to nine heavy atoms, geometries of B3LYP/6-31G(2df,p)."


@dataclass(frozen=True)
class QM7(_PackedSource):
    """Molecules of H, C, N, O and S with up to seven heavy atoms, of molecules/qm7.npz (Rupp et al. 2012).

    Args:
        charged: whether those with formal charges are kept.
    """

    charged: bool = True
    file = "molecules/qm7.npz"
    called = "QM7"
    known = ("hof",)

    def describe(self) -> str:
        return "QM7: 6,391 molecules of H, C, N, O and S with up to seven heavy atoms."


@lru_cache(maxsize=2)
def _open(path: Path, known: Stamp, called: str, numbers: tuple[str, ...]) -> Packed:
    """A packed file."""
    with np.load(path, allow_pickle=False) as data:
        return Packed(
            data["z"],
            data["pos_mA"],
            data["formal_charge"],
            data["offset"],
            data["bonds"],
            data["bond_offset"],
            {name: data[name] for name in numbers if name in data},
            ids=data.get("id"),
            prefix=called,
            scale=1e-3,
        )


@dataclass(frozen=True)
class MoleculeFiles(MoleculeSource):
    """The molecules of a file or of a folder with its subfolders: SDF, MOL, MOL2, XYZ, PDB ligands, SMILES, or gzipped.

    Molecules that cannot be used are listed with the reason, as `load` of this package names it; so are those of
    several fragments, of elements or sizes that are not wanted, and with valences that cannot be. A tenth of the
    graphs is "test", and at least one where there are two.

    Args:
        folder: where they are, or the file.
        hydrogens: "add" puts missing ones in place, "keep" leaves them implied.
        coordinates: "make" makes positions where a file has none in space (ETKDGv3), "refuse" lists those molecules.
        fragments: "refuse" lists molecules of several pieces, "largest" takes the piece with most atoms.
        elements: symbols of the elements that are wanted; all by default.
        max_atoms: most atoms, with hydrogens.
        asks: data fields that may be asked for, beside "logp" and "n_rings"; they are numbers.
        charge: of molecules in XYZ files that say none.
        template: SMILES of the ligands of PDB files.
        seed: of made positions.
    """

    folder: str
    hydrogens: Literal["keep", "add"] = "add"
    coordinates: Literal["refuse", "make"] = "refuse"
    fragments: Literal["refuse", "largest"] = "refuse"
    elements: tuple[str, ...] = ()
    max_atoms: int = 128
    asks: tuple[str, ...] = ()
    charge: int = 0
    template: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, error=DataError, max_atoms=at_least(1))
        unknown = [symbol for symbol in self.elements if symbol not in NUMBERS]
        if unknown:
            raise DataError(f"elements={self.elements!r}", f"symbols of elements; {unknown[0]!r} is none")

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {**super().conditions, **{name: Number() for name in self.asks}}

    def load(self, split: str, root: Path | None = None) -> Examples:
        test = checked_split(split) == "test"
        home = Path(self.folder) if root is None or Path(self.folder).is_absolute() else Path(root) / self.folder
        home = unsealed(home)
        paths, rejected, others = _listed(home)
        packed, graphs, gone, notes = _gathered(self, tuple((path, stamp(path)) for path in paths))
        held = _held(graphs)
        rows = np.flatnonzero(held == test)
        rejected = [] if test else [*rejected, *gone]
        if not len(rows):
            first = f": {gone[0].name}, {gone[0].reason}" if gone else ""
            raise DataError(
                f"{home} gave no examples for {split!r} ({len(paths)} files, {len(gone)} molecules rejected{first})",
                "two molecules at least, each sound",
            )
        told = [f"{int(held.sum())} of {len(held)} molecules are for tests, to judge by"] if held.any() else []
        return packed.examples(rows, rejected, others=() if test else others, notes=() if test else [*told, *notes])

    def describe(self) -> str:
        return f"The molecules of {self.folder}, up to {self.max_atoms} atoms."


def _listed(home: Path) -> tuple[list[Path], list[Rejected], list[str]]:
    """The files of molecules, what cannot be opened, and files of other kinds."""
    if home.is_file():
        return [home], [], []
    if not home.is_dir():
        raise DataError(f"there is no file or folder {home}", "molecules", 'MoleculeFiles("my/molecules.sdf")')
    paths, rejected, others = [], [], []
    for path in sorted(home.rglob("*")):
        name = printable(path.relative_to(home).as_posix())
        if path.is_symlink() and not path.is_file():
            rejected.append(Rejected(name, "a link that leads to no file"))
        elif not path.is_file() or path.name.startswith("."):
            continue
        elif path.name.lower().removesuffix(".gz").endswith(SUFFIXES):
            paths.append(path)
        else:
            others.append(name)
    return paths, rejected, others


@lru_cache(maxsize=4)
def _gathered(
    source: MoleculeFiles, files: tuple[tuple[Path, Stamp], ...]
) -> tuple[Packed, list[str], list[Rejected], list[str]]:
    """The molecules of files that can be used, their graphs, those that cannot, and what was done."""
    kept: list[Molecule] = []
    graphs: list[str] = []
    gone: list[Rejected] = []
    notes: dict[str, int] = {}
    names = ("hydrogens", "coordinates", "fragments", "charge", "template", "seed")
    how = {name: getattr(source, name) for name in names}
    for path, _ in files:
        short = printable(path.name)
        try:
            found, report = load(path, **how)
        except GendiffError as error:
            gone.append(Rejected(short, error.got.removeprefix(f"{printable(str(path))}: ")))
            continue
        gone += [Rejected(f"{short}: {name}", why) for why, names in report.dropped.items() for name in names]
        for note, names in report.notes.items():
            notes[note] = notes.get(note, 0) + len(names)
        for molecule in found:
            why = _unwanted(source, molecule)
            if why:
                gone.append(Rejected(f"{short}: {molecule.name}", why))
                continue
            own = describe(molecule) if not molecule.implied else describe(molecule.with_hydrogens())
            kept.append(molecule.told(logp=own.logp, n_rings=len(own.rings)))
            graphs.append(own.smiles)
    packed = pack(kept, dict.fromkeys(("logp", "n_rings", *source.asks)))
    return packed, graphs, gone, [f"{count} x {note}" for note, count in notes.items()]


def _unwanted(source: MoleculeFiles, molecule: Molecule) -> str:
    """Why a molecule is not used; empty if it is."""
    if len(molecule) > source.max_atoms:
        return f"{len(molecule)} atoms, more than {source.max_atoms}"
    odd = [symbol for symbol in dict.fromkeys(molecule.symbols) if source.elements and symbol not in source.elements]
    if odd:
        return f"the element {odd[0]}, which is none of {', '.join(source.elements)}"
    faults = molecule.faults()
    return faults[0] if faults else ""


def _held(graphs: Sequence[str]) -> np.ndarray:
    """Which molecules are held out, by their graphs: about a tenth, neither none nor all where there are two graphs."""
    place = {graph: zlib.crc32(graph.encode()) for graph in graphs}
    held = {graph for graph, number in place.items() if number % 10 == 0}
    if len(place) > 1 and len(held) in (0, len(place)):
        first = min(place, key=lambda graph: (place[graph], graph))
        held = {first} if not held else held - {first}
    return np.array([graph in held for graph in graphs], dtype=bool)
