r"""Closed chains and mirror images: peptides joined head to tail, and peptides of D residues.

    model.sample(8, given=Peptide(16))                             C of residue 16 bonded to N of residue 1
    model.sample(8, given=Peptide(24, cyclic=False, hand="D"))     the mirror image of a chain of L residues

A closed chain has no first residue: the network is told the places of residues around the ring, i to j the shorter way,

    j - i  ->  (j - i + floor(N/2)) mod N - floor(N/2),

as RFpeptides tell RFdiffusion (Rettie et al. 2025), and neighbours, windows and bonds go around with it
(`networks.Rings`). What it puts out turns with the numbering; no weight is new, and no ring was in training. Chains
have 7 to 1024 residues, open ones 4 and more. The shipped model, which saw chains of 40 to 96 residues, makes rings of
14 and more as sound as open chains; of 12 residues 1 in 20 collapses, of 10 1 in 5, of 8 1 in 4, of 7 3 in 5, and no
relaxation mends them: `rank` puts them last (96 of each; more than two breaks).

Models are trained on L residues. A chain of D residues is drawn as its mirror image and reflected (x to -x) in the end,
which is exact: no distance, angle or contact changes. What is known of it, a `Motif`, is reflected before. So a binder
of D residues to a target of L residues is drawn beside the target's mirror image, which no network was trained on.

What hand atoms have is seen by CB (`side_chains.chirality`). N, CA, C and O alone do not tell: a CA with two of its
neighbours is no stereocentre, and frames are rigid bodies of either hand. What a backbone shows is that residues of a
hand keep to their half of the Ramachandran plot: phi is negative in 97 of 100 L residues that are no glycine, and so
positive in D residues. A residue is told so with that certainty, a chain by its majority (`hands_seen`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import RequestError

from .atoms import OXT
from .frames import BREAK, place_oxygen
from .metrics import torsions
from .motif import Motif
from .side_chains import chirality
from .structure import LONGEST, SHORTEST, Structure

SHORTEST_RING = 7  # residues: the two neighbours on either side that networks see are others, and so are theirs


@dataclass(frozen=True)
class Peptide:
    """A chain asked for: `model.sample(4, given=Peptide(16))`.

    Args:
        length: Residues, 7 to 1024, or 4 to 1024 of an open chain; None for those that the request says.
        cyclic: Whether the last residue is joined to the first.
        hand: "L" or "D".
        motif: A `Motif` whose made chains are so; chains that are known whole stay open, and of the hand that they are.
    """

    length: int | None = None
    cyclic: bool = True
    hand: str = "L"
    motif: Any = None

    def __post_init__(self) -> None:
        if self.hand not in ("L", "D"):
            raise RequestError(f"the hand {self.hand!r}", "L or D", 'hand="D"')
        if not isinstance(self.cyclic, bool):
            raise RequestError(f"cyclic={self.cyclic!r}", "True or False", "cyclic=True")
        if self.motif is not None:
            self._fitting(self.motif)
        elif self.length is not None:
            check_length(self.length, self.cyclic)

    def _fitting(self, motif: Any) -> None:
        """Refuses a motif that no chain of this kind can have."""
        if not isinstance(motif, Motif):
            raise RequestError(
                f"Peptide got a motif of {type(motif).__name__}",
                "a Motif; a symmetric oligomer has open chains of L residues",
                'Peptide(motif=scaffold(structure, "8/A11-20/8"))',
            )
        if self.length not in (None, motif.length):
            raise RequestError(f"length={self.length} with a motif in a chain of {motif.length}", "one length")
        ours = self.own
        if not ours.any():
            raise RequestError("a motif in which every chain is known whole", "a chain with residues to make")
        for chain in np.unique(motif.chain_of[ours]):
            check_length(int((motif.chain_of == chain).sum()), self.cyclic)
        steps = motif.index.diff().numpy()
        within = (motif.chain_of[1:] == motif.chain_of[:-1]) & ours[1:]
        if self.cyclic and (steps[within] != 1).any():
            raise RequestError(
                "a closed chain with a break between known residues", "known residues joined as in the file, or a gap"
            )
        for place, letter, hand in zip(motif.places, motif.structure.sequence, motif.structure.hands, strict=True):
            if ours[place] and hand != self.hand and letter != "G":
                number = motif.origins[place]
                raise RequestError(
                    f"the known residue {number} is {hand}, in a chain of {self.hand} residues", "residues of its hand",
                    f'Peptide(hand="{hand}", motif=motif)',
                )  # fmt: skip

    @property
    def own(self) -> np.ndarray:
        """`[length]` bool: the residues of chains that are not known whole, with a motif."""
        keep, chain_of = self.motif.keep.numpy(), self.motif.chain_of
        open_ = {int(chain) for chain in np.unique(chain_of) if not keep[chain_of == chain].all()}
        return np.array([int(chain) in open_ for chain in chain_of])

    @property
    def size(self) -> int:
        """The residues of the design."""
        if self.motif is not None:
            return int(self.motif.length)
        if self.length is None:
            raise RequestError("a Peptide without a length", "its number of residues", "length=16")
        return self.length

    @property
    def ring(self) -> Tensor:
        """`[size]` bool: the residues whose chain is closed."""
        closed = torch.full((self.size,), self.cyclic)
        return closed if self.motif is None else closed & torch.from_numpy(self.own)

    @property
    def index(self) -> Tensor:
        """Places along the chains, int64 `[size]`, with those of the motif."""
        return torch.arange(self.size) if self.motif is None else self.motif.index

    @property
    def known(self) -> Motif | None:
        """The motif as networks see it, in a chain of L residues."""
        if self.motif is None or self.hand == "L":
            return self.motif
        return replace(self.motif, structure=self.motif.structure.mirrored())

    def complete(self, sample: Structure) -> Structure:
        """A sample as it is asked: reflected, what is known in place, which chains are closed and their hand said."""
        made = sample.mirrored() if self.hand == "D" else sample
        made = made if self.motif is None else self.motif.complete(made)
        if not self.cyclic:
            return made
        ours = np.ones(len(made), dtype=bool) if self.motif is None else self.own
        ids = [chain for chain in dict.fromkeys(made.chains) if ours[made.chains.index(chain)]]
        return closed(made, ids)


def check_length(length: Any, cyclic: bool) -> None:
    """Refuses lengths that no chain has.

    Raises:
        RequestError: less than 7 residues of a closed chain, 4 of an open one, more than 1024, or no whole number.
    """
    least = SHORTEST_RING if cyclic else SHORTEST
    if type(length) is not int or not least <= length <= LONGEST:
        kind = "a closed chain" if cyclic else "a chain"
        raise RequestError(f"{kind} of {length!r} residues", f"{least} to {LONGEST}", "Peptide(16)")


def closed(structure: Structure, chains: Sequence[str]) -> Structure:
    """The structure with these chains closed: without an OXT, the last O in the plane of the N that follows.

    The O stays where it is if no bond is there, C-N > 2 A, and if the residue was given.
    """
    out = replace(structure, cyclic=tuple(chains))
    backbone, side = out.backbone.copy(), None if out.side is None else out.side.copy()
    for last, first in out.closures:
        n, ca, c = torch.from_numpy(backbone[[last, first], :3]).unbind(1)
        bonded = float((n[1] - c[0]).norm()) < BREAK
        if bonded and not (out.known and out.known[last]):
            backbone[last, 3] = place_oxygen(n, ca, c)[0].numpy()
        if side is not None:
            side[last, OXT] = np.nan
    return replace(out, backbone=backbone, side=side)


def hands_seen(structure: Structure) -> str:
    """The hand of each residue by its atoms: L or D where there is a CB, l or d where phi alone tells, "-" elsewhere.

    phi below 0 is l: so it is in 97 of 100 L residues (49 chains of the test split). Of a glycine, and where a chain
    begins, nothing is known.
    """
    told, (phi, _) = list(chirality(structure)), torsions(structure)
    for i, letter in enumerate(structure.sequence):
        if told[i] == "-" and letter != "G" and np.isfinite(phi[i]):
            told[i] = "l" if phi[i] < 0 else "d"
    return "".join(told)


def padded(rows: Sequence[Tensor], longest: int) -> Tensor:
    """These rows as one, `[B, longest]`, False behind their ends."""
    out = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, own in zip(out, rows, strict=True):
        row[: len(own)] = own
    return out


def peptides(given: Any, length: Any) -> list[Peptide] | None:
    """What `given` says as peptides that have a length, one for all or one for each sample; None if it is no peptide.

    Raises:
        RequestError: peptides among other things, or a length that is not theirs.
    """
    many = list(given) if isinstance(given, list | tuple) else [given]
    if not any(isinstance(one, Peptide) for one in many):
        return None
    if not all(isinstance(one, Peptide) for one in many):
        raise RequestError("peptides among other things that are known", "Peptides alone", "Peptide(motif=motif)")
    if len(many) == 1 and isinstance(length, list | tuple):
        many = many * len(length)
    lengths = list(length) if isinstance(length, list | tuple) else [length] * len(many)
    if len(lengths) != len(many):
        raise RequestError(f"{len(lengths)} lengths for {len(many)} peptides", "one each", "no length=")
    out = []
    for one, size in zip(many, lengths, strict=True):
        own = one.motif.length if one.motif is not None else one.length
        if own is not None and size not in (None, own):
            raise RequestError(f"length={size!r} with a peptide of {own} residues", "one length", "no length=")
        out.append(one if own is not None else replace(one, length=size))
    return out
