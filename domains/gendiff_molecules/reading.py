"""Reading molecules, with one policy for everything that files get wrong.

A file holds records: molecules of SDF, MOL, MOL2 and SMILES files, frames of XYZ, ligands of PDB. Each is kept as a
`Molecule`, or dropped with the reason in words, or is no molecule at all and skipped (water, ions, polymers). The atoms
and bonds that a file gives add up, also where it is damaged:

    rows = kept + dropped + skipped,        atoms of the molecules = kept + added

where hydrogens, and bonds that were perceived, are added. A file of which nothing is kept is read to an empty list by
`load`, with the report that says why, and is an error of `read`.

SDF, MOL    V2000 and V3000; aromatic bonds are kekulised, or the atoms named that cannot be
MOL2        formal charges from the bonds, for the format has none
XYZ         bonds from the positions, with charge 0, `charge=`, or the one that the comment says
PDB         ligands, bonds of CONECT, orders from its repetition, from hydrogens, or from `template=` as SMILES
SMILES      positions by ETKDGv3 from `seed`, hydrogens as atoms

plain or gzipped; `LIMIT` bounds what a compressed file may unfold to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gendiff.errors import nearest, printable
from gendiff.files import content

from .ctab import parse_sdf
from .ligands import parse_pdb
from .molecule import Molecule, MoleculeError
from .perception import Options, molecule_of
from .plain import parse_mol2, parse_smiles, parse_xyz
from .records import Parsed, lines_of, text_of

LIMIT = 256 * 2**20  # bytes of text, unpacked
FORMATS: dict[str, tuple[str, Callable[[list[str]], Parsed]]] = {
    ".sdf": ("SDF", parse_sdf),
    ".sd": ("SDF", parse_sdf),
    ".mol": ("MOL", parse_sdf),
    ".mdl": ("MOL", parse_sdf),
    ".mol2": ("MOL2", parse_mol2),
    ".xyz": ("XYZ", parse_xyz),
    ".pdb": ("PDB", parse_pdb),
    ".ent": ("PDB", parse_pdb),
    ".smi": ("SMILES", parse_smiles),
    ".smiles": ("SMILES", parse_smiles),
}
SUFFIXES = tuple(FORMATS)


@dataclass(frozen=True)
class Tally:
    """What became of the atoms, or bonds, of a file; `rows` is their number in it, `added` what it did not give."""

    rows: int = 0
    kept: int = 0
    dropped: int = 0
    skipped: int = 0
    added: int = 0


@dataclass(frozen=True)
class Report:
    """What was done to a file.

    `dropped` names records by the reason, `skipped` counts what is no molecule by what it is, `notes` names the records
    to which something was done by what it was. `lines` counts the lines of the file by what they are.
    """

    path: str
    format: str
    kept: int
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    atoms: Tally = Tally()
    bonds: Tally = Tally()
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """Molecules in the file, kept and dropped."""
        return self.kept + sum(map(len, self.dropped.values()))

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.kept} of {self.records} molecules kept ({self.format})"]
        lines += [f"  dropped, {why}: {_some(names)}" for why, names in self.dropped.items()]
        if self.skipped:
            lines.append("  no molecules: " + ", ".join(f"{count} {what}" for what, count in self.skipped.items()))
        lines += [f"  {what}: {_some(names)}" for what, names in self.notes.items()]
        for name, own in (("atoms", self.atoms), ("bonds", self.bonds)):
            told = {"kept": own.kept, "dropped": own.dropped, "skipped": own.skipped, "added": own.added}
            lines.append(
                f"  {own.rows} {name}: " + ", ".join(f"{n} {what}" for what, n in told.items() if n or what == "kept")
            )
        odd = self.lines.get("that cannot be placed", 0)
        lines += [f"  {odd} lines cannot be placed"] if odd else []
        return printable("\n".join(lines), keep="\n")


def _some(names: tuple[str, ...], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} ({', '.join(names[:most])}{more})"


def read(path: str | Path, **options: Any) -> list[Molecule]:
    """The molecules of a file; see `load` for the options, and for what was dropped.

    Raises:
        MoleculeError: as `load` does, and where no molecule is kept, with the reasons.
    """
    molecules, report = load(path, **options)
    if not molecules:
        reasons = [f"{why} ({_some(names, 3)})" for why, names in list(report.dropped.items())[:6]]
        reasons += [f"{count} {what}" for what, count in report.skipped.items()]
        raise MoleculeError(
            f"{report.path}: no molecule to keep: {'; '.join(reasons) or 'it holds none'}",
            f"a molecule of {report.format}",
        )
    return molecules


def load(path: str | Path, *, limit: int = LIMIT, **options: Any) -> tuple[list[Molecule], Report]:
    """The molecules of a file and the report of how it was read.

    Args:
        path: a .sdf, .mol, .mol2, .xyz, .pdb or .smi file, or one of them with .gz.
        limit: bytes that the file may have, after unpacking.
        options: of `Options`: hydrogens="keep" or "add", coordinates="refuse" or "make", fragments="keep", "largest" or
            "refuse", charge=0, template="", repair=False, seed=0.

    Raises:
        MoleculeError: a file that is missing, empty, no text, too large or of another format, or an unknown option.
    """
    path, how = Path(path), _options(options)
    kind, parser = format_of(path)
    parsed = parser(list(lines_of(text_of(_content(path, limit)))))
    molecules: list[Molecule] = []
    dropped: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    atoms, bonds = Counter[str](), Counter[str]()
    for record in parsed.records:
        built = molecule_of(record, how)
        rows, ties = record.rows
        if built.molecule is None:
            dropped.setdefault(built.reason, []).append(record.name)
            atoms["dropped"] += rows
            bonds["dropped"] += ties
            continue
        molecules.append(built.molecule)
        lost, cut = built.lost
        for tally, own, gone, size in (
            (atoms, rows, lost, len(built.molecule)),
            (bonds, ties, cut, len(built.molecule.bonds)),
        ):
            tally["kept"] += own - gone
            tally["dropped"] += gone
            tally["added"] += size - (own - gone)
        for note in built.notes:
            notes.setdefault(note, []).append(record.name)
    atoms["skipped"], bonds["skipped"] = parsed.skipped_rows
    return molecules, Report(
        path=printable(str(path)),
        format=kind,
        kept=len(molecules),
        dropped={why: tuple(names) for why, names in dropped.items()},
        skipped=dict(parsed.skipped),
        notes={what: tuple(names) for what, names in notes.items()},
        atoms=Tally(sum(r.rows[0] for r in parsed.records) + parsed.skipped_rows[0], **atoms),
        bonds=Tally(sum(r.rows[1] for r in parsed.records) + parsed.skipped_rows[1], **bonds),
        lines=dict(parsed.lines),
    )


def _options(options: dict[str, Any]) -> Options:
    known = [one.name for one in fields(Options)]
    for name in options:
        if name not in known:
            raise MoleculeError(f"the option {name!r}", f"one of {', '.join(known)}.{nearest(name, known)}")
    return Options(**options)


def entry(path: Path) -> str:
    """The name of a file without what says its format."""
    return re.sub(rf"({'|'.join(map(re.escape, SUFFIXES))})?(\.gz)?$", "", path.name, flags=re.I)


def format_of(path: Path) -> tuple[str, Callable[[list[str]], Parsed]]:
    """The format that a suffix names, and its parser.

    Raises:
        MoleculeError: for a suffix of none.
    """
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in FORMATS:
        raise _refuse(path, f"the suffix {suffix!r} is of no format that is read", f"one of {', '.join(SUFFIXES)}")
    return FORMATS[suffix]


def _refuse(path: Path, reason: str, hint: str, fix: str = "") -> MoleculeError:
    return MoleculeError(f"{printable(str(path))}: {reason}", hint, fix)


def _content(path: Path, limit: int) -> bytes:
    raw = content(path, limit, "a file of molecules", _refuse)
    if b"\x00" in raw[:4096]:
        raise _refuse(path, "binary data", "text")
    return raw
