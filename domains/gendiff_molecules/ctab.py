"""Records of SDF and MOL files: connection tables V2000 and V3000.

    header      three lines: title, program with "2D" or "3D" in columns 21-22, comment
    counts      columns 1-3 and 4-6: atoms and bonds; V2000 or V3000
    V2000       x, y, z in columns 1-30, symbol 32-34, charge code 37-39, valence 49-51; bonds in columns of three.
                M  CHG and M  RAD replace every charge code of the atom lines, M  ISO every mass difference
    V3000       M  V30 lines of words; a hyphen at the end continues a line
    M  END      ends the table; without it the record is cut, and its charges may be lost with the rest
    > <NAME>    data fields, up to a blank line
    $$$$        ends the record

Atom lines that are shifted against their columns are read by words. Stereo marks are not read where there are
positions: these say it.
"""

from __future__ import annotations

import re

from .records import AROMATIC, Atom, Parsed, Record, clean, element, number, point, whole

_CODES = {0: 0, 1: 3, 2: 2, 3: 1, 4: 0, 5: -1, 6: -2, 7: -3}
_ATOM_LIKE = re.compile(r"\s*([-+]?\d+\.\d*\s*){3}[A-Za-z*]")
_BOND_LIKE = re.compile(r"[\s\d]{7,}$")
_FIELD = re.compile(r">.*?<(.*)>")
_COUNTS = re.compile(r"[ \d]{6}.*V[23]000\s*$")
_VERSION = re.compile(r"V[23]000\b")
_QUERIES = {
    5: "single or double",
    6: "single or aromatic",
    7: "double or aromatic",
    8: "any",
    9: "dative",
    10: "hydrogen",
}


def parse_sdf(lines: list[str]) -> Parsed:
    """The records of an SDF or MOL file."""
    parsed = Parsed()
    start, ended = 0, -1  # where the record begins, and the end of its table
    for place, line in enumerate([*lines, None]):
        if line is not None and not line.startswith("$$$$"):
            if ended >= 0 and _COUNTS.match(line):  # another table: the end of the record before it is lost
                begin = max(ended + 1, place - 3)
                parsed.records.append(_record(lines[start:begin], start, parsed))
                parsed.records[-1].notes.append("$$$$ is missing behind it")
                start, ended = begin, -1
            elif ended < 0 and line.startswith("M  END"):
                ended = place
            continue
        own = lines[start:place]
        if line is not None or any(one.strip() for one in own):
            parsed.records.append(_record(own, start, parsed))
        else:
            parsed.lines["blank"] += len(own)
        parsed.lines["end of a record"] += line is not None
        start, ended = place + 1, -1
    return parsed


def _record(lines: list[str], start: int, parsed: Parsed) -> Record:
    title = clean(lines[0]) if lines else ""
    record = Record(title or f"record {len(parsed.records) + 1}", start + 1, text="\n".join(lines))
    if not any(line.strip() for line in lines):
        parsed.lines["blank"] += len(lines)
        record.blame("the record is empty")
        return record
    places = [k for k, line in enumerate(lines[:8]) if _VERSION.search(line)]
    counts = min(places[0] if places else 3, len(lines) - 1)
    end = next((k for k, line in enumerate(lines) if k > counts and line.startswith("M  END")), None)
    stop = (
        end
        if end is not None
        else next((k for k, x in enumerate(lines) if k > counts and x.startswith(">")), len(lines))
    )
    parsed.lines["header"] += counts + 1
    if counts != 3:
        record.notes.append(f"the header has {counts} lines instead of 3")
    if counts >= 2 and lines[counts - 2][20:22].upper() in ("2D", "3D"):
        record.flat = lines[counts - 2][20:22] == "2D"
    read = _v3000 if "V3000" in lines[counts] else _v2000
    read(record, lines[counts], lines[counts + 1 : stop], parsed)
    if end is None:
        record.blame("M  END is missing: the record is cut")
    else:
        parsed.lines["end of a table"] += 1
    _fields(record, lines[stop + (end is not None) :], parsed)
    record.close()
    return record


def _fields(record: Record, lines: list[str], parsed: Parsed) -> None:
    """The data fields behind a table."""
    name: str | None = None
    values: list[str] = []
    for line in [*lines, ""]:
        if name is not None and (not line.strip() or line.startswith(">")):
            if name in record.properties:
                record.notes.append(f"the field {clean(name)} is given twice; the last one is kept")
            record.properties[name], name = "\n".join(values), None
        if line.startswith(">"):
            match = _FIELD.match(line)
            name, values = (match[1] if match else None), []
        elif name is not None:
            values.append(line)
        elif _ATOM_LIKE.match(line) or (line.strip() and _BOND_LIKE.match(line)):
            record.blame(f"a line of a table behind its end: {clean(line)!r}")
            _by_shape(record, [line], parsed)
            continue
        elif line.strip():
            parsed.lines["that cannot be placed"] += 1
            continue
        parsed.lines["data"] += 1
    parsed.lines["data"] -= 1  # the blank one that was put behind


