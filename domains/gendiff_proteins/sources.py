"""Where backbones come from: made here (`Ideal`), real chains of a packed file (`Backbones`), a folder (`Structures`).

Every example is a `Structure` with the label "fold" from its own secondary structure. Splits never share a sequence
cluster: a hash of the cluster's number (of the file's name, for a folder) sends about one in ten to "test".
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from gendiff.conditions import Condition, Said, Text, said_of
from gendiff.domain import Example, Examples, Made, Rejected, Source, data_file, unsealed
from gendiff.errors import DataError, GendiffError
from gendiff.files import Stamp, check_stamp, stamp
from gendiff.lazy import Kept, Lazy

from . import ideal
from .metrics import radii, radius, secondary_structure
from .reading import SUFFIXES, UNREAD, Report, clean_path, entry, load
from .structure import Structure

FOLDS = ("alpha", "beta", "mixed", "coil")
_COMPACT = 1.15  # largest Rg / (2.2 N^0.38) of a fragment


def fold(structure: Structure) -> str:
    """alpha, beta, mixed or coil: which of helix and strand make up 15 % of the residues or more."""
    letters = secondary_structure(structure)
    helix, strand = letters.count("H") / max(len(letters), 1), letters.count("E") / max(len(letters), 1)
    return {(True, False): "alpha", (False, True): "beta", (True, True): "mixed"}.get(
        (helix >= 0.15, strand >= 0.15), "coil"
    )


def example(structure: Structure) -> Example:
    """A structure with its label."""
    return Example(structure, {"fold": FOLDS.index(fold(structure))}, structure.name)


def held_out(key: object) -> bool:
    """Does this cluster or file belong to the test split? About one in ten do, the same ones for ever."""
    return zlib.crc32(str(key).encode()) % 10 == 0


def _checked(split: str) -> str:
    if split not in ("train", "test"):
        raise DataError(f"the split {split!r}", '"train" or "test"')
    return split


class Chains(Source):
    """A source of single chains with a range of lengths."""

    min_length: int
    max_length: int

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What it says of its chains beside their fold, by name."""
        return {}


