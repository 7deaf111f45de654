"""Reading structures, with one policy for everything that files get wrong.

Kept: amino acids of the first model with N, CA and C (a missing O is placed), modified ones and protonation states
under their parent's letter (MSE is M, CYX is C, anything unknown X), insertion codes, chain ids and numbers as in the
file. A second chain under the same id with numbers that the first one has gets a free letter, so that a selection means
one residue. Of alternative locations the one with the highest occupancy, a tie to the first letter, for the whole
residue. Dropped, and listed in the report: residues with missing backbone atoms, with coordinates or numbers that
cannot be read, or with bonds no residue has (glued columns, atoms at the origin). Ligands, water and nucleotides are
counted. A calcium ion is no CA. Residues in the file = kept + dropped + skipped. A file that gives no residue is an
error.

Side chains come with their residue: every heavy atom whose name its letter has, the selenium of MSE as SD. Hydrogens
are counted, and what a modified residue has beyond its parent (the phosphate of SEP) is named. A side-chain atom
without a place costs nothing but itself. Every row of an atom is counted once, kept or by the reason why not.

PDB, mmCIF and BinaryCIF, plain or gzipped; `LIMIT` bounds what a compressed file may unfold to. BinaryCIF carries no
checksum: a flipped bit in its packed columns can read as another, plausible backbone (29 of 800 single flips did).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gendiff.files import content

from .atoms import ATOMS_OF, OTHER_NAMES, PLACE, SIDE
from .binary import parse_binary
from .frames import BREAK, place_oxygen
from .names import D_NAMES, STANDARD, parents
from .parsing import (
    UNREADABLE,
    Chosen,
    Damaged,
    Link,
    Parsed,
    Point,
    Residue,
    clean,
    parse_mmcif,
    parse_pdb,
    text_lines,
)
from .side_chains import chirality
from .structure import Structure, StructureError

LIMIT = 256 * 2**20  # bytes of text, unpacked: 2.5 million atoms of mmCIF
FAR = 1e5  # angstrom; no coordinate is farther out
REACH = 10.0  # angstrom from CA to the end of a side chain; that of an arginine reaches 7.5
_PDB, _CIF = (".pdb", ".ent", ".pdb1"), (".cif", ".mmcif")
SUFFIXES = (*_PDB, *_CIF, ".bcif")
UNREAD = (".mmtf", ".bin", ".pdbqt", ".gro", ".xyz", ".pqr")  # structures, in formats that are not read
_BONDS = {("N", "CA"): (1.2, 1.8), ("CA", "C"): (1.2, 1.9), ("N", "C"): (1.9, 3.1), ("C", "O"): (0.9, 1.6)}


@dataclass(frozen=True)
class Report:
    """What was done to a file.

    `dropped` names residues by reason, `skipped` counts what is no amino acid, `altlocs`, `parents` and `placed` name
    the residues of which one location was chosen, that stand under their parent's letter, and whose O was placed;
    `renamed` says which chains were given another id, and why `notes` says what the file's rows lacked.

    `rows` counts the atoms of the first model; `atoms` says what became of them, "kept" or why not, and adds up to it.
    `foreign` names the atoms that the letter of their residue has not.

    `cyclic` names the chains that a bond of the file closes, from C of the last residue kept to N of the first,
    `mirrored` the D residues, and `odd_hands` those whose CB says otherwise than their name.
    """

    path: str
    kept: int
    models: int
    chains: dict[str, int]
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    altlocs: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    placed: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rows: int = 0
    atoms: dict[str, int] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    cyclic: tuple[str, ...] = ()
    mirrored: tuple[str, ...] = ()
    odd_hands: tuple[str, ...] = ()

    @property
    def residues(self) -> int:
        """Residues in the file's first model: kept, dropped and skipped."""
        return self.kept + sum(map(len, self.dropped.values())) + sum(self.skipped.values())

    def __str__(self) -> str:
        chains = ", ".join(f"{name} {count}" for name, count in self.chains.items())
        lines = [f"{self.path}: {self.kept} residues kept (chains {chains}), model 1 of {self.models}"]
        lines += [f"  dropped, {why}: {_some(names)}" for why, names in self.dropped.items()]
        if self.skipped:
            lines.append("  no amino acids: " + ", ".join(f"{count} {name}" for name, count in self.skipped.items()))
        parts = (
            ("alternative locations", self.altlocs),
            ("under the parent's letter", self.parents),
            ("O placed", self.placed),
            ("chain breaks", self.breaks),
            ("chains renamed", self.renamed),
            ("atoms that their letter has not", self.foreign),
            ("chains closed", self.cyclic),
            ("D residues", self.mirrored),
            ("CB of the other hand", self.odd_hands),
            ("of note", self.notes),
        )
        lines += [f"  {what}: {_some(names)}" for what, names in parts if names]
        lines.append("  atoms: " + ", ".join(f"{count} {what}" for what, count in self.atoms.items()))
        return "\n".join(lines)


