"""Residue names in files, and the letters they stand for.

The letters of modified residues are those of the Chemical Component Dictionary, as Biopython holds them. Before them
come the names that force fields give to protonation states and termini: CYX is a cysteine of a disulfide bridge, GLH a
protonated glutamate, HID, HIE and HIP are histidines, NALA and CALA the first and last residue of a chain in Amber.
D residues have names of their own; glycine has one.
"""

from __future__ import annotations

from functools import cache

from gendiff.errors import MissingExtra

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
STANDARD = dict(
    zip(
        (
            *("ALA", "CYS", "ASP", "GLU", "PHE", "GLY", "HIS", "ILE", "LYS", "LEU"),
            *("MET", "ASN", "PRO", "GLN", "ARG", "SER", "THR", "VAL", "TRP", "TYR"),
        ),
        LETTERS,
        strict=True,
    )
)
MIRRORED = {
    "A": "DAL", "C": "DCY", "D": "DAS", "E": "DGL", "F": "DPN", "G": "GLY", "H": "DHI", "I": "DIL", "K": "DLY",
    "L": "DLE", "M": "MED", "N": "DSG", "P": "DPR", "Q": "DGN", "R": "DAR", "S": "DSN", "T": "DTH", "V": "DVA",
    "W": "DTR", "Y": "DTY",
}  # fmt: skip
"""The name of the D residue of each letter."""
D_NAMES = {name: letter for letter, name in MIRRORED.items() if letter != "G"}
_STATES = {
    "C": "CYX CYM CYSH CYS1 CYS2",
    "D": "ASH ASPH ASPP",
    "E": "GLH GLUH GLUP",
    "H": "HID HIE HIP HSD HSE HSP HISD HISE HISH HISP HISA HISB HIS1 HIS2",
    "K": "LYN LYSH LYSN",
    "M": "MSE",
    "R": "ARN ARGN",
    "Y": "TYM",
}
PROTONATION = {name: letter for letter, names in _STATES.items() for name in names.split()}
TERMINI = {f"{end}{name}": letter for end in "NC" for name, letter in {**STANDARD, **PROTONATION}.items()}


@cache
def parents() -> dict[str, str]:
    """Residue name to letter: one of the twenty, or X for an amino acid that has no parent among them."""
    try:
        from Bio.Data.PDBData import protein_letters_3to1_extended as extended
    except ImportError:
        raise MissingExtra("Reading structures", "biopython", "proteins") from None
    dictionary = {name.strip().upper(): letter if letter in LETTERS else "X" for name, letter in extended.items()}
    special = dict.fromkeys(("UNK", "ASX", "GLX", "SEC", "PYL"), "X")
    four = {name: letter for name, letter in TERMINI.items() if len(name) == 4}
    return {**four, **special, **dictionary, **PROTONATION, **D_NAMES, **STANDARD}


def long_names() -> frozenset[str]:
    """The names of four letters that are no residue name of three followed by the first letter of a chain id."""
    return frozenset(name for name in (*PROTONATION, *TERMINI) if len(name) == 4)
