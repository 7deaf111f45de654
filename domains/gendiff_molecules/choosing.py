r"""Molecules drawn until they are sound, at most so often.

    own = sound(model, 8, given=pocket, atoms=24, tries=4)

keeps a draw that is one piece, has right valences, is sanitised by RDKit, and in a pocket does not clash; others are
drawn anew. What is kept is then distributed as the model's samples are, on the condition that they are sound. A request
whose every draw has failed gets the one with the fewest faults, so that n molecules are given and none is hidden:

    faults(m) = sum_i min_{v right for i} |valence_i - v| + pieces - 1 + [RDKit refuses m] + relu(overlap)/A
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gendiff.errors import RequestError
from gendiff.model import Model

from .fragments import Fragment
from .measures import valid
from .molecule import VALENCES, Molecule
from .pocket import Pocket


@dataclass(frozen=True)
class Chosen:
    """What `sound` gives.

    Attributes:
        molecules: One for each request.
        tries: How often each was drawn, the one that is given among them.
        faults: Of each; 0 is sound.
    """

    molecules: tuple[Molecule, ...]
    tries: tuple[int, ...]
    faults: tuple[float, ...]


def faults(molecule: Molecule, pocket: Pocket | None = None) -> float:
    """How far a molecule is from being sound, see the top of the file; 0 if it is."""
    off = 0
    for z, charge, valence in zip(
        molecule.elements.tolist(), molecule.charges.tolist(), molecule.valences.tolist(), strict=True
    ):
        off += min(abs(valence - right) for right in VALENCES.get((z, charge), (0,)))
    clash = 0.0 if pocket is None else max(0.0, pocket.overlap(molecule))
    return off + len(molecule.fragments()) - 1 + (not valid(molecule)) + clash


def sound(
    model: Model,
    n: int,
    *,
    given: Any = None,
    atoms: int | Sequence[int] | None = None,
    tries: int = 4,
    seed: int = 0,
    **what: Any,
) -> Chosen:
    """n molecules, each drawn until it is sound, at most `tries` times; a round draws all that are not there yet.

    Args:
        model: Of molecules.
        n: How many.
        given: A pocket, or a list of n, or a fragment, or nothing.
        atoms: A number, or a list of n; as training has them if nothing is said.
        tries: Draws of each, at most.
        seed: Of the first round; that of the k-th is k higher.
        what: More of `model.sample`.

    Raises:
        RequestError: No tries; more of what `model.sample` refuses.
    """
    if isinstance(tries, bool) or not isinstance(tries, int) or tries < 1:
        raise RequestError(f"tries={tries!r}", "a whole number, 1 or more", "tries=4")
    place = given.pocket if isinstance(given, Fragment) else given if isinstance(given, Pocket) else None
    pockets = given if isinstance(given, list) else [place] * n
    sizes: Any = [atoms] * n if atoms is None or isinstance(atoms, int) else list(atoms)
    best: list[tuple[float, Molecule] | None] = [None] * n
    drawn, open_ = [0] * n, list(range(n))
    for k in range(tries):
        own = {"given": [given[i] for i in open_] if isinstance(given, list) else given}
        if sizes[0] is not None:
            own["atoms"] = [sizes[i] for i in open_]
        made = model.sample(len(open_), **{name: value for name, value in own.items() if value is not None}, **what,
                            seed=seed + k)  # fmt: skip
        for i, molecule in zip(open_, made, strict=True):
            told, drawn[i] = faults(molecule, pockets[i]), drawn[i] + 1
            before = best[i]
            if before is None or told < before[0]:
                best[i] = told, molecule
        open_ = [i for i in open_ if (found := best[i]) is None or found[0] > 0]
        if not open_:
            break
    kept = [found for found in best if found is not None]
    return Chosen(tuple(m for _, m in kept), tuple(drawn), tuple(told for told, _ in kept))