def _some(names: tuple[str, ...], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} ({', '.join(names[:most])}{more})"


def read(path: str | Path, *, block: str | None = None) -> Structure:
    """The backbone in a PDB, mmCIF or BinaryCIF file, plain or gzipped; see `load` for what was dropped."""
    return load(path, block=block)[0]


def load(path: str | Path, *, block: str | None = None, limit: int = LIMIT) -> tuple[Structure, Report]:
    """A structure and the report of how it was read.

    Args:
        path: a .pdb, .ent, .cif, .mmcif or .bcif file, or one of them with .gz.
        block: the name of the data block, for an mmCIF file that holds several structures.
        limit: bytes that the file may have, after unpacking.

    Raises:
        StructureError: a file that is missing, damaged, too large, of another format, or without any residue.
    """
    path = Path(path)
    parsed, notes = _parse(path, _content(path, limit), block)
    return _assemble(path, parsed, notes)


def _refuse(path: Path, reason: str, hint: str, fix: str = "") -> StructureError:
    return StructureError(f"{clean_path(path)}: {reason}", hint, fix)


def clean_path(path: Path | str) -> str:
    """A path for messages, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in str(path))


def entry(path: Path) -> str:
    """The name of a file without what says its format."""
    formats = "|".join(re.escape(suffix) for suffix in (*SUFFIXES, *UNREAD))
    return re.sub(rf"({formats})?(\.gz)?$", "", path.name, flags=re.I)


def _content(path: Path, limit: int) -> bytes:
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".mmtf", ".bin")):
        fix = "convert it, or fetch the entry as .cif; the PDB no longer serves MMTF"
        raise _refuse(path, "a binary format that is not read", "a PDB, mmCIF or BinaryCIF file", fix)
    raw = content(path, limit, "a PDB or mmCIF file", _refuse)
    if b"\x00" in raw[:4096] and not name.endswith(".bcif"):
        raise _refuse(path, "binary data", "text of PDB or mmCIF, or BinaryCIF with the suffix .bcif")
    return raw


def _parse(path: Path, raw: bytes, block: str | None) -> tuple[Parsed, list[str]]:
    """What the file holds, and notes about its format. The content decides between PDB and mmCIF, then the suffix."""
    name = path.name.lower().removesuffix(".gz")
    called = "mmCIF" if name.endswith(_CIF) else "PDB" if name.endswith(_PDB) else ""
    if name.endswith(".bcif"):
        kind = "BinaryCIF"
    elif re.match(rb"(\xef\xbb\xbf)?(\s|#[^\n]*\n)*data_", raw):
        kind = "mmCIF"
    elif re.search(rb"^(ATOM  |HETATM)", raw, re.M):
        kind = "PDB"
    else:
        kind = called or ("mmCIF" if re.search(rb"^data_", raw, re.M) else "PDB")
    notes = [f"the suffix says {called}, the content is {kind}"] if called not in ("", kind, "BinaryCIF") else []
    if b"\r" in raw[:4096] and b"\n" not in raw[:4096]:
        raw = raw.replace(b"\r", b"\n")
    raw = raw.removeprefix(b"\xef\xbb\xbf")

    try:
        if kind == "PDB":
            return parse_pdb(raw), notes
        found = parse_binary(raw, block) if kind == "BinaryCIF" else parse_mmcif(text_lines(raw), block)
    except Damaged as error:
        if not str(error):
            raise _refuse(path, "it holds no atoms", "records that begin with ATOM") from None
        hint = "whole ATOM records in fixed columns" if kind == "PDB" else "a complete _atom_site table"
        raise _refuse(path, f"damaged {kind} ({error})", hint) from None
    parsed, with_atoms, every = found
    if not every:
        raise _refuse(path, "no data block", "a file of mmCIF, which begins with data_NAME")
    if block is not None and block not in every:
        raise _refuse(path, f"there is no data block {block!r}", f"one of {', '.join(map(clean, every[:20]))}")
    if block is None and len(with_atoms) > 1:
        names = ", ".join(map(clean, with_atoms[:20]))
        raise _refuse(path, f"several structures ({names})", "one", f'read(path, block="{clean(with_atoms[0])}")')
    if parsed is None:
        raise _refuse(path, "it holds no atoms", "an _atom_site table")
    return parsed, notes


class _Found(NamedTuple):
    """A residue with its chosen location."""

    residue: Residue
    chosen: Chosen

    @property
    def name(self) -> str:
        return self.chosen.name

    @property
    def atoms(self) -> dict[str, Point | None]:
        """N, CA, C and O, those that are there."""
        return self.chosen.backbone

    @property
    def label(self) -> str:
        return f"{self.residue.chain}{self.residue.number.removeprefix(UNREADABLE)} {self.name}"


def _fault(found: _Found) -> str:
    """Why this amino acid cannot be kept; empty if it can."""
    if found.residue.number.startswith(UNREADABLE):
        return "residue number cannot be read"
    if not {"N", "CA", "C"} <= found.atoms.keys():
        return "backbone atoms missing"
    if any(at is None for at in found.atoms.values()):
        return "coordinates cannot be read"
    atoms = {name: np.array(at) for name, at in found.atoms.items()}
    if not all(np.isfinite(at).all() for at in atoms.values()):
        return "coordinates not finite"
    if any(np.abs(at).max() >= FAR for at in atoms.values()):
        return "coordinates out of range"
    for (a, b), (low, high) in _BONDS.items():
        if a in atoms and b in atoms and not low < np.linalg.norm(atoms[a] - atoms[b]) < high:
            return "impossible bond lengths"
    return ""


def _assemble(path: Path, parsed: Parsed, notes: list[str]) -> tuple[Structure, Report]:
    known = parents()
    dropped: dict[str, list[_Found]] = {}
    skipped, atoms = Counter[str](), Counter({"kept": 0})
    kept: list[_Found] = []
    every = [_Found(residue, residue.chosen()) for residue in parsed.residues]
    for place, found in enumerate(every):
        acid = found.name in known or {"N", "CA", "C"} <= found.atoms.keys()
        if not acid or (found.residue.hetero and not _bonded(every, place)):  # an amino acid may be a ligand
            skipped[found.name or "unnamed"] += 1
            atoms["of what is no amino acid"] += found.residue.rows
            continue
        fault = _fault(found)
        if fault:
            dropped.setdefault(fault, []).append(found)
            atoms["of residues that were dropped"] += found.residue.rows
        else:
            kept.append(found)
    if not kept:
        raise _nothing(path, dropped, skipped, parsed)
    core = np.array([[found.atoms[name] for name in ("N", "CA", "C")] for found in kept], dtype=np.float64)
    oxygen = place_oxygen(*torch.from_numpy(core).unbind(1)).numpy()
    for place, found in enumerate(kept):
        oxygen[place] = found.atoms.get("O", oxygen[place])
    chains, renamed = _chains(kept, frozenset(Structure(np.concatenate([core, oxygen[:, None]], 1)).breaks))
    letters = "".join(known.get(found.name, "X") for found in kept)
    side, foreign = _side_chains(kept, letters, atoms)
    structure = Structure(
        np.concatenate([core, oxygen[:, None]], 1),
        letters,
        tuple(found.residue.number for found in kept),
        chains,
        name=clean_path(entry(path)),
        side=side,
        cyclic=closed_chains(kept, chains, parsed.links),
        hands="".join(_hand(found, parsed.mirrored) for found in kept),
    )
    seen = chirality(structure)
    atoms.update({"given twice": parsed.twice, "in rows that cannot be read": parsed.unread})
    breaks = [b for b in structure.breaks if chains[b] == chains[b + 1]]
    return structure, Report(
        path=clean_path(path),
        kept=len(kept),
        models=parsed.models,
        chains=dict(Counter(chains)),
        dropped={why: tuple(found.label for found in group) for why, group in dropped.items()},
        skipped=dict(skipped),
        altlocs=tuple(found.label for found in kept if found.residue.choices > 1),
        parents=tuple(found.label for found in kept if found.name not in STANDARD and found.name not in D_NAMES),
        placed=tuple(found.label for found in kept if "O" not in found.atoms),
        breaks=tuple(f"{kept[b].label} to {kept[b + 1].label}" for b in breaks),
        renamed=renamed,
        notes=(*notes, *parsed.notes, *_of_hands(structure), *_of_links(structure, parsed.links)),
        rows=parsed.rows,
        atoms={what: count for what, count in atoms.items() if count},
        foreign=foreign,
        cyclic=structure.cyclic,
        mirrored=tuple(found.label for found in kept if found.name in D_NAMES),
        odd_hands=tuple(
            found.label for found, own, at in zip(kept, structure.hands, seen, strict=True) if at not in ("-", own)
        ),
    )


def _hand(found: _Found, mirrored: frozenset[str]) -> str:
    """L or D by the name, and of a glycine by its chain."""
    return "D" if found.name in D_NAMES or (found.name == "GLY" and found.residue.chain in mirrored) else "L"


def _of_hands(structure: Structure) -> list[str]:
    """A note for each chain of which some residues are D."""
    notes = []
    for chain in dict.fromkeys(structure.chains):
        hands = [
            h
            for h, c, x in zip(structure.hands, structure.chains, structure.sequence, strict=True)
            if c == chain and x != "G"
        ]
        if 0 < hands.count("D") < len(hands):
            notes.append(f"chain {chain} mixes hands: {hands.count('D')} of {len(hands)} residues are D")
    return notes


def closed_chains(kept: list[_Found], chains: tuple[str, ...], links: tuple[Link, ...]) -> tuple[str, ...]:
    """The chains whose last residue the file bonds to their first."""
    closed = []
    for chain in dict.fromkeys(chains):
        own = [found.residue for found, name in zip(kept, chains, strict=True) if name == chain]
        if len(own) > 2 and Link(own[0].chain, own[-1].number, own[0].number) in links:
            closed.append(chain)
    return tuple(closed)


def _of_links(structure: Structure, links: tuple[Link, ...]) -> list[str]:
    """A note for each bond of the file from a C to an N that neither follows the chain nor closes it."""
    ends = zip(structure.chains, structure.numbers, structure.chains[1:], structure.numbers[1:], strict=False)
    usual = {(a, i, j) for a, i, b, j in ends if a == b}
    usual |= {(structure.chains[a], structure.numbers[a], structure.numbers[b]) for a, b in structure.closures}
    odd = dict.fromkeys(link for link in links if tuple(link) not in usual)
    return [f"a bond from C of {c}{i} to N of {c}{j} that closes no chain was left out" for c, i, j in odd]


def _side_chains(kept: list[_Found], letters: str, atoms: Counter[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The heavy atoms of residues beside N, CA, C and O, `[N, 33, 3]` or None, and the names that were left out.

    `atoms` is told what became of every row of these residues.
    """
    side = np.full((len(kept), len(SIDE), 3), np.nan) if any(found.chosen.side for found in kept) else None
    named: list[str] = []
    for i, (found, letter) in enumerate(zip(kept, letters, strict=True)):
        own, chosen = found.residue, found.chosen
        mine = _own_names(chosen.side, letter)
        placed = {name: at for atom, name in mine.items() if (at := chosen.side[atom]) and _near(at, found)}
        for name, at in placed.items():
            assert side is not None
            side[i, PLACE[name]] = at
        odd = [*own.foreign, *(atom for atom in chosen.side if atom not in mine)]
        counts = {
            "kept": len(chosen.backbone) + len(placed),
            "hydrogens": own.hydrogens,
            "at another location": own.rows - own.hydrogens - len(own.foreign) - chosen.rows,
            "without a place": len(mine) - len(placed),
        }
        atoms.update(counts)
        atoms["that their letter has not"] += own.rows - sum(counts.values())
        if odd:
            named.append(f"{found.label}: {' '.join(map(clean, dict.fromkeys(odd)))}")
    return side, tuple(named)


