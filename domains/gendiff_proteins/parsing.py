"""Residues from the text of PDB and mmCIF files, read line by line.

A reader turns its format into rows, one an atom of the first model; `Collector` puts rows together to residues and
keeps the heavy atoms whose names are those of the twenty (`atoms.ATOM37`); hydrogens are counted, other atoms named.
What a row says is taken as it stands:

    chain       column 22 of PDB; columns 21 and 22 where a file has chain ids of two letters; auth_asym_id of mmCIF
    number      columns 23-26, decimal or hybrid-36 (A000 is 10000), and the insertion code; auth_seq_id
    element     columns 77-78 or type_symbol; where it is missing, a CA is carbon unless its residue is called CA
    serial      not read

An atom that is given again for the same chain, number and name belongs to another copy of its residue. A chain ends
with a TER record, a model, or another label_asym_id under the same auth_asym_id. Rows without readable columns are
counted, with the first line of each kind; the residue they belong to loses an atom and is then dropped by name.

Bonds from a C to an N of the same chain are read from LINK records and _struct_conn, and which chains are a
polypeptide(D) from _entity_poly, or a remark that `writing` leaves in PDB.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .atoms import ATOM37, BACKBONE
from .names import long_names, parents

ENDS = ("OT1", "OT2", "OXT")  # what an O at the end of a chain may be called
WANTED = {**{name: name[0] for name in (*ATOM37, *ENDS)}, "SE": "SE"}
"""The names that are kept, and their elements."""
TELLING = (*BACKBONE, "OXT", "OT1")
"""Given again, they begin a copy of their residue; a stray row of a side chain does not."""
MOST_TROUBLES = 100_000
UNREADABLE = "?"  # begins a number that is none
Point = tuple[float, float, float]
Mark = tuple[str, str, str]  # location, residue name, atom


class Damaged(Exception):
    """A file of which no atom can be read: what is wrong with it."""


class Row(NamedTuple):
    """One atom: `at` is None where its coordinates cannot be read."""

    chain: str
    number: str
    name: str
    atom: str
    alternative: str
    element: str
    at: Point | None
    occupancy: float
    hetero: bool


@dataclass(slots=True)
class Residue:
    """One residue: the wanted atoms by location (letter, residue name), each with element, place and occupancy.

    `hydrogens` counts rows of hydrogen or deuterium, `foreign` names the atoms that none of the twenty has.
    """

    chain: str
    part: int  # how many ends of chains the file gave before it
    number: str
    name: str
    locations: dict[tuple[str, str], dict[str, tuple[str, Point | None, float]]] = field(default_factory=dict)
    hetero: bool = True
    seen: set[Mark] = field(default_factory=set)
    hydrogens: int = 0
    foreign: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows it has, apart from those that were given twice."""
        return sum(map(len, self.locations.values())) + self.hydrogens + len(self.foreign)

    @property
    def label(self) -> str:
        return f"{self.chain}{self.number} {self.name}"

    @property
    def choices(self) -> int:
        """How many alternative locations it has."""
        return sum(letter != "" for letter, _ in self.locations)

    def chosen(self) -> Chosen:
        """The location with the highest mean occupancy of its backbone, then of its side chain; a tie to the first.

        A location that lacks N, CA or C is taken only where each lacks one.
        O at the end of a chain may be called OXT or OT1. A calcium ion called CA is no alpha carbon.
        """

        def occupancy(key: tuple[str, str], backbone: bool) -> float:
            own = self.locations[key].items()
            values = [value for atom, (_, _, value) in own if (atom in BACKBONE or atom in ENDS) == backbone]
            return round(sum(values) / max(len(values), 1), 4)

        def atoms_of(key: tuple[str, str]) -> dict[str, tuple[str, Point | None, float]]:
            return {**self.locations.get(("", key[1]), {}), **self.locations.get(key, {})}

        def order(key: tuple[str, str]) -> tuple[bool, float, float, tuple[str, str]]:
            lacks = not {"N", "CA", "C"} <= atoms_of(key).keys()
            return lacks, -occupancy(key, True), -occupancy(key, False), key

        best = min((key for key in self.locations if key[0]), key=order, default=("", self.name))
        atoms = atoms_of(best)
        known = best[1] in parents()
        sound = {
            atom: at
            for atom, (element, at, _) in atoms.items()
            if known or element == WANTED[atom] or (not element and best[1] != atom)
        }
        ends = [at for at in (sound.pop(other, None) for other in ENDS) if at is not None]
        backbone = {atom: at for atom, at in sound.items() if atom in BACKBONE}
        if ends and "O" not in backbone:
            backbone["O"] = ends.pop(0)
        side = {atom: at for atom, at in sound.items() if atom not in BACKBONE}
        if ends:
            side["OXT"] = ends[0]
        return Chosen(best[1], backbone, side, len(atoms))


