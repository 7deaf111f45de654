"""Writing PDB and mmCIF that open as a cartoon: N, CA, C, O of every residue, models one after the other.

Side chains follow where a structure has them, in the order of the PDB; a remark counts the residues. A residue of
unknown type is written as GLY, the residue that has N, CA, C, O and no more. PDB has columns of fixed width: what does
not fit is refused, and mmCIF takes it.

D residues have the names of the PDB (DAL, DVA, ...) in HETATM records; a chain of nothing else is a polypeptide(D), by
which its glycines, and residues of unknown type, are known for what they are. The bond that closes a chain is a LINK
record of PDB, a row of _struct_conn of mmCIF.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from .atoms import ATOMS_OF, PLACE
from .names import MIRRORED
from .structure import ATOMS, Structure, StructureError

THREE = dict(
    zip(
        "ACDEFGHIKLMNPQRSTVWYX",
        [
            "ALA",
            "CYS",
            "ASP",
            "GLU",
            "PHE",
            "GLY",
            "HIS",
            "ILE",
            "LYS",
            "LEU",
            "MET",
            "ASN",
            "PRO",
            "GLN",
            "ARG",
            "SER",
            "THR",
            "VAL",
            "TRP",
            "TYR",
            "GLY",
        ],
        strict=True,
    )
)
_GLY = "RESIDUES OF UNKNOWN TYPE ARE WRITTEN AS GLY"
_NAMES = {letter: (*names, "OXT") for letter, names in ATOMS_OF.items()}


def write(structures: Structure | Sequence[Structure], path: str | Path, *, remarks: Sequence[str] = ()) -> None:
    """Write one structure, or several as models, to a .pdb, .ent, .cif or .mmcif file.

    Args:
        structures: one, or several.
        path: where to.
        remarks: lines of text that say how it was made; REMARK records of PDB, broken at 69 columns, or the field
            _struct.pdbx_descriptor of mmCIF. Where given residues come from follows, a line each.

    Raises:
        StructureError: a suffix that is neither, nothing to write, models of which other chains are closed or D, or
            what does not fit PDB's columns.
    """
    path = Path(path)
    models = [structures] if isinstance(structures, Structure) else list(structures)
    if not models or not all(len(model) for model in models):
        raise StructureError(f"nothing to write to {path}", "at least one residue")
    suffix = path.suffix.lower()
    if suffix not in (".pdb", ".ent", ".cif", ".mmcif"):
        raise StructureError(f"the suffix {suffix!r} of {path}", ".pdb or .cif", f'write(structure, "{path.stem}.cif")')
    if len({(model.cyclic, mirrored_chains(model)) for model in models}) > 1:
        raise StructureError(
            f"models of which other chains are closed, or D, to {path}", "a file for each", "write(models[0], ...)"
        )
    given = [f"GIVEN {row['here']} IS {row['from']}" for row in models[0].mapping]
    text = (to_pdb if suffix in (".pdb", ".ent") else to_mmcif)(models, [*remarks, *given])
    path.write_text(text, encoding="utf-8")


def mirrored_chains(model: Structure) -> tuple[str, ...]:
    """The chains of D residues alone."""
    left = {chain for chain, hand in zip(model.chains, model.hands, strict=True) if hand == "L"}
    return tuple(chain for chain in dict.fromkeys(model.chains) if chain not in left)


def residue_name(model: Structure, i: int) -> tuple[str, str]:
    """The name of a residue and the record of its atoms."""
    letter, mirrored = model.sequence[i], model.hands[i] == "D"
    name = MIRRORED.get(letter, "GLY") if mirrored else THREE.get(letter, "GLY")
    return name, "ATOM" if name == "GLY" or not mirrored else "HETATM"


def _plain(text: str) -> str:
    """One line of printable ASCII."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in " ".join(text.split()))


def _split(number: str) -> tuple[int, str]:
    match = re.fullmatch(r"(-?\d+)([A-Za-z]?)", number)
    if match is None:
        raise StructureError(
            f"the residue number {number!r}", 'a number with or without an insertion code, such as "52A"'
        )
    return int(match[1]), match[2]


def _note(model: Structure) -> str:
    """What a file says of its atoms."""
    if model.side is None:
        return f"BACKBONE ONLY; {_GLY}"
    count = int(np.isfinite(model.side).any((1, 2)).sum())
    return f"SIDE CHAINS OF {count}; {_GLY}"