def _by_shape(record: Record, lines: list[str], parsed: Parsed) -> None:
    """Lines of a table that is not read: atoms and bonds are told by what they look like."""
    for line in lines:
        _count(record, line, _looks(line), parsed)


def _looks(line: str) -> int | None:
    """0 for a line that looks like an atom, 1 for one like a bond."""
    return 0 if _ATOM_LIKE.match(line) else 1 if line.strip() and _BOND_LIKE.match(line) else None


def _count(record: Record, line: str, kind: int | None, parsed: Parsed) -> None:
    if kind is None:
        known = "property" if line[:1] in "MAVGS" and line[1:2] == " " else "that cannot be placed"
        parsed.lines["blank" if not line.strip() else known] += 1
    else:
        record.rows[kind] += 1
        parsed.lines["atom" if kind == 0 else "bond"] += 1


def _v2000(record: Record, counts: str, lines: list[str], parsed: Parsed) -> None:
    atoms, bonds = whole(counts[:3]), whole(counts[3:6])
    if atoms is None or bonds is None or min(atoms, bonds) < 0:
        record.blame(f"the counts line cannot be read: {clean(counts)!r}")
        _by_shape(record, lines, parsed)
        return
    if not atoms:
        record.blame("the record is empty: 0 atoms")
    table = next((k for k, line in enumerate(lines) if line[:3] in ("M  ", "A  ", "V  ", "G  ", "S  ")), len(lines))
    rest = lines[min(atoms + bonds, table) :]
    rows, ties = lines[: min(atoms, table)], lines[min(atoms, table) : min(atoms + bonds, table)]
    for line in rows:
        _count(record, line, _looks(line) or 0, parsed)
        _atom(record, line)
    for line in ties:
        _count(record, line, 0 if _looks(line) == 0 else 1, parsed)
        _bond(record, line)
    if len(rows) < atoms or len(ties) < bonds:
        record.blame(f"{atoms} atoms and {bonds} bonds are announced, and there are {len(rows)} and {len(ties)}")
    _by_shape(record, rest, parsed)
    strange = [line for line in rest if line.strip() and not (line[:1] in "MAVGS" and line[1:2] == " ")]
    if strange:
        record.blame(f"a line beyond the {atoms} atoms and {bonds} bonds that are announced: {clean(strange[0])!r}")
    _properties(record, rest)


def _atom(record: Record, line: str) -> None:
    k = len(record.atoms) + 1
    at, symbol, code, valence = point(line[:10], line[10:20], line[20:30]), line[31:34], line[36:39], line[48:51]
    known = element(symbol) if symbol[:1].strip() else None
    words = line.split()
    if (at is None or known is None) and len(words) >= 4 and point(*words[:3]) is not None:
        at, symbol = point(*words[:3]), words[3]
        known = element(symbol)
        code, valence = words[5] if len(words) > 5 else "", words[9] if len(words) > 9 else ""
    if at is None:
        record.blame(f"the position of atom {k} cannot be read: {clean(line[:34])!r}")
    elif known is None:
        record.blame(f"atom {k} is called {clean(symbol)!r}, which is no element")
    charge, own = whole(code or "0"), whole(valence or "0")
    if charge not in _CODES:
        record.blame(f"the charge code of atom {k} is {clean(code)!r}")
    atom = Atom(known[0] if known else "", at or (0.0, 0.0, 0.0), _CODES.get(charge or 0, 0))
    atom.isotope, atom.radical = known[1] if known else 0, charge == 4
    if whole(line[34:36]) and at is not None and not atom.isotope and words[3:4] == [symbol.strip()]:
        atom.isotope = -1  # a difference from the commonest mass
    atom.valence = None if not own else 0 if own == 15 else own
    record.atoms.append(atom)


def _bond(record: Record, line: str) -> None:
    k = record.rows[1]
    found = whole(line[:3]), whole(line[3:6]), whole(line[6:9])
    words = line.split()
    if None in found and len(words) >= 3:
        found = whole(words[0]), whole(words[1]), whole(words[2])
    i, j, order = found
    if i is None or j is None or order is None:
        record.blame(f"bond {k} cannot be read: {clean(line)!r}")
    else:
        _tie(record, k, i, j, order)


def _tie(record: Record, k: int, i: int, j: int, order: int) -> None:
    if not 1 <= order <= AROMATIC:
        meaning = f" ({_QUERIES[order]})" if order in _QUERIES else ""
        record.blame(f"bond {k} between atoms {i} and {j} is of type {order}{meaning}, which is no Kekule bond")
    else:
        record.add_bond(i, j, order)