class Chosen(NamedTuple):
    """The location of a residue that counts: its name, its atoms N, CA, C, O, its others, and its number of rows."""

    name: str
    backbone: dict[str, Point | None]
    side: dict[str, Point | None]
    rows: int


@dataclass
class Collector:
    """Residues from rows, in the order of the file.

    Attributes:
        found: the residues.
        twice: rows that give an atom again, by residue; the first one counts.
    """

    found: list[Residue] = field(default_factory=list)
    twice: Counter[str] = field(default_factory=Counter)
    _places: dict[tuple[str, int, str], list[Residue]] = field(default_factory=dict)
    _copies: Counter[str] = field(default_factory=Counter)
    _part: int = 0
    _last: Residue | None = None
    _run: list[Mark] | None = None  # what was added since an earlier residue was taken up again

    def close(self) -> None:
        """The end of a chain: the next row begins a residue of its own, or takes an earlier one up again."""
        self._last = None
        self._part += 1

    def add(self, row: Row) -> None:
        residue = self._residue(row)
        mark = (row.alternative, row.name, row.atom)
        if row.atom in WANTED or not residue.seen:
            if mark in residue.seen:
                if self._run is not None and mark not in self._run and row.atom in TELLING:
                    residue = self._copy(residue, row)
                elif row.number.startswith(UNREADABLE):
                    self._last = residue = self._new(row)
                else:
                    self.twice[residue.label] += 1
                    return
            residue.seen.add(mark)
            if self._run is not None:
                self._run.append(mark)
        residue.hetero &= row.hetero
        atoms = residue.locations.setdefault((row.alternative, row.name), {})
        if row.atom in WANTED:
            atoms[row.atom] = (row.element, row.at, row.occupancy)
        elif is_hydrogen(row):
            residue.hydrogens += 1
        else:
            residue.foreign.append(row.atom)

    def _residue(self, row: Row) -> Residue:
        """The residue of a row: the one before it, an earlier one at the same place, or a new one.

        Another residue name at the same place is a choice between two residues if it comes with a location's letter.
        """
        last = self._last
        same = last is not None and last.number == row.number and last.chain == row.chain
        if last is not None and same and (last.name == row.name or row.alternative):
            return last
        there = self._places.get((row.chain, self._copies[row.chain], row.number), ())
        named = [residue for residue in there if residue.name == row.name]
        residue = next(iter(named or [residue for residue in there if row.alternative and residue.choices]), None)
        self._run = None if residue is None else []
        self._last = residue = residue or self._new(row)
        return residue

    def _new(self, row: Row) -> Residue:
        residue = Residue(row.chain, self._part, row.number, row.name)
        self._places.setdefault((row.chain, self._copies[row.chain], row.number), []).insert(0, residue)
        self.found.append(residue)
        return residue

    def _copy(self, residue: Residue, row: Row) -> Residue:
        """Another copy of the chain begins with this run of rows, whose first ones were taken for the residue's own."""
        self._copies[row.chain] += 1
        self._last = copy = self._new(row)
        for mark in self._run or ():
            residue.seen.discard(mark)
            copy.seen.add(mark)
            letter, name, atom = mark
            if atom in WANTED:
                copy.locations.setdefault((letter, name), {})[atom] = residue.locations[letter, name].pop(atom)
        self._run = None
        return copy


def is_hydrogen(row: Row) -> bool:
    """Is this a hydrogen or deuterium, by its element, or, where that is missing, by its name?"""
    return row.element in ("H", "D") or (not row.element and row.atom.lstrip("0123456789")[:1] in ("H", "D"))


class Link(NamedTuple):
    """A bond from C of one residue of a chain to N of another, by their numbers."""

    chain: str
    carbon: str
    nitrogen: str


def link_of(ends: Sequence[tuple[str, str, str, str]]) -> Link | None:
    """The bond between two atoms, each (name, chain, number, symmetry operator), if it is such a bond."""
    if ends[0][0] != "C":
        ends = ends[::-1]
    (carbon, chain, here, one), (nitrogen, other, there, two) = ends
    fits = (carbon, nitrogen) == ("C", "N") and chain == other and one == two
    return Link(chain, here, there) if fits and UNREADABLE not in here + there else None


