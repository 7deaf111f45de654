"""A motif: residues whose place in space and along the chain is known, for chains that are made around them.

    motif = scaffold(read("1prw.cif"), "10/A16-35/22/A52-71/10")
    model.sample(8, given=motif)

A piece with a chain id is taken from the structure, by the numbers of the file; a number stands for so many residues to
be made, a range such as 10-40 for a number that is drawn (`Contig` has all spellings); a chain of known residues alone
is a target, which stays where it is: "A1-150/0 70-100" makes a binder. Samples are moved to the place of the file, and
known residues are there exactly as they were, with their side chains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gendiff.random import Noise

from .atoms import OXT
from .contigs import Contig, Gap, Piece, ends_of
from .frames import NM
from .structure import Structure, StructureError

SNUG = 1.1  # the distance of a binder's centre from its hotspots, in radii of gyration; a sphere's radius is 1.29
LEAP = 200  # in the numbers of residues where another chain begins: farther than any network looks along one


@dataclass(frozen=True, eq=False)
class Motif:
    """Known residues and their places in a design of one or more chains.

    Args:
        structure: the known residues, with whatever gaps and chains.
        places: the place of each in the design, from 0, increasing.
        length: residues of the design.
        starts: the places where its chains begin; one chain by default.
        chains: an id for each of them; "A", "B", ... by default.
        hotspots: which of the known residues, by their order in `structure`, made chains shall touch.

    Raises:
        StructureError: places that are not as many as residues, do not increase, or lie outside the design; known
            residues on top of each other; chains that do not begin at 0 or do not increase.
    """

    structure: Structure
    places: tuple[int, ...]
    length: int
    starts: tuple[int, ...] = (0,)
    chains: tuple[str, ...] = ()
    hotspots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", tuple(int(p) for p in self.places))
        object.__setattr__(self, "starts", tuple(int(p) for p in self.starts))
        if len(self.places) != len(self.structure) or not self.places:
            raise StructureError(f"{len(self.places)} places for {len(self.structure)} residues", "one for each")
        if (np.diff(self.places) < 1).any() or self.places[0] < 0 or self.places[-1] >= self.length:
            raise StructureError(
                f"places {self.places[0]} to {self.places[-1]} in a chain of {self.length}",
                f"increasing places from 0 to {self.length - 1}",
            )
        if not self.starts or self.starts[0] or (np.diff(self.starts) < 1).any() or self.starts[-1] >= self.length:
            raise StructureError(
                f"chains that begin at {list(self.starts)} in a design of {self.length}", "0 and increasing places"
            )
        object.__setattr__(self, "chains", tuple(self.chains) or tuple(free_ids(len(self.starts), ())))
        if len(self.chains) != len(self.starts) or len(set(self.chains)) != len(self.chains):
            raise StructureError(f"the chains {', '.join(self.chains)}", f"{len(self.starts)} ids, each another")
        if self.hotspots and not self.made.any():
            raise StructureError("hotspots in a design without a chain that is made whole", "one", '"A1-150/0 70"')
        self._apart()

    @property
    def made(self) -> np.ndarray:
        """`[length]` bool: residues of chains of which nothing is known: binders."""
        known = {int(chain) for chain in self.chain_of[list(self.places)]}
        return np.array([int(chain) not in known for chain in self.chain_of])

    def berth(self) -> np.ndarray:
        """Where the centre of a binder may lie, angstrom from the mean of the known CA: outside of the hotspots by the
        radius of a sphere of its size, along the way out of the residues within 16 A of them.
        """
        ca = self.structure.ca
        spot = ca[list(self.hotspots)].mean(0)
        around = ca[np.linalg.norm(ca - spot, axis=1) < 16.0]
        out = (spot - around).sum(0)
        out = out / max(float(np.linalg.norm(out)), 1e-6)
        return spot + SNUG * 2.2 * int(self.made.sum()) ** 0.38 * out - ca.mean(0)

    def _apart(self) -> None:
        """Refuses known residues whose CA lie nearer than 2.5 A, which no chain can have."""
        ca = self.structure.ca
        far = np.linalg.norm(ca[:, None] - ca[None], axis=-1) + np.where(np.tri(len(ca), dtype=bool), np.inf, 0)
        i, j = np.unravel_index(far.argmin(), far.shape)
        if far[i, j] < 2.5:
            one, other = (f"{self.structure.chains[k]}{self.structure.numbers[k]}" for k in (i, j))
            raise StructureError(
                f"the known residues {one} and {other} lie {far[i, j]:.1f} A apart", "2.5 A or more between CA"
            )

    @property
    def chain_of(self) -> np.ndarray:
        """`[length]`: the number of each residue's chain, from 0."""
        return np.searchsorted(self.starts, np.arange(self.length), side="right") - 1

    @property
    def index(self) -> torch.Tensor:
        """`[length]` int64: places along the chains, with a leap where another begins, and where known residues that
        follow each other in the design are not joined in the file.
        """
        return along(self.structure, self.places, self.length, self.starts)

    def complete(self, sample: Structure) -> Structure:
        """A sample in the place of the file, its known residues as they are there, its chains and numbers said.

        A chain that is known whole keeps its letters and numbers; others count from 1, and so do the numbers of their
        known residues (`Structure.mapping` has both).
        """
        from .superpose import kabsch

        places, own = list(self.places), self.structure
        there, here = (
            torch.from_numpy(one[:, :3].reshape(-1, 3).copy()) for one in (own.backbone, sample.backbone[places])
        )
        turn, shift = kabsch(here, there)
        backbone = sample.backbone @ turn.numpy().T + shift.numpy()
        backbone[places] = own.backbone
        side = self.sides()
        keep, chain_of = self.keep.numpy(), self.chain_of
        letters, hands = list(sample.sequence), list(sample.hands)
        numbers = [str(place - self.starts[chain] + 1) for place, chain in enumerate(chain_of)]
        for place, letter, hand, number in zip(places, own.sequence, own.hands, own.numbers, strict=True):
            letters[place], hands[place] = letter, hand
            if keep[chain_of == chain_of[place]].all():
                numbers[place] = number
        ids = tuple(self.chains[chain] for chain in chain_of)
        return replace(
            sample, backbone=backbone, sequence="".join(letters), numbers=tuple(numbers), chains=ids,
            known=self.origins, side=side, hands="".join(hands),
        )  # fmt: skip

    def sides(self) -> np.ndarray | None:
        """The side chains of known residues in a design, `[length, 33, 3]`, where the file has them.

        An OXT stays where a chain of the design ends, and goes where it goes on.
        """
        if self.structure.side is None:
            return None
        side = np.full((self.length, *self.structure.side.shape[1:]), np.nan)
        side[list(self.places)] = self.structure.side
        goes_on = np.append(np.diff(self.chain_of) == 0, False)
        side[goes_on, OXT] = np.nan
        return side

    @property
    def origins(self) -> tuple[str, ...]:
        """Where each residue of the design comes from, "A163"; "" where it is made."""
        found = [""] * self.length
        for place, chain, number in zip(self.places, self.structure.chains, self.structure.numbers, strict=True):
            found[place] = f"{chain}{number}"
        return tuple(found)

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

    def misfit(self, x0: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The squared CA RMSD of the motif in predicted frames after superposition, A^2, `[B]`: a reward is minus it.

        `FeynmanKac(DDPM(50), Reward(lambda x0: -motif.misfit(x0), 2.0), 16)` is a sampler that asks for the motif by
        particles.
        """
        from .superpose import rmsd

        found = x0["pos"][:, list(self.places)] / NM
        return rmsd(found, torch.from_numpy(self.structure.ca.copy()).to(found)).square()


def scaffold(
    structure: Structure,
    contig: str | Contig,
    *,
    length: int | str | tuple[int, int] | None = None,
    seed: int = 0,
    hotspots: Sequence[str] = (),
) -> Motif:
    """The motif of a structure that a contig such as "10/A16-35/10-30/A52-71/10" describes.

    Args:
        structure: where the known pieces come from.
        contig: pieces of the structure and how many residues to make between them, see `Contig`.
        length: of the whole chain: a number, "55-100", or least and most; None for what the gaps allow.
        seed: of lengths that are left open; `scaffolds` draws many.
        hotspots: residues of the file, "A45", that binders shall touch.

    Raises:
        StructureError: pieces that the structure has not, or a contig without any.
        ContigError: a contig that cannot be read, or a length that it does not allow.
    """
    return scaffolds(structure, contig, 1, length=length, seed=seed, hotspots=hotspots)[0]


def scaffolds(
    structure: Structure,
    contig: str | Contig,
    n: int,
    *,
    length: int | str | tuple[int, int] | None = None,
    seed: int = 0,
    hotspots: Sequence[str] = (),
) -> list[Motif]:
    """The motifs of n designs, whose open lengths are drawn evenly from all that are allowed together.

    The i-th is the same whatever n. For arguments and errors see `scaffold`.
    """
    asked = Contig.parse(contig, length) if isinstance(contig, str) else contig
    if not isinstance(contig, str) and length is not None:
        asked = replace(asked, length=ends_of(length))
    if not asked.pieces:
        raise StructureError(f"the contig {str(asked)!r} names no known residues", 'such as "10/A16-35/10"')
    parts = [structure[piece.selection] for piece in asked.pieces]
    known = Structure(
        np.concatenate([part.backbone for part in parts]),
        "".join(part.sequence for part in parts),
        tuple(number for part in parts for number in part.numbers),
        tuple(chain for part in parts for chain in part.chains),
        structure.name,
        side=np.concatenate([part.sides for part in parts]),
        hands="".join(part.hands for part in parts),
    )
    spots = hot(structure, known, hotspots)
    fixed = whole_chains(asked)
    ids = iter(free_ids(len(asked.chains), fixed.values()))
    chains = tuple(fixed[k] if k in fixed else next(ids) for k in range(len(asked.chains)))
    made = []
    for one in asked.draw([len(part) for part in parts], Noise.of(seed, n)):
        places: list[int] = []
        starts: list[int] = []
        size, rest = 0, iter(parts)
        for chain in one.chains:
            starts.append(size)
            for segment in chain:
                count = segment.low if isinstance(segment, Gap) else len(next(rest))
                if not isinstance(segment, Gap):
                    places += range(size, size + count)
                size += count
        made.append(Motif(known, tuple(places), size, tuple(starts), chains, spots))
    return made


def hot(structure: Structure, known: Structure, hotspots: Sequence[str]) -> tuple[int, ...]:
    """Where hotspots are among the known residues.

    Raises:
        StructureError: residues that the structure has not, or that the contig leaves out.
    """
    place = {one: k for k, one in enumerate(zip(known.chains, known.numbers, strict=True))}
    found: list[int] = []
    for word in hotspots:
        chosen = structure[word]
        for one in zip(chosen.chains, chosen.numbers, strict=True):
            if one not in place:
                raise StructureError(
                    f"the hotspot {one[0]}{one[1]} is not among the residues that the contig keeps",
                    "a residue of the target",
                )
            found.append(place[one])
    return tuple(found)


def whole_chains(contig: Contig) -> dict[int, str]:
    """The chains of a design that hold nothing but known residues of one chain of the file, with its id."""
    found: dict[int, str] = {}
    for k, chain in enumerate(contig.chains):
        ids = {segment.chain if isinstance(segment, Piece) else "" for segment in chain}
        if len(ids) == 1 and "" not in ids and not ids & set(found.values()):
            found[k] = ids.pop()
    return found


def free_ids(count: int, taken: Iterable[str]) -> list[str]:
    """Chain ids that are not taken, A to Z first."""
    used, letters = set(taken), [*map(chr, range(65, 91)), *map(chr, range(97, 123)), *map(str, range(10))]
    more = [a + b for a in letters for b in letters]
    return [one for one in [*letters, *more] if one not in used][:count]


def along(structure: Structure, places: Sequence[int], length: int, starts: Sequence[int] = (0,)) -> torch.Tensor:
    """Where residues of a design stand along its chains, int64 [length]; see `Motif.index`."""
    leap = np.ones(length, dtype=np.int64)
    leap[0] = 0
    for k in structure.breaks:
        here, there = places[k], places[k + 1]
        if there == here + 1:
            leap[there] = missing(structure, k)
    leap[list(starts[1:])] = LEAP
    return torch.from_numpy(np.cumsum(leap))


def missing(structure: Structure, k: int) -> int:
    """How far along the chain residue k + 1 is from k, across a break: by the file's numbers, else a leap."""
    one, other = structure.numbers[k], structure.numbers[k + 1]
    same = structure.chains[k] == structure.chains[k + 1]
    if same and one.lstrip("-").isdecimal() and other.lstrip("-").isdecimal() and int(other) > int(one) + 1:
        return min(int(other) - int(one), LEAP)
    return LEAP