@dataclass(frozen=True)
class Ideal(Chains):
    """Ideal backbones made from torsions; "test" holds an eighth as many, from other seeds."""

    count: int = 512
    min_length: int = 32
    max_length: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or not 16 <= self.min_length <= self.max_length <= 128:
            raise DataError(f"{self!r}", "count >= 1 and 16 <= min_length <= max_length <= 128 residues")

    def load(self, split: str, root: Path | None = None) -> Examples:
        train = _checked(split) == "train"
        count = self.count if train else max(self.count // 8, 8)
        made = ideal.chains(count, self.min_length, self.max_length, 2 * self.seed + (not train))
        return Examples([example(Structure(b, name=f"ideal-{split}-{i}")) for i, b in enumerate(made)])

    def describe(self) -> str:
        return f"{self.count} ideal backbones of {self.min_length} to {self.max_length} residues, made from torsions."


@dataclass(frozen=True)
class Backbones(Chains):
    """Real chains of proteins/backbones.npz, and compact fragments of the longer ones.

    The set leans to antibodies and their like: no cluster gives more than `per_cluster` examples, whole chains first.
    A chain longer than `max_length` gives fragments, contiguous windows of random length and place (seeded by the
    chain's number) that are as compact as a domain, Rg / (2.2 N^0.38) < 1.15; `fragments=0` takes whole chains only.

    Args:
        min_length: fewest residues.
        max_length: most residues.
        fragments: windows tried per longer chain.
        per_cluster: most examples from one sequence cluster.
    """

    min_length: int = 40
    max_length: int = 96
    fragments: int = 4
    per_cluster: int = 6

    def __post_init__(self) -> None:
        if not 4 <= self.min_length <= self.max_length or self.per_cluster < 1 or self.fragments < 0:
            raise DataError(f"{self!r}", "4 <= min_length <= max_length, per_cluster >= 1, fragments >= 0")

    def load(self, split: str, root: Path | None = None) -> Examples:
        path = data_file("proteins/backbones.npz", root, "the packed backbones, see the package's README")
        return _backbones(self, _checked(split), path)

    def describe(self) -> str:
        return (
            f"Experimental and designed chains of {self.min_length} to {self.max_length} residues "
            f"(wwPDB coordinates, CC0), at most {self.per_cluster} of a sequence cluster."
        )


@lru_cache(maxsize=8)
def _read(path: Path, size: int, changed: int) -> tuple[Structure, Report]:
    """`load`, once for the chains of a file that are asked for together; side chains are not what networks see."""
    structure, report = load(path)
    return replace(structure, side=None), report


@lru_cache(maxsize=4)
def _backbones(source: Backbones, split: str, path: Path) -> Examples:
    with np.load(path, allow_pickle=False) as data:
        offset, atoms, letters = data["offset"], data["bb"], data["aa"]
        clusters, ids, chains = data["cluster"], data["id"], data["chain"]
    found: dict[int, list[Structure]] = {}
    pieces: dict[int, list[Structure]] = {}
    rejected: list[Rejected] = []
    for i, cluster in enumerate(clusters.tolist()):
        if held_out(cluster) != (split == "test"):
            continue
        span = slice(offset[i], offset[i + 1])
        name = f"{ids[i]}_{chains[i]}"
        whole = Structure(atoms[span], letters[span].tobytes().decode(), name=name)
        if len(whole) < source.min_length:
            rejected.append(Rejected(name, f"shorter than {source.min_length} residues"))
        elif len(whole) <= source.max_length:
            found.setdefault(cluster, []).append(whole)
        else:
            pieces.setdefault(cluster, []).extend(_windows(source, whole, i))
    items: list[Structure] = []
    for cluster in sorted(found.keys() | pieces.keys()):
        everything = [*_spread(found.get(cluster, [])), *_spread(pieces.get(cluster, []))]
        items += everything[: source.per_cluster]
        rejected += [Rejected(s.name, "the cluster is full") for s in everything[source.per_cluster :]]
    if not items:
        raise DataError(f"{source!r} found no chains in {path}", "a range of lengths that the file holds (40 to 256)")
    keys = [(s.backbone.astype(atoms.dtype), s.sequence, s.name) for s in items]
    return Examples(Made(Lazy(keys, _chain), [example(s).cond for s in items], [s.name for s in items]), rejected)


def _chain(key: tuple[np.ndarray, str, str]) -> Structure:
    """The chain of packed atoms."""
    atoms, sequence, name = key
    return Structure(atoms, sequence, name=name)


def _spread(structures: list[Structure]) -> list[Structure]:
    """A fixed order in which neighbours in the file are not neighbours."""
    return sorted(structures, key=lambda s: (zlib.crc32(s.name.encode()), s.name))


def _windows(source: Backbones, whole: Structure, seed: int) -> list[Structure]:
    rng = np.random.default_rng(seed)
    kept: list[Structure] = []
    for _ in range(source.fragments):
        size = int(rng.integers(source.min_length, source.max_length + 1))
        start = int(rng.integers(0, len(whole) - size + 1))
        window = whole.take(slice(start, start + size))
        if radii([window])[0] < _COMPACT:
            kept.append(Structure(window.backbone, window.sequence, name=f"{whole.name}_{start + 1}-{start + size}"))
    return kept


@dataclass(frozen=True)
class Structures(Chains):
    """The structures of a folder (PDB, mmCIF and BinaryCIF, plain or gzipped, with its subfolders).

    Every unbroken piece of a chain with a fitting length is one example. Every other file, residue and piece is listed
    with the reason: files of other formats, files that cannot be read, pieces that are too short. A piece longer than
    `max_length` gives its most compact window of that length, and what lies outside is listed; with `crop=False` it is
    listed whole. Of several models in a file the first is read. About one entry in ten, by a hash of the file's name
    without its format, is "test", and at least one where there are two; files of one entry stay together.

    Args:
        folder: where they are.
        min_length: fewest residues.
        max_length: most residues.
        crop: whether longer pieces are cropped to a window.
        table: a CSV or JSONL table with the column path, of which every other column is a condition of all pieces of
            that file: numbers, classes or texts, as `gendiff.conditions.columns` decides; "txt" for a text NAME.txt
            beside each file.
        asks: columns of it that are wanted, "mass" or "mass:number"; all by default.
        said: what they are; None looks for it in the table.
    """

    folder: str
    min_length: int = 40
    max_length: int = 256
    crop: bool = True
    table: str = ""
    asks: tuple[str, ...] = ()
    said: Mapping[str, Condition] | None = None

    def __post_init__(self) -> None:
        if not 4 <= self.min_length <= self.max_length:
            raise DataError(f"{self!r}", "4 <= min_length <= max_length residues")
        if self.said is None:
            home = Path(self.folder)
            paths = [p for p in sorted(unsealed(home).rglob("*")) if _unread(p) is None] if self.table else []
            found = self._said(home, paths).conditions if self.table else {}
            words = {name: replace(own, tokens=False) for name, own in found.items() if isinstance(own, Text)}
            found |= words  # the frame network hears vectors and fields
            object.__setattr__(self, "said", found)

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return self.said or {}

    def _said(self, home: Path, paths: Sequence[Path]) -> Said:
        """What the table says of each file."""
        names = [path.relative_to(home).as_posix() for path in paths]
        return said_of(self.table, home, names, "structure", asks=self.asks)

    def load(self, split: str, root: Path | None = None) -> Examples:
        test = _checked(split) == "test"
        folder = Path(self.folder) if root is None or Path(self.folder).is_absolute() else Path(root) / self.folder
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {folder}", "a folder of PDB or mmCIF files", 'Structures("my/structures")'
            )
        paths: list[Path] = []
        rejected: list[Rejected] = []
        for path in sorted(folder.rglob("*")):
            reason = _unread(path)
            if reason is None:
                paths.append(path)
            elif reason and not test:
                rejected.append(Rejected(clean_path(path.name), reason))
        said = self._said(folder, paths)
        rejected += [Rejected(clean_path(name), why) for name, why in ([] if test else said.rejected)]
        if self.table == "txt":
            rejected = [r for r in rejected if not (r.name.endswith(".txt") and r.reason.startswith("no file of"))]
        held = _held_out_names({entry(path).lower() for path in paths})
        make, keys, cond, names = Kept(_piece), [], [], []
        several = 0
        for path in paths:
            if (entry(path).lower() in held) != test:
                continue
            try:
                known = stamp(path)
                structure, report = _read(path, *known)
            except GendiffError as error:
                rejected.append(Rejected(clean_path(path.name), error.got.removeprefix(f"{clean_path(path)}: ")))
                continue
            several += report.models > 1
            for number, piece in enumerate(structure.pieces()):
                kept, out = self._window(structure.name, piece)
                own = said.of(path.relative_to(folder).as_posix())
                rejected += out
                for start, window in kept:
                    keys.append((path, known, number, start, len(window), window.name))
                    cond.append({**example(make.keep(keys[-1], window)).cond, **own})
                    names.append(window.name)
            rejected += [Rejected(f"{structure.name}_{n}", why) for why, names in report.dropped.items() for n in names]
        if not keys:
            raise DataError(
                f"{folder} gave no examples for {split!r} ({len(paths)} files, {len(rejected)} rejected"
                f"{': ' + rejected[0].name + ', ' + rejected[0].reason if rejected else ''})",
                f"unbroken chains of {self.min_length} to {self.max_length} residues",
            )
        tests = sum(entry(path).lower() in held for path in paths)
        told = [f"{tests} of {len(paths)} files are for tests, to judge by"] if held and not test else []
        if several:
            told.append(f"{several} files hold several models, of which the first is read")
        return Examples(Made(Lazy(keys, make), cond, names), rejected, notes=told if test else [*told, *said.notes])

    def _window(self, name: str, piece: Structure) -> tuple[list[tuple[int, Structure]], list[Rejected]]:
        """What is kept of an unbroken piece, with its place in it, and what is not."""

        def called(part: Structure) -> Structure:
            label = f"{name}_{part.chains[0]}{part.numbers[0]}-{part.numbers[-1]}"
            return Structure(part.backbone, part.sequence, part.numbers, part.chains, label)

        if self.min_length <= len(piece) <= self.max_length:
            return [(0, called(piece))], []
        if len(piece) < self.min_length:
            return [], [Rejected(called(piece).name, f"fewer than {self.min_length} residues without a break")]
        if not self.crop:
            return [], [Rejected(called(piece).name, f"more than {self.max_length} residues, and crop=False")]
        last = len(piece) - self.max_length
        starts = sorted({*range(0, last + 1, 8), last})
        windows = [piece.take(slice(start, start + self.max_length)) for start in starts]
        best = int(np.argmin([radius(window) for window in windows]))
        start, stop = starts[best], starts[best] + self.max_length
        outside = [part for part in (piece.take(slice(0, start)), piece.take(slice(stop, None))) if len(part)]
        reason = f"outside the most compact window of {self.max_length} residues, which was kept"
        return [(start, called(windows[best]))], [Rejected(called(part).name, reason) for part in outside]

    def describe(self) -> str:
        longer = "cropped to their most compact window" if self.crop else "left out"
        return (
            f"The structures below {self.folder}, unbroken pieces of {self.min_length} to {self.max_length} residues; "
            f"longer ones are {longer}."
        )