@dataclass
class Parsed:
    """What a file holds: residues of its first model, and what was seen beside them.

    Attributes:
        residues: of the first model, in the order of the file.
        models: how many models have atoms.
        notes: what was odd, in a sentence each.
        rows: of atoms, in the first model.
        twice: those of them that give an atom again.
        unread: those of which not even the residue can be read.
        links: bonds from a C to an N of the same chain that the file names.
        mirrored: chains that are a polypeptide(D).
    """

    residues: list[Residue]
    models: int
    notes: tuple[str, ...] = ()
    rows: int = 0
    twice: int = 0
    unread: int = 0
    links: tuple[Link, ...] = ()
    mirrored: frozenset[str] = frozenset()


@dataclass
class Troubles:
    """Rows that could not be used: how many of each kind, and the line of the first."""

    count: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, line: int) -> None:
        self.count[kind] += 1
        self.first.setdefault(kind, line)
        if self.count[kind] > MOST_TROUBLES:
            raise Damaged(f"more than {MOST_TROUBLES} rows with {kind}")

    def notes(self) -> list[str]:
        return [f"{n} rows with {kind} (first in line {self.first[kind]})" for kind, n in self.count.items()]


def clean(text: str) -> str:
    """Text of a file that may stand in a report: no control characters, at most 40 characters."""
    return text if text.isprintable() and len(text) <= 40 else "".join(c if c.isprintable() else "?" for c in text[:40])


def point(x: str, y: str, z: str) -> Point | None:
    """Three coordinates, or None if one cannot be read; "nan" can."""
    try:
        return float(x), float(y), float(z)
    except ValueError:
        return None


def share(text: str) -> float:
    """An occupancy; 1 where none can be read."""
    try:
        value = float(text)
    except ValueError:
        return 1.0
    return value if math.isfinite(value) else 1.0


def pdb_number(field_: str, code: str) -> str:
    """The residue number in columns 23-26 with the insertion code of column 27; see `UNREADABLE`.

    Hybrid-36 (Grosse-Kunstleve): upper case A000 to ZZZZ follows 9999, then lower case a000 to zzzz.
    """
    text = field_.strip()
    value: int | None = None
    if re.fullmatch(r"-?\d+", text):
        value = int(text)
    elif len(field_) == 4 and re.fullmatch(r"[A-Z][A-Z0-9]{3}|[a-z][a-z0-9]{3}", field_):
        value = int(field_, 36) - 10 * 36**3 + 10_000 + (26 * 36**3 if field_[0].islower() else 0)
    if value is None or not (code == " " or (code.isascii() and code.isalpha())):
        return f"{UNREADABLE}{field_}{code}".strip()
    return f"{value}{code.strip()}"


_NAME_AND_CHAIN = re.compile(rb"^(?:ATOM..|HETATM).{11}(.{3}[A-Za-z0-9])([A-Za-z0-9])", re.M)


def two_letter_chains(raw: bytes) -> frozenset[str]:
    """Chain ids of two letters, columns 21 and 22 of a PDB file.

    Column 21 also holds the last letter of a residue name of four, such as ASPH or NALA; a pair of letters is a chain
    id if one of its residues has a name of three letters that is no such name with the column.
    """
    four = {name.encode() for name in long_names()}
    pairs = {match.groups() for match in _NAME_AND_CHAIN.finditer(raw)}
    return frozenset((name[3:] + letter).decode() for name, letter in pairs if name not in four)


def text_lines(raw: bytes) -> Iterator[str]:
    """The lines of a file, one at a time."""
    return (line.decode("utf-8", errors="replace") for line in io.BytesIO(raw))


