"""A topology: which residues are helix or strand, and which strands pair, asked of the chains of `PlannedProteins`.

    Topology("LLEEEEEELLLEEEEEELLHHHHHHHHHHHHLL", pairs=((1, 2, "antiparallel"),))

One letter for each residue: H helix, E strand, L neither, ? for anything. Strands are counted from 1 along the chain;
of two that are said to pair, the bridges are those of their middles facing each other: residue i of the first with j
of the second, i + j constant where they are antiparallel, i - j where they are parallel. `pairs=None` says nothing of
what pairs; with pairs, the strands that are named pair with each other and with no others. `Topology.of(structure)`
reads it from a structure, its bridges as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import RequestError, nearest
from gendiff.spaces import to_pairs

from .bonding import bridges, three_states
from .pairs import PAIRING, STRUCTURE
from .structure import Structure


@dataclass(frozen=True)
class Topology:
    """Secondary structure and strand pairing, asked or found.

    Args:
        structure: a letter for each residue, of H, E, L and ?.
        pairs: strands that pair: (first, second, "antiparallel" or "parallel"), or None to leave it open.
        shift: of each pair, how many residues the middle of the second strand lies further along the chain than its
            own middle; 0 for all by default.
        bridges: pairs of residues from 0 with their kind, in place of `pairs`: (i, j, "antiparallel").

    Raises:
        RequestError: a letter that is none, a strand that is not there, a strand that pairs with itself, two strands
            too near to pair.
    """

    structure: str
    pairs: tuple[tuple[int, int, str], ...] | None = None
    shift: tuple[int, ...] | None = None
    bridges: tuple[tuple[int, int, str], ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.structure, str) or not self.structure:
            raise RequestError(f"Topology got {self.structure!r}", "a letter for each residue, of H, E, L and ?")
        wrong = next((k for k, letter in enumerate(self.structure) if letter not in (*STRUCTURE, "?")), None)
        if wrong is not None:
            raise RequestError(
                f"Topology got {self.structure[wrong]!r} at residue {wrong + 1}",
                "H (helix), E (strand), L (neither) or ? (anything)",
            )
        for name in ("pairs", "bridges"):
            said = getattr(self, name)
            if said is not None:
                object.__setattr__(self, name, tuple(tuple(one) for one in said))
        if self.pairs is not None and self.bridges is not None:
            raise RequestError("Topology got pairs of strands and bridges", "one of them")
        if self.shift is not None and len(self.shift) != len(self.pairs or ()):
            raise RequestError(f"{len(self.shift)} shifts for {len(self.pairs or ())} pairs", "one for each")
        self.paired()

    def __len__(self) -> int:
        return len(self.structure)

    @property
    def strands(self) -> list[tuple[int, int]]:
        """First and last residue of each strand, from 0."""
        found, place = [], 0
        for letter, run in groupby(self.structure):
            size = len(list(run))
            if letter == "E":
                found.append((place, place + size - 1))
            place += size
        return found

    def paired(self) -> list[tuple[int, int, str]]:
        """The bridges: residues i < j from 0, and the kind."""
        if self.bridges is not None:
            return [self._bridge(*one) for one in self.bridges]
        strands, found = self.strands, []
        for number, one in enumerate(self.pairs or ()):
            if len(one) != 3:
                raise RequestError(f"Topology got the pair {one!r}", "(first, second, kind)", '(1, 2, "antiparallel")')
            first, second, kind = one
            for k in (first, second):
                if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= len(strands):
                    raise RequestError(
                        f"Topology pairs strand {k!r}", f"one of the {len(strands)} strands, from 1", self.structure
                    )
            if first == second:
                raise RequestError(f"Topology pairs strand {first} with itself", "two strands")
            (a, b), (c, d) = strands[min(first, second) - 1], strands[max(first, second) - 1]
            middle = (c + d + (a + b if kind == "antiparallel" else -a - b)) // 2
            middle += 0 if self.shift is None else self.shift[number]
            for i in range(a, b + 1):
                j = middle - i if kind == "antiparallel" else middle + i
                if c <= j <= d:
                    found.append(self._bridge(i, j, kind))
        return found

    def _bridge(self, i: int, j: int, kind: str) -> tuple[int, int, str]:
        if kind not in PAIRING[1:]:
            raise RequestError(
                f"Topology got the kind {kind!r}", f"antiparallel or parallel.{nearest(str(kind), PAIRING[1:])}"
            )
        if not (0 <= i < len(self) and 0 <= j < len(self)):
            raise RequestError(f"Topology pairs residues {i} and {j}", f"two of 0 to {len(self) - 1}")
        if abs(i - j) < 3:
            raise RequestError(
                f"Topology pairs residues {i + 1} and {j + 1}", "strands with a turn of two residues or more between"
            )
        return min(i, j), max(i, j), kind

    def classes(self) -> dict[str, Tensor]:
        """As parts of a state: "structure" int64 [N] and "pairing" int64 [N (N - 1)/2]; zeros where nothing is said."""
        n = len(self)
        square = np.zeros((n, n), np.int64)
        for i, j, kind in self.paired():
            square[i, j] = square[j, i] = PAIRING.index(kind)
        letters = [0 if letter == "?" else STRUCTURE.index(letter) for letter in self.structure]
        return {"structure": torch.tensor(letters), "pairing": to_pairs(torch.from_numpy(square)[None])[0]}

    def keep(self) -> dict[str, Tensor]:
        """Which of the classes are asked for, bool: the pairs that are not said to bridge are asked to be none only
        where both residues are asked for.
        """
        asked = torch.tensor([letter != "?" for letter in self.structure])
        said = self.pairs is not None or self.bridges is not None
        both = to_pairs((asked[:, None] & asked[None])[None])[0] | (self.classes()["pairing"] > 0)
        return {"structure": asked, "pairing": both if said else torch.zeros_like(both)}

    @classmethod
    def of(cls, structure: Structure) -> Topology:
        """What a structure has, by its hydrogen bonds."""
        kinds = bridges(structure)
        found = [(int(i), int(j), PAIRING[kinds[i, j]]) for i, j in np.argwhere(np.triu(kinds))]
        return cls(three_states(structure), bridges=tuple(found))

    def found(self, structure: Structure) -> dict[str, float]:
        """How much of what is asked a structure has: shares of helix, strand and bridges, those that are asked.

        A bridge counts as found where the two residues, or their neighbours by one, bridge in the same sense; a pair of
        strands counts as found where half of its bridges do.
        """
        letters, kinds = three_states(structure), bridges(structure)
        if len(letters) != len(self):
            raise RequestError(f"a chain of {len(letters)} residues for a topology of {len(self)}", "as many")
        out: dict[str, float] = {}
        for letter, name in (("H", "helix"), ("E", "strand")):
            asked = [k for k, one in enumerate(self.structure) if one == letter]
            if asked:
                out[name] = sum(letters[k] == letter for k in asked) / len(asked)
        asked_bridges = self.paired()
        hits = [self._near(kinds, *one) for one in asked_bridges]
        if hits:
            out["bridges"] = sum(hits) / len(hits)
        if self.pairs:
            shares = [self._share(kinds, replaced) for replaced in self._each()]
            out["pairs"] = sum(share >= 0.5 for share in shares) / len(shares)
        return out

    def _each(self) -> Sequence[list[tuple[int, int, str]]]:
        shifts = self.shift or (0,) * len(self.pairs or ())
        return [
            Topology(self.structure, (one,), (shift,)).paired()
            for one, shift in zip(self.pairs or (), shifts, strict=True)
        ]

    def _share(self, kinds: np.ndarray, wanted: list[tuple[int, int, str]]) -> float:
        return sum(self._near(kinds, *one) for one in wanted) / max(len(wanted), 1)

    @staticmethod
    def _near(kinds: np.ndarray, i: int, j: int, kind: str) -> bool:
        rows, columns = slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2)
        return bool((kinds[rows, columns] == PAIRING.index(kind)).any())
