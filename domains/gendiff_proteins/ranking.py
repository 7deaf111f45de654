"""Structures in order of what is wrong with them, and the table as CSV or JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import metrics
from .contacts import side_clashes
from .frames import C_N
from .side_chains import chirality, rotameric
from .structure import Structure, StructureError

Row = dict[str, float | int | str]
_FIRST = ("rank", "index", "name", "residues", "faults")
MEASURES = {
    "cn_bond_share": metrics.bond_share,
    "ca_c_n_angle_sd": metrics.carbonyl_angle_sd,
    "c_n_ca_angle_sd": metrics.amide_angle_sd,
    "omega_deviation": metrics.omega_deviation,
    "atom_clash_rate": metrics.atom_clash_rate,
    "negative_phi": metrics.negative_phi,
    "hbond_helix": metrics.hbond_helix,
    "hbond_strand": metrics.hbond_strand,
    "rg_ratio": metrics.radius_ratio,
}
SIDE_MEASURES = {
    "side_clashes": side_clashes,
    "rotameric_chi1": lambda structure: rotameric([structure])[0],
    "d_residues": lambda structure: chirality(structure).count("D"),
}
"""What is told where a structure has side chains, such as those of a motif."""


def faults(structure: Structure) -> float:
    """What a sound chain has none of, a residue: atom clashes, breaks, bonds C-N off by 0.1 A, left-handed helices.

    Side chains that are there clash too, with each other and with what was made around them. Of a left-handed helix
    every residue counts, in runs of four or more; of D residues it is a right-handed one. Whether a sequence folds so,
    it does not see.
    """
    hand = np.array([1 if hand == "L" else -1 for hand in structure.hands])
    left = metrics.runs(np.abs(hand * metrics.ca_torsions(structure) + 50) < 20, 4).sum()
    bonds = (np.abs(metrics.bonds([structure])["C-N"] - C_N) >= 0.1).sum()
    breaks = metrics.chain_breaks([structure]) * len(structure)
    clashes = metrics.atom_clashes(structure) + (0 if structure.side is None else side_clashes(structure))
    return float(clashes + breaks + bonds + left) / max(len(structure), 1)


def rank(structures: Sequence[Structure]) -> list[Row]:
    """Measures of each structure by itself, those with the fewest `faults` first; equal ones keep their order.

    Returns:
        Rows with "rank" (from 1), "index" (place in the list), "name", "residues", "faults" and `MEASURES`; where a
        structure has side chains, also `SIDE_MEASURES`, which are NaN for those without.
    """
    sided = any(s.side is not None for s in structures)
    found = sorted(((faults(s), index, s) for index, s in enumerate(structures)), key=lambda item: item[0])
    return [
        {"rank": place, "index": index, "name": s.name, "residues": len(s), "faults": wrong}
        | {name: measure([s]) for name, measure in MEASURES.items()}
        | {name: measure(s) if s.side is not None else math.nan for name, measure in SIDE_MEASURES.items() if sided}
        for place, (wrong, index, s) in enumerate(found, start=1)
    ]


def write_ranking(structures: Sequence[Structure], path: str | Path) -> list[Row]:
    """Write the rows of `rank` to a .csv or .json file, and return them; what cannot be measured is empty or null.

    Raises:
        StructureError: another suffix.
    """
    path, rows = Path(path), rank(structures)
    clean = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps(clean, indent=2) + "\n", encoding="utf-8")
    elif path.suffix.lower() == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(clean[0]) if clean else [*_FIRST, *MEASURES])
            writer.writeheader()
            writer.writerows(clean)
    else:
        raise StructureError(f"the suffix {path.suffix!r} of {path}", ".csv or .json", "write_ranking(s, 'rank.csv')")
    return rows
