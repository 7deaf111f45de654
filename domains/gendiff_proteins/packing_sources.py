r"""Where structures with side chains come from: the raw files of the data folder (`AtomicStructures`), one's own folder
(`SideChainFiles`).

    near(a, b) = |K_a & K_b| / min(|K_a|, |K_b|) > .3,   K the runs of three letters of a sequence

Clusters are the components of this relation (single linkage); no cluster gives more than `per_cluster` examples, the
most complete first, and about one in five, by a hash of its first name, is "test". An example is a file of up to
`longest` residues with all its chains, so that side chains see across interfaces, else each of its chains by itself.
"""

from __future__ import annotations

import csv
import io
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.domain import Example, Examples, Rejected, Source, data_file
from gendiff.errors import DataError, GendiffError, at_least, check
from gendiff.files import Stamp, stamp

from .atoms import ATOMS_OF, PLACE
from .building import TABLES, lettered, whole
from .names import LETTERS, STANDARD
from .reading import SUFFIXES, clean_path, entry, load
from .structure import Structure

TARS = ("complexes/bm5_raw.tar.gz", "proteins/parser_zoo.tar.gz", "proteins/motif_scaffolding.tar.gz")
PREDICTED = ("bindcraft/", "UniRef", "AF2", "_from_af3")
"""Files of predicted or designed models; they train, and do not judge."""
SHARED = 0.3
HELD = 5  # one cluster in so many is for tests


@dataclass(frozen=True)
class Unit:
    """One structure that may be an example.

    Args:
        structure: With side chains.
        letters: The sequence that it is compared by, whole where the structure is a part.
        judged: Whether it may stand among tests.
    """

    structure: Structure
    letters: str
    judged: bool = True


class AtomicSource(Source):
    """A source of structures with side chains."""

    shortest: int
    longest: int
    per_cluster: int

    def __post_init__(self) -> None:
        check(self, shortest=at_least(1), per_cluster=at_least(1))
        if self.longest < self.shortest:
            raise DataError(f"{self!r}", "shortest <= longest, in residues")

    def examples(self, units: Iterable[Unit], split: str, rejected: Sequence[Rejected] = ()) -> Examples:
        """Those of a split, and why the others are none."""
        if split not in ("train", "test"):
            raise DataError(f"the split {split!r}", '"train" or "test"')
        fit: list[Unit] = []
        out = list(rejected)
        for unit in sorted(units, key=lambda one: one.structure.name):
            fault = self.fault(unit.structure)
            if fault:
                out.append(Rejected(unit.structure.name, fault))
            else:
                fit.append(unit)
        kept: list[Structure] = []
        held = held_out_groups(fit, groups := clusters([unit.letters for unit in fit]))
        for group in sorted(set(groups)):
            own = [unit for unit, other in zip(fit, groups, strict=True) if other == group]
            if (group in held) != (split == "test"):
                continue
            if split == "test":
                out += [Rejected(one.structure.name, "a predicted model, none to judge by") for one in own
                        if not one.judged]  # fmt: skip
                own = [one for one in own if one.judged]
            own.sort(key=lambda one: (-completeness(one.structure), one.structure.name))
            kept += [one.structure for one in own[: self.per_cluster]]
            out += [Rejected(one.structure.name, "the cluster is full") for one in own[self.per_cluster :]]
        if not kept:
            raise DataError(
                f"{self!r} gave no examples for {split!r} ({len(fit)} structures, {len(out)} rejected)",
                "structures with side chains, of two or more proteins that are not alike",
            )
        return Examples([Example(one, {"backbone": one}, one.name) for one in kept], out)

    def fault(self, structure: Structure) -> str:
        """Why a structure is no example; empty where it is one."""
        if not self.shortest <= len(structure) <= self.longest:
            return f"not of {self.shortest} to {self.longest} residues"
        if "D" in structure.hands:
            return "D residues"
        if completeness(structure) < 0.5:
            return "less than half of the side chains"
        return ""


