"""A motif: residues whose place in space and along the chain is known, for chains that are made around them.

    motif = scaffold(read("1prw.cif"), "10/A16-35/22/A52-71/10")
    model.sample(8, given=motif)

A piece with a chain id is taken from the structure, by the numbers of the file; a number stands for so many residues to
be made. What is known is met exactly at the CA atoms and orientations, up to a rotation and shift of the whole; N, C
and O are then placed on ideal residues, 0.1 A from the file's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .structure import Structure, StructureError


@dataclass(frozen=True, eq=False)
class Motif:
    """Known residues and their places in a chain.

    Args:
        structure: the known residues, with whatever gaps and chains.
        places: the place of each in the chain to be made, from 0, increasing.
        length: residues of that chain.

    Raises:
        StructureError: places that are not as many as residues, do not increase, or lie outside the chain.
    """

    structure: Structure
    places: tuple[int, ...]
    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", tuple(int(p) for p in self.places))
        if len(self.places) != len(self.structure) or not self.places:
            raise StructureError(f"{len(self.places)} places for {len(self.structure)} residues", "one for each")
        if (np.diff(self.places) < 1).any() or self.places[0] < 0 or self.places[-1] >= self.length:
            raise StructureError(
                f"places {self.places[0]} to {self.places[-1]} in a chain of {self.length}",
                f"increasing places from 0 to {self.length - 1}",
            )

    @property
    def keep(self) -> torch.Tensor:
        """`[length]` bool: which residues are known."""
        keep = torch.zeros(self.length, dtype=torch.bool)
        keep[list(self.places)] = True
        return keep

    def find(self, sample: Structure) -> Structure:
        """The residues of the motif in a sample."""
        return sample.take(list(self.places))

    def rmsd(self, sample: Structure) -> float:
        """CA RMSD of the motif in a sample after superposition, angstrom; a mirror image does not fit."""
        from .superpose import rmsd

        found = torch.from_numpy(self.find(sample).ca.copy())
        return float(rmsd(found, torch.from_numpy(self.structure.ca.copy())))


def scaffold(structure: Structure, contig: str) -> Motif:
    """The motif of a structure that a contig such as "10/A16-35/22/A52-71/10" describes.

    Args:
        structure: where the known pieces come from.
        contig: pieces between slashes: a selection ("A16-35", see `Structure`), or a number of residues to make.

    Raises:
        StructureError: a piece that is neither, or a contig without a selection.
    """
    chosen: list[Structure] = []
    places: list[int] = []
    length = 0
    for piece in contig.replace(" ", "").split("/"):
        if piece.isdecimal():
            length += int(piece)
            continue
        if piece and all(part.isdecimal() for part in piece.split("-")):
            raise StructureError(
                f"the contig {contig!r} leaves the length {piece} open", "a number of residues", piece.split("-")[0]
            )
        part = structure[piece]
        chosen.append(part)
        places += range(length, length + len(part))
        length += len(part)
    if not chosen:
        raise StructureError(f"the contig {contig!r} names no known residues", 'such as "10/A16-35/10"')
    known = Structure(
        np.concatenate([part.backbone for part in chosen]),
        "".join(part.sequence for part in chosen),
        tuple(number for part in chosen for number in part.numbers),
        tuple(chain for part in chosen for chain in part.chains),
        structure.name,
    )
    return Motif(known, tuple(places), length)