def _atoms(model: Structure, i: int) -> Iterator[tuple[str, np.ndarray]]:
    """The atoms of a residue, each with its name: N, CA, C, O, the side chain, OXT."""
    yield from zip(ATOMS, model.backbone[i], strict=True)
    if model.side is not None:
        for name in _NAMES.get(model.sequence[i], ("OXT",)):
            at = model.side[i, PLACE[name]]
            if np.isfinite(at[0]):
                yield name, at


def _fits(models: Sequence[Structure]) -> None:
    reason = ""
    for model in models:
        every = [model.backbone, *(() if model.side is None else (model.side,))]
        count = sum(int(np.isfinite(atoms[..., 0]).sum()) for atoms in every)
        if count + len(set(model.chains)) > 99_999:
            reason = f"{count} atoms; PDB numbers up to 99,999"
        elif max(np.nanmax(x) for x in every) >= 1e4 - 1e-3 or min(np.nanmin(x) for x in every) <= -1e3 + 1e-3:
            reason = "coordinates too wide for PDB's 8 columns (-999.999 to 9999.999)"
        elif any(len(chain) != 1 for chain in model.chains):
            reason = f"the chain id {max(model.chains, key=len)!r}; PDB has one letter"
        elif any(not -999 <= _split(number)[0] <= 9999 for number in model.numbers):
            reason = "residue numbers beyond PDB's four columns"
    if reason:
        raise StructureError(reason, "mmCIF, which has no such limits", 'write(structure, "name.cif")')


def to_pdb(models: Sequence[Structure], remarks: Sequence[str] = ()) -> str:
    """PDB text of these models. Raises `StructureError` for what the format cannot hold."""
    _fits(models)
    lines = [f"REMARK   1 {_note(models[0])}"]
    if models[0].name:
        lines.append(f"REMARK   1 NAME {_plain(models[0].name)}"[:80])
    lines += [f"REMARK   1 POLYPEPTIDE(D) CHAIN {chain}" for chain in mirrored_chains(models[0])]
    lines += [f"REMARK 999 {part}" for remark in remarks for part in textwrap.wrap(_plain(remark), 69)]
    lines += [_link(models[0], last, first) for last, first in models[0].closures]
    for k, model in enumerate(models, start=1):
        if len(models) > 1:
            lines.append(f"MODEL     {k:4d}")
        serial = 0
        for i, (number, chain) in enumerate(zip(model.numbers, model.chains, strict=True)):
            (value, code), (name, record) = _split(number), residue_name(model, i)
            for atom, (x, y, z) in _atoms(model, i):
                serial += 1
                lines.append(
                    f"{record:<6s}{serial:5d}  {atom:<3s} {name} {chain}{value:4d}{code or ' '}   "
                    f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {atom[0]:>2s}"
                )
            if i + 1 == len(model) or model.chains[i + 1] != chain:
                serial += 1
                lines.append(f"TER   {serial:5d}      {name} {chain}{value:4d}{code or ' '}")
        if len(models) > 1:
            lines.append("ENDMDL")
    return "\n".join([*lines, "END   ", ""])


def _link(model: Structure, last: int, first: int) -> str:
    """The LINK record of the bond from C of a residue to N of another."""
    ends = []
    for atom, i in (("C", last), ("N", first)):
        value, code = _split(model.numbers[i])
        ends.append(f" {atom:<3s} {residue_name(model, i)[0]:>3s} {model.chains[i]}{value:4d}{code or ' '}")
    return f"LINK        {ends[0]}{'':15s}{ends[1]}     1555   1555 {_closing(model, last, first):5.2f}"


def _closing(model: Structure, last: int, first: int) -> float:
    """How long the bond that closes a chain is, angstrom."""
    return float(np.linalg.norm(model.backbone[last, 2] - model.backbone[first, 0]))


_COLUMNS = [
    "group_PDB",
    "id",
    "type_symbol",
    "label_atom_id",
    "label_alt_id",
    "label_comp_id",
    "label_asym_id",
    "label_entity_id",
    "label_seq_id",
    "pdbx_PDB_ins_code",
    "Cartn_x",
    "Cartn_y",
    "Cartn_z",
    "occupancy",
    "B_iso_or_equiv",
    "auth_seq_id",
    "auth_comp_id",
    "auth_asym_id",
    "auth_atom_id",
    "pdbx_PDB_model_num",
]


