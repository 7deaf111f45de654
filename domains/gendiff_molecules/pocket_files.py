r"""Pockets of proteins from PDB and mmCIF files of one's own, plain or gzipped.

    read_pocket("1iep.cif", ligand="STI")                       where a residue of the file lies, which is left out
    read_pocket("1iep.pdb", ligand=read("mine.sdf")[0])         where a molecule lies, in the protein's frame
    read_pocket("1iep.pdb", centre=(15.6, 53.4, 15.5))          a place in space

A pocket is whole residues of which a heavy atom is within `radius` of the ligand's heavy atoms, or of the place. Only
the first model is read, of alternative locations of a residue the one with the highest mean occupancy; water and
hydrogens are left out. Cofactors and ions stay, but for what lies where the ligand lies: residues that are no amino
acid and have a heavy atom within 1 A of it. An atom that cannot be read is an error that names it, never skipped.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gendiff.errors import DataError, GendiffError, printable
from gendiff.files import content

from .ligands import WATER
from .molecule import NUMBERS, Molecule
from .pocket import RESIDUES, Pocket
from .records import clean, element, lines_of, number, point, text_of

LIMIT = 256 * 2**20  # bytes of text, unpacked
SAME = 1.0  # angstrom; what is nearer to the ligand lies in its place
_TOKEN = re.compile(r"'(?:[^']|'(?=\S))*'(?=\s|$)|\"(?:[^\"]|\"(?=\S))*\"(?=\s|$)|\S+")


@dataclass(frozen=True)
class Site:
    """An atom of a file: `residue` is its name, chain, and number with insertion code."""

    name: str
    residue: tuple[str, str, str]
    symbol: str
    at: tuple[float, float, float]
    location: str
    occupancy: float


def read_sites(path: str | Path) -> list[Site]:
    """The atoms of the first model, water and hydrogens too, at one location each.

    Raises:
        DataError: A file that is missing or empty, has another suffix or no atoms; an atom that cannot be read.
    """
    path = Path(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    rows = {".pdb": _pdb, ".ent": _pdb, ".cif": _mmcif, ".mmcif": _mmcif}.get(suffix)
    if rows is None:
        raise _refuse(path, f"the suffix {suffix!r}", ".pdb, .ent, .cif or .mmcif, or one of them with .gz")
    sites = list(rows(path, list(lines_of(text_of(content(path, LIMIT, "a PDB or mmCIF file", _refuse))))))
    if not sites:
        raise _refuse(path, "no atoms", "ATOM or HETATM records, or a loop of _atom_site")
    shares: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for site in sites:
        if site.location:
            shares[site.residue][site.location].append(site.occupancy)
    best = {
        residue: min(own, key=lambda letter, own=own: (-sum(own[letter]) / len(own[letter]), letter))
        for residue, own in shares.items()
    }
    return [site for site in sites if site.location in ("", best.get(site.residue, ""))]


def read_pocket(
    path: str | Path,
    *,
    ligand: Molecule | str | None = None,
    centre: Sequence[float] | None = None,
    radius: float = 10.0,
    without: Sequence[str] = (),
) -> Pocket:
    """The pocket of a protein around a ligand, or around a place; see the top of the file.

    Args:
        path: A PDB or mmCIF file.
        ligand: A molecule in the protein's frame, or a residue of the file: "STI", or where there are several the name,
            chain and number of one, "STI_A_201".
        centre: Instead, where the middle of a ligand shall lie, angstrom.
        radius: How near a residue of the pocket is, angstrom.
        without: Names of residues that are left out, "EDO", "SO4".

    Raises:
        DataError: No place or two, no such residue or several, nothing near, a file that cannot be read.
    """
    path = Path(path)
    if (ligand is None) == (centre is None):
        raise DataError(
            f"the pocket of {printable(str(path))} without its ligand's place"
            if ligand is None
            else "a ligand and a centre",
            "where the ligand lies, told by one of both",
            'read_pocket(path, ligand=read("ligand.sdf")[0]), ligand="STI", or centre=(x, y, z)',
        )
    if not radius > 0:
        raise DataError(f"radius={radius!r}", "a positive number of angstrom")
    sites = [site for site in read_sites(path) if site.symbol != "H"]
    own, spots, middle = _place(path, sites, ligand, centre)
    kept = [s for s in sites if s.residue != own and s.residue[0] not in WATER and s.residue[0] not in without]
    places = np.array([site.at for site in kept]).reshape(-1, 3)
    far = np.array([np.linalg.norm(place - spots, axis=-1).min() for place in places])
    if ligand is not None:
        there = {kept[k].residue for k in np.flatnonzero(far < SAME) if kept[k].residue[0] not in RESIDUES}
        inside = [site.residue not in there for site in kept]
        kept, far = [site for site, k in zip(kept, inside, strict=True) if k], far[inside]
    near = {site.residue for site, value in zip(kept, far.tolist(), strict=True) if value <= radius}
    kept = [site for site in kept if site.residue in near]
    if not kept:
        raise _refuse(path, f"no atom is within {radius:g} A of the ligand's place", "a ligand in the protein's frame")
    columns = zip(*((site.name, *site.residue) for site in kept), strict=True)
    elements, places = [NUMBERS[site.symbol] for site in kept], [site.at for site in kept]
    return Pocket(np.array(elements), np.array(places), *columns, centre=middle, name=path.name.partition(".")[0])


def _place(
    path: Path, sites: list[Site], ligand: Molecule | str | None, centre: Sequence[float] | None
) -> tuple[tuple[str, str, str] | None, np.ndarray, np.ndarray]:
    """The residue that is the ligand, if it is one, the points that a pocket lies around, and its centre."""
    if centre is not None:
        middle = np.asarray(centre, np.float64)
        if middle.shape != (3,) or not np.isfinite(middle).all():
            raise DataError(f"centre={centre!r}", "three finite numbers of angstrom", "centre=(15.6, 53.4, 15.5)")
        return None, middle[None], middle
    if isinstance(ligand, Molecule):
        heavy = ligand.elements > 1
        return None, ligand.positions[heavy], ligand.positions.mean(0)
    every = dict.fromkeys(site.residue for site in sites)
    found = [own for own in every if ligand in (own[0], "_".join(own))]
    if len(found) != 1:
        others = [own[0] for own in every if own[0] not in RESIDUES and own[0] not in WATER]
        names = ["_".join(own) for own in found] or sorted(set(others)) or ["no residue that is no amino acid"]
        got = f"{len(found)} residues are {ligand!r}" if found else f"no residue is {ligand!r}"
        raise _refuse(path, got, f"one of {', '.join(names[:12])}", f'ligand="{names[0]}"')
    spots = np.array([site.at for site in sites if site.residue == found[0]])
    return found[0], spots, spots.mean(0)


def _pdb(path: Path, lines: list[str]) -> Iterator[Site]:
    """The atoms of the first model of a PDB file."""
    for row, line in enumerate(lines, start=1):
        if line.startswith("ENDMDL"):
            return
        if not line.startswith(("ATOM  ", "HETATM")):
            continue
        name, symbol, residue = line[12:16].strip(), line[76:78], line[17:20].strip()
        if not symbol.strip():  # a column of old files; an element of two letters begins in the first of four
            letters = re.sub(r"[^A-Za-z]", "", line[12:14])
            symbol = letters if len(letters) == 2 and residue == name else letters[:1] or name[:1]
        at = point(line[30:38], line[38:46], line[46:54])
        told = residue, line[21:22].strip(), line[22:27].strip()
        yield _site(path, row, name, told, symbol, at, line[16:17].strip(), number(line[54:60]))


def _mmcif(path: Path, lines: list[str]) -> Iterator[Site]:
    """The atoms of the first model in the first block of an mmCIF file, as its authors number them."""
    start = next((k for k, line in enumerate(lines) if line.strip().lower().startswith("_atom_site.")), len(lines))
    columns: dict[str, int] = {}
    while start < len(lines) and lines[start].strip().lower().startswith("_atom_site."):
        columns[lines[start].split()[0].partition(".")[2].lower()] = len(columns)
        start += 1
    model, tokens = "", []
    for row, line in enumerate(lines[start:], start=start + 1):
        if line.startswith(("#", "_", "loop_", "data_")):
            break
        tokens += [token[1:-1] if token[0] in "'\"" and len(token) > 1 else token for token in _TOKEN.findall(line)]
        if len(tokens) < len(columns):
            continue  # a row over several lines
        if len(tokens) > len(columns):
            raise _refuse(path, f"line {row}: {len(tokens)} values", f"{len(columns)}, one for each column")
        values, tokens = tokens, []

        def of(*names: str, values: list[str] = values) -> str:
            """The value of the first of these columns that says anything."""
            told = (values[columns[name]] for name in names if name in columns)
            return next((value for value in told if value not in ("?", ".")), "")

        model = model or of("pdbx_pdb_model_num")
        if of("pdbx_pdb_model_num") != model:
            continue
        residue = (
            of("auth_comp_id", "label_comp_id"), of("auth_asym_id", "label_asym_id"),
            of("auth_seq_id", "label_seq_id") + of("pdbx_pdb_ins_code"),
        )  # fmt: skip
        at = point(of("cartn_x"), of("cartn_y"), of("cartn_z"))
        name = of("auth_atom_id", "label_atom_id")
        yield _site(path, row, name, residue, of("type_symbol"), at, of("label_alt_id"), number(of("occupancy")))
    if tokens:
        raise _refuse(path, f"a row of _atom_site with {len(tokens)} values", f"{len(columns)}, one for each column")


def _site(
    path: Path,
    row: int,
    name: str,
    residue: tuple[str, str, str],
    symbol: str,
    at: tuple[float, float, float] | None,
    location: str,
    occupancy: float | None,
) -> Site:
    known = element(symbol)
    if at is None or known is None:
        what = "its position" if at is None else f"its element {clean(symbol)!r}"
        raise _refuse(
            path, f"line {row}: atom {clean(name)} of {clean('_'.join(residue))}: {what}", "one that is known"
        )
    return Site(name, residue, known[0], at, location, 1.0 if occupancy is None else occupancy)


def _refuse(path: Path, reason: str, expected: str, fix: str = "") -> GendiffError:
    return DataError(f"{printable(str(path))}: {reason}", expected, fix)