@dataclass(frozen=True)
class AtomicStructures(AtomicSource):
    """The structures with side chains of the data folder: bound and unbound partners of docking benchmark 5, the raw
    files of readers' tests and of motif benchmarks, and the pockets of protein-ligand series, without the ligand.

    Args:
        shortest: Fewest residues; less is a fragment, whose neighbours are missing.
        longest: Most residues of an example.
        per_cluster: Most examples of a cluster.
        pockets: Whether pockets are among them.
    """

    shortest: int = 40
    longest: int = 420
    per_cluster: int = 4
    pockets: bool = True

    def load(self, split: str, root: Path | None = None) -> Examples:
        paths = [data_file(name, root, "see the package's README") for name in TARS]
        extra = [data_file(f"complexes/pl_{name}", root) for name in ("pockets.npz", "targets.csv")]
        units, rejected = _archives(tuple((path, stamp(path)) for path in paths), self.longest)
        more = _pockets(extra[0], extra[1], stamp(extra[0])) if self.pockets else ()
        return self.examples([*units, *more], split, rejected)

    def describe(self) -> str:
        return (
            f"Structures with side chains of {self.shortest} to {self.longest} residues (wwPDB coordinates, CC0; "
            f"pockets MIT), at most {self.per_cluster} of a cluster."
        )


@dataclass(frozen=True)
class SideChainFiles(AtomicSource):
    """The structures of a folder (PDB, mmCIF and BinaryCIF, plain or gzipped, with its subfolders).

    Args:
        folder: Where they are.
        shortest: Fewest residues.
        longest: Most residues of an example; larger files give their chains.
        per_cluster: Most examples of a cluster of proteins that are alike.
    """

    folder: str
    shortest: int = 30
    longest: int = 420
    per_cluster: int = 8

    def load(self, split: str, root: Path | None = None) -> Examples:
        folder = Path(self.folder) if root is None or Path(self.folder).is_absolute() else Path(root) / self.folder
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}", "a folder of PDB or mmCIF files")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        paths = [path for path in files if path.name.lower().removesuffix(".gz").endswith(SUFFIXES)]
        rejected = [Rejected(clean_path(path.name), "no file of PDB, mmCIF or BinaryCIF") for path in files
                    if path not in paths]  # fmt: skip
        units: list[Unit] = []
        for path in paths:
            found, why = _file(path, stamp(path), self.longest)
            units += found
            rejected += [Rejected(clean_path(path.name), why)] if why else []
        return self.examples(units, split, rejected)

    def describe(self) -> str:
        return f"The structures below {self.folder} with side chains, of {self.shortest} to {self.longest} residues."


def completeness(structure: Structure) -> float:
    """The share of residues with torsions whose side chains are whole; 0 where none has torsions."""
    own = (TABLES.chis[lettered(structure.sequence)] > 0).numpy()
    return float(whole(structure)[own].mean()) if own.any() else 0.0