def _piece(key: tuple[Path, Stamp, int, int, int, str]) -> Structure:
    """The residues of an unbroken piece of a file, by its number, their place and how many they are."""
    path, known, number, start, size, name = key
    check_stamp(path, known)
    part = _read(path, *known)[0].pieces()[number].take(slice(start, start + size))
    return Structure(part.backbone, part.sequence, part.numbers, part.chains, name)


def _unread(path: Path) -> str | None:
    """Why what lies in a folder is not opened; None for a file of structures, empty for a folder."""
    if path.is_symlink() and not path.is_file():
        return "a link to a folder, which is not followed" if path.is_dir() else "a link that leads nowhere"
    if not path.is_file():
        return ""
    if path.name.startswith("."):
        return "hidden file"
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(SUFFIXES):
        return None
    return "no file of PDB, mmCIF or BinaryCIF" + (", which this format is not" if name.endswith(UNREAD) else "")


def _held_out_names(names: set[str]) -> set[str]:
    """The names of entries that are held out: about a tenth, and neither none nor all where there are two or more."""
    held = {name for name in names if held_out(name)}
    if len(names) > 1 and len(held) in (0, len(names)):
        first = min(names, key=lambda name: (zlib.crc32(name.encode()), name))
        held = {first} if not held else names - {first}
    return held
