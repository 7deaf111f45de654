"""What a file says of one molecule, before any chemistry, and where each of its lines belongs.

Every line of a file is of one kind: an atom, a bond, or one of those that hold neither (a header, a property, a data
field, another section, a blank, or a line that nobody can place). A record takes its atom and bond lines with it,
whatever becomes of it, so that they add up. What is read is taken as it stands; a record that cannot be a molecule
carries the first `fault` that was found, in words, with the atom or bond counted from 1.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .molecule import SYMBOLS, symbol_number

Point = tuple[float, float, float]
AROMATIC = 4  # the order of a bond that a file calls aromatic
MOST = 100_000  # atoms or bonds of one record

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")
_WHOLE = re.compile(r"[-+]?\d{1,9}")


@dataclass
class Atom:
    """An atom as a file gives it: `valence` is what the file says it has, if anything."""

    symbol: str
    at: Point
    charge: int = 0
    isotope: int = 0
    radical: bool = False
    valence: int | None = None
    kind: str = ""
    number: int = 0
    partial: float | None = None


@dataclass
class Record:
    """One molecule of a file.

    Attributes:
        name: its title, or its place in the file.
        line: where it begins, counted from 1.
        atoms: those that could be read.
        bonds: two atoms, counted from 0, and the order 1, 2, 3 or `AROMATIC`.
        rows: its lines of atoms, and of bonds; in a file without bonds the second is 0.
        fault: why it can be no molecule; empty if that is not known yet.
        flat: whether the file says that the positions are two-dimensional; None if it says nothing.
        perceive: whether bonds have to be found from the positions; "orders" if only their orders have to.
        charge: the whole charge that the file tells, if it does.
        text: its lines, for what RDKit has to read itself.
        notes: what was done to it.
    """

    name: str = ""
    line: int = 1
    atoms: list[Atom] = field(default_factory=list)
    bonds: list[tuple[int, int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=lambda: [0, 0])
    fault: str = ""
    flat: bool | None = None
    perceive: str = ""
    charge: int | None = None
    properties: dict[str, str] = field(default_factory=dict)
    text: str = ""
    smiles: str = ""
    notes: list[str] = field(default_factory=list)

    def blame(self, fault: str) -> None:
        """The first fault counts."""
        self.fault = self.fault or fault

    def add_bond(self, i: int, j: int, order: int) -> None:
        """A bond between two atoms counted from 1, if it can be one."""
        size = len(self.atoms)
        if not (1 <= i <= size and 1 <= j <= size):
            self.blame(f"a bond between atoms {i} and {j}, where there are {size}")
        elif i == j:
            self.blame(f"a bond of atom {i} with itself")
        else:
            self.bonds.append((min(i, j) - 1, max(i, j) - 1, order))

    def close(self) -> None:
        """What can be said of a record once it is whole."""
        twice = [pair for pair, n in Counter(bond[:2] for bond in self.bonds).items() if n > 1]
        if twice:
            self.blame(f"the bond {twice[0][0] + 1}-{twice[0][1] + 1} is given twice")
        if self.rows[0] > MOST or self.rows[1] > MOST:
            self.blame(f"more than {MOST} atoms or bonds")


@dataclass
class Parsed:
    """What a file holds.

    Attributes:
        records: its molecules, in order.
        lines: how many lines are of each kind.
        skipped: what is no molecule: by what it is, how many (residues, header lines), with `skipped_rows` of atoms and
            of bonds.
    """

    records: list[Record] = field(default_factory=list)
    lines: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    skipped_rows: list[int] = field(default_factory=lambda: [0, 0])


def number(text: str) -> float | None:
    """A number as files write it; None for what is none ("nan", "1_0", "0x1")."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def whole(text: str) -> int | None:
    """A whole number; None for what is none."""
    text = text.strip()
    return int(text) if _WHOLE.fullmatch(text) else None


def point(x: str, y: str, z: str) -> Point | None:
    """Three coordinates; None if one cannot be read."""
    found = number(x), number(y), number(z)
    return None if None in found else found  # type: ignore[return-value]


def element(symbol: str) -> tuple[str, int] | None:
    """The symbol of an element and the isotope, from what a file writes: "CL", "D". None for what is no element."""
    symbol = symbol.strip()
    if symbol.upper() in ("D", "T"):
        return "H", 2 if symbol.upper() == "D" else 3
    found = symbol_number(symbol)
    return None if found is None else (SYMBOLS[found], 0)


def clean(text: str) -> str:
    """Text of a file that may stand in a report: printable, at most 60 characters."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in text[:60])


def text_of(raw: bytes) -> str:
    """The text of a file, its lines ended by a line feed alone."""
    raw = raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    if b"\r" in raw and b"\n" not in raw:
        raw = raw.replace(b"\r", b"\n")
    return raw.decode("utf-8", errors="replace")


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text; only a line feed ends one."""
    return (line.rstrip("\n") for line in io.StringIO(text, newline="\n"))
