"""Repair: noisy chains refined, missing residues rebuilt, structures varied by so many angstrom.

`refined` moves atoms to bonds, angles and contacts of real chains, held to where they were as loosely as they are
noisy (`Relaxation` with `place` a third of the noise). `rebuilt` makes the residues that a chain lacks, by its numbers,
inside of those it has, which stay where they are. `varied` noises a structure and draws it anew from the time at which
samples lie so far from it: the time is found by halving, on pilots of the structure itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gendiff.errors import RequestError
from gendiff.generation import Generation

from .contigs import Contig, Gap, Piece
from .motif import Motif
from .relaxation import Relaxation
from .structure import Structure, StructureError
from .superpose import rmsd

LONGEST = 60  # residues that a gap may have


def refined(structures: Sequence[Structure], noise: float = 0.6) -> list[Structure]:
    """The chains with bonds, angles and contacts of real ones.

    Args:
        structures: Chains, broken or not; residues whose numbers follow each other are joined.
        noise: How far atoms are off, RMS in angstrom.

    Raises:
        RequestError: A noise that is not positive.
    """
    if not 0 < noise < math.inf:
        raise RequestError(f"noise={noise!r}", "angstrom, above 0", "noise=0.6")
    return Relaxation(steps=200, place=noise / 3)(structures)


def gaps(structure: Structure) -> list[tuple[int, int]]:
    """Where residues are missing: the place before each gap, and how many residues the numbers say there were.

    Raises:
        StructureError: A gap of more than 60 residues.
    """
    found = []
    for k in structure.breaks:
        one, other = structure.numbers[k], structure.numbers[k + 1]
        if structure.chains[k] != structure.chains[k + 1]:
            continue
        if one.lstrip("-").isdecimal() and other.lstrip("-").isdecimal() and (count := int(other) - int(one) - 1) > 0:
            if count > LONGEST:
                here = f"{structure.chains[k]}{one} and {structure.chains[k]}{other}"
                raise StructureError(
                    f"{count} residues are missing between {here}", f"at most {LONGEST}", "structure.pieces()"
                )
            found.append((k, count))
    return found


def filled(structure: Structure) -> Motif:
    """All residues of a structure in a design in which the missing ones are made; see `gaps`."""
    missing, places, starts, at = dict(gaps(structure)), [], [0], 0
    for k, chain in enumerate(structure.chains):
        if k and chain != structure.chains[k - 1]:
            starts.append(at)
        places.append(at)
        at += 1 + missing.get(k, 0)
    return Motif(structure, tuple(places), at, tuple(starts), tuple(dict.fromkeys(structure.chains)))


def rebuilt(model: Generation, structure: Structure, n: int = 1, **how: Any) -> list[Structure]:
    """n copies of a structure with its missing residues made, numbered as they are missing; the others stay.

    Args:
        model: Of backbones.
        structure: One whose numbers leap where residues are missing.
        n: How many.
        how: For `model.sample`: seed, steps.

    Raises:
        StructureError: Nothing missing, or too much.
    """
    missing = gaps(structure)
    if not missing:
        raise StructureError(f"{structure!r} has no gaps in its numbers", "a chain with residues missing")
    motif = filled(structure)
    numbers = list(structure.numbers)
    for k, count in reversed(missing):
        numbers[k + 1 : k + 1] = [str(int(structure.numbers[k]) + 1 + j) for j in range(count)]
    made = Relaxation()(model.sample(n, given=motif, **how))
    return [replace(one, numbers=tuple(numbers), name=structure.name) for one in made]


def contig_of(structure: Structure) -> Contig:
    """What `rebuilt` makes, as a contig: "A1-20/4/A25-60"."""
    missing, chains, first = dict(gaps(structure)), [[]], 0  # type: ignore[var-annotated]
    for k, (chain, number) in enumerate(zip(structure.chains, structure.numbers, strict=True)):
        last = k + 1 == len(structure) or structure.chains[k + 1] != chain
        if k in missing or last:
            chains[-1].append(Piece(chain, structure.numbers[first], number))
            first = k + 1
            if k in missing:
                chains[-1].append(Gap(missing[k], missing[k]))
            elif k + 1 < len(structure):
                chains.append([])
    return Contig(tuple(map(tuple, chains)))


def strength_for(
    model: Generation, structure: Structure, angstrom: float, *, pilots: int = 4, rounds: int = 6, seed: int = 0,
    **how: Any,
) -> float:  # fmt: skip
    """The `strength` at which samples that start from a structure lie so far from it: the median CA RMSD of pilots.

    Args:
        model: Of backbones.
        structure: An unbroken chain.
        angstrom: How far.
        pilots: Samples that are drawn at each strength tried.
        rounds: Strengths that are tried, by halving.
        seed: Of the pilots.
        how: For `model.sample`.

    Raises:
        RequestError: A distance that is not positive, or farther than samples from noise alone.
    """
    if not 0 < angstrom < math.inf:
        raise RequestError(f"{angstrom!r} angstrom", "a distance above 0", "2.0")

    def median(strength: float) -> float:
        made = model.sample(pilots, start=structure, strength=strength, seed=seed, **how)
        here = torch.from_numpy(structure.ca.copy())
        return float(np.median([float(rmsd(torch.from_numpy(one.ca.copy()), here)) for one in made]))

    low, high = 0.0, 1.0
    if (far := median(1.0)) < angstrom:
        raise RequestError(f"{angstrom} angstrom", f"less than {far:.1f}, which samples from noise are away", "")
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if median(middle) < angstrom else (low, middle)
    return (low + high) / 2


def varied(model: Generation, structure: Structure, angstrom: float, n: int = 1, **how: Any) -> list[Structure]:
    """n samples around a structure, their median CA RMSD from it about so many angstrom (partial diffusion).

    For arguments and errors see `strength_for`; `seed` (0) is of the samples, pilots have others.
    """
    seed = how.pop("seed", 0)
    strength = strength_for(model, structure, angstrom, seed=seed + 1, **how)
    return model.sample(n, start=structure, strength=strength, seed=seed, **how)
