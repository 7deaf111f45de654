"""Records of MOL2, XYZ and SMILES files.

MOL2    @<TRIPOS>MOLECULE begins a record; its second line announces atoms and bonds. Types are Sybyl's ("C.ar",
        "N.pl3"); one of another force field ("ca" of GAFF is no calcium) is a fault. Formal charges are not in the
        format: see `perception.charged`. The partial charges are read to check their sum.
XYZ     a count, a comment, as many lines of symbol, x, y, z; again, for every frame. "charge=1" in the comment is the
        charge of the whole. QM9's own files ("gdb 17", exponents with *^) are read. No bonds: they are perceived.
SMILES  a molecule a line, then a space or tab and its name; "#" begins a comment; a first line of column names is one.
"""

from __future__ import annotations

import re

from .records import AROMATIC, Atom, Parsed, Record, clean, element, number, point, whole

_DOTTED = """
c.1 c.2 c.3 c.ar c.cat n.1 n.2 n.3 n.4 n.am n.ar n.pl3 o.2 o.3 o.co2 o.spc o.t3p s.2 s.3 s.o s.o2 p.3 h.spc h.t3p cr.oh
cr.th co.oh
"""
_SYBYL = frozenset(_DOTTED.split())
_NONE = ("Du", "LP", "Any", "Hal", "Het", "Hev")  # Sybyl's types that are no element
_ORDERS = {"1": 1, "2": 2, "3": 3, "am": 1, "ar": AROMATIC}


def parse_mol2(lines: list[str]) -> Parsed:
    """The records of a MOL2 file."""
    parsed = Parsed()
    section, record, header, announced = "", None, 0, (-1, -1)
    places: dict[int, int] = {}
    for place, line in enumerate(lines):
        if line.startswith("@<TRIPOS>"):
            section, header = line[9:].strip().upper(), 0
            parsed.lines["header"] += 1
            if section == "MOLECULE":
                _finish(record, announced)
                record, announced, places = Record(f"record {len(parsed.records) + 1}", place + 1), (-1, -1), {}
                parsed.records.append(record)
        elif not line.strip() and not (section == "MOLECULE" and header == 0):
            parsed.lines["blank"] += 1
        elif line.startswith("#"):
            parsed.lines["comment"] += 1
        elif record is None and section in ("ATOM", "BOND"):
            kind = section.lower()
            parsed.lines[kind] += 1
            parsed.skipped[f"{kind}s outside of a record"] += 1
            parsed.skipped_rows[section == "BOND"] += 1
        elif record is None:
            parsed.lines["that cannot be placed"] += 1
        elif section == "MOLECULE":
            header += 1
            parsed.lines["header"] += 1
            if header == 1:
                record.name = clean(line) or record.name
            elif header == 2:
                found = [whole(word) for word in line.split()[:2]]
                announced = (found[0] or 0, (found[1] or 0) if len(found) > 1 else 0) if found else announced
        elif section == "ATOM":
            parsed.lines["atom"] += 1
            record.rows[0] += 1
            _mol2_atom(record, line.split(), places)
        elif section == "BOND":
            parsed.lines["bond"] += 1
            record.rows[1] += 1
            _mol2_bond(record, line.split(), places)
        else:
            parsed.lines["other section"] += 1
    _finish(record, announced)
    return parsed


def _finish(record: Record | None, announced: tuple[int, int]) -> None:
    if record is None:
        return
    if not record.rows[0]:
        record.blame("the record is empty: 0 atoms")
    if tuple(record.rows) != announced:
        said = f"{announced[0]} atoms and {announced[1]} bonds are announced" if announced[0] >= 0 else "no counts"
        record.blame(f"{said}, and there are {record.rows[0]} and {record.rows[1]}")
    record.close()


def _mol2_atom(record: Record, words: list[str], places: dict[int, int]) -> None:
    k = record.rows[0]
    index, at = whole(words[0]), point(*words[2:5]) if len(words) >= 6 else None
    if index is None or at is None:
        record.blame(f"the position of atom {k} cannot be read: {clean(' '.join(words))!r}")
        words = [*words, *("" for _ in range(6))]
    elif index in places:
        record.blame(f"the atom number {index} is given twice")
    kind = words[5]
    symbol = kind.partition(".")[0]
    known = element(symbol) if _is_sybyl(kind) else None
    if known is None:
        what = "no element" if symbol in _NONE else "none of Sybyl's types"
        record.blame(f"atom {k} ({clean(words[1])}) has the type {clean(kind)!r}, which is {what}")
    partial = number(words[8]) if len(words) > 8 else None
    places[index if index is not None else -k] = k
    found = known or ("", 0)
    record.atoms.append(Atom(found[0], at or (0.0, 0.0, 0.0), isotope=found[1], kind=kind, partial=partial))


