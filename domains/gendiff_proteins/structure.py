"""A protein backbone as a person knows it: atoms in angstrom, letters, residue numbers and chains.

`structure["A16-35"]` is residues 16 to 35 of chain A by the numbers of the file; insertion codes are part of a number
("A52A"); several pieces may be joined, `structure["A16-35", "A52-71"]`; a chain id alone is the whole chain. Where an
id that ends in a digit leaves two readings, a colon ends it: `structure["A1:2-9"]`. Numbers that a range spans and the
chain lacks are left out with a warning: antibody numbering has such gaps without a break.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, pairwise

import numpy as np

from gendiff.errors import GendiffError, nearest

from .frames import BREAK

ATOMS = ("N", "CA", "C", "O")
FAR_CA = 4.2  # a longer CA-CA is a chain break

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
    """The backbone of one or more chains.

    Args:
        backbone: N, CA, C, O of every residue, `[N, 4, 3]`, angstrom.
        sequence: one letter a residue; X for unknown. Empty means all unknown.
        numbers: residue numbers with insertion codes as in the file ("52", "52A"). Empty means 1 to N.
        chains: chain id of every residue. Empty means all "A".
        name: where it came from.
        known: of a design, where each residue that was given comes from, "A163" by chain and number of its file; ""
            for those that were made. Empty means that all were.

    Raises:
        StructureError: lengths that differ, or coordinates that are not finite.
    """

    backbone: np.ndarray
    sequence: str = ""
    numbers: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    name: str = field(default="")
    known: tuple[str, ...] = ()

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
        for what in ("sequence", "numbers", "chains", *(("known",) if self.known else ())):
            if len(getattr(self, what)) != size:
                raise StructureError(f"{len(getattr(self, what))} {what} for {size} residues", "one per residue")

    def __len__(self) -> int:
        return len(self.backbone)

    def __repr__(self) -> str:
        ids = list(dict.fromkeys(self.chains))
        return f"<Structure {self.name or 'unnamed'}: {len(self)} residues, chains {', '.join(ids) or 'none'}>"

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

    def take(self, index: np.ndarray | list[int] | slice) -> Structure:
        """The residues at these indices, in this order."""
        places = np.arange(len(self))[index]
        return replace(
            self,
            backbone=self.backbone[places],
            sequence="".join(self.sequence[i] for i in places),
            numbers=tuple(self.numbers[i] for i in places),
            chains=tuple(self.chains[i] for i in places),
            known=tuple(self.known[i] for i in places) if self.known else (),
        )

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
        """The mirror image (x to -x): no protein, but the test of every metric that claims to see handedness."""
        return replace(self, backbone=self.backbone * np.array([-1.0, 1.0, 1.0]))

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