def parse_pdb(raw: bytes) -> Parsed:
    """Residues of the first model of a PDB file.

    Raises:
        Damaged: not one ATOM or HETATM record has readable columns, or too many have not.
    """
    double = two_letter_chains(raw)
    collector, troubles = Collector(), Troubles()
    models, open_, atoms, rows, usable = 0, False, 0, 0, 0
    links: list[Link | None] = []
    mirrored: set[str] = set()
    for place, line in enumerate(text_lines(raw), start=1):
        record = line[:6]
        if record.startswith("ATOM") or record == "HETATM":
            if not open_:
                models, open_ = models + 1, True
            atoms += 1
            if models > 1:
                continue
            rows += 1
            atom = line[12:16].strip()
            at = point(line[30:38], line[38:46], line[46:54])
            if len(line.rstrip()) < 27 or not atom:
                troubles.add("too few columns", place)
                continue
            if at is None:
                troubles.add("coordinates that cannot be read", place)
            usable += at is not None
            pair = line[20:22] in double
            number = pdb_number(line[22:26], line[26])
            if number.startswith(UNREADABLE):
                troubles.add("a residue number that cannot be read", place)
            row = Row(
                clean((line[20:22] if pair else line[21]).strip()),
                clean(number),
                clean(line[17 : 20 if pair else 21].strip().upper()),
                atom,
                clean(line[16].strip()),
                line[76:78].strip().upper() if line[76:78].strip().isalpha() else "",
                at,
                share(line[54:60]),
                record == "HETATM",
            )
            collector.add(row)
        elif record.startswith("TER"):
            collector.close()
        elif record.startswith(("ENDMDL", "MODEL")):
            open_ = False
            collector.close()
        elif record == "LINK  ":
            links.append(pdb_link(line, double))
        elif line.startswith(_MIRRORED):
            mirrored.add(clean(line[len(_MIRRORED) :].strip()))
    if not atoms:
        raise Damaged("")
    if not usable:
        raise Damaged("; ".join(troubles.notes()))
    notes, twice = tuple(troubles.notes() + _twice(collector)), collector.twice.total()
    return Parsed(
        collector.found, models, notes, rows, twice, troubles.count["too few columns"],
        tuple(link for link in links if link is not None), frozenset(mirrored),
    )  # fmt: skip


_MIRRORED = "REMARK   1 POLYPEPTIDE(D) CHAIN "


def pdb_link(line: str, double: frozenset[str]) -> Link | None:
    """The bond of a LINK record, if it is from a C to an N of the same chain."""
    line, ends = line.rstrip("\n").ljust(72), []
    for at, symmetry in ((12, line[59:65]), (42, line[66:72])):
        pair = line[at + 8 : at + 10]
        chain = clean((pair if pair in double else pair[1]).strip())
        number = pdb_number(line[at + 10 : at + 14], line[at + 14])
        ends.append((line[at : at + 4].strip(), chain, number, symmetry.strip()))
    return link_of(ends)


def _twice(collector: Collector) -> list[str]:
    names = list(collector.twice)
    return [f"atoms given twice, the first kept: {', '.join(names[:4])}"] if names else []


_TOKEN = re.compile(r"""'((?:[^']|'(?=\S))*)'(?=\s|$)|"((?:[^"]|"(?=\S))*)"(?=\s|$)|(#.*)|(\S+)""")
_QUOTED = "\x00"  # begins a value that was quoted, which is no keyword


def split_line(line: str) -> list[str]:
    """The words of one line of CIF; quoted ones begin with a mark, a comment ends the line."""
    if "'" not in line and '"' not in line and "#" not in line:
        return line.split()
    words = []
    for match in _TOKEN.finditer(line):
        single, double, comment, plain = match.groups()
        if comment is not None:
            break
        words.append(plain if plain is not None else _QUOTED + (single if single is not None else double))
    return words


