"""A protein backbone as a person knows it: atoms in angstrom, letters, residue numbers and chains.

`structure["A16-35"]` is residues 16 to 35 of chain A by the numbers of the file; insertion codes are part of a number
("A52A"); several pieces may be joined, `structure["A16-35", "A52-71"]`; a chain id alone is the whole chain. Where an
id that ends in a digit leaves two readings, a colon ends it: `structure["A1:2-9"]`. Numbers that a range spans and the
chain lacks are left out with a warning: antibody numbering has such gaps without a break.

Side chains are kept where a file has them, and nothing is stored where none has: a network makes N, CA, C, O alone.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, pairwise

import numpy as np
import torch

from gendiff.errors import GendiffError, nearest

from .atoms import ATOM37, BACKBONE, SIDE, allowed
from .frames import BREAK, frames_from_backbone

ATOMS = BACKBONE
SHORTEST, LONGEST = 4, 1024  # residues of a chain
FAR_CA = 4.2  # a longer CA-CA is a chain break
_OTHER = str.maketrans("LD", "DL")

_NUMBER = r"(-?\d+)([A-Za-z]?)"
_RANGE = re.compile(rf":?{_NUMBER}(?:-{_NUMBER})?")
_PIECE = re.compile(rf"(?P<chain>.*?)(?:{_RANGE.pattern})?")


class StructureError(GendiffError):
    """A structure that cannot be read, selected from or written."""


def _plain(number: str) -> int:
    """A residue number without its insertion code."""
    return int(re.sub(r"[A-Za-z]", "", number))


def _ends(first: str, code: str | None, last: str | None, last_code: str | None) -> tuple[str, str]:
    """The first and the last residue number of a range, which may be one."""
    begin = first + (code or "")
    return begin, begin if last is None else last + (last_code or "")


@dataclass(frozen=True, eq=False)
class Structure:
    """The backbone of one or more chains, and what side chains are known.

    Args:
        backbone: N, CA, C, O of every residue, `[N, 4, 3]`, angstrom.
        sequence: one letter a residue; X for unknown. Empty means all unknown.
        numbers: residue numbers with insertion codes as in the file ("52", "52A"). Empty means 1 to N.
        chains: chain id of every residue. Empty means all "A".
        name: where it came from.
        known: of a design, where each residue that was given comes from, "A163" by chain and number of its file; ""
            for those that were made. Empty means that all were.
        cyclic: the ids of chains that are closed: a peptide bond joins C of the last residue to N of the first.
        hands: L or D of every residue, as it is named; empty means all L. What atoms say is `side_chains.chirality`.
        side: the other heavy atoms, `[N, 33, 3]`, angstrom, in the order of `atoms.SIDE` (atom37 without N, CA, C, O),
            NaN where a residue lacks one; None where none has any.

    Raises:
        StructureError: lengths that differ, coordinates that are not finite, closed chains that are not there or have
            less than three residues, a hand that is neither, or an atom that no residue of its letter has.
    """

    backbone: np.ndarray
    sequence: str = ""
    numbers: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    name: str = field(default="")
    known: tuple[str, ...] = ()
    side: np.ndarray | None = None
    cyclic: tuple[str, ...] = ()
    hands: str = ""

    def __post_init__(self) -> None:
        backbone = np.asarray(self.backbone, dtype=np.float64)
        if backbone.ndim != 3 or backbone.shape[1:] != (4, 3):
            raise StructureError(f"a backbone of shape {backbone.shape}", "[residues, 4, 3]: N, CA, C, O in angstrom")
        if not np.isfinite(backbone).all():
            raise StructureError("coordinates that are not finite", "numbers in angstrom")
        size = len(backbone)
        set_ = object.__setattr__
        set_(self, "backbone", backbone)
        set_(self, "sequence", self.sequence or "X" * size)
        set_(self, "numbers", tuple(self.numbers) or tuple(str(i + 1) for i in range(size)))
        set_(self, "chains", tuple(self.chains) or ("A",) * size)
        set_(self, "known", tuple(self.known))
        set_(self, "cyclic", tuple(self.cyclic))
        set_(self, "hands", self.hands or "L" * size)
        for what in ("sequence", "numbers", "chains", "hands", *(("known",) if self.known else ())):
            if len(getattr(self, what)) != size:
                raise StructureError(f"{len(getattr(self, what))} {what} for {size} residues", "one per residue")
        self._closed()
        set_(self, "side", None if self.side is None else self._checked(np.asarray(self.side, dtype=np.float64)))

    def _closed(self) -> None:
        """Refuses closed chains that are not there, and hands that are neither."""
        for chain in self.cyclic:
            if self.chains.count(chain) < 3:
                raise StructureError(
                    f"the closed chain {chain!r} with {self.chains.count(chain)} residues",
                    f"three or more, in one of {', '.join(dict.fromkeys(self.chains)) or 'no chains'}",
                    "replace(structure, cyclic=())",
                )
        if odd := set(self.hands) - {"L", "D"}:
            raise StructureError(f"the hand {min(odd)!r}", "L or D for every residue", 'hands="L" * len(structure)')

    def _checked(self, side: np.ndarray) -> np.ndarray | None:
        """These other atoms, if they fit; None if there are none."""
        if side.shape != (len(self), len(SIDE), 3):
            raise StructureError(f"side atoms of shape {side.shape}", f"[{len(self)}, 33, 3]: the order of atoms.SIDE")
        there = ~np.isnan(side).all(-1)
        if not np.isfinite(side[there]).all():
            raise StructureError("side atoms with coordinates that are not finite", "three numbers, or three NaN")
        wrong = np.argwhere(there & ~allowed(self.sequence))
        if len(wrong):
            i, k = wrong[0]
            at = f"{self.chains[i]}{self.numbers[i]}"
            raise StructureError(
                f"an atom {SIDE[k]} in residue {at}, whose letter is {self.sequence[i]}",
                "atoms of its own kind, or none",
                "replace(structure, sequence=letters, side=None)",
            )
        return side if there.any() else None

    def __len__(self) -> int:
        return len(self.backbone)

    def __repr__(self) -> str:
        ids = list(dict.fromkeys(self.chains))
        closed = f", closed {', '.join(self.cyclic)}" if self.cyclic else ""
        mirrored = f", {self.hands.count('D')} of them D" if "D" in self.hands else ""
        name, chains = self.name or "unnamed", ", ".join(ids) or "none"
        return f"<Structure {name}: {len(self)} residues{mirrored}, chains {chains}{closed}>"

    @property
    def ca(self) -> np.ndarray:
        """CA positions `[N, 3]`, angstrom."""
        return self.backbone[:, 1]

    @cached_property
    def breaks(self) -> tuple[int, ...]:
        """Indices i with no peptide bond between i and i + 1: another chain, C-N > 2.0 A or CA-CA > 4.2 A."""
        if len(self) < 2:
            return ()
        bond = np.linalg.norm(self.backbone[1:, 0] - self.backbone[:-1, 2], axis=-1)
        step = np.linalg.norm(np.diff(self.ca, axis=0), axis=-1)
        other = np.array([a != b for a, b in zip(self.chains, self.chains[1:], strict=False)])
        return tuple(np.flatnonzero((bond > BREAK) | (step > FAR_CA) | other).tolist())

    @cached_property
    def closures(self) -> tuple[tuple[int, int], ...]:
        """Of each closed chain the indices of its last and its first residue."""
        back = self.chains[::-1]
        return tuple((len(self) - 1 - back.index(chain), self.chains.index(chain)) for chain in self.cyclic)

    def take(self, index: np.ndarray | list[int] | slice) -> Structure:
        """The residues at these indices, in this order; a chain stays closed if it is taken whole, as it stands."""
        places = np.arange(len(self))[index]
        own, taken = np.array(self.chains), np.array([self.chains[i] for i in places])
        closed = [c for c in self.cyclic if np.array_equal(places[taken == c], np.flatnonzero(own == c))]
        return replace(
            self,
            backbone=self.backbone[places],
            sequence="".join(self.sequence[i] for i in places),
            numbers=tuple(self.numbers[i] for i in places),
            chains=tuple(self.chains[i] for i in places),
            known=tuple(self.known[i] for i in places) if self.known else (),
            side=None if self.side is None else self.side[places],
            cyclic=tuple(closed),
            hands="".join(self.hands[i] for i in places),
        )

    def turned(self, by: int) -> Structure:
        """One closed chain whose residues begin so many places on; they keep their numbers."""
        order = np.roll(np.arange(len(self)), -by)
        return replace(self.take(order), cyclic=self.cyclic)

    @property
    def sides(self) -> np.ndarray:
        """The other atoms `[N, 33, 3]`, angstrom; NaN everywhere where there are none."""
        return np.full((len(self), len(SIDE), 3), np.nan) if self.side is None else self.side

    @property
    def atom37(self) -> np.ndarray:
        """Every heavy atom `[N, 37, 3]`, angstrom, in AlphaFold's order (`atoms.ATOM37`); NaN where there is none."""
        both = np.concatenate([self.backbone, self.sides], 1)
        return both[:, [(*ATOMS, *SIDE).index(name) for name in ATOM37]]

    def moved(self, backbone: np.ndarray) -> Structure:
        """The same residues with other backbones `[N, 4, 3]`.

        The other atoms go with the frame of their residue, and stay to the last digit where its backbone does.
        """
        if self.side is None:
            return replace(self, backbone=backbone)
        (old, turned), (new, turn) = (frames_from_backbone(torch.from_numpy(x)) for x in (self.backbone, backbone))
        inside = (torch.from_numpy(self.side) - old[:, None]) @ turned
        side = (inside @ turn.mT + new[:, None]).numpy()
        still = (self.backbone == backbone).all((1, 2))
        return replace(self, backbone=backbone, side=np.where(still[:, None, None], self.side, side))

    @property
    def mapping(self) -> list[dict[str, str]]:
        """Of each residue that was given, where it is and where it comes from: "here", "from" and "letter"."""
        return [
            {"here": f"{self.chains[k]}{self.numbers[k]}", "from": origin, "letter": self.sequence[k]}
            for k, origin in enumerate(self.known)
            if origin
        ]

    def pieces(self) -> list[Structure]:
        """The unbroken pieces, in order."""
        edges = [0, *(b + 1 for b in self.breaks), len(self)]
        return [self.take(slice(a, b)) for a, b in pairwise(edges) if b > a]

    def mirrored(self) -> Structure:
        """The mirror image (x to -x), whose residues are of the other hand; twice, it is the structure itself."""
        across = np.array([-1.0, 1.0, 1.0])
        side, hands = None if self.side is None else self.side * across, self.hands.translate(_OTHER)
        return replace(self, backbone=self.backbone * across, side=side, hands=hands)

    def __getitem__(self, what: str | tuple[str, ...]) -> Structure:
        return self.take([i for piece in ((what,) if isinstance(what, str) else what) for i in self._select(piece)])

    def mask(self, *what: str) -> np.ndarray:
        """`[N]` bool: the residues that these selections name, such as `mask("A16-35", "A52")`."""
        chosen = np.zeros(len(self), dtype=bool)
        chosen[[i for piece in what for i in self._select(piece)]] = True
        return chosen

    def _select(self, piece: str) -> list[int]:
        here = f"{self.name or 'this structure'}"
        ids = sorted(dict.fromkeys(self.chains), key=len)
        whole = piece.strip()
        if whole in ids and whole:
            return [i for i, c in enumerate(self.chains) if c == whole]
        found = {chain: _RANGE.fullmatch(whole, len(chain)) for chain in ids if whole.startswith(chain)}
        ways = {chain: match.groups() for chain, match in found.items() if match is not None}
        if not ways:
            match = _PIECE.fullmatch(whole)
            chain = match["chain"] if match else ""
            if not chain and not whole.strip(":-0123456789"):
                raise StructureError(f"the selection {piece!r}", 'a chain and numbers, such as "A16-35", "A52A" or "A"')
            raise StructureError(
                f"the selection {piece!r}: {here} has no chain {chain!r}",
                f"one of its chains: {', '.join(ids)}.{nearest(chain, ids)}",
            )
        named = set(zip(self.chains, self.numbers, strict=True))
        there = [chain for chain, way in ways.items() if {(chain, end) for end in _ends(*way)} <= named]
        if len(there) > 1:
            raise StructureError(
                f"the selection {piece!r} may mean chain {' or chain '.join(there)}",
                "a colon after the chain",
                f'structure["{there[-1]}:{whole[len(there[-1]) :]}"]',
            )
        chain = next(iter(there or ways))
        first, code, last, last_code = ways[chain]
        places = [i for i, c in enumerate(self.chains) if c == chain]
        numbers = [self.numbers[i] for i in places]
        ends = _ends(first, code, last, last_code)
        for end in ends:
            if end not in numbers:
                near = min(numbers, key=lambda number: abs(_plain(number) - _plain(end)))
                raise StructureError(
                    f"the selection {piece!r}: residue {end} of chain {chain} is not in {here}",
                    f"chain {chain} runs from {numbers[0]} to {numbers[-1]}; the nearest residue is {near}",
                )
        start, stop = numbers.index(ends[0]), numbers.index(ends[1])
        if stop < start:
            raise StructureError(f"the selection {piece!r}", "its first residue before its last")
        span, there = range(int(first), int(last or first) + 1), {_plain(n) for n in numbers[start : stop + 1]}
        missing = [str(n) for n in islice((n for n in span if n not in there), 8)]
        if missing:
            some = ", ".join(missing) + (" and more" if len(missing) == 8 else "")
            warnings.warn(
                f"The selection {piece!r} spans a gap in the numbers of {here}: there are no residues {some} of chain "
                f"{chain}; the others were taken.",
                stacklevel=4,
            )
        return places[start : stop + 1]
