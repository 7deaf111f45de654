"""Writing SDF, MOL, XYZ, PDB and SMILES that other programs read as they were meant.

SDF is V2000, and V3000 beyond 999 atoms or bonds. Charges are M  CHG lines; an atom that lacks a bond carries its
valence, so that no reader gives it a hydrogen; stereochemistry is in the positions. Properties are data fields; what
RDKit refuses is written all the same, with the reason in the field `REFUSED`. PDB writes a double bond as a connection
given twice, as RDKit reads it, under the residue name UNL of unknown ligands. XYZ has no bonds and no charges of atoms;
its comment says name, charge and properties. A line of SMILES has the name behind; what has no SMILES is a comment with
the reason.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gendiff.errors import nearest, printable

from .molecule import VALENCES, Molecule, MoleculeError

REFUSED = "rdkit_refuses"
"""The data field with the reason why RDKit does not sanitise a molecule."""
MOST = 999  # atoms or bonds of a V2000 table


def write(
    molecules: Molecule | Sequence[Molecule],
    path: str | Path,
    *,
    properties: Mapping[str, float | str] | None = None,
) -> None:
    """Write one molecule, or several, to a .sdf, .mol, .xyz, .pdb, .smi or .smiles file, or one of them with .gz.

    Args:
        molecules: one, or several; .mol and .pdb take one.
        path: where to.
        properties: of every molecule, beside its own: seed, model, request, measures. Data fields of SDF, remarks of
            PDB, words of the comment of XYZ; SMILES has no place for them.

    Raises:
        MoleculeError: a suffix that is none of these, nothing to write, or more than fits.
    """
    path = Path(path)
    every = [molecules] if isinstance(molecules, Molecule) else list(molecules)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in WRITERS:
        raise MoleculeError(
            f"the suffix {suffix!r} of {path}",
            f"one of {', '.join(WRITERS)}.{nearest(suffix, WRITERS)}",
            f'write(molecules, "{path.stem}.sdf")',
        )
    if not every:
        raise MoleculeError(f"nothing to write to {path}", "at least one molecule")
    if suffix in (".mol", ".pdb") and len(every) > 1:
        raise MoleculeError(
            f"{len(every)} molecules for {path}", f"one; {suffix} holds no more", f'write(molecules, "{path.stem}.sdf")'
        )
    every = [molecule.told(**(properties or {})) for molecule in every]
    data = "".join(map(WRITERS[suffix], every)).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.lower().endswith(".gz") else data)


def refusal(molecule: Molecule) -> str:
    """Why RDKit does not sanitise a molecule; empty if it does."""
    try:
        molecule.to_rdkit()
    except MoleculeError as error:
        return error.got.partition(": ")[2] or error.got
    return ""


def _line(text: str, most: int = 80) -> str:
    """One line of printable text."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:most]


def _title(molecule: Molecule) -> str:
    """The name, as a first line that ends no record."""
    name = _line(molecule.name)
    return f" {name}" if name.startswith(("$$$$", ">", "M  ")) else name


def to_sdf(molecule: Molecule) -> str:
    """A record of an SDF file."""
    told = dict(molecule.properties)
    reason = refusal(molecule)
    if reason:
        told[REFUSED] = reason
    else:
        told.pop(REFUSED, None)
    fields = "".join(f">  <{_field(name)}>\n{_value(value)}\n\n" for name, value in told.items())
    return f"{to_mol(molecule)}{fields}$$$$\n"


def to_mol(molecule: Molecule) -> str:
    """The text of a MOL file: a connection table alone."""
    table = _v2000 if max(len(molecule), len(molecule.bonds)) <= MOST and _narrow(molecule) else _v3000
    return "\n".join([_title(molecule), f"  gendiff{' ' * 11}3D", "", *table(molecule), "M  END", ""])


def _narrow(molecule: Molecule) -> bool:
    """Whether the positions fit columns of ten with four decimals."""
    return bool((np.abs(molecule.positions) < 9999).all())


def _field(name: str) -> str:
    return "".join(c if c not in "<>" else "_" for c in _line(name, 60)) or "_"


def _value(value: float | int | str) -> str:
    """A value as lines none of which ends a field or a record."""
    if not isinstance(value, str):
        return repr(value.item() if isinstance(value, np.generic) else value)
    lines = (printable(line) for line in value.splitlines() if line.strip())
    return "\n".join(f" {line}" if line.startswith((">", "$$$$")) else line for line in lines) or " "


def _held(molecule: Molecule) -> dict[int, int]:
    """Atoms whose valence has to be written, for a reader would give them hydrogens or find another one."""
    if molecule.implied:
        return {}
    own = enumerate(zip(molecule.elements.tolist(), molecule.charges.tolist(), molecule.valences.tolist(), strict=True))
    return {k: valence for k, (z, q, valence) in own if valence not in VALENCES.get((z, q), ())[:1]}