def words_of(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Number and words of every line of CIF; a text field between lines that begin with ; is one word."""
    held: list[str] | None = None
    for place, line in enumerate(lines, start=1):
        if line.startswith(";"):
            if held is None:
                held = [line[1:]]
                continue
            text, held = "".join(held).strip(), None
            yield place, [_QUOTED + text, *split_line(line[1:])]
        elif held is not None:
            if len(held) < 1000:
                held.append(line)
        else:
            words = split_line(line)
            if words:
                yield place, words
    if held is not None:
        raise Damaged("a text field (;) that never ends")


def _keyword(word: str) -> bool:
    low = word[:7].lower()
    return word.startswith("_") or low.startswith(("data_", "save_")) or low in ("loop_", "stop_", "global_")


SITE = "_atom_site."


class AtomSites:
    """Residues from the rows of an _atom_site table, whatever optional columns it lacks."""

    NEEDED = ("cartn_x", "cartn_y", "cartn_z")
    EITHER = (("label_atom_id", "auth_atom_id"), ("label_comp_id", "auth_comp_id"), ("label_seq_id", "auth_seq_id"))

    def __init__(self, names: Sequence[str]) -> None:
        if len(set(names)) < len(names):
            twice = [name for name, n in Counter(names).items() if n > 1]
            raise Damaged(f"the _atom_site table has two columns {clean(twice[0])}")
        place = {name: i for i, name in enumerate(names)}
        missing = [name for name in self.NEEDED if name not in place]
        missing += [a for a, b in self.EITHER if a not in place and b not in place]
        if missing:
            raise Damaged(f"the _atom_site table has no {' and no '.join(missing)}")
        self.size = len(names)

        def columns(*options: str) -> list[int]:
            return [place[name] for name in options if name in place]

        self.x, self.y, self.z = (place[name] for name in self.NEEDED)
        self.atom = columns("label_atom_id", "auth_atom_id")
        self.name = columns("auth_comp_id", "label_comp_id")
        self.chain = columns("auth_asym_id", "label_asym_id")
        self.number = columns("auth_seq_id", "label_seq_id")
        self.code = columns("pdbx_pdb_ins_code")
        self.letter = columns("label_alt_id")
        self.element = columns("type_symbol")
        self.occupancy = columns("occupancy")
        self.group = columns("group_pdb")
        self.model = columns("pdbx_pdb_model_num")
        self.collector, self.troubles = Collector(), Troubles()
        self.asym = columns("label_asym_id")
        self.models: set[str] = set()
        self.last_asym = ""
        self.first: str | None = None
        self.rows = self.usable = 0

    @staticmethod
    def pick(values: Sequence[str], places: Sequence[int]) -> str:
        """The first of these columns with a value; "." and "?" are none."""
        for i in places:
            value = values[i]
            if value not in (".", "?", ""):
                return value[1:] if value.startswith(_QUOTED) else value
        return ""

    def add(self, values: Sequence[str], place: int) -> None:
        """One row, from this line of the file."""
        pick = self.pick
        model = pick(values, self.model)
        if self.first is None:
            self.first = model
        if model not in self.models:
            self.models.add(model)
            self.collector.close()
        if model != self.first:
            return
        self.rows += 1
        asym = pick(values, self.asym)
        if asym != self.last_asym:
            self.last_asym = asym
            self.collector.close()
        at = point(values[self.x], values[self.y], values[self.z])
        self.usable += at is not None
        if at is None:
            self.troubles.add("coordinates that cannot be read", place)
        number = pick(values, self.number)
        if re.fullmatch(r"-?\d{1,9}", number) is None:
            number = UNREADABLE + number
        code = pick(values, self.code)
        if code and not (len(code) == 1 and code.isascii() and code.isalpha()):
            number = f"{UNREADABLE}{number}{code}"
        self.collector.add(
            Row(
                clean(pick(values, self.chain)),
                clean(number + (code if not number.startswith(UNREADABLE) else "")),
                clean(pick(values, self.name).upper()),
                pick(values, self.atom),
                clean(pick(values, self.letter)),
                pick(values, self.element).upper(),
                at,
                share(pick(values, self.occupancy) or "1"),
                pick(values, self.group) == "HETATM",
            )
        )

    def finish(self) -> Parsed:
        if not self.usable:
            raise Damaged("; ".join(self.troubles.notes()) or "the _atom_site table has no rows")
        notes = self.troubles.notes() + _twice(self.collector)
        unread, twice = self.troubles.count["too few values"], self.collector.twice.total()
        return Parsed(
            self.collector.found, max(len(self.models), 1), tuple(notes), self.rows + unread, twice, unread
        )  # fmt: skip


class SideTables:
    """The rows of _struct_conn and _entity_poly, by data block: each a dict of its columns."""

    WANTED = ("_struct_conn.", "_entity_poly.")

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, str]]] = {}
        self.single: dict[str, dict[str, str]] = {}  # given without a loop
        self.heading = self.active = False
        self.tags: list[str] = []
        self.values: list[str] = []
        self.tag = ""

    def take(self, word: str, block: str) -> None:
        """One word of the file."""
        if _keyword(word):
            self.values, self.tag, low = [], "", word.lower()
            if low == "loop_":
                self.heading, self.active, self.tags = True, False, []
            elif not low.startswith("_"):
                self.heading = self.active = False
            elif self.heading:
                self.tags.append(low)
            else:
                self.active, self.tag = False, low
            return
        if self.heading:
            self.heading, self.active = False, bool(self.tags) and self.tags[0].startswith(self.WANTED)
        if self.active:
            self.values.append(word)
            if len(self.values) == len(self.tags):
                self.rows.setdefault(block, []).append(dict(zip(self.tags, self.values, strict=True)))
                self.values = []
        elif self.tag.startswith(self.WANTED):
            self.single.setdefault(block, {})[self.tag] = word
            self.tag = ""

    def told(self, block: str) -> tuple[tuple[Link, ...], frozenset[str]]:
        """The bonds and the chains of D residues of a data block."""
        rows = [*self.rows.get(block, []), *([self.single[block]] if block in self.single else [])]
        links = [cif_link(row) for row in rows if cif_value(row, "_struct_conn.conn_type_id").startswith("covale")]
        poly = [row for row in rows if cif_value(row, "_entity_poly.type").lower() == "polypeptide(d)"]
        chains = [chain for row in poly for chain in cif_value(row, "_entity_poly.pdbx_strand_id").split(",")]
        return tuple(link for link in links if link is not None), frozenset(clean(c.strip()) for c in chains)


def cif_value(row: dict[str, str], *names: str) -> str:
    """The first of these columns with a value."""
    return AtomSites.pick([row.get(name, ".") for name in names], range(len(names)))


def cif_link(row: dict[str, str]) -> Link | None:
    """The bond of a row of _struct_conn, if it is from a C to an N of the same chain."""
    ends = []
    for k in (1, 2):
        own = f"_struct_conn.ptnr{k}_"
        chain = clean(cif_value(row, f"{own}auth_asym_id", f"{own}label_asym_id"))
        number = cif_value(row, f"{own}auth_seq_id", f"{own}label_seq_id")
        code = cif_value(row, f"_struct_conn.pdbx_ptnr{k}_pdb_ins_code")
        ends.append((cif_value(row, f"{own}label_atom_id"), chain, number + code, cif_value(row, f"{own}symmetry")))
    return link_of(ends)


def parse_mmcif(lines: Iterable[str], block: str | None = None) -> tuple[Parsed | None, list[str], list[str]]:
    """Residues of one data block of an mmCIF file.

    Args:
        lines: of the file.
        block: the name of the data block; by default the first with atoms.

    Returns:
        What the block holds (None if it has no atoms), the names of the blocks with atoms, and of all blocks.

    Raises:
        Damaged: an _atom_site table without the columns it needs, or without one readable row.
    """
    every: list[str] = []
    with_atoms: list[str] = []
    sites: AtomSites | None = None
    heading, body = False, False  # between loop_ and its first value; among its values
    tags: list[str] = []
    single: dict[str, str] = {}  # _atom_site given without a loop
    rest: list[str] = []
    wanted, tag, beside = False, "", SideTables()
    for place, words in words_of(lines):
        if body and sites is not None and wanted:
            first = words[0]
            if len(words) == sites.size and not _keyword(first):
                if rest and first.upper() in ("ATOM", "HETATM"):
                    sites.troubles.add("too few values", place - 1)
                    rest = []
                if not rest:
                    sites.add(words, place)
                    continue
        elif not body and sites is not None and words[0].upper() in ("ATOM", "HETATM"):
            sites.troubles.add("atoms behind the end of their table", place)
        for word in words:
            beside.take(word, every[-1] if every else "")
            if _keyword(word):
                if body and sites is not None and rest:
                    sites.troubles.add("too few values", place)
                if word.lower() == "loop_":
                    heading, body, tags = True, False, []
                elif word.lower().startswith("data_"):
                    heading = body = False
                    every.append(word[5:])
                    tags = []
                elif word.startswith("_"):
                    low = word.lower()
                    if heading:
                        tags.append(low)
                    body, tag = False, low
                rest = []
                continue
            if heading:
                heading, body = False, bool(tags) and all(t.startswith(SITE) for t in tags)
                wanted = False
                if body:
                    name = every[-1] if every else ""
                    if sites is not None and name in (*with_atoms[:1], block):
                        raise Damaged("two _atom_site tables in one data block")
                    if name not in with_atoms:
                        with_atoms.append(name)
                    wanted = sites is None and block in (None, name)
                    if wanted:
                        sites = AtomSites([t.removeprefix(SITE) for t in tags])
            if body and wanted and sites is not None:
                rest.append(word)
                if len(rest) == sites.size:
                    sites.add(rest, place)
                    rest = []
            elif not body and tag.startswith(SITE) and block in (None, every[-1] if every else ""):
                single.setdefault(tag.removeprefix(SITE), word)
                tag = ""
    if rest and sites is not None:
        sites.troubles.add("too few values", 0)
    if sites is None and single:
        sites = AtomSites(list(single))
        sites.add(list(single.values()), 0)
        with_atoms.append(every[-1] if every else "")
    if sites is None:
        return None, with_atoms, every
    links, mirrored = beside.told(with_atoms[0] if block is None else block)
    return replace(sites.finish(), links=links, mirrored=mirrored), with_atoms, every
