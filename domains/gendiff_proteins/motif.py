"""A motif: residues whose place in space and along the chain is known, for chains that are made around them.

    motif = scaffold(read("1prw.cif"), "10/A16-35/22/A52-71/10")
    model.sample(8, given=motif)

A piece with a chain id is taken from the structure, by the numbers of the file; a number stands for so many residues to
be made, a range such as 10-40 for a number that is drawn (`Contig` has all spellings). What is known is met exactly at
the CA atoms and orientations, up to a rotation and shift of the whole; N, C and O are then placed on ideal residues,
0.1 A from the file's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from gendiff.random import Noise

from .contigs import Contig, Gap, ends_of
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


def scaffold(
    structure: Structure, contig: str | Contig, *, length: int | str | tuple[int, int] | None = None, seed: int = 0
) -> Motif:
    """The motif of a structure that a contig such as "10/A16-35/10-30/A52-71/10" describes.

    Args:
        structure: where the known pieces come from.
        contig: pieces of the structure and how many residues to make between them, see `Contig`.
        length: of the whole chain: a number, "55-100", or least and most; None for what the gaps allow.
        seed: of lengths that are left open; `scaffolds` draws many.

    Raises:
        StructureError: pieces that the structure has not, or a contig without any.
        ContigError: a contig that cannot be read, or a length that it does not allow.
    """
    return scaffolds(structure, contig, 1, length=length, seed=seed)[0]


def scaffolds(
    structure: Structure,
    contig: str | Contig,
    n: int,
    *,
    length: int | str | tuple[int, int] | None = None,
    seed: int = 0,
) -> list[Motif]:
    """The motifs of n designs, whose open lengths are drawn evenly from all that are allowed together.

    The i-th is the same whatever n. For arguments and errors see `scaffold`.
    """
    asked = Contig.parse(contig, length) if isinstance(contig, str) else contig
    if not isinstance(contig, str) and length is not None:
        asked = replace(asked, length=ends_of(length))
    if len(asked.chains) > 1:
        raise StructureError(f"the contig {str(asked)!r} has {len(asked.chains)} chains", "one: complexes are to come")
    if not asked.pieces:
        raise StructureError(f"the contig {str(asked)!r} names no known residues", 'such as "10/A16-35/10"')
    parts = [structure[piece.selection] for piece in asked.pieces]
    known = Structure(
        np.concatenate([part.backbone for part in parts]),
        "".join(part.sequence for part in parts),
        tuple(number for part in parts for number in part.numbers),
        tuple(chain for part in parts for chain in part.chains),
        structure.name,
    )
    made = []
    for one in asked.draw([len(part) for part in parts], Noise.of(seed, n)):
        places: list[int] = []
        size, rest = 0, iter(parts)
        for segment in one.segments:
            count = segment.low if isinstance(segment, Gap) else len(next(rest))
            if not isinstance(segment, Gap):
                places += range(size, size + count)
            size += count
        made.append(Motif(known, tuple(places), size))
    return made