def _properties(record: Record, lines: list[str]) -> None:
    """The lines M  CHG, M  RAD and M  ISO."""
    own = {kind: [line for line in lines if line.startswith(f"M  {kind}")] for kind in ("CHG", "RAD", "ISO")}
    if own["CHG"] or own["RAD"]:
        for atom in record.atoms:
            atom.charge, atom.radical = 0, False
    if own["ISO"]:
        for atom in record.atoms:
            atom.isotope = max(atom.isotope, 0)
    for kind, found in own.items():
        for line in found:
            words = [whole(word) for word in line[6:].split()]
            pairs = list(zip(words[1::2], words[2::2], strict=False))
            if not words or None in words or words[0] != len(pairs) or len(words) != 1 + 2 * len(pairs):
                record.blame(f"the line {clean(line)!r} cannot be read")
                continue
            for place, value in pairs:
                assert place is not None and value is not None
                if not 1 <= place <= len(record.atoms):
                    record.blame(f"the line {clean(line)!r} names atom {place}, where there are {len(record.atoms)}")
                elif kind == "CHG":
                    _charge(record, place, value)
                else:
                    setattr(record.atoms[place - 1], "radical" if kind == "RAD" else "isotope", value)


def _charge(record: Record, place: int, value: int) -> None:
    if abs(value) > 15:
        record.blame(f"atom {place} has charge {value}")
    record.atoms[place - 1].charge = value


def _v3000(record: Record, counts: str, lines: list[str], parsed: Parsed) -> None:
    """Atoms and bonds of the blocks of a V3000 table."""
    block, announced, places = "", (-1, -1), {}
    held = ""
    for line in lines:
        kind = {"ATOM": 0, "BOND": 1}.get(block)
        if not line.startswith("M  V30 "):
            parsed.lines["blank" if not line.strip() else "that cannot be placed"] += 1
            if line.strip():
                record.blame(f"a line inside the table that is not of it: {clean(line)!r}")
            continue
        words = (held + line[7:]).split()
        if words[-1:] and words[-1].endswith("-"):
            held = (held + line[7:]).rstrip()[:-1]
            parsed.lines["property"] += 1
            continue
        held = ""
        if words[:1] in (["BEGIN"], ["END"]) or kind is None:
            block = words[1] if words[:1] == ["BEGIN"] and len(words) > 1 else "" if words[:1] == ["END"] else block
            if words[:1] == ["COUNTS"] and len(words) > 2:
                announced = (whole(words[1]) or 0, whole(words[2]) or 0)
            parsed.lines["property"] += 1
            continue
        _count(record, line, kind, parsed)
        if kind == 0:
            _atom_v3000(record, words, places)
        else:
            _bond_v3000(record, words, places)
    if block or held:
        record.blame(f"the block {block or 'of the table'} does not end: the record is cut")
    if tuple(record.rows) != announced:
        said = f"{announced[0]} atoms and {announced[1]} bonds are announced" if announced[0] >= 0 else "no COUNTS line"
        record.blame(f"{said}, and there are {record.rows[0]} and {record.rows[1]}")
    if not record.rows[0]:
        record.blame("the record is empty: 0 atoms")


def _atom_v3000(record: Record, words: list[str], places: dict[int, int]) -> None:
    k = len(record.atoms) + 1
    index = whole(words[0]) if words else None
    at = point(*words[2:5]) if len(words) >= 5 else None
    known = element(words[1]) if len(words) > 1 else None
    if index is None or at is None:
        record.blame(f"the position of atom {k} cannot be read: {clean(' '.join(words))!r}")
    elif index in places:
        record.blame(f"the atom number {index} is given twice")
    elif known is None:
        record.blame(f"atom {k} is called {clean(words[1])!r}, which is no element")
    atom = Atom(known[0] if known else "", at or (0.0, 0.0, 0.0), isotope=known[1] if known else 0)
    for word in words[6:]:
        key, _, value = word.partition("=")
        found = whole(value)
        if key in ("CHG", "RAD", "VAL", "MASS") and found is None and number(value) is None:
            record.blame(f"{clean(word)!r} of atom {k} cannot be read")
        elif key == "CHG":
            atom.charge = found or 0
        elif key == "RAD":
            atom.radical = bool(found)
        elif key == "VAL" and found:
            atom.valence = 0 if found == -1 else found
        elif key == "MASS":
            atom.isotope = found or -1
    if abs(atom.charge) > 15:
        record.blame(f"atom {k} has charge {atom.charge}")
    places[index if index is not None else -k] = k
    record.atoms.append(atom)


def _bond_v3000(record: Record, words: list[str], places: dict[int, int]) -> None:
    k = record.rows[1]
    found = [whole(word) for word in words[:4]]
    if len(found) < 4 or None in found:
        record.blame(f"bond {k} cannot be read: {clean(' '.join(words))!r}")
        return
    _, order, i, j = (value or 0 for value in found)
    _tie(record, k, places.get(i, 0), places.get(j, 0), order)