def _is_sybyl(kind: str) -> bool:
    """Whether an atom type is one of Sybyl's: dotted ones in any case, elements as they are written or in capitals."""
    if "." in kind:
        return kind.lower() in _SYBYL
    written = kind[:1].isupper() and (kind[1:].islower() or kind.isupper())
    return kind not in _NONE and written and element(kind) is not None


def _mol2_bond(record: Record, words: list[str], places: dict[int, int]) -> None:
    k = record.rows[1]
    ends = [whole(word) for word in words[1:3]]
    if len(words) < 4 or len(ends) < 2 or None in ends:
        record.blame(f"bond {k} cannot be read: {clean(' '.join(words))!r}")
        return
    i, j = (places.get(end or 0, 0) for end in ends)
    order = _ORDERS.get(words[3].lower())
    if order is None:
        record.blame(f"bond {k} between atoms {i} and {j} is of type {clean(words[3])!r}, which is no Kekule bond")
    else:
        record.add_bond(i, j, order)


_CHARGE = re.compile(r"\bcharge\s*[=:]\s*\"?([-+]?\d{1,2})\b", re.I)


def parse_xyz(lines: list[str]) -> Parsed:
    """The frames of an XYZ file."""
    parsed = Parsed()
    place = 0
    while place < len(lines):
        count = whole(lines[place])
        if count is None or count < 0:
            stray = lines[place].split()
            if _is_row(stray):
                parsed.skipped["atoms outside of a frame"] += 1
                parsed.skipped_rows[0] += 1
                parsed.lines["atom"] += 1
            else:
                parsed.lines["blank" if not stray else "that cannot be placed"] += 1
            place += 1
            continue
        comment = lines[place + 1] if place + 1 < len(lines) else ""
        record = Record(clean(comment)[:40] or f"frame {len(parsed.records) + 1}", place + 1, perceive="bonds")
        found = _CHARGE.search(comment)
        record.charge = int(found[1]) if found else None
        record.properties = {"comment": comment.strip()} if comment.strip() else {}
        parsed.records.append(record)
        parsed.lines["header"] += min(2, len(lines) - place)
        place += 2
        last = min(place + count, len(lines))
        while place < last and lines[place].strip() and not (whole(lines[place]) is not None):
            _xyz_atom(record, lines[place].split())
            parsed.lines["atom"] += 1
            place += 1
        if not count:
            record.blame("the record is empty: 0 atoms")
        elif record.rows[0] != count:
            record.blame(f"{count} atoms are announced, and there are {record.rows[0]}")
        record.close()
    return parsed


def _is_row(words: list[str]) -> bool:
    return len(words) >= 4 and element(words[0]) is not None and point(*words[1:4]) is not None


def _xyz_atom(record: Record, words: list[str]) -> None:
    record.rows[0] += 1
    k = record.rows[0]
    at = point(*(word.replace("*^", "e") for word in words[1:4])) if len(words) >= 4 else None
    known = element(words[0])
    if at is None:
        record.blame(f"the position of atom {k} cannot be read: {clean(' '.join(words))!r}")
    elif known is None:
        by_number = whole(words[0])
        record.blame(
            f"atom {k} is called {clean(words[0])!r}, which is no element"
            + (" (write the symbol, not the number)" if by_number is not None else "")
        )
    found = known or ("", 0)
    record.atoms.append(Atom(found[0], at or (0.0, 0.0, 0.0), isotope=found[1]))


_TITLES = ("smiles", "canonical_smiles", "smi", "structure")


def parse_smiles(lines: list[str]) -> Parsed:
    """The lines of a SMILES file; their atoms are counted when RDKit has read them."""
    parsed = Parsed()
    for place, line in enumerate(lines):
        words = line.split(None, 1)
        if not words:
            parsed.lines["blank"] += 1
        elif words[0].startswith("#"):
            parsed.lines["comment"] += 1
        elif not parsed.records and words[0].lower() in _TITLES:
            parsed.lines["header"] += 1
        else:
            name = clean(words[1]) if len(words) > 1 else f"line {place + 1}"
            parsed.lines["molecule"] += 1
            parsed.records.append(Record(name, place + 1, smiles=words[0]))
    return parsed