def to_mmcif(models: Sequence[Structure], remarks: Sequence[str] = ()) -> str:
    """mmCIF text of these models."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", models[0].name) or "gendiff"
    entities = {chain: k for k, chain in enumerate(dict.fromkeys(c for model in models for c in model.chains), start=1)}
    lines = [f"data_{name}", f"_entry.id {name}", f"_struct.entry_id {name}"]
    lines.append(f"_struct.title '{_note(models[0]).lower()}'")
    if remarks:
        lines += [
            "_struct.pdbx_descriptor",
            *(f"{';' if k == 0 else ' '}{_plain(r)}" for k, r in enumerate(remarks)),
            ";",
        ]
    lines += ["loop_", "_entity.id", "_entity.type", *(f"{k} polymer" for k in entities.values())]
    lines += ["loop_", "_entity_poly.entity_id", "_entity_poly.type", "_entity_poly.pdbx_strand_id"]
    mirrored = mirrored_chains(models[0])
    lines += [f"{k} 'polypeptide({'D' if c in mirrored else 'L'})' {_quoted(c)}" for c, k in entities.items()]
    lines += _residues(models, entities)
    lines += _connections(models[0])
    lines += ["loop_", *(f"_atom_site.{column}" for column in _COLUMNS)]
    serial = 0
    for k, model in enumerate(models, start=1):
        place: dict[str, int] = {}
        for i, (number, chain) in enumerate(zip(model.numbers, model.chains, strict=True)):
            (value, code), (residue, record), chain_id = _split(number), residue_name(model, i), _quoted(chain)
            place[chain] = place.get(chain, 0) + 1
            for atom, (x, y, z) in _atoms(model, i):
                serial += 1
                lines.append(
                    f"{record} {serial} {atom[0]} {atom} . {residue} {chain_id} {entities[chain]} {place[chain]} "
                    f"{code or '?'} {x:.3f} {y:.3f} {z:.3f} 1.00 0.00 {value} {residue} {chain_id} {atom} {k}"
                )
    return "\n".join([*lines, "#", ""])


_SCHEME = (
    *("asym_id", "entity_id", "seq_id", "mon_id", "ndb_seq_num", "pdb_seq_num", "auth_seq_num", "pdb_mon_id"),
    *("auth_mon_id", "pdb_strand_id", "pdb_ins_code", "hetero"),
)


def _residues(models: Sequence[Structure], entities: Mapping[str, int]) -> list[str]:
    """The tables that list the residues of each chain, as the model with most of them has it: mkdssp reads by them."""
    chains, entries, scheme = [], [], []
    for chain, entity in entities.items():
        model = max(models, key=lambda model: model.chains.count(chain))
        word = _quoted(chain)
        chains.append(f"{word} {entity}")
        places = [i for i, own in enumerate(model.chains) if own == chain]
        for seq, i in enumerate(places, start=1):
            (value, code), (name, _) = _split(model.numbers[i]), residue_name(model, i)
            entries.append(f"{entity} {seq} {name} n")
            scheme.append(f"{word} {entity} {seq} {name} {seq} {value} {value} {name} {name} {word} {code or '.'} n")
    lines = ["loop_", "_struct_asym.id", "_struct_asym.entity_id", *chains]
    lines += ["loop_", *(f"_entity_poly_seq.{column}" for column in ("entity_id", "num", "mon_id", "hetero")), *entries]
    return [*lines, "loop_", *(f"_pdbx_poly_seq_scheme.{column}" for column in _SCHEME), *scheme]


_PARTNER = (
    *("label_asym_id", "label_comp_id", "label_seq_id", "label_atom_id", "symmetry", "auth_asym_id", "auth_comp_id"),
    *("auth_seq_id", "PDB_ins_code"),
)


def _connections(model: Structure) -> list[str]:
    """The table of the bonds that close chains."""
    if not model.cyclic:
        return []
    lines = ["loop_", "_struct_conn_type.id", "covale", "loop_", "_struct_conn.id", "_struct_conn.conn_type_id"]
    for k in (1, 2):
        lines += [f"_struct_conn.{'pdbx_' if c[0] == 'P' else ''}ptnr{k}_{c}" for c in _PARTNER]
    lines.append("_struct_conn.pdbx_dist_value")
    for k, (last, first) in enumerate(model.closures, start=1):
        row = [f"covale{k} covale"]
        for atom, i in (("C", last), ("N", first)):
            (value, code), (name, _), chain = _split(model.numbers[i]), residue_name(model, i), model.chains[i]
            seq, word = model.chains[: i + 1].count(chain), _quoted(chain)
            row.append(f"{word} {name} {seq} {atom} 1_555 {word} {name} {value} {code or '?'}")
        lines.append(" ".join([*row, f"{_closing(model, last, first):.3f}"]))
    return lines


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", word) else f"'{word}'"