def clusters(sequences: Sequence[str]) -> list[int]:
    """The cluster of each sequence: single linkage where more than .3 of the shorter's runs of three are shared."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    if not sequences:
        return []
    rows, columns = [], []
    for k, letters in enumerate(sequences):
        code = [LETTERS.find(letter) for letter in letters]
        runs = {(a * 20 + b) * 20 + c for a, b, c in zip(code, code[1:], code[2:], strict=False) if min(a, b, c) >= 0}
        rows += [k] * len(runs)
        columns += sorted(runs)
    own = csr_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=(len(sequences), 8000))
    both = (own @ own.T).tocoo()
    size = np.maximum(own.sum(1), 1)
    i, j = both.coords
    near = both.data > SHARED * np.minimum(size[i], size[j])
    graph = csr_array((near[near], (i[near], j[near])), shape=both.shape)
    return connected_components(graph, directed=False)[1].tolist()


def held_out_groups(units: Sequence[Unit], groups: Sequence[int]) -> set[int]:
    """The clusters that are held out: about one in five of those with a structure to judge by, never all nor none."""
    first: dict[int, str] = {}
    for unit, group in zip(units, groups, strict=True):
        if unit.judged:
            first[group] = min(first.get(group, unit.structure.name), unit.structure.name)
    order = sorted(first, key=lambda group: (zlib.crc32(first[group].encode()), group))
    held = {group for group in order if zlib.crc32(first[group].encode()) % HELD == 0}
    if len(order) > 1 and len(held) in (0, len(order)):
        held = {order[0]} if not held else held - {order[0]}
    return held


def units_of(structure: Structure, longest: int, judged: bool = True) -> list[Unit]:
    """A structure, or its chains where it is longer than `longest`."""
    if len(structure) <= longest:
        return [Unit(structure, structure.sequence, judged)]
    out = []
    for chain in dict.fromkeys(structure.chains):
        own = structure.take([i for i, other in enumerate(structure.chains) if other == chain])
        named = Structure(
            own.backbone, own.sequence, own.numbers, own.chains, f"{own.name}_{chain}", side=own.side, hands=own.hands,
        )  # fmt: skip
        out.append(Unit(named, named.sequence, judged))
    return out


@lru_cache(maxsize=4096)
def _file(path: Path, known: Stamp, longest: int) -> tuple[list[Unit], str]:
    try:
        structure, _ = load(path)
    except GendiffError as error:
        return [], error.got.removeprefix(f"{clean_path(path)}: ")
    return units_of(structure, longest), ""


@lru_cache(maxsize=2)
def _archives(paths: tuple[tuple[Path, Stamp], ...], longest: int) -> tuple[list[Unit], list[Rejected]]:
    """The structures in archives; one entry in several formats is taken once, as the first of them."""
    units: dict[str, list[Unit]] = {}
    rejected: list[Rejected] = []
    with tempfile.TemporaryDirectory() as folder:
        for path, _ in paths:
            with tarfile.open(path) as archive:
                for member in archive:
                    inside = Path(member.name)
                    if not member.isfile() or not inside.name.lower().removesuffix(".gz").endswith(SUFFIXES):
                        continue
                    name = f"{path.name.partition('.')[0]}_{entry(inside)}"
                    if name in units:
                        rejected.append(Rejected(name, "an entry that was read in another format"))
                        continue
                    file = Path(folder) / inside.name
                    data = archive.extractfile(member)
                    assert data is not None
                    file.write_bytes(data.read())
                    try:
                        structure, _ = load(file)
                    except GendiffError as error:
                        rejected.append(Rejected(name, error.got.removeprefix(f"{clean_path(file)}: ")))
                        continue
                    judged = not any(word in member.name for word in PREDICTED)
                    told = Structure(
                        structure.backbone, structure.sequence, structure.numbers, structure.chains, name,
                        side=structure.side, hands=structure.hands,
                    )  # fmt: skip
                    units[name] = units_of(told, longest, judged)
    return [unit for own in units.values() for unit in own], rejected


@lru_cache(maxsize=2)
def _pockets(path: Path, table: Path, known: Stamp) -> tuple[Unit, ...]:
    """The pockets of protein-ligand series: whole residues, heavy atoms."""
    targets = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf8"))))
    with np.load(path, allow_pickle=False) as data:
        own = {key: data[f"pocket_{key}"] for key in ("atom", "res", "chain", "resnum", "mA", "offset")}
    out = []
    for row, (a, b) in enumerate(zip(own["offset"], own["offset"][1:], strict=False)):
        residues: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        names: dict[tuple[str, str], str] = {}
        for k in range(a, b):
            key = own["chain"][k].decode().strip(), own["resnum"][k].decode().strip()
            names.setdefault(key, own["res"][k].decode().strip())
            residues.setdefault(key, {})[own["atom"][k].decode().strip()] = own["mA"][k] / 1000
        wanted = [key for key, atoms in residues.items()
                  if names[key] in STANDARD and {"N", "CA", "C", "O"} <= atoms.keys()]  # fmt: skip
        if not wanted:
            continue
        side = np.full((len(wanted), len(PLACE), 3), np.nan)
        codes: dict[Any, str] = dict(STANDARD)
        letters = "".join(codes[names[key]] for key in wanted)
        for i, (key, letter) in enumerate(zip(wanted, letters, strict=True)):
            for name in ATOMS_OF[letter]:
                if name in residues[key]:
                    side[i, PLACE[name]] = residues[key][name]
        backbone = np.array([[residues[key][name] for name in ("N", "CA", "C", "O")] for key in wanted])
        chains, numbers = zip(*wanted, strict=True)
        told = targets[row]
        label = f"pocket_{row}_{told['reference_pdb'] or told['target']}"
        structure = Structure(backbone, letters, numbers, tuple(c or "A" for c in chains), label, side=side)
        out.append(Unit(structure, told["sequence"] or letters))
    return tuple(out)
