r"""Molecules ranked, as CSV and JSON for a spreadsheet, and drawn flat.

    write_table(made, "ranked.csv", asked={"logp": 1.5})        # and ranked.json beside it
    Path("made.svg").write_text(drawn(made))

Sound molecules come first; then those nearest to what was asked, by the sum of |found - asked| over the spread of the
set; then by QED (Bickerton et al. 2012), higher first. A row says why a molecule is not sound: the first atom whose
valence cannot be, how many pieces there are, or RDKit's reason.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.errors import RequestError
from gendiff.modelfile import write_whole

from .measures import Description, describe
from .molecule import Molecule, MoleculeError
from .toolkit import chem, quiet

FOUND = ("logp", "qed", "n_rings")  # what may be asked for and is found from a molecule alone


def reason(molecule: Molecule) -> str:
    """Why a molecule is not sound; empty if it is."""
    faults, count = molecule.faults(), len(molecule.fragments())
    if faults:
        return faults[0]
    if count > 1:
        return f"{count} pieces"
    try:
        molecule.to_rdkit()
    except MoleculeError as error:
        return error.got
    return ""


def rows(
    molecules: Sequence[Molecule], asked: Mapping[str, float | Sequence[float]] | None = None
) -> list[dict[str, Any]]:
    """One row a molecule, ranked: see the top of the file.

    Args:
        molecules: In the order they were drawn in.
        asked: What was asked for, by name: one number, or one for each.

    Raises:
        RequestError: Another number of values than molecules.
    """
    told = [describe(one) for one in molecules]
    wanted = {name: _listed(name, value, len(molecules)) for name, value in (asked or {}).items()}
    out = []
    for k, (one, row) in enumerate(zip(molecules, told, strict=True)):
        labels = one.labels() if row.good else None
        own: dict[str, Any] = {
            "rank": 0,
            "number": k + 1,
            "name": one.name,
            "sound": row.good,
            "reason": "" if row.good else reason(one),
            "smiles": one.smiles() if row.good else "",
            "labels": " ".join(f"{a + 1}{hand}" for a, hand in sorted(labels.centres.items())) if labels else "",
            "formula": one.formula,
            "atoms": len(one),
            "charge": one.charge,
            **{name: _rounded(_found(row, name)) for name in FOUND},
        }
        for name, values in wanted.items():
            own[f"asked {name}"] = values[k]
        out.append(own)
    spread = {name: _spread([_found(row, name) for row in told]) for name in wanted}

    def key(own: dict[str, Any]) -> tuple[bool, float, float, int]:
        off = [abs(own[name] - own[f"asked {name}"]) / spread[name] for name in wanted if own.get(name) is not None]
        return not own["sound"], sum(off), -(own["qed"] or 0.0), own["number"]

    out.sort(key=key)
    return [{**own, "rank": k} for k, own in enumerate(out, 1)]


def _listed(name: str, value: float | Sequence[float], n: int) -> list[float]:
    many = [float(value)] * n if isinstance(value, int | float) else [float(one) for one in value]
    if len(many) != n:
        raise RequestError(f"{name} has {len(many)} values for {n} molecules", f"one number, or {n}")
    return many


def _found(row: Description, name: str) -> float:
    if not row.good or name not in FOUND:
        return math.nan
    return float(len(row.rings)) if name == "n_rings" else float(getattr(row, name))


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _spread(values: Sequence[float]) -> float:
    kept = [value for value in values if math.isfinite(value)]
    return max(float(np.std(kept)), 1e-6) if kept else 1.0


def write_table(
    molecules: Sequence[Molecule],
    path: str | Path,
    *,
    asked: Mapping[str, float | Sequence[float]] | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The ranked rows, written to PATH.csv and PATH.json, whatever suffix the path has.

    Args:
        molecules: In the order they were drawn in.
        path: Of the files.
        asked: What was asked for.
        about: What else the JSON says beside the rows: seed, model, request.
    """
    table, path = rows(molecules, asked), Path(path)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]) if table else ["rank"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_whole(path.with_suffix(".csv"), text.getvalue().encode())
    write_whole(path.with_suffix(".json"), f"{json.dumps({**(about or {}), 'molecules': table}, indent=2)}\n".encode())
    return table


def drawn(molecules: Sequence[Molecule], captions: Sequence[str] = (), columns: int = 4, side: int = 220) -> str:
    """Molecules drawn flat by RDKit, without their hydrogens, as one SVG; what is not sound with its reason below.

    Args:
        molecules: At least one.
        captions: Of each; the formula by default.
        columns: A row.
        side: Of a picture, in pixels.

    Raises:
        RequestError: For none, or another number of captions.
    """
    if not molecules or (captions and len(captions) != len(molecules)):
        raise RequestError(
            f"{len(molecules)} molecules and {len(captions)} captions", "one or more, and as many or none"
        )
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    flat, words = [], []
    for k, one in enumerate(molecules):
        why = reason(one)
        mol = one.to_rdkit(sanitize=not why)
        with quiet():
            mol.UpdatePropertyCache(strict=False)
            mol = chem().RemoveHs(mol, sanitize=False)
            mol.RemoveAllConformers()
            chem().FastFindRings(mol)
            rdDepictor.Compute2DCoords(mol)
            if not why:  # Kekule bonds, and wedges where the positions have a hand
                mol = rdMolDraw2D.PrepareMolForDrawing(mol, kekulize=True, addChiralHs=False, wedgeBonds=True)
            else:  # no two atoms of an odd graph in one place: a bond of no length cannot be drawn
                place = mol.GetConformer()
                for a, (x, y, _) in enumerate(place.GetPositions().tolist()):
                    place.SetAtomPosition(a, (x + 0.1 * math.cos(2.4 * a), y + 0.1 * math.sin(2.4 * a), 0.0))
        flat.append(mol)
        words.append(captions[k] if captions else (f"{one.formula}: {why}"[:60] if why else one.formula))
    count = -(-len(flat) // columns)
    canvas = rdMolDraw2D.MolDraw2DSVG(side * min(columns, len(flat)), side * count, side, side)
    canvas.drawOptions().prepareMolsBeforeDrawing = False
    canvas.drawOptions().legendFontSize = 12
    with quiet():
        canvas.DrawMolecules(flat, legends=words)
    canvas.FinishDrawing()
    return str(canvas.GetDrawingText())
