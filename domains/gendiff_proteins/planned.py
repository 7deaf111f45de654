"""Backbones with a plan: which residues are helix or strand, and which strands pair, drawn together with the frames.

    pos         CA positions, nm                                                    Gaussian, as of `Proteins`
    rot         orientations                                                        Geodesic, as of `Proteins`
    structure   H, E or L of every residue                                          Absorbing, clock e^(14 t)
    pairing     none, antiparallel or parallel bridge, of every pair of residues    Absorbing(sites=Pairs()), e^(7 t)

Both classes are those of Kabsch and Sander (`bonding`). Their clocks run ahead of the positions': at t = 0.75 three
pairs of four are decided and most residues, while the frames are still a cloud, so that what pairs with what is settled
before anything is near enough to pair. What is known of the plan is shown (`Topology`), whole or in parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gendiff import Absorbing, Exponential, Given, Heads, Joint, Logits, Measurement, Request
from gendiff.errors import DataError, RequestError
from gendiff.processes import schedule_of
from gendiff.spaces import Pairs, map_state, to_pairs
from gendiff.training import Auxiliary, Term, template

from .bonding import bridges, three_states
from .domain import Proteins
from .geometry import hydrogen_bond_loss
from .motif import along
from .pairs import LETTERS, PAIRING, STRUCTURE, PairFrameNetwork, distogram_loss
from .structure import Structure
from .topology import Topology

State = dict[str, Tensor]


@dataclass(frozen=True)
class PlannedProteins(Proteins):
    """Backbones of single chains, with the plan that they follow.

    Args:
        ahead: How much faster the structure of residues is decided than positions.
        paired: How much faster their pairing is.
        topology: Whether the plan is a part.
        sequence: Whether the sequence is one, on the positions' clock.
        templates: Whether networks are told what is known of frames, as the condition "template" (for training:
            `KnownSites(("pos", "rot"))`).
    """

    name: ClassVar[str] = "proteins"

    ahead: float = 14.0
    paired: float = 7.0
    topology: bool = True
    sequence: bool = False
    templates: bool = False

    @property
    def classes(self) -> dict[str, Absorbing]:
        """The processes of the parts that are classes."""
        found = {}
        if self.topology:
            found["structure"] = Absorbing(len(STRUCTURE), Exponential(self.ahead))
            found["pairing"] = Absorbing(len(PAIRING), Exponential(self.paired), sites=Pairs())
        if self.sequence:
            found["sequence"] = Absorbing(len(LETTERS))
        return found

    @property
    def process(self) -> Joint:
        return Joint({**super().process.parts, **self.classes})

    @property
    def head(self) -> Heads:
        return Heads({**super().head.parts, **dict.fromkeys(self.classes, Logits())})

    def encode_given(self, artifact: Structure) -> State:
        """Frames, and the classes: of the plan those of the structure's hydrogen bonds.

        Raises:
            DataError: a residue of an unknown kind, where the sequence is a part.
        """
        return {**self.frames_of(artifact), **self.classes_of(artifact)}

    def classes_of(self, artifact: Structure) -> State:
        """The parts of a structure that are classes."""
        found = planned(artifact) if self.topology else {}
        return {**found, "sequence": lettered(artifact)} if self.sequence else found

    def decode(self, x: State) -> Structure:
        made = super().decode(x)
        if not self.sequence:
            return made
        letters = "".join(LETTERS[k] if k < len(LETTERS) else "X" for k in x["sequence"].tolist())
        return Structure(made.backbone, letters, name=made.name)

    def request(
        self,
        n: int,
        *args: Any,
        length: int | Sequence[int] | None = None,
        template: State | None = None,
        **what: Any,
    ) -> Request:
        request = super().request(n, *args, length=length, **what)
        longest = request.like["pos"].shape[1]
        like = {name: torch.empty(n, own.sites.count(longest), dtype=torch.int64) for name, own in self.classes.items()}
        told = {} if template is None else {"template": map_state(lambda x: x.expand(n, *x.shape[1:]), template)}
        return Request({**request.like, **like}, {**request.cond, **told})

    def known(self, given: Any, what: Mapping[str, Any]) -> tuple[Given | Measurement, dict[str, Any]]:
        """A `Topology` tells what of the plan is known, a `Structure` its frames, of which a sequence is asked; and
        both how long the samples are. What is known of frames is told as a template too.

        Raises:
            RequestError: a length that is not the topology's.
        """
        if isinstance(given, Structure) and self.sequence:
            return self.folded(given, what)
        if not isinstance(given, Topology) or not self.topology:
            found, what = super().known(given, what)
            told = self.templates and isinstance(found, Given) and not found.shown
            return self.templated(found, what) if told else (found, what)
        length, n = what.get("length"), len(given)
        if length is not None and length != n:
            raise RequestError(f"length={length!r} with a topology of {n} residues", "one length", "no length=")
        frames = {"pos": torch.zeros(n, 3), "rot": torch.eye(3).repeat(n, 1, 1)}
        none = dict.fromkeys(frames, torch.zeros(n, dtype=torch.bool))
        x0, keep = self.with_nothing(batched({**frames, **given.classes()}), batched({**none, **given.keep()}))
        return Given(x0, keep, shown=True), {**what, "length": n}

    def templated(self, given: Given | Measurement, what: Mapping[str, Any]) -> tuple[Given, dict[str, Any]]:
        """What is known of frames as the condition "template", and, once it is, one pass of the grid."""
        assert isinstance(given, Given) and isinstance(given.x0, dict)
        told = template(given.keep["pos"], {name: given.x0[name] for name in ("pos", "rot")})
        return replace(given, passes=1), {**what, "template": told}

    def folded(self, given: Structure, what: Mapping[str, Any]) -> tuple[Given, dict[str, Any]]:
        """The frames of a backbone, for which a sequence is asked."""
        length, n = what.get("length"), len(given)
        if length is not None and length != n:
            raise RequestError(f"length={length!r} with a backbone of {n} residues", "one length", "no length=")
        known = batched(self.frames_of(given))
        x0, keep = self.with_nothing(known, dict.fromkeys(known, torch.ones(1, n, dtype=torch.bool)))
        told = {"index": [along(given, range(n), n)]} if given.breaks else {}
        return Given(x0, keep, shown=True), {**what, **told, "length": n}

    def with_nothing(self, x0: State, keep: State) -> tuple[State, State]:
        count, length = x0["pos"].shape[:2]
        rest = {name: (count, own.sites.count(length)) for name, own in self.classes.items() if name not in x0}
        zeros = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in rest.items()}
        return {**x0, **zeros}, {**keep, **{name: part > 0 for name, part in zeros.items()}}

    def network(  # type: ignore[override]
        self,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 8,
        pair: int = 32,
        triangle: int = 16,
        every: int = 2,
        dropout: float = 0.0,
        previous: bool = True,
    ) -> nn.Module:
        """A `PairFrameNetwork`, whose arguments these are."""
        clock = schedule_of(self.process, "rot").clock
        return PairFrameNetwork(
            width, depth, heads, pair, triangle, every, plan=self.topology,
            dropout=dropout, sequence=self.sequence, templates=self.templates, previous=previous,
            conditions=self.conditions, clock=clock,
        )  # fmt: skip

    @property
    def auxiliary(self) -> dict[str, Auxiliary]:
        return {
            **super().auxiliary,
            "distogram": Auxiliary(self.distogram, Term(0.1)),
            "hydrogen_bonds": Auxiliary(self.hydrogen_bonds, Term(1.0, window=(0.0, 0.7))),
        }

    def hydrogen_bonds(self, prediction: State, x0: State, t: Any, **cond: Any) -> Tensor:
        """How far the true hydrogen bonds' N and O are off in the predicted frames."""
        return hydrogen_bond_loss(prediction, x0, t, cond["mask"], floor=self.floor)

    def distogram(self, prediction: State, x0: State, t: Any, *, side: Mapping[str, Tensor], **cond: Any) -> Tensor:
        """The cross entropy of the distances between CA that the network reads off its pairs."""
        return distogram_loss(side, x0, cond["mask"])


def planned(structure: Structure) -> State:
    """The plan that a structure follows: "structure" int64 [N] and "pairing" int64 [N (N - 1)/2]."""
    letters = torch.tensor([STRUCTURE.index(letter) for letter in three_states(structure)])
    pairs = torch.from_numpy(bridges(structure).astype(np.int64))
    return {"structure": letters, "pairing": to_pairs(pairs[None])[0]}


def lettered(structure: Structure) -> Tensor:
    """The sequence as classes, int64 [N].

    Raises:
        DataError: a residue of an unknown kind.
    """
    odd = next((k for k, letter in enumerate(structure.sequence) if letter not in LETTERS), None)
    if odd is not None:
        at = f"{structure.chains[odd]}{structure.numbers[odd]}"
        raise DataError(f"{structure!r} has {structure.sequence[odd]!r} at {at}", f"one of {''.join(LETTERS)}")
    return torch.tensor([LETTERS.index(letter) for letter in structure.sequence])


def batched(state: State) -> State:
    """A single state as a batch of one."""
    return {name: part[None] for name, part in state.items()}