def _own_names(atoms: Iterable[str], letter: str) -> dict[str, str]:
    """Which of these names of a file are atoms of a residue of this letter, and how these are called in `SIDE`."""
    names, other = {*ATOMS_OF.get(letter, ()), "OXT"}, OTHER_NAMES.get(letter, {})
    called = {atom: other.get(atom, atom) for atom in atoms}
    return {atom: name for atom, name in called.items() if name in names and (atom == name or name not in called)}


def _near(at: Point, found: _Found) -> bool:
    """May an atom of this residue be there?"""
    alpha = found.atoms["CA"]
    return alpha is not None and math.dist(at, alpha) < REACH  # False for what is not finite


def _chains(kept: list[_Found], breaks: frozenset[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Chain ids, one a residue, so that id and number name one residue; and what was renamed.

    Residues up to the end of their chain in the file stay together, or, where these repeat a number, up to a break.
    Those whose numbers are taken under their id get the next free letter, and what follows under that id goes with it.
    """
    groups: list[list[int]] = []
    for _, run in groupby(range(len(kept)), lambda i: (kept[i].residue.chain, kept[i].residue.part)):
        places = list(run)
        numbers = {kept[i].residue.number for i in places}
        for i in places:
            if i == places[0] or (len(numbers) < len(places) and i - 1 in breaks):
                groups.append([])
            groups[-1].append(i)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    free = (c for c in (*letters, *letters.lower(), *(a + b for a in letters for b in letters)))
    taken = {found.residue.chain for found in kept}
    now: dict[str, str] = {}  # the name under which a chain id goes on
    used: dict[str, set[str]] = {}  # the numbers under a name
    names = [""] * len(kept)
    renamed: dict[str, str] = {}
    for group in groups:
        chain = kept[group[0]].residue.chain
        clash = used.get(now.get(chain, chain), set()) & {kept[i].residue.number for i in group}
        for place, i in enumerate(group):
            number = kept[i].residue.number
            name = now.setdefault(chain, chain)
            if (clash and place == 0) or number in used.get(name, ()):
                now[chain] = name = next((c for c in free if c not in taken), f"{chain}_{i}")
                renamed[name] = chain or "without id"
            used.setdefault(name, set()).add(number)
            names[i] = name
    told = (f"another chain {chain} of {len(used[name])} residues is called {name}" for name, chain in renamed.items())
    return tuple(names), tuple(told)


def _nothing(path: Path, dropped: dict[str, list[_Found]], skipped: Counter[str], parsed: Parsed) -> StructureError:
    """The error of a file without a residue to keep, with the reason where one can be named."""
    missing = dropped.get("backbone atoms missing", [])
    if missing and all("CA" in found.atoms for found in missing) and not any("C" in f.atoms for f in missing):
        return _refuse(
            path,
            f"only CA atoms are there, for {len(missing)} residues",
            "the atoms N, CA and C of every residue",
            "rebuild the backbone from the CA trace first, for instance with PULCHRA",
        )
    bad = [(f.atoms.get("N"), f.atoms.get("CA")) for f in dropped.get("impossible bond lengths", [])]
    lengths = [math.dist(n, ca) for n, ca in bad if n is not None and ca is not None]
    if lengths:
        bond = float(np.median(lengths))
        if 0.12 < bond < 0.18:
            return _refuse(
                path,
                f"N and CA are {bond:.3f} apart, which looks like nanometres",
                "coordinates in angstrom, where they are 1.46 apart",
                "multiply the coordinates by 10",
            )
    reasons = [f"{len(group)} {why}" for why, group in dropped.items()]
    reasons += [f"{n} {name}" for name, n in skipped.most_common(20)] + list(parsed.notes)
    return _refuse(path, f"no residue to keep ({', '.join(reasons)})", "amino acids with N, CA and C")


def _bonded(every: list[_Found], place: int) -> bool:
    """Does a peptide bond join this residue to the one before or after it in the file?

    A D residue is also in the chain if it is in its row, by number and by the ends of chains.
    """
    for a, b in ((place - 1, place), (place, place + 1)):
        if a >= 0 and b < len(every) and every[a].residue.chain == every[b].residue.chain:
            if every[place].name in D_NAMES and _in_row(every[a].residue, every[b].residue):
                return True
            carbon, nitrogen = every[a].atoms.get("C"), every[b].atoms.get("N")
            if carbon is not None and nitrogen is not None and math.dist(carbon, nitrogen) < BREAK:
                return True
    return False


def _in_row(one: Residue, other: Residue) -> bool:
    """Do the numbers of two residues of one part of the file follow each other?"""
    if one.part != other.part or re.fullmatch(r"-?\d+", one.number) is None:
        return False
    return other.number == str(int(one.number) + 1)