def _v2000(molecule: Molecule) -> list[str]:
    held = _held(molecule)
    lines = [f"{len(molecule):3d}{len(molecule.bonds):3d}  0  0  0  0  0  0  0  0999 V2000"]
    for k, (symbol, (x, y, z)) in enumerate(zip(molecule.symbols, molecule.positions.tolist(), strict=True)):
        valence = 0 if k not in held or held[k] > 14 else held[k] or 15
        lines.append(f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3} 0  0  0  0  0{valence:3d}  0  0  0  0  0  0")
    lines += [f"{i + 1:3d}{j + 1:3d}{order:3d}  0" for i, j, order in molecule.bonds.tolist()]
    charged = [(k + 1, charge) for k, charge in enumerate(molecule.charges.tolist()) if charge]
    for start in range(0, len(charged), 8):
        some = charged[start : start + 8]
        lines.append(f"M  CHG{len(some):3d}" + "".join(f"{k:4d}{charge:4d}" for k, charge in some))
    return lines


def _v3000(molecule: Molecule) -> list[str]:
    held = _held(molecule)
    lines = ["  0  0  0     0  0            999 V3000", "M  V30 BEGIN CTAB"]
    lines += [f"M  V30 COUNTS {len(molecule)} {len(molecule.bonds)} 0 0 0", "M  V30 BEGIN ATOM"]
    for k, (symbol, (x, y, z)) in enumerate(zip(molecule.symbols, molecule.positions.tolist(), strict=True)):
        charge, valence = int(molecule.charges[k]), held.get(k)
        told = f" CHG={charge}" if charge else ""
        told += f" VAL={valence or -1}" if valence is not None else ""
        lines.append(f"M  V30 {k + 1} {symbol} {x:.6f} {y:.6f} {z:.6f} 0{told}")
    lines.append("M  V30 END ATOM")
    if len(molecule.bonds):
        ties = enumerate(molecule.bonds.tolist(), start=1)
        lines += ["M  V30 BEGIN BOND", *(f"M  V30 {n} {order} {i + 1} {j + 1}" for n, (i, j, order) in ties)]
        lines.append("M  V30 END BOND")
    return [*lines, "M  V30 END CTAB"]


def to_xyz(molecule: Molecule) -> str:
    """A frame of an XYZ file."""
    told = {
        "charge": molecule.charge,
        **{k: v for k, v in molecule.properties.items() if k not in ("charge", "comment")},
    }
    words = [
        _line(molecule.name),
        *(f"{_field(name)}={_line(str(value)).replace(' ', '_')}" for name, value in told.items()),
    ]
    rows = zip(molecule.symbols, molecule.positions.tolist(), strict=True)
    lines = [f"{symbol:<2} {x:14.6f} {y:14.6f} {z:14.6f}" for symbol, (x, y, z) in rows]
    return "\n".join([str(len(molecule)), " ".join(word for word in words if word)[:1000], *lines, ""])


def to_pdb(molecule: Molecule) -> str:
    """A PDB file of one ligand.

    Raises:
        MoleculeError: for what its columns of fixed width cannot hold.
    """
    if len(molecule) > 9999 or not ((molecule.positions > -999) & (molecule.positions < 9999)).all():
        raise MoleculeError(
            f"{len(molecule)} atoms or their positions", "up to 9999 atoms from -999 to 9999 A", "write an .sdf"
        )
    reason = refusal(molecule)
    told = {**molecule.properties, **({REFUSED: reason} if reason else {})}
    lines = [f"COMPND    {_line(molecule.name, 60)}".rstrip()]
    lines += [f"REMARK   1 {_field(name)}: {_line(str(value), 400)}"[:80] for name, value in told.items()]
    count: Counter[str] = Counter()
    for k, (symbol, (x, y, z)) in enumerate(zip(molecule.symbols, molecule.positions.tolist(), strict=True)):
        count[symbol] += 1
        label = f"{symbol.upper()}{count[symbol]}"
        name = label[:4] if len(label) >= 4 or len(symbol) == 2 else f" {label}"
        charge = int(molecule.charges[k])
        sign = f"{abs(charge)}{'+' if charge > 0 else '-'}" if charge else "  "
        place = f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00"
        lines.append(f"HETATM{k + 1:5d} {name:<4} UNL A   1    {place}{'':10}{symbol.upper():>2}{sign}".rstrip())
    for k in range(len(molecule)):
        others = [j if i == k else i for i, j, order in molecule.bonds.tolist() for _ in range(order) if k in (i, j)]
        for start in range(0, len(others), 4):
            lines.append(f"CONECT{k + 1:5d}" + "".join(f"{other + 1:5d}" for other in others[start : start + 4]))
    return "\n".join([*lines, "END", ""])


def to_smiles(molecule: Molecule) -> str:
    """A line of a SMILES file; a comment with the reason for what RDKit refuses."""
    reason = refusal(molecule)
    name = _line(molecule.name)
    if reason:
        return f"# {name or molecule.formula}: {_line(reason, 400)}\n"
    return f"{molecule.smiles()} {name}".rstrip() + "\n"


WRITERS: dict[str, Callable[[Molecule], str]] = {
    ".sdf": to_sdf,
    ".mol": to_mol,
    ".xyz": to_xyz,
    ".pdb": to_pdb,
    ".smi": to_smiles,
    ".smiles": to_smiles,
}
"""What writes a molecule, by suffix."""
