"""Backbones with a plan: which residues are helix or strand, and which strands pair, drawn together with the frames.

    pos         CA positions, nm                                                    Gaussian, as of `Proteins`
    rot         orientations                                                        Geodesic, as of `Proteins`
    structure   H, E or L of every residue                                          Absorbing, clock e^(14 t)
    pairing     none, antiparallel or parallel bridge, of every pair of residues    Absorbing(sites=Pairs()), e^(7 t)

Both classes are those of Kabsch and Sander (`bonding`). Their clocks run ahead of the positions': at t = 0.75 three
pairs of four are decided and most residues, while the frames are still a cloud, so that what pairs with what is settled
before anything is near enough to pair. A plan that is known is shown (`Plan`), whole or in parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gendiff import Absorbing, Exponential, Heads, Joint, Logits, Request
from gendiff.processes import schedule_of
from gendiff.spaces import Pairs, to_pairs
from gendiff.training import Auxiliary, Term

from .bonding import bridges, three_states
from .domain import Proteins
from .pairs import PAIRING, STRUCTURE, PairFrameNetwork, distogram_loss
from .structure import Structure

State = dict[str, Tensor]


@dataclass(frozen=True)
class PlannedProteins(Proteins):
    """Backbones of single chains, with the plan that they follow.

    Args:
        ahead: How much faster the structure of residues is decided than positions.
        paired: How much faster their pairing is.
    """

    name: ClassVar[str] = "proteins"

    ahead: float = 14.0
    paired: float = 7.0

    @property
    def process(self) -> Joint:
        plan = {
            "structure": Absorbing(len(STRUCTURE), Exponential(self.ahead)),
            "pairing": Absorbing(len(PAIRING), Exponential(self.paired), sites=Pairs()),
        }
        return Joint({**super().process.parts, **plan})

    @property
    def head(self) -> Heads:
        return Heads({**super().head.parts, "structure": Logits(), "pairing": Logits()})

    def encode(self, artifact: Structure) -> State:
        return {**super().encode(artifact), **planned(artifact)}

    def request(self, n: int, *args: Any, length: int | Sequence[int] | None = None, **what: Any) -> Request:
        request = super().request(n, *args, length=length, **what)
        longest = request.like["pos"].shape[1]
        structure = torch.empty(n, longest, dtype=torch.int64)
        pairing = torch.empty(n, Pairs().count(longest), dtype=torch.int64)
        return Request({**request.like, "structure": structure, "pairing": pairing}, request.cond)

    def network(  # type: ignore[override]
        self,
        *,
        width: int = 128,
        depth: int = 6,
        heads: int = 8,
        pair: int = 32,
        triangle: int = 16,
        every: int = 2,
        previous: bool = True,
    ) -> nn.Module:
        """A `PairFrameNetwork`, whose arguments these are."""
        clock = schedule_of(self.process, "rot").clock
        return PairFrameNetwork(
            width, depth, heads, pair, triangle, every, previous=previous, conditions=self.conditions, clock=clock
        )

    @property
    def auxiliary(self) -> dict[str, Auxiliary]:
        return {**super().auxiliary, "distogram": Auxiliary(self.distogram, Term(0.1))}

    def distogram(self, prediction: State, x0: State, t: Any, *, side: Mapping[str, Tensor], **cond: Any) -> Tensor:
        """The cross entropy of the distances between CA that the network reads off its pairs."""
        return distogram_loss(side, x0, cond["mask"])


def planned(structure: Structure) -> State:
    """The plan that a structure follows: "structure" int64 [N] and "pairing" int64 [N (N - 1)/2]."""
    letters = torch.tensor([STRUCTURE.index(letter) for letter in three_states(structure)])
    pairs = torch.from_numpy(bridges(structure).astype(np.int64))
    return {"structure": letters, "pairing": to_pairs(pairs[None])[0]}
