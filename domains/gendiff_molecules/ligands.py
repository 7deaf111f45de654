"""Ligands of PDB files: residues that are no part of a polymer, no water and no single atom.

A residue is a chain, a number and a name of its own; what the file holds is what counts, never what a dictionary says
of its name ("LIG" is whatever the file draws). Residues that CONECT joins are one ligand. A HETATM residue named like
an amino acid is a ligand unless a peptide bond joins it to the chain. Of alternative locations the one with the highest
occupancy is read. Bonds are the pairs of serial numbers in CONECT; a pair that is written twice or three times is a
double or triple bond, as RDKit and PyMOL write them. Most files write each once: then orders come from a template,
or from the hydrogens (see `perception`). Only the first model is read.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from .records import Atom, Parsed, Record, clean, element, number, point, whole

_WATER = "HOH WAT DOD H2O TIP TIP3 SOL SPC"
_POLYMER = """
ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL MSE SEC PYL HID HIE HIP HSD HSE HSP CYX
CYM ASH GLH LYN ACE NME NMA NH2 A C G U I DA DC DG DT DU DI
"""
WATER, POLYMER = frozenset(_WATER.split()), frozenset(_POLYMER.split())
_PEPTIDE = 2.0  # angstrom; a longer C-N is no bond


@dataclass
class _Residue:
    name: str
    chain: str
    number: str
    hetero: bool = True
    atoms: list[tuple[str, str, str, float, Atom | None, str]] = field(default_factory=list)
    # name, location, serial, occupancy, atom, why it cannot be read

    @property
    def label(self) -> str:
        return f"{self.name}_{self.chain or '-'}_{self.number}"

    def place(self, name: str) -> tuple[float, float, float] | None:
        """Where the atom of this name is."""
        return next((atom.at for own, *_, atom, _ in self.atoms if own == name and atom is not None), None)


def parse_pdb(lines: list[str]) -> Parsed:
    """The ligands of the first model of a PDB file."""
    parsed = Parsed()
    residues, pairs, later = _rows(lines, parsed)
    if later:
        parsed.skipped["atoms of later models"] += later
        parsed.skipped_rows[0] += later
    ligands = [own for own in residues if _kind(own, residues, parsed) == ""]
    _join(ligands, pairs, parsed)
    return parsed


def _rows(lines: list[str], parsed: Parsed) -> tuple[list[_Residue], Counter[tuple[str, str]], int]:
    """The residues of the first model, how often each pair of serials is connected, and atoms of later models."""
    residues: dict[tuple[str, str, str], _Residue] = {}
    mentions: Counter[tuple[str, str]] = Counter()
    model, later = 0, 0
    for line in lines:
        if line.startswith(("ATOM", "HETATM")):
            parsed.lines["atom"] += 1
            if model > 1:
                later += 1
                continue
            name, chain, place = clean(line[17:20]), clean(line[21:22]), clean(line[22:27])
            own = residues.setdefault((name, chain, place), _Residue(name, chain, place))
            own.hetero &= line.startswith("HETATM")
            own.atoms.append(_atom(line, name))
        elif line.startswith("CONECT"):
            parsed.lines["bond"] += 1
            _connect(line, mentions, parsed)
        elif line.startswith("MODEL"):
            model += 1
            parsed.lines["other record"] += 1
        else:
            parsed.lines["other record" if line.strip() else "blank"] += 1
    pairs: Counter[tuple[str, str]] = Counter()
    for (a, b), count in mentions.items():
        pairs[min(a, b), max(a, b)] = max(count, pairs[min(a, b), max(a, b)])
    return list(residues.values()), pairs, later


def _atom(line: str, residue: str) -> tuple[str, str, str, float, Atom | None, str]:
    at, name = point(line[30:38], line[38:46], line[46:54]), line[12:16]
    symbol, reason = line[76:78].strip(), ""
    known = element(symbol) if symbol else _from_name(name, residue)
    if at is None:
        reason = f"the position of atom {clean(name)} cannot be read"
    elif known is None:
        reason = f"atom {clean(name)} is called {clean(symbol or name)!r}, which is no element"
    charge = line[78:80].strip()
    value = whole(charge[::-1]) if charge[-1:] in ("+", "-") else whole(charge)
    if charge and value is None and symbol:
        reason = reason or f"the charge {clean(charge)!r} of atom {clean(name)} cannot be read"
    found = None if known is None or at is None else Atom(known[0], at, value or 0, known[1])
    return name.strip(), line[16:17].strip(), line[6:11].strip(), number(line[54:60]) or 0.0, found, reason


def _from_name(name: str, residue: str) -> tuple[str, int] | None:
    """The element of an atom without one, from its name: the first letter, but for CL, BR and ions."""
    letters = "".join(c for c in name if c.isalpha()).upper()
    if name[:1].isalpha() and (letters[:2] in ("CL", "BR") or letters == residue):
        return element(letters[:2])
    return element(letters[:1])


def _connect(line: str, mentions: Counter[tuple[str, str]], parsed: Parsed) -> None:
    """The pairs of a CONECT record, in columns of five, or by words."""
    fields = [line[k : k + 5].strip() for k in range(6, 31, 5)]
    if any(one and whole(one) is None for one in fields):
        fields = line[6:].split()
    serials = [one for one in fields if one]
    if len(serials) < 2 or any(whole(one) is None for one in serials):
        parsed.skipped["CONECT records that cannot be read"] += 1
        return
    for other in serials[1:]:
        mentions[serials[0], other] += 1


def _kind(own: _Residue, residues: list[_Residue], parsed: Parsed) -> str:
    """What a residue is if it is no ligand, which is then counted; empty for a ligand."""
    kind = ""
    if own.name in WATER:
        kind = "water"
    elif own.name in POLYMER and (not own.hetero or _bonded(own, residues)):
        kind = "residues of a polymer"
    elif own.name not in POLYMER and own.hetero and _bonded(own, residues):
        kind = "modified residues of a polymer"
    elif len({name for name, *_ in own.atoms}) == 1:
        kind = "single atoms and ions"
    if kind:
        parsed.skipped[kind] += 1
        parsed.skipped_rows[0] += len(own.atoms)
    return kind


def _bonded(own: _Residue, residues: list[_Residue]) -> bool:
    """Whether a peptide bond joins it to another residue."""
    n, c = own.place("N"), own.place("C")
    if n is None or c is None or own.place("CA") is None:
        return False
    for other in residues:
        theirs = other.place("C"), other.place("N")
        pairs = [(a, b) for a, b in zip((n, c), theirs, strict=True) if b is not None]
        if other is not own and any(math.dist(a, b) < _PEPTIDE for a, b in pairs):
            return True
    return False


def _join(ligands: list[_Residue], pairs: Counter[tuple[str, str]], parsed: Parsed) -> None:
    """Residues that are connected become one record each; every pair is a bond of one of them or skipped."""
    chosen: dict[int, list[tuple[str, str, str, float, Atom | None, str]]] = {}
    owner: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for k, own in enumerate(ligands):
        chosen[k] = _location(own, parsed)
        for place, (_, _, serial, *_) in enumerate(chosen[k]):
            owner[serial].append((k, place))
    group = list(range(len(ligands)))
    inside: list[tuple[tuple[int, int], tuple[int, int], int]] = []
    for (a, b), order in pairs.items():
        ends = owner.get(a, []), owner.get(b, [])
        if not ends[0] or not ends[1]:
            parsed.skipped["connections to what is no ligand"] += 1
            parsed.skipped_rows[1] += 1
            continue
        inside.append((ends[0][0], ends[1][0], order))
        one, two = group[ends[0][0][0]], group[ends[1][0][0]]
        group = [one if g == two else g for g in group]
    for g in dict.fromkeys(group):
        members = [k for k in range(len(ligands)) if group[k] == g]
        parsed.records.append(_record([ligands[k] for k in members], members, chosen, inside, owner))


def _location(own: _Residue, parsed: Parsed) -> list[tuple[str, str, str, float, Atom | None, str]]:
    """The atoms of the location with the highest mean occupancy; the others are counted."""
    shares: dict[str, list[float]] = defaultdict(list)
    for _, letter, _, occupancy, *_ in own.atoms:
        if letter:
            shares[letter].append(occupancy)
    best = min(shares, key=lambda letter: (-sum(shares[letter]) / len(shares[letter]), letter), default="")
    kept = [row for row in own.atoms if row[1] in ("", best)]
    if len(kept) < len(own.atoms):
        parsed.skipped["atoms at another location"] += len(own.atoms) - len(kept)
        parsed.skipped_rows[0] += len(own.atoms) - len(kept)
    return kept


def _record(
    residues: list[_Residue],
    members: list[int],
    chosen: dict[int, list[tuple[str, str, str, float, Atom | None, str]]],
    inside: list[tuple[tuple[int, int], tuple[int, int], int]],
    owner: dict[str, list[tuple[int, int]]],
) -> Record:
    record = Record("+".join(own.label for own in residues), perceive="orders")
    record.properties = {"residue": " ".join(own.label for own in residues)}
    start = {}
    for k in members:
        start[k] = len(record.atoms)
        for _, _, serial, _, atom, reason in chosen[k]:
            record.rows[0] += 1
            if reason:
                record.blame(reason)
            record.atoms.append(atom or Atom("", (0.0, 0.0, 0.0)))
            if len(owner[serial]) > 1 and any(own[0] in members for own, _, _ in inside):
                record.blame(f"the serial number {clean(serial) or 'blank'} is given {len(owner[serial])} times")
    ours = [(a, b, order) for a, b, order in inside if a[0] in start]
    for (p, a), (q, b), order in ours:
        record.rows[1] += 1
        if order > 3:
            record.blame(f"atoms {start[p] + a + 1} and {start[q] + b + 1} are connected {order} times")
        else:
            record.add_bond(start[p] + a + 1, start[q] + b + 1, order)
    if any(order > 1 for *_, order in ours):
        record.perceive = ""
    elif not ours:
        record.perceive = "bonds"
    record.close()
    return record
